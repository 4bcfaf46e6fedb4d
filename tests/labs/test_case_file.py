"""Claims C1 to C14 of the source article: what every release measured, and today's column measured again.

The data tests read docs/labs/data; those named `today` run the same experiments, shorter, on the TensorFlow installed.
C1, C2, C6 and C7 train a MobileNetV2 for minutes: `nox -s case_file` alone measures them.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys

import casedata
import casefile as case
import claims
import numpy as np
import pytest

LN2 = float(np.log(2))
OLD = ("1.14.0", "2.0.0", "2.15.1")


def load_experiments():
    spec = importlib.util.spec_from_file_location("experiments", casedata.EXPERIMENTS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=case.RELEASES)
def measured(request):
    """One release's results."""
    return case.results(request.param)


def words(claim_id):
    """The verdict of one claim on every release, oldest first."""
    (claim,) = [claim for claim in claims.CLAIMS if claim.id == claim_id]
    return [claim.judge(case.results(release))[0] for release in case.RELEASES]


# --- the data: what the claims are, on every release ---


def test_every_release_measured_every_experiment_from_the_same_numbers():
    assert case.RELEASES == case.RELEASES == ("1.14.0", "2.0.0", "2.15.1", "2.21.0")
    wanted = set(load_experiments().experiments(None, 0))
    for release in case.RELEASES:
        record = casedata.record(release)
        assert wanted <= set(record["results"]), release
        assert record["version"]["tensorflow"] == release
        assert record["seed"] == 0
        assert record["date"] > "2026"
    # Same initial weights, same first batches: the first losses of the stuck loop agree to float32's last digits.
    first = [case.results(release)["stuck_loop"]["stuck"]["loss"][0] for release in case.RELEASES]
    assert max(first) - min(first) < 1e-4, first


def test_C1_C2_pretrained_works_both_ways(measured):
    run = measured["pretrained"]
    assert run["before"] < 0.7  # the new task is not solved by the old one
    assert run["fit"]["val_accuracy"][-1] > claims.WORKS
    assert run["loop_val_accuracy"] > claims.WORKS
    assert case.still(run["loop_moved"])


def test_C3_stuck_at_chance_with_identical_rows_and_the_cure(measured):
    run = measured["stuck_loop"]
    assert len(run["stuck_moved"]) == 52
    assert abs(claims.worst(run["stuck"]["loss"]) - LN2) < 0.01
    assert run["stuck_spread"] < 1e-4
    assert len({tuple(row) for row in run["stuck_rows"]}) == 1
    assert np.mean(run["cure"]["accuracy"][280:300]) > 0.85
    assert run["cure_val_accuracy"] < 0.6  # 300 updates are too few for momentum 0.999
    assert run["cure_val_accuracy_reestimated"] > 0.85


def test_C3_the_signal_dies_in_the_inference_phase(measured):
    signal = measured["stuck_loop"]["signal"]
    eps = np.finfo("float32").eps
    assert len(signal["inference"]) == 52
    assert signal["inference"][-1] < eps
    # ReLU6 and residual sums move it about 1; an untouched signal would stay within this range too.
    assert 0.1 < min(signal["training"]) < max(signal["training"]) < 10


def test_C4_no_learning_rate_and_no_patience_helps(measured):
    run = measured["stuck_loop"]
    for curve in (*run["learning_rates"].values(), run["stuck"]):
        # 40 steps of 32: chance is 0.500 with a standard error of 0.014.
        assert abs(np.mean(curve["accuracy"][-40:]) - 0.5) < 0.06
        assert np.mean(curve["loss"][-40:]) > LN2 - 0.01
    assert len(run["stuck"]["loss"]) == 600


def test_C5_initial_weights_are_glorot(measured):
    rows = measured["stuck_loop"]["initial"]
    assert len(rows) == 53  # 52 convolutions and the head
    assert claims.normal(rows)
    assert not claims.normal([[name, size, mean, 2 * std] for name, size, mean, std in rows])


def test_C6_lost_statistics_look_like_it_but_saving_loses_none(measured):
    run = measured["scratch_fit"]
    assert run["saved"] == 0
    assert run["lost"]["spread"] < 1e-4
    assert abs(run["lost"]["accuracy"] - 0.5) < 0.05


def test_C7_fit_learns_and_validation_waits(measured):
    run = measured["scratch_fit"]
    assert run["momentum"] == [0.999]
    assert run["fit"]["accuracy"][-1] > 0.85
    assert all(abs(value - 0.5) < 0.05 for value in run["fit"]["val_accuracy"])
    assert run["before_reestimate"] < 0.55
    assert run["reestimated"] > 0.85
    assert run["fit_momentum_0.9"]["val_accuracy"][-1] > 0.85


def test_C7_the_share_left_is_momentum_to_the_power_of_updates(measured):
    share = np.array(measured["scratch_fit"]["share_left"])
    assert share[-1, 0] >= 135
    # Median, smallest and largest channel: subtracting two float32 numbers of about 1 leaves 1e-6.
    for column in (1, 2, 3):
        np.testing.assert_allclose(share[:, column], 0.999 ** share[:, 0], atol=1e-4)


def test_C7_momentum_does_not_touch_training(measured):
    run = measured["scratch_fit"]
    # One thread, the same weights and batches: the same run, to the digits kept.
    np.testing.assert_allclose(run["fit"]["accuracy"], run["fit_momentum_0.9"]["accuracy"], atol=1e-4)


def test_C7_validation_wakes_up_when_little_is_left(measured):
    values = measured["scratch_fit"]["fit_momentum_0.99"]["val_accuracy"]
    left_over = 0.99 ** (45 * np.arange(1, len(values) + 1))
    assert max(np.array(values)[left_over > 0.1]) < 0.6
    assert values[-1] > 0.85


def test_C8_fit_moves_every_layer_and_the_loop_none(measured):
    assert case.all_moved(measured["scratch_fit"]["moved"])
    assert case.all_moved(measured["stuck_loop"]["cure_moved"])
    assert case.still(measured["stuck_loop"]["stuck_moved"])


def test_C8_fit_updates_by_the_formula(measured):
    run = measured["fit_anatomy"]
    assert run["momentum"] == 0.99
    assert run["largest_gap"] < 1e-5
    assert (
        max(run["batch_mean"]) - min(run["batch_mean"]) > 1e-2
    )  # the batches differ, so the agreement means something


def test_open_question_1_fit_sets_a_phase_for_its_own_duration_at_most():
    told = {release: case.results(release)["fit_anatomy"]["told"] for release in case.RELEASES}
    assert told["1.14.0"]["fit"] == ["training=tensor, learning phase tensor"]
    assert told["2.0.0"]["fit"] == ["training=True, learning phase 1", "training=tensor, learning phase tensor"]
    assert told["2.15.1"]["fit"] == ["training=True, learning phase 0"]
    assert told["2.21.0"]["fit"] == ["training=True, learning phase gone"]
    for routes in told.values():
        assert routes["m(x) after fit"] == routes["m(x)"]
        assert routes["m(x)"][0].startswith("training=None")


def test_C9_without_training_statistics_never_move_in_the_loop(measured):
    run = measured["subclass"]
    assert run["c9_loop_val_accuracy"] > 0.9
    assert case.still(run["c9_loop_moved"])


def test_C9_under_fit_they_moved_until_keras_3():
    for release in OLD:
        assert case.all_moved(case.results(release)["subclass"]["c9_fit_moved"])
    assert case.still(case.results()["subclass"]["c9_fit_moved"])


def test_C10_told_the_phase_statistics_move_and_the_test_is_right(measured):
    run = measured["subclass"]
    assert case.all_moved(run["c10_loop_moved"])
    assert run["c10_test_accuracy"] > 0.95


def test_C10_a_default_of_true_reaches_plain_calls_and_exports():
    for release in case.RELEASES:
        run = case.results(release)["subclass"]
        true, false = run["c10_default_true"], run["c10_default_false"]
        assert true["call"] == {"phase": "training", "moves_statistics": True}
        assert false["call"] == {"phase": "inference", "moves_statistics": False}
        assert true["predict"]["phase"] == false["predict"]["phase"] == "inference"
        assert (false["served"]["phase"], false["served_assigns"]) == ("inference", False)
        # 2.0.0 traced a saved model with its learning phase, 0, in place of the default.
        expected = ("inference", False) if release == "2.0.0" else ("training", True)
        assert (true["served"]["phase"], true["served_assigns"]) == expected, release


def test_C11_the_setter_cures_the_loop_where_it_exists():
    for release in OLD:
        run = case.results(release)["learning_phase"]
        assert np.mean(run["loop"]["accuracy"][-20:]) > 0.8
        assert case.all_moved(run["loop_moved"])
        assert run["left_on_phase"] == "training"
        assert run["left_on_moves_statistics"]
    assert "set_learning_phase" in case.results()["learning_phase"]["setter"]["error"]


def test_C11_on_1_14_fit_validated_in_the_training_phase():
    run = case.results("1.14.0")["learning_phase"]
    shown = run["fit"]["val_accuracy"]
    assert shown[-1] > 0.85
    assert run["fit_val_accuracy_inference"] < 0.6
    assert abs(run["fit_val_accuracy_training"] - run["evaluate_accuracy"]) < 1e-4
    # In the training phase an answer depends on its batch, and `fit` composes its validation batches in its own way:
    # a dozen of 357 images differ. The inference phase is ten times as far off.
    assert abs(run["fit_val_accuracy_training"] - shown[-1]) < 0.06
    assert run["predict_phase"] == run["predict_on_batch_phase"] == "training"


def test_C11_later_releases_validate_in_the_inference_phase():
    for release in ("2.0.0", "2.15.1"):
        run = case.results(release)["learning_phase"]
        assert max(run["fit"]["val_accuracy"]) < 0.6
        assert abs(run["fit_val_accuracy_inference"] - run["fit"]["val_accuracy"][-1]) < 1e-4
        assert abs(run["fit_val_accuracy_inference"] - run["evaluate_accuracy"]) < 1e-4
        assert run["fit_val_accuracy_training"] > 0.85
        assert run["predict_phase"] == run["predict_on_batch_phase"] == "inference"


def test_C12_updates_cannot_be_run_eagerly():
    for release in OLD:
        held = case.results(release)["learning_phase"]["updates"]
        assert not held["moved"]
        if held["count"]:
            assert all("error" in held[way] for way in ("read", "called", "session")), release
    assert case.results("1.14.0")["learning_phase"]["updates"]["count"] == 2  # a moving mean, a moving variance
    assert case.results("2.15.1")["learning_phase"]["updates"]["count"] == 0
    assert "updates" in case.results()["learning_phase"]["updates"]["error"]


def test_C13_the_setter_does_not_speed_training_up():
    for release in OLD:
        plain = case.results(release)["scratch_fit"]["fit"]["accuracy"]
        phase = case.results(release)["learning_phase"]["fit"]["accuracy"]
        # One thread, the same weights and batches: the same run, to the digits kept.
        np.testing.assert_allclose(phase, plain, atol=1e-4, err_msg=release)
        assert phase[-1] > 0.85


def test_C14_the_layers_documentation_says_what_a_plain_call_does_by_2_15():
    says = [
        case.results(release)["documentation"]["BatchNormalization"]["what a call without the argument does"]
        for release in case.RELEASES
    ]
    assert says == [False, False, True, True]


def test_listing_a_linear_head_can_stay_at_chance_in_the_right_phase(measured):
    run = measured["listing_head"]
    last = {name: [np.mean(r["accuracy"][-30:]) for r in run[name]] for name in ("printed", "meant")}
    # 30 steps of 32: chance is 0.500 with a standard error of 0.016.
    assert min(last["printed"]) < 0.55
    assert min(last["meant"]) > 0.62


def test_listing_the_printed_rows_come_from_a_softmax():
    rows = np.array(case.article()["stuck_predictions"])
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)


def test_listing_the_summary_is_a_frozen_base_under_one_unit(measured):
    counts, printed = measured["listing_summary"]["parameters"], case.article()["summary"]
    assert counts["1"] == {"head": printed["trainable"], "total": printed["total"]}
    assert counts["2"]["head"] == 2 * printed["trainable"]


def test_listing_a_frozen_base_from_scratch_stays_at_chance(measured):
    run = measured["listing_frozen"]
    assert case.still(run["frozen_moved"])
    assert max(run["frozen"]["spread"][-20:]) < 1e-4
    assert abs(np.mean(run["frozen"]["accuracy"][-40:]) - 0.5) < 0.06


def test_listing_training_true_reached_a_frozen_base_while_applications_used_the_old_layer():
    for release in case.RELEASES:
        run = case.results(release)["listing_frozen"]
        old = release in ("1.14.0", "2.0.0")
        assert run["frozen_means_inference"] == {"keras.applications": not old, "keras.layers": release != "1.14.0"}
        assert case.still(run["frozen_training_true_moved"])
        spread = max(run["frozen_training_true"]["spread"][-20:])
        assert spread > 0.5 if old else spread < 1e-4, release


def test_C13_switched_off_for_the_test_the_learning_phase_is_right():
    for release in OLD:
        run = case.results(release)["learning_phase"]
        assert run["switched_off_phase"] == "inference"
        assert not run["switched_off_moves_statistics"]


def test_verdicts():
    """Each word is derived from data; these are the words that the pages' prose relies on."""
    every = {"C1", "C2", "C3", "C4", "C5", "C7", "C8", "C9", "C10"}
    for claim_id in every:
        assert words(claim_id) == [claims.HOLDS] * 4, claim_id
    assert words("C6") == [claims.OTHERWISE] * 4
    assert words("C11a") == [claims.HOLDS] * 3 + [claims.FAILS]
    assert words("C11b") == [claims.FAILS] * 4
    assert words("C11c") == [claims.OTHERWISE] + [claims.FAILS] * 3
    assert words("C12") == [claims.HOLDS] * 2 + [claims.FAILS] * 2
    assert words("C13a") == [claims.FAILS] * 4
    assert words("C13b") == [claims.HOLDS] * 4
    assert words("C13c") == [claims.HOLDS] * 3 + [claims.FAILS]
    assert words("C14") == [claims.HOLDS] * 2 + [claims.FAILS] * 2
    assert {claim.row for claim in claims.CLAIMS} == {f"C{n}" for n in range(1, 15)}


def test_verdicts_follow_the_data():
    """A judge that cannot change its mind proves nothing: turn the data round and see every word turn."""
    opposite = json.loads(json.dumps(case.results("1.14.0")))
    opposite["pretrained"]["fit"]["val_accuracy"][-1] = opposite["pretrained"]["loop_val_accuracy"] = 0.5
    opposite["stuck_loop"]["stuck"]["loss"] = [0.2] * 600
    opposite["stuck_loop"]["stuck"]["accuracy"] = [0.9] * 600
    opposite["stuck_loop"]["initial"][0][3] = 3.0
    opposite["stuck_loop"]["stuck_moved"][7][0] = 1e-9
    opposite["scratch_fit"]["lost"]["spread"] = 0.5
    opposite["scratch_fit"]["fit"]["val_accuracy"][-1] = 0.9
    opposite["subclass"]["c9_loop_moved"][0][1] = 0.1
    opposite["subclass"]["c10_loop_moved"] = [[0.0, 0.0]]
    opposite["learning_phase"]["loop_moved"] = [[0.0, 0.0]]
    opposite["learning_phase"]["fit_val_accuracy_inference"] = 0.95
    opposite["learning_phase"]["fit"]["accuracy"] = [0.99] * 6
    opposite["learning_phase"]["updates"]["moved"] = True
    opposite["learning_phase"]["loop"]["accuracy"] = [0.99] * 200
    opposite["documentation"]["BatchNormalization"]["what a call without the argument does"] = True
    for claim in claims.CLAIMS:
        assert claim.judge(opposite)[0] != claim.judge(case.results("1.14.0"))[0], claim.id


def figures(value):
    if isinstance(value, dict | list):
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in figures(item)]
    return [value] if isinstance(value, int | float) else []


def test_no_measured_number_is_typed_by_hand():
    """Decimals in the prose are settings, constants of the problem, or figures that the article printed."""
    settings = [0.999, 0.99, 0.9, 0.35, round(LN2, 3), round(1.96 * np.sqrt(0.25 / 1280), 2)]
    printed = figures(case.article())
    pages = [case.ROOT / "docs/case-file/index.md", *(case.ROOT / "docs/labs").glob("*.py")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".py":
            cells = re.split(r"^# %%", text, flags=re.MULTILINE)
            text = "\n".join(cell for cell in cells if cell.startswith(" [markdown]"))
        text = re.sub(r"\{\{.*?\}\}", "", text, flags=re.DOTALL)
        for number in re.findall(r"(?<![\w.])0\.\d+", text):
            value, digits = float(number), len(number) - 2
            assert value in settings or value in {round(n, digits) for n in printed}, f"{page.name}: {number}"


def test_a_live_lab_measures_on_the_tensorflow_installed():
    """What `LIVE = True` does in a downloaded notebook, with the quickest of the experiments."""
    runs = case.runs("documentation", live=True)
    assert list(runs) == [*case.RELEASES, "live"]
    assert runs["live"] == case.results()["documentation"]
    assert case.label("live") == "your TensorFlow"


def test_every_claim_has_a_lab_section():
    for claim in claims.CLAIMS:
        text = (case.ROOT / f"docs/labs/{claim.lab}.py").read_text(encoding="utf-8")
        assert f'"{claim.row}"' in text.split("# ## Verdict")[1], claim.id


@pytest.mark.slow
def test_C1_C2_the_imagenet_path_keeps_the_weights_it_loads(monkeypatch):
    """Without the download: a base that comes with statistics of its own stands in for `weights="imagenet"`."""
    experiments, seen = load_experiments(), []
    made = experiments.mobilenet

    def loaded(units=2, activation="softmax", weights=None, momentum=None):
        assert weights == "imagenet"
        model = made(units, activation, None, momentum)
        norm = experiments.batch_norms(model)[0]
        norm.moving_mean.assign(norm.moving_mean + 7)
        return model

    class Loop:
        def __init__(self, model, forward):
            self.model = model

        def run(self, *_, **__):
            seen.append(experiments.statistics(self.model)[0][0][0])
            return {}

    monkeypatch.setattr(experiments, "mobilenet", loaded)
    monkeypatch.setattr(experiments, "Loop", Loop)
    monkeypatch.setattr(experiments, "fit", lambda model, *_: seen.append(experiments.statistics(model)[0][0][0]))
    experiments.pretrained(experiments.load_digits(), 0, imagenet=True)
    assert seen == [7, 7]


@pytest.mark.slow
def test_labs_run_without_tensorflow():
    labs = sorted(map(str, (case.ROOT / "docs/labs").glob("*.py")))
    assert len(labs) == 8
    code = (
        "import runpy, sys\n"
        f"for lab in {labs!r}:\n    runpy.run_path(lab)\n"
        "heavy = {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=case.ROOT, check=True, timeout=300, env={**os.environ, "MPLBACKEND": "agg"}
    )


# --- today's column, measured again: shorter runs of the same code, from the same numbers ---


@pytest.fixture(scope="module")
def lab():
    module = load_experiments()
    return module, module.load_digits()


@pytest.fixture(scope="module")
def loops(lab):
    """C3, C4, C5, C8 again: 80 stuck steps for the lane's 600, one learning rate for three."""
    experiments, digits = lab
    return experiments.stuck_loop(digits, 0, steps=300, long_steps=80, learning_rates=(1e-2,), lr_steps=40)


@pytest.mark.slow
def test_today_C3_C8_stuck_and_cured(loops):
    assert abs(np.mean(loops["stuck"]["loss"][-20:]) - LN2) < 0.01
    assert loops["stuck_spread"] < 1e-4
    assert case.still(loops["stuck_moved"])
    assert np.mean(loops["cure"]["accuracy"][280:300]) > 0.85
    assert case.all_moved(loops["cure_moved"])
    assert loops["cure_val_accuracy_reestimated"] > 0.85


@pytest.mark.slow
def test_today_C3_is_what_the_data_say(loops):
    stored = case.results()["stuck_loop"]
    # The same weights and batches: the stuck loop repeats itself, the cured one its first loss. Then RMSprop's first
    # step, which takes the sign of every gradient, makes rounding visible.
    np.testing.assert_allclose(loops["stuck"]["loss"][:50], stored["stuck"]["loss"][:50], atol=5e-3)
    np.testing.assert_allclose(loops["cure"]["loss"][0], stored["cure"]["loss"][0], rtol=0.01)
    np.testing.assert_allclose(loops["signal"]["training"], stored["signal"]["training"], rtol=0.02)
    assert abs(loops["cure_val_accuracy_reestimated"] - stored["cure_val_accuracy_reestimated"]) < 0.08


@pytest.mark.slow
def test_today_C4_C5_neither_learning_rate_nor_initial_weights(loops):
    assert abs(np.mean(loops["learning_rates"]["0.01"]["accuracy"][-40:]) - 0.5) < 0.06
    assert claims.normal(loops["initial"])


@pytest.mark.slow
def test_today_C9_C10_is_what_the_data_say(lab):
    experiments, digits = lab
    run, stored = experiments.subclass(digits, 0), case.results()["subclass"]
    assert case.still(run["c9_loop_moved"])
    assert case.still(run["c9_fit_moved"]) == case.still(stored["c9_fit_moved"])
    assert case.all_moved(run["c10_loop_moved"])
    assert abs(run["c10_test_accuracy"] - stored["c10_test_accuracy"]) < 0.02
    for default in ("c10_default_true", "c10_default_false"):
        assert run[default] == stored[default]


def test_today_C8_fit_tells_layers_what_the_data_say(lab):
    experiments, digits = lab
    run, stored = experiments.rounded(experiments.fit_anatomy(digits, 0)), case.results()["fit_anatomy"]
    assert run["told"] == stored["told"]
    assert run["largest_gap"] < 1e-5
    np.testing.assert_allclose(run["batch_mean"], stored["batch_mean"], rtol=1e-3)


def test_today_C11_C12_C14_is_what_the_data_say(lab):
    experiments, digits = lab
    stored = case.results()
    assert experiments.learning_phase(digits, 0) == stored["learning_phase"]
    assert experiments.documentation() == stored["documentation"]


@pytest.mark.slow
def test_today_listing_a_linear_head_stays_at_chance(lab):
    experiments, digits = lab
    stuck = min(case.results()["listing_head"]["printed"], key=lambda run: np.mean(run["accuracy"][-30:]))
    run = experiments.listing_head(digits, seeds=(stuck["seed"],), steps=60, names=("printed",))["printed"][0]
    assert abs(np.mean(run["accuracy"][-30:]) - 0.5) < 0.08
