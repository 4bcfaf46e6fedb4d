"""Running inference by each way that a reader may take: whole, twice, and in halves."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import tensorflow as tf

from .batches import rows_of
from .bench import Bench, Route, numbers_of
from .evidence import BARE, INFERENCE, Evidence, Trace, Way
from .noise import differences, draws, rms
from .views import Views


def run_inference(
    evidence: Evidence, bench: Bench, views: Views, routes: dict[str, Route]
) -> None:
    """All ways, and the rounding noise of the first."""
    subject, size = bench.subject, bench.subject.size
    names = [INFERENCE]
    if "predict_step" in routes:
        names.append("predict_step")
    elif bench.subject.forgets_to_tell and BARE in routes and not evidence.own_predict:
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
    evidence.unread = routes[INFERENCE].unread
    # Of a way whose outputs can be read.
    first = next((way for way in evidence.ways if way.outputs), evidence.ways[0])
    evidence.noise = rounding_noise(first, bench, routes[first.trace.name])


def run_way(evidence: Evidence, bench: Bench, trace: Trace, route: Route) -> Way:
    x, size = bench.subject.x, bench.subject.size
    writes = bench.floats(route.effects.writes)
    with bench.fresh():
        values, changed = bench.run(route, x, lambda: bench.changed(writes))
        way = Way(trace, numbers_of(values[: route.count]), changed=changed)
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


def rounding_noise(first: Way, bench: Bench, infer: Route, runs: int = 3) -> float:
    """Standard deviation of the outputs' rounding noise.

    From three runs with inputs moved by one unit in the last place; of a model that
    draws at random, what two runs differ by.
    """
    x = bench.subject.x
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
