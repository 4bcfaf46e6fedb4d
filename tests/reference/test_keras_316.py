"""docs/reference/keras-3.16.md: the pitfalls bite where the version matrix says so, the cures hold on every Keras 3."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import keras
import matrix as site
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.src.backend.common import global_state

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/keras-3.16.md").read_text(encoding="utf-8")
X = np.random.default_rng(0).normal(5.0, 3.0, (64, 8)).astype("float32")
Y = np.zeros((64, 1), "float32")
OLD, NEW = "2.21.0", "2.22.0rc0"  # columns of the matrix: Keras 3.15.1 and 3.16.dev


def installed() -> str:
    """The column of the installed Keras: its TensorFlow decides nothing here."""
    version = re.sub(r"dev\d+", "dev", keras.__version__)
    columns = [c["id"] for c in site.load()["columns"] if re.sub(r"dev\d+", "dev", c["keras"]) == version]
    assert columns, f"the version matrix has no column with Keras {version}"
    return str(columns[-1])


def expected(fact: str) -> bool:
    answer = site.load()["cells"][fact][installed()]
    assert isinstance(answer, bool)
    return answer


def fences(section: str, language: str = "python") -> list[str]:
    text = PAGE.split(section)[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page() -> dict:
    """What the page's own fences define."""
    names: dict = {"__name__": "page"}
    for fence in fences("{ #see }") + fences("{ #cure }"):
        if not fence.startswith(">>>"):
            exec(fence, names)
    return names


def moved(norm: layers.BatchNormalization, action: Callable) -> float:
    """The largest change of the moving mean while `action` runs."""
    before = np.array(norm.moving_mean)
    action()
    return float(np.abs(np.array(norm.moving_mean) - before).max())


def routes(model: keras.Model) -> dict[str, Callable]:
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return {
        "fit": lambda: model.fit(X, Y, batch_size=64, verbose=0),
        "predict": lambda: model.predict(X, batch_size=64, verbose=0),
        "evaluate": lambda: model.evaluate(X, Y, batch_size=64, verbose=0),
        "call_true": lambda: model(X, training=True),
        "call_false": lambda: model(X, training=False),
        "call": lambda: model(X),
    }


def trained(model: keras.Model, norm: layers.BatchNormalization) -> set[str]:
    return {name for name, route in routes(model).items() if moved(norm, route) > 0}


def share_of_zeros(output: tf.Tensor) -> float:
    return float(np.mean(np.array(output) == 0))


# --- pitfalls ---------------------------------------------------------------------------------------------------------


def test_pitfall_a_recorded_false_silences_the_dropout_behind() -> None:
    inputs = keras.Input((8,))
    base = keras.Sequential([keras.Input((8,)), layers.BatchNormalization()])
    model = keras.Model(inputs, layers.Dropout(0.5)(base(inputs, training=False)))
    dropped = share_of_zeros(model(X, training=True))
    # 512 draws: five standard deviations around one half.
    wanted = pytest.approx(0.5, abs=0.11) if expected("behind/base_false/dropout/functional/call_true") else 0.0
    assert dropped == wanted


@pytest.mark.parametrize("route", ["predict", "evaluate", "call_false"])
def test_pitfall_a_recorded_true_trains_the_statistics_behind(route: str) -> None:
    inputs = keras.Input((8,))
    norm = layers.BatchNormalization()
    model = keras.Model(inputs, layers.Dense(1)(norm(layers.Dropout(0.5)(inputs, training=True))))
    change = moved(norm, routes(model)[route])
    # One update moves a mean of 5 by a hundredth of it; a channel's mean over 64 rows is off by 1 at most.
    wanted = pytest.approx(0.05, abs=0.015) if expected(f"behind/dropout_true/bn/functional/{route}") else 0.0
    assert change == wanted


class Fixed(layers.Layer):
    def __init__(self, layer: layers.Layer, phase: bool) -> None:
        super().__init__()
        self.layer, self.phase = layer, phase

    def call(self, inputs):
        return self.layer(inputs, training=self.phase)


@pytest.mark.parametrize(("phase", "route"), [(False, "fit"), (True, "predict")])
def test_pitfall_a_phase_fixed_inside_a_layer_reaches_those_behind_it_in_sequential(phase: bool, route: str) -> None:
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((8,)), Fixed(layers.Dropout(0.5), phase), norm, layers.Dense(1)])
    name = "layer_true" if phase else "layer_false"
    assert (moved(norm, routes(model)[route]) > 0) == expected(f"behind/{name}/bn/sequential/{route}")


@pytest.mark.parametrize("dropout_first", [True, False])
def test_pitfall_behind_means_run_later_on_a_parallel_branch_too(dropout_first: bool) -> None:
    inputs = keras.Input((8,))
    norm = layers.BatchNormalization()
    branches = [layers.Dropout(0.5)(inputs, training=True), norm(inputs)]
    outputs = layers.Concatenate()(branches if dropout_first else branches[::-1])
    model = keras.Model(inputs, layers.Dense(1)(outputs))
    bites = expected("behind/dropout_true/bn/functional/predict")
    assert (moved(norm, routes(model)["predict"]) > 0) == (bites and dropout_first)


def test_pitfall_pipeline_states_its_default_to_those_behind_it() -> None:
    if not hasattr(layers, "Pipeline"):
        pytest.skip(f"Keras {keras.__version__} has no Pipeline")
    inputs = keras.Input((4, 4, 3))
    norm = layers.BatchNormalization()
    model = keras.Model(inputs, norm(layers.Pipeline([layers.RandomFlip()])(inputs)))
    images = np.full((8, 4, 4, 3), 5.0, "float32")
    assert moved(norm, lambda: model(images)) == pytest.approx(0.05, rel=0.01)
    assert moved(norm, lambda: model(images, training=False)) == 0


# --- cures, taken from the page ---------------------------------------------------------------------------------------


def test_cure_freezing_by_trainable_keeps_the_base_and_tells_nobody() -> None:
    base = keras.Sequential([keras.Input((8,)), layers.BatchNormalization()])
    base.trainable = False
    inputs, norm = keras.Input((8,)), layers.BatchNormalization()
    model = keras.Model(inputs, layers.Dense(1)(norm(base(inputs))))
    assert trained(model, base.layers[0]) == set()
    assert trained(model, norm) == {"fit", "call_true"}


def test_cure_a_forced_dropout_drops_everywhere_and_tells_nobody(page: dict) -> None:
    inputs, norm = keras.Input((8,)), layers.BatchNormalization()
    dropped = page["AlwaysDropout"](0.5)(inputs)
    model = keras.Model(inputs, layers.Dense(1)(norm(dropped)))
    assert trained(model, norm) == {"fit", "call_true"}
    dropout = keras.Model(inputs, dropped)
    for phase in (None, False, True):
        assert share_of_zeros(dropout(X, training=phase)) == pytest.approx(0.5, abs=0.11)
    assert share_of_zeros(dropout.predict(X, verbose=0)) == pytest.approx(0.5, abs=0.11)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("phase", [False, True])
def test_cure_in_phase_fixes_the_one_inside_and_gives_the_others_theirs_back(
    page: dict, phase: bool, sequential: bool
) -> None:
    inside, behind = layers.BatchNormalization(), layers.BatchNormalization()
    base = keras.Sequential([keras.Input((8,)), inside, layers.Dropout(0.5)])
    chain = [page["InPhase"](base, phase), behind, layers.Dense(1)]
    inputs = keras.Input((8,))
    model = keras.Sequential([inputs, *chain]) if sequential else keras.Model(inputs, through(chain, inputs))
    assert trained(model, behind) == {"fit", "call_true"}
    assert trained(model, inside) == (set(routes(model)) if phase else set())


def through(chain: list, tensor: keras.KerasTensor) -> keras.KerasTensor:
    for layer in chain:
        tensor = layer(tensor)
    return tensor


def test_cure_a_subclass_that_states_every_phase(page: dict) -> None:
    model = page["FineTuned"]()
    model(X[:1])
    norm = model.base.layers[0]
    assert trained(model, norm) == set()
    seen = []
    model.drop.call = lambda inputs, training=None: (seen.append(training), inputs)[1]
    for phase in (None, False, True):
        model(X, training=phase)
    assert seen == [False, False, True]


# --- the report and the tables ----------------------------------------------------------------------------------------


def run_report(code: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "report"})
    return out.getvalue()


def test_the_report_prints_what_the_page_shows() -> None:
    code = fences("{ #report }")[0]
    before, after = fences("{ #report }", "text")[:2]
    assert len([line for line in code.splitlines() if line]) <= 12
    for column, shown in ((OLD, before), (NEW, after)):
        cells = site.load()["cells"]
        assert f"drops: {cells['behind/base_false/dropout/functional/call_true'][column]}\n" in shown
        assert f"statistics: {cells['behind/dropout_true/bn/functional/predict'][column]}\n" in shown
    bites = not expected("behind/base_false/dropout/functional/call_true")
    assert run_report(code) == (after if bites else before)


def test_the_report_prints_on_keras_2_what_the_page_shows() -> None:
    pytest.importorskip("tf_keras", reason="tf_keras is not installed")
    code = fences("{ #report }")[0].replace("import keras\n", "import tf_keras as keras\n")
    assert run_report(code) == fences("{ #report }", "text")[0]


def test_putting_the_phase_back_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report proposes, around Layer.__call__: Keras 2's answers, on 3.16 too."""
    original = layers.Layer.__call__

    def call(self, *args, **kwargs):
        context = global_state.get_global_attribute("current_call_ctx")
        names = getattr(self, "_call_context_args", ()) if context is not None else ()
        found = {name: context.get_value(name) for name in names}
        try:
            return original(self, *args, **kwargs)
        finally:
            for name, value in found.items():
                context.set_value(name, value)

    if not hasattr(layers.Layer, "_resolve_and_populate_arg"):
        pytest.skip(f"Keras {keras.__version__} has another call context")
    monkeypatch.setattr(layers.Layer, "__call__", call)
    assert run_report(fences("{ #report }")[0]) == fences("{ #report }", "text")[0]


def facts_of_the_table(head: str) -> list[str]:
    table = re.search(rf"^{head}.*?\n\n\{{\{{ matrix\((.*?)columns=", PAGE, re.MULTILINE | re.DOTALL)
    assert table
    return re.findall(r'"([^"]+)"', table[1])


def test_what_the_page_calls_fixed_is_again_as_on_keras_2_and_what_it_calls_broken_was() -> None:
    for head, right, wrong in (("Fixed", NEW, OLD), ("Broken", OLD, NEW)):
        facts = facts_of_the_table(head)
        assert len(facts) >= 4
        for fact in facts:
            row = site.load()["cells"][fact]
            assert row[right] == row["2.15.1"] != row[wrong], fact


def test_the_page_names_the_builds_that_were_measured() -> None:
    column = site.column_of(NEW, site.load())
    assert PAGE.count(column["keras"]) == 2
    assert f"TensorFlow {column['tensorflow']}" in PAGE
