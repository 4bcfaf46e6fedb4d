"""Every check: its example is named, its cure is silent, and so is what only looks alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from near_misses import NAMED, SILENT, model, step
from phase_doctor.scan import checks
from phase_doctor.scan.check import CHECKS
from phase_doctor.scan.files import Text
from phase_doctor.scan.settings import numbers
from phase_doctor.scan.source import Source, findings

assert checks
MATRIX = Path(__file__).parents[2] / "docs/reference/version-matrix.json"
by_code = pytest.mark.parametrize("code", CHECKS)


def found(text: str, keras: str = "3.15") -> list[str]:
    return [finding.code for finding in findings(Source(Text("x.py", text), numbers(keras)))]


def faults(text: str, keras: str = "3.15") -> list[str]:
    return [code for code in found(text, keras) if CHECKS[code].severity != "note"]


@by_code
def test_its_example_is_named_and_its_cure_is_silent(code: str) -> None:
    check = CHECKS[code]
    release = check.keras or "3.15"
    assert [c for c in found(check.broken, release) if c == code] == [code]
    assert faults(check.broken, release) in ([code], [])
    assert found(check.cured, release) == []


@by_code
def test_it_is_silent_on_releases_for_which_it_is_not_true(code: str) -> None:
    check = CHECKS[code]
    for release in ("2.15", "3.0", "3.15", "3.16"):
        if not check.holds_on(numbers(release)):
            assert code not in found(check.broken, release)


@by_code
def test_what_looks_alike_is_silent(code: str) -> None:
    assert len(SILENT[code]) >= 3
    for text in SILENT[code]:
        assert code not in found(text, CHECKS[code].keras or "3.15"), text


@pytest.mark.parametrize("code", NAMED)
def test_longer_ways_to_say_it_are_named_too(code: str) -> None:
    for text in NAMED[code]:
        assert faults(text) == [code], text


def test_a_stated_phase_is_heard_by_an_untold_call_where_the_version_matrix_says_so() -> None:
    head = model("def call(self, x):\n    return self.drop(x)", after="model = Net()")
    text = step("model(x, training=True)", head=head)
    matrix = json.loads(MATRIX.read_text())
    heard = matrix["cells"]["subclass_no_arg/tffunction_training_true"]
    columns = [c for c in matrix["columns"] if c["keras"].startswith("3.") and "tf_keras" not in c["id"]]
    assert {heard[c["id"]] for c in columns} == {True, False}
    for column in columns:
        release = ".".join(column["keras"].split(".")[:2])
        assert found(text, release) == ([] if heard[column["id"]] else ["PS201"]), release


@by_code
def test_its_words(code: str) -> None:
    check = CHECKS[code]
    assert check.why and check.title and check.instead.endswith((".", "`."))
    assert check.severity in ("error", "warning", "note")
    assert (check.severity == "note") == code.startswith("PS9")


@pytest.mark.parametrize("root", ["keras", "tensorflow.keras", "tensorflow.compat.v2.keras"])
def test_names_are_followed_through_every_spelling(root: str) -> None:
    lines = [
        f"import {root}.layers as L\nx = L.BatchNormalization(momentum=0.1)",
        f"from {root} import layers\nx = layers.BatchNormalization(momentum=0.1)",
        f"from {root}.layers import BatchNormalization as BN\nx = BN(momentum=0.1)",
        f"from {root}.layers import *\nx = BatchNormalization(momentum=0.1)",
        f"import {root} as k\nBN = k.layers.BatchNormalization\nx = BN(-1, 0.1)",
    ]
    for text in lines:
        assert found(text) == ["PS403"], text


def test_keras_2_beside_keras_3_is_keras_2() -> None:
    line = "from {} import backend as K\nK.set_learning_phase(0)"
    assert found(line.format("tf_keras")) == []
    assert found(line.format("keras")) == ["PS101"]
    legacy = "import os\nos.environ['TF_USE_LEGACY_KERAS'] = '1'\n"
    assert found(legacy + line.format("tensorflow.keras")) == []


def test_resizing_opens_the_training_phase_from_3_6_on() -> None:
    text = CHECKS["PS402"].broken.replace("RandomFlip()", "Resizing(8, 8)")
    assert (found(text, "3.5"), found(text, "3.6")) == ([], ["PS402"])


def test_a_comment_silences_a_line() -> None:
    line = "from keras import backend as K\nK.set_learning_phase(0)  # phase: ignore{}"
    assert found(line.format("")) == found(line.format("[PS101]")) == found(line.format("[PS9, PS101]")) == []
    assert found(line.format("[PS102]")) == ["PS101"]
