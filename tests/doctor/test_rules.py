"""Every rule on hand-made evidence: no model, no TensorFlow; once it finds, once it is silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from phase_doctor import reasons, verdict
from phase_doctor.evidence import (
    BARE,
    INFERENCE,
    TRAINING,
    Artifact,
    Call,
    Evidence,
    Failure,
    Layer,
    Phases,
    Statistic,
    Step,
    Trace,
    Variable,
    Way,
)
from phase_doctor.report import Diagnosis
from phase_doctor.rules import MODULES, RULES

ROWS = np.arange(8.0)[:, None] * np.ones((8, 3))  # eight samples that can be told apart
MEAN, VARIANCE, GAMMA = 1, 2, 3


class World:
    """A model with one BatchNormalization, trained, and a step that does all it should."""

    def __init__(self) -> None:
        self.model = Layer("net", kind="Sequential", graph=True, leaf=False)
        self.norm = Layer(
            *("net/norm", (self.model,)), norm=True, heeds=True, stock=True, affine=True, trained=True,
            variables=frozenset((MEAN, VARIANCE, GAMMA)),
        )  # fmt: skip
        self.statistic = Statistic(
            *(self.norm, MEAN, VARIANCE, 0.9),
            now=(np.full(3, 2.0), np.full(3, 4.0)), first=(np.zeros(3), np.ones(3)),
        )  # fmt: skip
        self.seen = Evidence(
            layers=[self.model, self.norm],
            steps=10,
            samples=8,
            variables={
                MEAN: Variable(MEAN, "mean", self.norm, (3,), statistic=True),
                VARIANCE: Variable(VARIANCE, "variance", self.norm, (3,), statistic=True),
                GAMMA: Variable(GAMMA, "gamma", self.norm, (3,), trainable=True),
            },
            statistics=[self.statistic],
            noise=1e-6,
            measure=SimpleNamespace(
                step_calls=lambda: None,
                fresh_writes=lambda: None,
                first_difference=lambda *_: "net/norm",
                shared_inputs=lambda: {},
                outer_inputs=lambda: {},
                losses=lambda: {},
                sample_losses=lambda phases: None,
                copies=lambda key: False,
                feeds=lambda updated: {},
            ),
        )
        self.seen.inference = self.trace(INFERENCE, False)
        self.seen.training = self.seen.fit = self.trace(TRAINING, True)
        self.seen.ways = [Way(self.seen.inference, [ROWS], halves=self.halves(ROWS))]
        self.seen.bare = Way(self.trace(BARE, False), [ROWS])
        writes = {**self.seen.training.writes, GAMMA: (1, 1)}
        self.seen.step = Step(Trace("step", writes=writes), "reader", True, frozenset(writes))

    def trace(self, name: str, training: bool, times: int = 1) -> Trace:
        calls = [Call(self.model, training=training, explicit=training)]
        calls += [Call(self.norm, 0, training, inputs=(n,)) for n in range(times)]
        writes = {MEAN: (times, times), VARIANCE: (times, times)} if training else {}
        return Trace(name, calls, writes, reads=(MEAN, VARIANCE, GAMMA))

    @staticmethod
    def halves(alone: np.ndarray) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        return [(rows, [alone[rows]]) for rows in (np.arange(4), np.arange(4, 8))]

    def phases(self, distance: float, **effect: float) -> None:
        """Moving statistics that far from the batch's, and what those change."""
        measured = {"distance": distance, "noise": 0.1, "left": 0.5}
        effect = {"rms_change": distance, "rms_noise": 0.1, "spread_batch": 1.0, "spread_moving": 1.0} | effect
        self.seen.phases = Phases([(self.statistic, measured)], effect=effect)


def broken_pd001(w: World) -> None:
    w.seen.failures.append(Failure(TRAINING, "ValueError", "no training today"))


def broken_pd002(w: World) -> None:
    w.seen.remarks.append("Every sample of the batch is the same.")


def broken_pd101(w: World) -> None:
    w.model.takes_training = False
    w.seen.fit = w.trace(BARE, False)


def broken_pd102(w: World) -> None:
    w.seen.recorded = {w.norm: False}  # and yet `training` runs it in the training phase


def broken_pd103(w: World) -> None:
    hidden = Layer("hidden", norm=True, heeds=True, in_tree=False, variables=frozenset((7,)))
    w.seen.variables[7] = Variable(7, "hidden_mean", shape=(3,), tracked=False)
    w.seen.training.calls.append(Call(hidden, 0, True))
    w.seen.training.reads += (7,)


def broken_pd104(w: World) -> None:
    w.seen.training = w.trace(TRAINING, True, times=2)
    far = np.random.default_rng(0).normal(size=(2, 32, 3)) + np.array([0, 9])[:, None, None]
    w.seen.measure.shared_inputs = lambda: {1: far[0], 2: far[1]}


def broken_pd105(w: World) -> None:
    w.seen.compiled, w.norm.at_compile, w.norm.trainable = True, True, False


def broken_pd106(w: World) -> None:
    resize = Layer("net/resize", (w.model,), default=True, stock=True)
    bare = w.trace(BARE, True)
    bare.calls[0].training = False
    bare.calls.insert(1, Call(resize, 0, True))
    w.seen.bare = Way(bare, [ROWS])


def behind(w: World, phase: bool = False, **call: Any) -> Layer:
    """A dropout behind the normalisation, which was recorded with a phase that Keras overrides by handing its own."""
    drop = Layer("net/drop", (w.model,), kind="Dropout", heeds=True, stock=True)
    w.seen.layers.append(drop)
    w.seen.recorded = {w.norm: phase}
    for trace, told in ((w.seen.training, True), (w.seen.inference, False)):
        trace.calls[1].explicit = told
        trace.calls.append(Call(drop, **{"parent": 0, "training": told, "explicit": told, **call}))
    return drop


def broken_pd108(w: World) -> None:
    behind(w)


def broken_pd201(w: World) -> None:
    w.statistic.now = w.statistic.first


def broken_pd202(w: World) -> None:
    w.phases(5.0)


def broken_pd203(w: World) -> None:
    w.statistic.now = (np.array([1.0, np.nan, 2.0]), np.ones(3))


def broken_pd204(w: World) -> None:
    w.statistic.momentum = 0.1


def broken_pd301(w: World) -> None:
    w.seen.step = Step(Trace("step", writes={GAMMA: (1, 1)}), "reader", True, frozenset((GAMMA,)))


def broken_pd302(w: World) -> None:
    calls = w.trace("step", True, times=2)
    calls.calls = [Call(w.model, None, True, inputs=(5,), origin=f"net({given})") for given in "xx"]
    calls.calls += [Call(w.norm, parent, True, inputs=(6 + parent,)) for parent in (0, 1)]
    w.seen.measure.step_calls = lambda: calls
    w.seen.step.trace.writes |= {MEAN: (2, 2)}


def broken_pd303(w: World) -> None:
    w.norm.trainable = False


def broken_pd304(w: World) -> None:
    w.seen.ways[0].halves = w.halves(ROWS + 1)


def broken_pd305(w: World) -> None:
    w.seen.ways[0].again = [ROWS + 1]


def broken_pd306(w: World) -> None:
    w.seen.ways[0].trace.writes[MEAN] = (1, 1)
    w.seen.ways[0].changed = frozenset((MEAN,))


def broken_pd307(w: World) -> None:
    w.phases(5.0, spread_moving=0.0)


def broken_pd308(w: World) -> None:
    w.phases(5.0)


def broken_pd309(w: World) -> None:
    w.seen.bare.outputs = [ROWS + 1]


def broken_pd310(w: World) -> None:
    drop = Layer("net/drop", (w.model,), kind="Dropout", heeds=True, stock=True, variables=frozenset((9,)))
    w.model.variables = frozenset((MEAN, VARIANCE, GAMMA, 9))
    w.seen.layers.append(drop)
    w.seen.variables[9] = Variable(9, "seed", drop, floating=False)
    calls = w.trace("step", False)
    calls.calls[0].explicit = None
    calls.calls.append(Call(drop, 0))
    w.seen.measure.step_calls = lambda: calls
    w.seen.measure.trained_through = lambda updated: {0: updated, 1: updated, 2: updated}


def broken_pd107(w: World) -> None:
    w.model.trainable, w.seen.variables[GAMMA].trainable = False, False


def broken_pd311(w: World) -> None:
    student = Layer("student", variables=frozenset((8,)))
    w.seen.layers.append(student)
    w.seen.variables[8] = Variable(8, "kernel", student, trainable=True)
    w.seen.step.trace.writes[8] = w.seen.step.trace.writes.pop(GAMMA)


def broken_pd401(w: World) -> None:
    w.seen.artifact = Artifact("served", outputs=[ROWS * 1.1])


def broken_pd402(w: World) -> None:
    w.seen.artifact = Artifact("served", writes=2, outputs=[ROWS])


def broken_pd403(w: World) -> None:
    w.seen.artifact = Artifact("served", fixed=["input 'x' takes batches of exactly 8"])


def found(code: str, world: World) -> list[Any]:
    return list(MODULES[code].judge(world.seen))


@pytest.mark.parametrize("code", RULES)
def test_a_rule_finds_its_fault_and_nothing_in_a_sound_world(code: str) -> None:
    world = World()
    world.seen.artifact = Artifact("served", outputs=[ROWS])
    world.phases(0.2)
    assert found(code, world) == []
    world = World()
    globals()[f"broken_{code.lower()}"](world)
    finding, *_ = found(code, world)
    assert finding.code == code and finding.cure_id in RULES[code].cures
    assert finding.severity == RULES[code].severity


def judged(world: World, code: str, **options: Any) -> str | None:
    findings = verdict.judge(world.seen, options.get("allow", ()))
    return next((f.severity for f in findings if f.code == code), None)


def test_a_sound_world_is_healthy() -> None:
    world = World()
    world.phases(0.2)
    assert verdict.judge(world.seen, ()) == []


def test_statistics_that_lag_in_a_network_that_was_never_trained_are_a_note() -> None:
    world = World()
    world.phases(5.0)
    assert judged(world, "PD202") == "warning"
    world = World()
    world.phases(5.0)
    world.seen.steps, world.norm.trained = 0, False
    assert judged(world, "PD202") == judged(world, "PD308") == "note"


def test_nothing_is_compared_where_a_value_is_not_finite() -> None:
    world = World()
    world.phases(5.0)
    world.statistic.now = (np.array([np.nan] * 3), np.ones(3))
    assert [f.code for f in verdict.judge(world.seen, ())] == ["PD203"]


@pytest.mark.parametrize(("own", "severity"), [(2.0, "note"), (0.5, "warning")])
def test_statistics_that_serve_the_batch_better_than_its_own_are_a_note(own: float, severity: str) -> None:
    world = World()
    world.phases(5.0)
    jitter = np.linspace(0, 0.1, 8)
    world.seen.measure.sample_losses = lambda phases: (own + jitter, 1.0 - jitter)
    assert judged(world, "PD202") == severity


@pytest.mark.parametrize(("explicit", "severity"), [(False, "note"), (None, "error")])
def test_a_step_that_says_inference_itself_keeps_its_statistics_on_purpose(explicit: Any, severity: str) -> None:
    world = World()
    broken_pd301(world)
    calls = world.trace("step", False)
    calls.calls[0].explicit = explicit
    world.seen.measure.step_calls = lambda: calls
    assert judged(world, "PD301") == severity


def test_a_layer_that_fit_forgets_is_a_note_where_the_readers_step_tells_it() -> None:
    world = World()
    broken_pd101(world)
    assert judged(world, "PD101") == "note"
    world = World()
    broken_pd101(world)
    world.seen.step = None
    assert judged(world, "PD101") == "error"


@pytest.mark.parametrize(("written", "severity"), [((), "note"), ((GAMMA,), "error")])
def test_flags_changed_after_compile_are_a_note_where_the_step_goes_by_them(written: tuple, severity: str) -> None:
    world = World()
    broken_pd105(world)
    writes = dict.fromkeys(written, (1, 1))
    world.seen.step = Step(Trace("step", writes=writes), "reader", True, frozenset(written))
    assert judged(world, "PD105") == severity


def test_keras_2_trains_with_the_flags_that_compile_saw() -> None:
    world = World()
    world.seen.compiled, world.seen.keras3, world.seen.step = True, False, None
    world.model.at_compile, world.model.trainable = True, False
    assert judged(world, "PD105") == "note"
    world.seen.facts.clear()
    world.seen.keras3 = True
    assert judged(world, "PD105") == "error"


def test_what_raised_on_a_batch_that_was_meant_for_the_step_is_a_note() -> None:
    world = World()
    world.seen.failures.append(Failure("the model's train_step", "ValueError", "no", "step"))
    assert judged(world, "PD001") is None and judged(world, "PD002") == "note"
    world = World()
    world.seen.failures.append(Failure("train_step", "ValueError", "no", "step"))
    assert judged(world, "PD001") == "error"


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda w, calls: None, ["PD310"]),
        (lambda w, calls: setattr(calls.calls[2], "training", True), []),
        (lambda w, calls: setattr(calls.calls[0], "explicit", False), []),
        (lambda w, calls: setattr(w.seen.measure, "trained_through", lambda updated: dict.fromkeys(range(3), ())), []),
        (lambda w, calls: w.seen.step.trace.writes.update({9: (0, 1)}), []),
        (lambda w, calls: w.seen.step.trace.writes.pop(GAMMA), []),
    ],
    ids=["bare", "told", "False written", "no gradient", "the seed moves", "nothing of it is trained"],
)
def test_dropout_counts_where_gradients_pass_and_nobody_wrote_inference(change: Any, codes: list[str]) -> None:
    world = World()
    broken_pd310(world)
    change(world, world.seen.measure.step_calls())
    assert [f.code for f in found("PD310", world)] == codes


def test_a_model_whose_outputs_were_not_read_is_not_called_healthy() -> None:
    world = World()
    world.seen.unread = ["Independent"]
    world.seen.ways[0].outputs.clear()
    world.seen.ways[0].halves.clear()
    (finding,) = found("PD002", world)
    assert "'Independent'" in finding.message
    assert str(Diagnosis([finding], {}, {"keras": "3"}, "net")).startswith("net: nothing found, not all was seen")


def test_a_step_whose_calls_were_not_seen_is_not_called_healthy() -> None:
    world = World()
    broken_pd310(world)
    world.seen.measure.step_calls = lambda: None
    finding, *others = verdict.judge(world.seen, ())
    assert (finding.code, finding.severity, others) == ("PD310", "note", [])
    assert "'net/drop'" in finding.message
    told = str(Diagnosis([finding], {}, {"keras": "3"}, "net"))
    assert told.startswith("net: nothing found, not all was seen")


def test_a_value_assigned_to_itself_is_no_update() -> None:
    world = World()
    world.seen.step.changed -= {MEAN, VARIANCE}
    world.seen.measure.training_means = lambda: {MEAN: np.full(3, 2.5)}
    assert judged(world, "PD301") == "error"
    world = World()
    world.seen.step.changed -= {MEAN, VARIANCE}
    world.seen.measure.training_means = lambda: {MEAN: np.full(3, 2.0)}  # at rest: training leaves it as well
    assert judged(world, "PD301") is None


def test_statistics_of_what_gradients_pass_through_are_a_note() -> None:
    world = World()
    broken_pd311(world)
    world.seen.measure.step_calls = lambda: world.trace("step", True)
    world.seen.measure.trained_through = lambda updated: {0: updated, 1: updated}
    assert judged(world, "PD311") == "note"
    world.seen.measure.trained_through = lambda updated: {0: (), 1: ()}
    assert judged(world, "PD311") == "error"


@pytest.mark.parametrize(
    ("moves", "compiled", "severity"), [(True, False, "error"), (False, True, "error"), (False, False, None)]
)
def test_thawed_inside_a_frozen_model_counts_where_it_does_something(
    moves: bool, compiled: bool, severity: Any
) -> None:
    world = World()
    broken_pd107(world)
    world.seen.compiled = compiled
    if not moves:
        world.seen.training.writes.clear()
    assert judged(world, "PD107") == severity


def swapped(w: World) -> None:
    """The dropout runs before the normalisation."""
    drop = behind(w)
    for trace in (w.seen.training, w.seen.inference):
        (mine,) = trace.of(drop)
        trace.calls.insert(1, trace.calls.pop(mine))


def held(w: World) -> None:
    """As Keras 3.16 runs it: nothing is to come."""
    behind(w, training=False, explicit=None)


def restated(w: World) -> None:
    """The normalisation is fixed inside a block, whose last layer is given the phase that came in."""
    drop, block, last = behind(w), Layer("net/block", (w.model,)), Layer("net/block/last")
    w.seen.recorded = {}
    for trace, told in ((w.seen.training, True), (w.seen.inference, False)):
        norm = Call(w.norm, 1, False, explicit=False)
        trace.calls[1:] = [
            *(Call(block, 0, told, explicit=told), norm, Call(last, 1, told, explicit=told)),
            Call(drop, 0, told, explicit=told),
        ]


def unread(w: World) -> None:
    """A layer that lets no stated phase through to Keras, as those of `to_monte_carlo`."""
    behind(w)
    for trace in (w.seen.training, w.seen.inference):
        trace.calls[1].explicit = None


def fixed(w: World) -> None:
    """The same block without that last layer."""
    restated(w)
    for trace in (w.seen.training, w.seen.inference):
        del trace.calls[3]


@pytest.mark.parametrize(
    ("change", "places"),
    [
        (behind, ["net/norm"]),
        (lambda w: behind(w, True), ["net/norm"]),
        (fixed, ["net/norm"]),
        (lambda w: setattr(behind(w), "heeds", False), []),
        (lambda w: (behind(w), setattr(w.seen, "keras3", False)), []),
        *((change, []) for change in (swapped, held, restated, unread)),
    ],
    ids=["False", "True", "fixed inside", "nothing heeds", "Keras 2", "before", "3.16", "restated", "kept to itself"],
)
def test_keras_316_changes_what_runs_after_a_stated_phase_and_nothing_else(change: Any, places: list[str]) -> None:
    world = World()
    change(world)
    assert [f.where for f in found("PD108", world)] == places


@pytest.mark.parametrize("stated", [True, False])
def test_who_trains_in_inference_is_told_by_whom(stated: bool) -> None:
    world = World()
    drop = Layer("net/drop", (world.model,), kind="Dropout", heeds=True, stock=True)
    broken_pd306(world)
    calls = world.seen.inference.calls
    calls.insert(1, Call(drop, 0, stated, explicit=stated or None))
    calls[2].training, world.seen.recorded = True, {drop: True} if stated else {}
    (finding,) = found("PD306", world)
    assert ("the `training=True` of 'net/drop' reaches it" in finding.message) == stated
    assert finding.cure_id == ("keep-the-phase-to-the-dropout" if stated else "write-in-training-only")


def test_allowed_codes_are_notes_and_cause_nothing() -> None:
    world = World()
    broken_pd301(world)
    broken_pd201(world)
    causes = {f.code: f.caused_by for f in verdict.judge(world.seen, ())}
    assert causes == {"PD301": None, "PD201": "PD301"}
    causes = {f.code: f.caused_by for f in verdict.judge(world.seen, ("PD301",))}
    assert causes == {"PD301": None, "PD201": None}


def test_untouched_statistics_count_where_a_graph_holds_them() -> None:
    w = World()
    w.statistic.now = w.statistic.first
    assert [f.code for f in MODULES["PD201"].judge(w.seen)] == ["PD201"]
    for trace in (w.seen.inference, w.seen.training, w.seen.step.trace):
        trace.reads = (GAMMA,)
    assert not list(MODULES["PD201"].judge(w.seen))


# -- why statistics lie far from the batch's: each branch of reasons.py ------------------------------------------------


def why(w: World, **measured: float) -> tuple[str, str, dict[str, Any]]:
    w.phases(9.0)
    numbers = w.seen.phases.behind[0][1]
    numbers.update({"left": 0.0, "channels": 8, **measured})
    return reasons.reason(w.seen, w.statistic, numbers)


# Ten times as wide in every channel, in a layer whose channels differ among themselves.
SCALED = {"stretch": np.log(10.0), "stretch_between_channels": 0.01, "moving_between_channels": 0.5}


def test_data_and_statistics_disagree_and_nothing_says_which_is_wrong() -> None:
    assert why(World())[0] == "tell-data-from-statistics"


def test_a_batch_of_one_class() -> None:
    w = World()
    w.seen.one_class = True
    assert why(w)[0] == "shuffle-the-batches"


@pytest.mark.parametrize("change", [{}, {"stretch_between_channels": 0.4}, {"channels": 3}, {"stretch": np.log(1.4)}])
def test_a_batch_on_another_scale_is_so_in_every_channel_alike(change: dict[str, float]) -> None:
    cure, text, evidence = why(World(), **SCALED | change)
    assert cure == ("tell-data-from-statistics" if change else "prepare-the-input-as-in-training")
    assert change or (evidence["factor"] == pytest.approx(10) and "vary 10 times as widely" in text)


def test_a_rest_of_the_initial_variance_is_the_same_in_every_channel_too() -> None:
    """The moving variances do not follow the batch's, and the optimizer has counted as many steps."""
    assert World().seen.steps == 10
    assert why(World(), **SCALED, left=0.9**10)[0] == "train-longer-or-re-estimate"
    assert why(World(), **SCALED | {"moving_between_channels": 0.0})[0] == "tell-data-from-statistics"


@pytest.mark.parametrize(("variance", "needed"), [(1.0, 29), (0.001, 94)])
def test_steps_are_counted_for_the_variance_that_has_to_be_reached(variance: float, needed: int) -> None:
    cure, text, evidence = why(World(), left=0.5, variance=variance)
    assert cure == "train-longer-or-re-estimate"
    assert (evidence["steps_seen"], evidence["steps_needed"]) == (7, needed) and f"need {needed}" in text


@pytest.mark.parametrize("change", ["many steps", "no momentum", "mixed"])
def test_what_is_left_explains_nothing(change: str) -> None:
    w, more = World(), {}
    if change == "many steps":
        w.seen.steps = 100  # would leave 0.00003
    elif change == "no momentum":
        w.statistic.momentum = None
    else:
        more = {"between": 0.2}
    assert why(w, left=0.5, **more)[0] == "tell-data-from-statistics"


@pytest.mark.parametrize("place", ["itself", "before", "behind"])
def test_layers_as_they_were_created_among_others_that_are_not(place: str) -> None:
    w = World()
    fresh = Layer("net/fresh", (w.model,), norm=True, stock=True, affine=True)
    w.seen.layers.append(fresh)
    w.seen.statistics.append(
        Statistic(fresh, 11, 12, 0.9, now=(np.zeros(3), np.ones(3)), first=(np.zeros(3), np.ones(3)))
    )
    w.seen.training.calls.insert(1 if place == "before" else 2, Call(fresh, 0, True))
    if place == "itself":
        found = reasons.reason(w.seen, w.seen.statistics[1], {"left": 1.0, "distance": 9.0, "noise": 0.1})
    else:
        found = why(w)
    assert found[0] == ("tell-data-from-statistics" if place == "behind" else "load-or-train-this-layer")
    assert ("'net/fresh'" in found[1]) == (place != "behind")
