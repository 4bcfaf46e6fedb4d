"""The examination: runs what has to be run, in a fixed order, and judges nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from .artifacts import gather_artifact
from .bench import Bench, Route
from .effects import Effects, effects_of, inner_functions, traces_of
from .evidence import BARE, INFERENCE, TRAINING, Evidence, Step
from .measure import Measure
from .phases import alike, gather_phases
from .reach import optimized_variables, reachable_variables
from .step import TracedStep
from .variables import tf_variables
from .views import Views, keys_of, recorded_phases
from .ways import run_inference


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
        one_class=subject.y is not None and alike(subject.y),
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
        fit = routes.get(BARE if subject.forgets_to_tell else TRAINING)
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
        with bench.clock.counting("tracing"):
            traced.trace()
    except Exception as error:
        subject.failed(name, error, "step")
        return traced
    finally:
        bench.remember()
        bench.snapshot.add_all(reachable_variables(step))
    if traced.remarks:
        what, did = "; ".join(traced.remarks), "examined without running it"
        if insist:
            bench.clock.warn(f"about to run {name}, which {what}")
            did = "run all the same"
        subject.remarks.append(
            f"{name} does what cannot be put back: {what}. It was {did}."
        )
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


def steps_taken(bench: Bench, step: TracedStep | None) -> int:
    """Steps that an optimizer counted: the compiled one, or one in the step's graph."""
    optimizer = getattr(bench.subject.model, "optimizer", None)
    counters = [getattr(optimizer, "iterations", None)]
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
    known = getattr(optimizer, "_trainable_variables", None) or ()
    return keys_of(known) if getattr(optimizer, "built", True) else frozenset()


def stale_writes(model: Any) -> frozenset[int]:
    """Variables that the model's already traced training function would write."""
    writes: set[int] = set()
    for function in inner_functions(getattr(model, "train_function", None)):
        for concrete in traces_of(function):
            with contextlib.suppress(Exception):
                writes |= set(effects_of(concrete).writes)
    return frozenset(writes)
