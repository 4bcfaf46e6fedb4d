"""The examination: runs what has to be run, in a fixed order, and judges nothing."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from .artifacts import gather_artifact
from .batches import rows_of
from .bench import Bench, Route, numbers_of
from .effects import Effects, effects_of, inner_functions, traces_of
from .evidence import BARE, INFERENCE, TRAINING, Evidence, Step, Trace, Way
from .layers import phase_parameter
from .measure import Measure
from .noise import differences, draws, rms
from .phases import gather_phases
from .reach import optimized_variables, reachable_variables
from .step import TracedStep
from .variables import tf_variables
from .views import Views, keys_of, recorded_phases


def examine(bench: Bench, insist: bool, artifact: Path | None) -> Evidence:
    """Everything that the rules may look at. The caller restores the snapshot."""
    subject, say = bench.subject, bench.clock.stage
    routes = trace_model(bench)
    step = trace_step(bench, insist)
    for route in routes.values():
        bench.capture(route.concrete)
    views = Views(bench)
    concretes = [route.concrete for route in routes.values()]
    if step is not None and step.concrete is not None:
        concretes.append(step.concrete)
        bench.capture(step.concrete)
    variables = views.variables(concretes)
    training = views.trace(routes[TRAINING]) if TRAINING in routes else None
    evidence = Evidence(
        layers=list(views.layers.values()),
        keras=f"{subject.package.__name__} {subject.package.__version__}",
        keras3=subject.keras3,
        compiled=subject.compiled,
        own_predict=subject.own_predict() is not None,
        own_step=subject.own_step() is not None,
        steps=steps_taken(bench, step),
        samples=subject.size,
        failures=subject.failures,
        remarks=subject.remarks,
        variables=variables,
        statistics=views.statistics(variables, training),
        recorded=recorded_phases(views),
        held=held_by_optimizer(subject.model),
        stale=stale_writes(subject.model),
        training=training,
        measure=Measure(bench, views, routes, step),
    )
    if INFERENCE in routes:
        evidence.inference = views.trace(routes[INFERENCE])
        fit = routes[BARE] if forgets_to_tell(bench) else routes.get(TRAINING)
        evidence.fit = views.trace(fit) if fit is not None else None
    say("running the training step")
    evidence.step = run_step(bench, views, step, evidence)
    if INFERENCE in routes:
        say("running inference")
        run_inference(evidence, bench, views, routes)
        say("comparing the two phases")
        if TRAINING in routes:
            infer, told = routes[INFERENCE], routes[TRAINING]
            evidence.phases = gather_phases(evidence, bench, infer, told)
    if artifact is not None:
        say(f"examining {artifact.name}")
        compare = bool(evidence.ways)
        evidence.artifact = gather_artifact(artifact, bench, compare)
    return evidence


def forgets_to_tell(bench: Bench) -> bool:
    """Whether `fit` and `predict` cannot hand this model the phase."""
    return bench.subject.keras3 and phase_parameter(bench.subject.model) is None


def trace_model(bench: Bench) -> dict[str, Route]:
    """Every way of calling the model, as a graph, by name."""
    subject, routes = bench.subject, {}
    ways = {
        INFERENCE: subject.phase(False),
        TRAINING: subject.phase(True),
        BARE: subject.phase(None),
        "predict_step": subject.own_predict(),
    }
    for name, call in ways.items():
        if call is None:
            continue
        bench.clock.stage(f"tracing {name}")

        def trace(name: str = name, call: Any = call) -> Route:
            return bench.trace(name, call, subject.x)

        route = subject.attempt(trace, name)
        if route is not None:
            routes[name] = route
        elif name == INFERENCE:  # the others would fail alike
            break
    bench.remember()
    return routes


def trace_step(bench: Bench, insist: bool) -> TracedStep | None:
    """The reader's step, or the model's own, as a graph."""
    subject = bench.subject
    by_reader = subject.step is not None
    step = subject.step if by_reader else subject.own_step()
    if step is None:
        return None
    name = "train_step" if by_reader else "the model's train_step"
    bench.clock.stage("tracing the training step")
    traced = TracedStep(bench, step, name, insist)
    try:
        with bench.tracing():
            traced.trace()
    except Exception as error:
        subject.failed(name, error, "step")
        return traced
    finally:
        bench.remember()
        bench.snapshot.add_all(reachable_variables(step))
    if traced.remarks:
        did = (
            "It was run all the same."
            if insist
            else "It was examined without running it."
        )
        what = "; ".join(traced.remarks)
        subject.remarks.append(f"{name} does what cannot be put back: {what}. {did}")
        if insist:
            bench.clock.warn(f"about to run {name}, which {what}")
    return traced


def run_step(
    bench: Bench, views: Views, step: TracedStep | None, evidence: Evidence
) -> Step | None:
    """Takes one step where all it does can be put back, and notes what it changed."""
    told = evidence.training
    if step is None:
        return Step(told) if told is not None else None
    if step.effects is None and not (step.insist and step.eager):
        return None
    changed: frozenset[int] = frozenset()
    means = {}
    if step.runs:
        try:
            with bench.fresh():
                step.run()
                changed = bench.changed(bench.snapshot.saved)
                read = bench.snapshot.read
                keys = [s.mean for s in evidence.statistics]
                means = {key: read(key).astype(np.float64) for key in keys}
        except Exception as error:
            bench.subject.failed(step.name, error, "step")
            return None
    effects = step.effects or Effects({key: (1, 1) for key in changed})
    trace = views.trace_of("step", None, effects, step.concrete)
    by = "reader" if bench.subject.step is not None else "model"
    optimized = keys_of(optimized_variables(step.step, bench.subject.model))
    return Step(trace, by, step.runs, changed, means, optimized)


def run_inference(
    evidence: Evidence, bench: Bench, views: Views, routes: dict[str, Route]
) -> None:
    """Runs inference by each way that a reader may take, whole and in halves."""
    subject, size = bench.subject, bench.subject.size
    names = [INFERENCE]
    if "predict_step" in routes:
        names.append("predict_step")
    elif forgets_to_tell(bench) and BARE in routes and not evidence.own_predict:
        names.append(BARE)
    for name in names:
        evidence.ways.append(
            run_way(evidence, bench, views.trace(routes[name]), routes[name])
        )
    if BARE in names:
        evidence.bare = evidence.ways[-1]
    elif BARE in routes:
        with bench.fresh():
            outputs = bench.outputs(routes[BARE], subject.x)
        evidence.bare = Way(views.trace(routes[BARE]), outputs)
    if size is None or size < 2:
        evidence.remarks.append(
            "Whether inference depends on batch mates needs a batch of at least two "
            "samples."
        )
    evidence.noise = rounding_noise(evidence, bench, routes[INFERENCE])


def run_way(evidence: Evidence, bench: Bench, trace: Trace, route: Route) -> Way:
    x, size = bench.subject.x, bench.subject.size
    writes = bench.floats(route.effects.writes)
    with bench.fresh():
        values, changed = bench.run(route, x, lambda: bench.changed(writes))
        way = Way(trace, numbers(route, values), changed=changed)
        if trace.random:
            way.again = bench.outputs(route, x)
    if size is None or size < 2:
        return way
    for rows in (np.arange(size // 2), np.arange(size // 2, size)):
        part = rows_of(x, rows)
        with bench.fresh():
            alone = None
            with contextlib.suppress(Exception):
                alone = bench.outputs(route, part)
            if alone is None:  # a trace of one batch size
                with contextlib.suppress(Exception):
                    again = bench.trace(route.name, route.call, part)
                    alone = bench.outputs(again, part)
        if alone is None:
            evidence.remarks.append(
                f"{trace.name} takes this batch size only, "
                "so batch mates could not be compared."
            )
            return way
        way.halves.append((rows, alone))
    return way


def numbers(route: Route, values: list[Any]) -> list[np.ndarray]:
    return numbers_of(values[: route.count])


def rounding_noise(
    evidence: Evidence, bench: Bench, infer: Route, runs: int = 3
) -> float:
    """Standard deviation of the outputs' rounding noise.

    From three runs with inputs moved by one unit in the last place; of a model that
    draws at random, what two runs differ by.
    """
    first, x = evidence.ways[0], bench.subject.x
    kinds = {str(getattr(n.layer, "compute_dtype", "")) for n in bench.nodes()}
    unit = 2.0**-8 if "bfloat16" in kinds else 2.0**-23
    unit = max(unit, 2.0**-11) if "float16" in kinds else unit
    largest = [float(np.max(np.abs(b))) for b in first.outputs if b.size]
    floor = 2 * unit * max(largest or [0.0])
    if first.again is not None and draws(first.outputs, first.again):
        return max(floor, rms(differences(first.again, first.outputs)))
    base = first.outputs
    if first.halves:  # half the cost, the same noise
        rows, base = first.halves[0]
        x = rows_of(x, rows)
    generator = np.random.default_rng(0)

    def moved(t: Any) -> Any:
        if t is None or not isinstance(t, tf.Tensor) or not t.dtype.is_floating:
            return t
        signs = generator.choice([-1.0, 1.0], size=t.shape)
        return t * (1 + unit * tf.cast(signs, t.dtype))

    squares = []
    for _ in range(runs):
        with bench.fresh():
            shifted = tf.nest.map_structure(moved, x)
            outputs = bench.outputs(infer, shifted)
        squares.append(rms(differences(outputs, base)) ** 2)
    return max(floor, math.sqrt(float(np.mean(squares))))


def steps_taken(bench: Bench, step: TracedStep | None) -> int:
    """Steps that an optimizer counted: the compiled one, or one in the step's graph."""
    counters = [
        getattr(getattr(bench.subject.model, "optimizer", None), "iterations", None)
    ]
    if step is not None and step.concrete is not None:
        for variable in step.concrete.graph.variables:
            name = str(getattr(variable, "name", "")).lower()
            if "iteration" in name and variable.shape.rank == 0:
                counters.append(variable)
    parts = [tf_variables(c)[:1] for c in counters if c is not None]
    return max([0, *(int(part[0].numpy()) for part in parts if part)])


def held_by_optimizer(model: Any) -> frozenset[int]:
    """The variables that the compiled optimizer was built for."""
    optimizer = getattr(model, "optimizer", None)
    known = getattr(optimizer, "_trainable_variables", None)
    return (
        keys_of(known) if known and getattr(optimizer, "built", True) else frozenset()
    )


def stale_writes(model: Any) -> frozenset[int]:
    """Variables that the model's already traced training function would write."""
    writes: set[int] = set()
    for function in inner_functions(getattr(model, "train_function", None)):
        for concrete in traces_of(function):
            with contextlib.suppress(Exception):
                writes |= set(effects_of(concrete).writes)
    return frozenset(writes)
