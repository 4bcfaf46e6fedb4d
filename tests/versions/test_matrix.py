"""The version matrix: its data are complete, and what pages make of them says what happened."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import matrix as site
import pytest
import runner

ROOT = Path(__file__).resolve().parents[2]
PROBES = runner.load_probes()

KINDS = (
    "functional",
    "sequential",
    "subclass_arg",
    "subclass_arg_false",
    "subclass_arg_true",
    "subclass_no_arg",
    "subclass_kwargs",
    "custom_layer_no_arg",
    "nested",
    "sequential_of_subclass_no_arg",
)
ROUTES = ("eager_default", "tffunction_default", "tffunction_training_true", "fit", "train_on_batch")
WHAT = (
    "tffunction_default_updates",
    "predict_uses_batch_stats",
    "predict_on_batch_uses_batch_stats",
    "evaluate_uses_batch_stats",
    "fit_validation_uses_batch_stats",
    "explicit_false_wins",
)


@pytest.fixture(scope="module")
def data() -> dict:
    loaded: dict = json.loads(site.MATRIX.read_text(encoding="utf-8"))
    return loaded


# --- the data ---------------------------------------------------------------------------------------------------------


def test_every_fact_has_an_answer_in_every_column(data: dict) -> None:
    columns = [column["id"] for column in data["columns"]]
    assert set(columns) >= set(runner.COLUMNS), "columns are missing; `nox -s versions` makes them"
    assert len(set(columns)) == len(columns)
    assert list(data["cells"]) == [fact["id"] for fact in data["facts"]]
    for fact, row in data["cells"].items():
        assert list(row) == columns, f"{fact} lacks answers; `nox -s versions` asks for them"
        for column, answer in row.items():
            fits = isinstance(answer, (bool, int, float, str)) or (
                isinstance(answer, dict) and list(answer) == ["error"] and answer["error"]
            )
            assert fits, f"{fact} in {column}: {answer!r}"


def test_the_facts_are_those_of_the_probes(data: dict) -> None:
    """A statement edited in probes.py reaches the pages only through the data: `nox -s versions` brings it there."""
    written = {fact["id"]: (fact["statement"], fact["group"]) for fact in data["facts"]}
    assert written == {name: (fact["statement"], fact["group"]) for name, fact in PROBES.FACTS.items()}


def test_every_combination_of_kind_and_route_is_asked(data: dict) -> None:
    for kind in KINDS:
        for route in ROUTES:
            assert f"{kind}/{route}" in data["cells"]
        for when in ("lp1_before_build", "lp1_after_build"):
            for what in WHAT:
                assert f"{kind}/{when}/{what}" in data["cells"]


def test_a_column_is_what_its_id_says(data: dict) -> None:
    for column in data["columns"]:
        assert set(column) == {"id", "tensorflow", "keras", "python", "released"}
        tensorflow, keras, tf_keras = runner.parse(column["id"])
        assert column["tensorflow"] == tensorflow
        pinned = keras or runner.RESOLVED_KERAS.get(tensorflow)
        if tf_keras:
            assert column["keras"] == runner.TF_KERAS[tensorflow]
        elif pinned:
            assert column["keras"] == pinned
        else:
            assert column["keras"].startswith("2.")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", column["released"])
    assert [c["id"] for c in data["columns"]] == [c["id"] for c in sorted(data["columns"], key=runner.place)]


def test_no_answer_tells_of_the_machine_it_was_made_on(data: dict) -> None:
    text = json.dumps(data["cells"])
    assert not re.search(r"0x[0-9a-f]{4}|/tmp/|/home/|/root/|site-packages", text)


def test_the_data_are_written_one_fact_a_line(data: dict) -> None:
    assert site.MATRIX.read_text(encoding="utf-8") == runner.dumps(data)


# --- what happened, as the change list tells it -----------------------------------------------------------------------


def changed(data: dict, fact: str) -> list[tuple[str, str, object, object]]:
    return [
        (before["id"], after["id"], was, now)
        for before, after, found in site.changes(data)
        for name, was, now in found
        if name == fact
    ]


@pytest.mark.parametrize(
    ("fact", "releases", "was", "now"),
    [
        # 1.15 and 2.0: a learning phase of 1 reaches evaluation no longer; trainable=False also means inference.
        ("functional/lp1_before_build/evaluate_uses_batch_stats", {"1.15.5", "2.0.0"}, True, False),
        ("functional/lp1_before_build/fit_validation_uses_batch_stats", {"1.15.5", "2.0.0"}, True, False),
        ("bn_trainable_false_uses_batch_stats", {"2.0.0"}, True, False),
        # 2.16 brings Keras 3.
        ("has_set_learning_phase", {"2.16.2+keras3.0.5"}, True, False),
        ("subclass_no_arg/fit", {"2.16.2+keras3.0.5"}, True, False),
        ("subclass_kwargs/fit", {"2.16.2+keras3.0.5"}, True, False),
        ("built_training_false_fit_updates", {"2.16.2+keras3.0.5"}, False, True),
        ("built_training_true_predict_uses_batch_stats", {"2.16.2+keras3.0.5"}, True, False),
        ("gan_discriminator_learns", {"2.16.2+keras3.0.5"}, True, False),
        ("moving_variance_4d", {"2.16.2+keras3.0.5"}, "unbiased", "biased"),
        # Keras 3.10: an explicit training=True reaches the layers of a subclass that does not take it.
        ("subclass_no_arg/tffunction_training_true", {"2.19.1+keras3.10.0"}, False, True),
        # Keras 3.16: a recorded phase is honoured again.
        ("built_training_false_fit_updates", {"2.22.0rc0"}, True, False),
        ("built_training_true_predict_uses_batch_stats", {"2.22.0rc0"}, False, True),
        ("resizing_leaks_training", {"2.22.0rc0"}, True, False),
    ],
)
def test_the_change_list_knows(data: dict, fact: str, releases: set[str], was: object, now: object) -> None:
    steps = [step for step in changed(data, fact) if step[1] in releases and step[2:] == (was, now)]
    assert len(steps) == 1, f"{fact} did not go from {was} to {now} at {releases}: {changed(data, fact)}"
    section = site.matrix_changes(data).split(f"{{ #to-{site.slug(steps[0][1])} }}")[1].split("### ")[0]
    assert f'href="#{site.anchor(fact)}"' in section


def test_every_change_is_listed_once_and_nothing_else(data: dict) -> None:
    listed = site.matrix_changes(data).count('href="#fact-')
    columns = site.timeline(data)
    rows = [data["cells"][heap[0]["id"]] for heap in site.heaps(data)]
    steps = sum(
        not site.same(row[one["id"]], row[two["id"]]) for row in rows for one, two in itertools.pairwise(columns)
    )
    last_of_keras_2 = [column["id"] for column in columns if not site.is_keras_3(column)][-1]
    beside = [column["id"] for column in data["columns"] if site.apart(column)]
    steps += sum(not site.same(row[last_of_keras_2], row[c]) for row in rows for c in beside)
    assert listed == steps


# --- runs, labels, errors: on data small enough to see ----------------------------------------------------------------


def column(name: str, keras: str) -> dict:
    tensorflow = name.split("+")[0]
    return {"id": name, "tensorflow": tensorflow, "keras": keras, "python": "3.11.7", "released": "2024-01-01"}


SMALL: dict = {
    "generated": "2026-01-01",
    "columns": [
        column("2.14.1", "2.14.0"),
        column("2.15.1", "2.15.0"),
        column("2.16.2+keras3.0.5", "3.0.5"),
        column("2.19.1", "3.15.1"),
        column("2.21.0", "3.15.1"),
        column("2.21.0+tf_keras", "2.21.0"),
    ],
    "facts": [
        {"id": "a/fit", "statement": "`fit` moves | it.", "group": "One"},
        {"id": "b", "statement": "A number.", "group": "Two"},
    ],
    "cells": {
        "a/fit": {
            "2.14.1": True,
            "2.15.1": True,
            "2.16.2+keras3.0.5": {"error": "TypeError: one wording"},
            "2.19.1": {"error": "TypeError: <other> wording"},
            "2.21.0": False,
            "2.21.0+tf_keras": False,
        },
        "b": {
            "2.14.1": 1,
            "2.15.1": True,
            "2.16.2+keras3.0.5": 1,
            "2.19.1": 1,
            "2.21.0": 1,
            "2.21.0+tf_keras": 1,
        },
    },
}


def test_neighbours_that_answer_alike_are_one_run() -> None:
    first, second, third, fourth = site.runs("a/fit", SMALL)
    assert (first.first, first.last, first.answer) == (0, 1, True)
    # Two wordings of one error are one answer, and both are kept.
    assert (second.first, second.last) == (2, 3)
    assert second.texts == ("TypeError: one wording", "TypeError: <other> wording")
    # tf_keras stands apart even when it answers as its neighbour does.
    assert (third.first, third.last, fourth.first, fourth.last) == (4, 4, 5, 5)


def test_yes_is_not_the_number_one() -> None:
    assert [(run.first, run.last) for run in site.runs("b", SMALL)] == [(0, 0), (1, 1), (2, 4), (5, 5)]


def test_steps_follow_the_timeline_and_tf_keras_is_compared_with_keras_2() -> None:
    steps = [
        (before["id"], after["id"], [name for name, _, _ in found]) for before, after, found in site.changes(SMALL)
    ]
    assert steps == [
        ("2.14.1", "2.15.1", ["b"]),
        ("2.15.1", "2.16.2+keras3.0.5", ["a/fit", "b"]),
        ("2.19.1", "2.21.0", ["a/fit"]),
        ("2.15.1", "2.21.0+tf_keras", ["a/fit", "b"]),
    ]
    titles = re.findall(r"^### (.*) \{", site.matrix_changes(SMALL), re.MULTILINE)
    assert titles == [
        "TensorFlow 2.21.0 (from 2.19.1, both with Keras 3.15.1)",
        "Keras 3.0.5 with TensorFlow 2.16.2 (from TensorFlow 2.15.1)",
        "TensorFlow 2.15.1 (from 2.14.1)",
        "tf_keras 2.21.0, compared with Keras 2.15.0 in TensorFlow 2.15.1",
    ]


def test_stretches_are_named_as_people_name_releases() -> None:
    columns = SMALL["columns"]
    assert site.span(0, 1, columns) == "TF 2.14.1 – 2.15.1"
    assert site.span(0, 0, columns) == "TF 2.14.1"
    assert site.span(1, 2, columns) == "TF 2.15.1 – Keras 3.0.5"
    assert site.span(2, 4, columns) == "Keras 3.0.5 – 3.15.1"
    # One Keras on two TensorFlows: the cut between them needs both names.
    assert site.span(2, 3, columns) == "Keras 3.0.5 – 3.15.1 on TF 2.19.1"
    assert site.span(4, 4, columns) == "Keras 3.15.1 on TF 2.21.0"
    assert site.span(5, 5, columns) == "tf_keras 2.21.0"


def test_a_small_table_merges_releases_and_escapes_bars() -> None:
    table = site.matrix("a/fit", data=SMALL)
    head, _, row, *_ = table.splitlines()
    assert (
        head
        == "|  | TF 2.14.1 – 2.15.1 | Keras 3.0.5 – 3.15.1 on TF 2.19.1 | Keras 3.15.1 on TF 2.21.0 | tf_keras 2.21.0 |"
    )
    assert row.startswith("| `fit` moves \\| it. | ")
    assert re.findall(r"mx-(yes|no|error|value)", row) == ["yes", "error", "no", "no"]
    assert "✓\u00a0yes" in row and "✗\u00a0no" in row and "!\u00a0TypeError" in row
    assert "2026-01-01" in table
    chosen = site.matrix("a/fit", "b", columns=["2.15.1", "2.21.0"], data=SMALL)
    assert chosen.splitlines()[0] == "|  | TF 2.15.1 | Keras 3.15.1 |"


def test_a_table_too_wide_for_its_page_is_two_and_todays_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "FITS", 3)
    heads = [line for line in site.matrix("a/fit", data=SMALL).splitlines() if line.startswith("|  |")]
    assert heads == [
        "|  | Keras 3.0.5 – 3.15.1 on TF 2.19.1 | Keras 3.15.1 on TF 2.21.0 |",
        "|  | TF 2.14.1 – 2.15.1 | tf_keras 2.21.0 |",
    ]


def test_one_cell_in_words() -> None:
    assert site.matrix_cell("a/fit", "2.15.1", SMALL) == "yes"
    assert site.matrix_cell("a/fit", "2.21.0", SMALL) == "no"
    assert site.matrix_cell("a/fit", "2.19.1", SMALL) == "`TypeError`"
    assert site.matrix_cell("b", "2.21.0", SMALL) == "1"


def test_an_unknown_name_is_an_error_that_helps() -> None:
    with pytest.raises(KeyError, match=r"no fact 'a/fitt'; nearest: a/fit"):
        site.matrix("a/fitt", data=SMALL)
    with pytest.raises(KeyError, match=r"no column '2\.99'; it has 2\.14\.1, 2\.15\.1"):
        site.matrix_cell("b", "2.99", SMALL)
    with pytest.raises(KeyError, match="no column"):
        site.matrix("b", columns=["2.99"], data=SMALL)
    with pytest.raises(ValueError, match="at least one fact"):
        site.matrix(data=SMALL)
    with pytest.raises(FileNotFoundError, match="nox -s versions"):
        site.load(Path("nowhere.json"))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_holds_every_fact_and_every_column(data: dict) -> None:
    page = site.matrix_page(data)
    assert page.count('<th scope="col"') == len(data["columns"]) + 1
    shown = re.findall(r'<(?:tr|li) id="(fact-[^"]+)"', page)
    assert sorted(shown) == sorted(site.anchor(fact["id"]) for fact in data["facts"])
    for row in re.findall(r"<tr[^>]* data-changes=[^>]*>(.*?)</tr>", page):
        cells = re.findall(r"<td( colspan=\d+)? class=mx-(\w+)", row)
        widths = [int(width.split("=")[1]) if width else 1 for width, _ in cells]
        assert sum(widths) == len(data["columns"]), row
        # A sign for each answer, beside its colour.
        assert len(re.findall(r"<b>[✓✗!=]</b> <i>[^<]+</i>", row)) == len(cells), row


def test_a_family_is_a_few_rows_each_with_the_facts_that_answer_alike(data: dict) -> None:
    heaps = site.heaps(data)
    assert sorted(fact["id"] for heap in heaps for fact in heap) == sorted(data["cells"])
    for heap in heaps:
        assert len(heap) == 1 or heap[0]["group"] in site.FOLDED
        for fact in heap[1:]:
            pairs = zip(data["cells"][fact["id"]].values(), data["cells"][heap[0]["id"]].values(), strict=True)
            assert all(site.same(*pair) for pair in pairs), fact["id"]
    for group in site.FOLDED:
        members = [heap for heap in heaps if heap[0]["group"] == group]
        assert len(members) < sum(map(len, members)) / 10


def test_the_page_escapes_what_errors_say() -> None:
    small = {**SMALL, "facts": [{**SMALL["facts"][0], "id": "functional/fit"}]}
    small["cells"] = {"functional/fit": SMALL["cells"]["a/fit"]}
    page = site.matrix_page(small)
    assert "TypeError: &lt;other&gt; wording" in page
    assert "<other>" not in page
    # The places of the changes, for the filter: Keras 3.0.5 and TensorFlow 2.21; tf_keras is no change.
    assert 'data-changes="2 4"' in page


def test_each_fact_links_to_its_probe(data: dict) -> None:
    lines = site.PROBES.read_text(encoding="utf-8").splitlines()
    for fact in data["facts"]:
        address, line = site.probe_link(fact["id"]).split("#__codelineno-0-")
        assert address == "../probes/"
        source = lines[int(line) - 1]
        assert source.startswith(("@fact(", "def ")), source
        if source.startswith("@fact("):
            assert f'"{fact["id"]}"' in "".join(lines[int(line) - 1 : int(line) + 2])


# --- the runner -------------------------------------------------------------------------------------------------------


def test_a_column_id_is_read_or_refused() -> None:
    assert runner.parse("2.15.1") == ("2.15.1", None, False)
    assert runner.parse("2.19.1+keras3.5.0") == ("2.19.1", "3.5.0", False)
    assert runner.parse("2.21.0+tf_keras") == ("2.21.0", None, True)
    for wrong in ("2.15", "latest", "2.15.1+torch", "2.15.1 "):
        with pytest.raises(runner.ColumnError, match="is not a column id"):
            runner.parse(wrong)


def test_pins_are_those_that_old_releases_still_work_with() -> None:
    def pins(column: str) -> str:
        return " ".join(runner.requirements(column)[1])

    assert "gast<0.3" in pins("1.14.0") and "gast<0.3" not in pins("2.0.0")
    assert "h5py<3" in pins("2.2.3") and "h5py<3" not in pins("2.3.4")
    assert "protobuf<3.21" in pins("2.8.4") and "protobuf<3.21" not in pins("2.9.3")
    assert "numpy<2" in pins("2.11.1") and "numpy<2" not in pins("2.12.1")
    assert "keras==3.5.0" in pins("2.19.1+keras3.5.0")
    assert "keras-nightly==3.16.0.dev" in pins("2.22.0rc0")
    assert "keras-nightly" in runner.requirements("keras-nightly")[1]
    assert "tf_keras==2.21.0" in pins("2.21.0+tf_keras")


def test_merging_keeps_other_columns_and_the_order(tmp_path: Path) -> None:
    register = {fact["id"]: {"statement": fact["statement"], "group": fact["group"]} for fact in SMALL["facts"]}
    new = column("2.16.2+keras3.9.2", "3.9.2")
    merged = runner.merge(SMALL, new, {"a/fit": True, "b": 2}, register)
    assert [c["id"] for c in merged["columns"]] == [
        *["2.14.1", "2.15.1", "2.16.2+keras3.0.5", "2.16.2+keras3.9.2", "2.19.1", "2.21.0", "2.21.0+tf_keras"]
    ]
    assert merged["cells"]["b"]["2.16.2+keras3.9.2"] == 2
    assert merged["cells"]["a/fit"]["2.14.1"] is True
    # A fact that the probes no longer have goes; one that they gained is there, unanswered.
    fewer = runner.merge(SMALL, new, {}, {"b": register["b"], "c": {"statement": "New.", "group": "Two"}})
    assert list(fewer["cells"]) == ["b", "c"]
    assert fewer["cells"]["c"] == {}


def test_a_complete_column_is_not_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture, data: dict) -> None:
    path = tmp_path / "matrix.json"
    path.write_text(runner.dumps(data), encoding="utf-8")
    assert runner.fill(["2.15.1"], fresh=False, jobs=1, keep=None, facts=[], path=path) == 0
    assert "answers are there" in capsys.readouterr().out
    assert json.loads(path.read_text(encoding="utf-8")) == data


def test_a_failed_column_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, data: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise runner.ColumnError("the wheel has gone")

    path = tmp_path / "matrix.json"
    path.write_text(runner.dumps(data), encoding="utf-8")
    monkeypatch.setattr(runner, "run_in_column", fail)
    assert runner.fill(["2.15.1"], fresh=True, jobs=1, keep=None, facts=[], path=path) == 1
    assert "2.15.1: FAILED. the wheel has gone" in capsys.readouterr().out
    assert json.loads(path.read_text(encoding="utf-8")) == data


def test_the_diff_of_a_release_is_a_table_or_an_empty_file(
    tmp_path: Path, data: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = runner.newest(data)
    answers = {fact: row[last] for fact, row in data["cells"].items()}
    result = {"tensorflow": "2.99.0", "keras": "3.99.0", "cells": answers}
    monkeypatch.setattr(runner, "probe", lambda column, facts, keep: result)
    out = tmp_path / "diff.md"
    runner.diff("nightly", None, out, None)
    assert out.read_text(encoding="utf-8") == ""
    answers["bn_momentum"] = {"error": "TypeError: int | str"}
    runner.diff("nightly", None, out, None)
    text = out.read_text(encoding="utf-8")
    assert text.startswith(f"TensorFlow 2.99.0 with Keras 3.99.0 answers 1 facts differently from {last}.")
    assert "| `bn_momentum` | The default momentum of BatchNormalization. | 0.99 | TypeError: int \\| str |" in text
    with pytest.raises(runner.ColumnError, match=r"no column 9\.9\.9"):
        runner.diff("nightly", "9.9.9", out, None)
