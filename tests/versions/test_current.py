"""The alarm: the installed TensorFlow still answers as its column of the version matrix says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import runner


def alarm(matrix: dict, result: dict) -> str:
    """Say what the installed release answers otherwise than its column, or that it has none; empty when all is well."""
    tensorflow, keras = runner.canonical(result["tensorflow"]), result["keras"]
    column = runner.column_for(matrix, tensorflow, keras)
    if column is None:
        return (
            f"TensorFlow {tensorflow} with Keras {keras} has no column in docs/reference/version-matrix.json. Make it: "
            f"nox -s versions -- {tensorflow}+keras{keras}"
        )
    statements = {fact["id"]: fact["statement"] for fact in matrix["facts"]}
    lines = [
        f"{statements[fact]} ({fact})\n  column {column}: {runner.words(was)}\n  now: {runner.words(now)}"
        for fact, was, now in runner.differences(matrix, column, result["cells"])
    ]
    if not lines:
        return ""
    return "\n".join([*lines, f"If the new answers are right, record them: nox -s versions -- {column} --fresh"])


@pytest.fixture(scope="module")
def matrix() -> dict:
    return runner.read_matrix()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Every probe, asked of the installed TensorFlow in a process of its own."""
    folder = tmp_path_factory.mktemp("probes")
    answers: Path = folder / "answers.json"
    done = subprocess.run(
        [sys.executable, str(runner.PROBES), "--out", str(answers)],
        env=runner.clean_environ(str(folder)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict = json.loads(answers.read_text(encoding="utf-8"))
    return result


@pytest.mark.slow
def test_the_installed_release_answers_as_its_column_does(matrix: dict, measured: dict) -> None:
    assert set(measured["cells"]) == set(matrix["cells"])
    assert not alarm(matrix, measured)


def recorded(matrix: dict, column: str) -> dict:
    """What a run of the probes would bring if the release had not changed."""
    entry = next(entry for entry in matrix["columns"] if entry["id"] == column)
    return {**entry, "cells": {fact: row[column] for fact, row in matrix["cells"].items()}}


def test_the_alarm_is_silent_when_nothing_changed(matrix: dict) -> None:
    for column in [entry["id"] for entry in matrix["columns"] if not entry["id"].endswith("+tf_keras")]:
        assert alarm(matrix, recorded(matrix, column)) == ""


def test_a_changed_answer_is_told_with_its_statement_and_both_answers(matrix: dict) -> None:
    result = recorded(matrix, "2.21.0")
    result["cells"]["built_training_false_fit_updates"] = False
    result["cells"]["bn_momentum"] = 0.9
    told = alarm(matrix, result)
    assert (
        "`fit` moves the statistics of `bn(x, training=False)`. (built_training_false_fit_updates)\n"
        "  column 2.21.0: yes\n  now: no" in told
    )
    assert "column 2.21.0: 0.99\n  now: 0.9" in told
    assert told.count("now:") == 2
    assert told.endswith("nox -s versions -- 2.21.0 --fresh")


def test_only_the_type_of_an_error_counts(matrix: dict) -> None:
    result = recorded(matrix, "2.21.0")
    assert result["cells"]["tensor_training_works"]["error"].startswith("OperatorNotAllowedInGraphError")
    result["cells"]["tensor_training_works"] = {"error": "OperatorNotAllowedInGraphError: said otherwise"}
    assert alarm(matrix, result) == ""
    result["cells"]["tensor_training_works"] = {"error": "ValueError: another kind"}
    assert "now: ValueError: another kind" in alarm(matrix, result)


def test_a_release_without_a_column_is_told_how_to_make_one(matrix: dict) -> None:
    told = alarm(matrix, {**recorded(matrix, "2.21.0"), "tensorflow": "2.99.0"})
    assert "has no column" in told
    assert told.endswith("nox -s versions -- 2.99.0+keras3.15.1")
    runner.parse("2.99.0+keras3.15.1")


def test_names_of_prereleases_are_matched(matrix: dict) -> None:
    """TensorFlow calls itself 2.22.0-rc0, and a development build of Keras is another one every day."""
    assert runner.column_for(matrix, "2.22.0-rc0", "3.16.0.dev2099010100") == "2.22.0rc0"
    assert runner.column_for(matrix, "2.22.0-rc0", "3.16.0") is None
