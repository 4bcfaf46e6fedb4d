"""The lane that breaks recipes breaks what it says, and nothing else."""

import ast

import pytest
from mutants import mutants, sources

SOURCE = '''
class Net:
    def call(self, x, training=None):
        x = self.norm(x, training=training)
        return self.drop(training=False, inputs=x)

def step(model, x):
    """model(x, training=True) in a docstring is prose."""
    y = model(
        x,
        training=True,
    )
    model.trainable = False
    v.assign(y)
    return y
'''


def test_every_place_is_found_and_broken_one_at_a_time() -> None:
    found = mutants(SOURCE)
    assert [(m.line, m.what) for m in found] == [
        (3, "default training=None -> True"),
        (4, "delete training=training"),
        (5, "delete training=False"),
        (5, "training=False -> True"),
        (11, "delete training=True"),
        (11, "training=True -> False"),
        (13, "delete model.trainable = False"),
        (13, "model.trainable = False -> True"),
        (14, "delete v.assign(y)"),
    ]
    assert len({m.source for m in found}) == len(found)
    assert "self.drop( inputs=x)" in found[2].source


@pytest.mark.parametrize("slug", sources())
def test_every_mutant_of_every_recipe_is_valid_python(slug: str) -> None:
    for file in sources()[slug]:
        source = file.read_text(encoding="utf-8")
        for mutant in mutants(source):
            assert mutant.source != source
            ast.parse(mutant.source)
