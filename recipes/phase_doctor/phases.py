"""Both phases on one batch: what the statistics of the batch are, and what they change.

A layer tells its batch statistics by one update: what it wrote, less what it kept.
Noise is what other batch mates change: each half of the batch is run alone too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from .batches import rows_of
from .bench import Bench, Route, numbers_of
from .evidence import Arrays, Evidence, Phases, Statistic
from .noise import differences, remaining, rms, spread_of

Values = dict[int, np.ndarray]


def alike(x: Any) -> bool:
    """Whether the batch is one sample repeated, such as zeros."""
    leaves = [
        t for t in tf.nest.flatten(x) if isinstance(t, tf.Tensor) and t.shape.rank
    ]
    return bool(leaves) and all(bool(tf.reduce_all(tf.equal(t, t[:1]))) for t in leaves)


def gather_phases(
    evidence: Evidence, bench: Bench, infer: Route, told: Route
) -> Phases | None:
    """Runs the training phase on the batch and its halves; a remark says why not."""
    x, size, snapshot = bench.subject.x, evidence.samples, bench.snapshot
    if size is None or size < 4:
        return None
    if alike(x):
        evidence.remarks.append(
            "Every sample of the batch is the same: "
            "the two phases cannot be compared on it."
        )
        return None
    find_momentum(evidence.statistics, bench, told)
    keys = [k for s in evidence.statistics for k in s.keys if k in told.effects.writes]

    def look() -> Values:
        return {k: snapshot.read(k).astype(np.float64) for k in keys}

    order = np.random.default_rng(0).permutation(size)
    halves = [np.sort(order[: size // 2]), np.sort(order[size // 2 :])]
    try:
        with bench.fresh():
            whole, after = bench.run(told, x, look)
            parts = [bench.run(told, rows_of(x, half), look) for half in halves]
    except Exception as error:
        evidence.remarks.append(
            "The two phases could not be compared on half a batch: "
            f"{type(error).__name__}."
        )
        return None
    phases = Phases(training=numbers_of(whole[: told.count]))
    split = [numbers_of(part[: told.count]) for part, _ in parts]
    phases.outputs = compare_outputs(evidence, phases.training, split, halves)
    own: list[Values] = [{}, {}, {}]  # the batch's own statistics, and the halves'
    for statistic in evidence.statistics:
        seen = [after, *(values for _, values in parts)]
        batch = batch_statistics(statistic, told, seen)
        if batch is not None:
            measured = compare_statistics(statistic, batch, phases)
            phases.behind.append((statistic, measured))
            for target, (mean, variance) in zip(own, batch, strict=True):
                target[statistic.mean] = mean
                if statistic.variance is not None and variance is not None:
                    target[statistic.variance] = np.maximum(variance, 0)
    if phases.behind:
        substitute(evidence, phases, bench, infer, own)
    return phases


def find_momentum(statistics: list[Statistic], bench: Bench, told: Route) -> None:
    """Of layers that name none: two updates on one batch shrink by this factor."""
    written, snapshot = told.effects.writes, bench.snapshot
    unknown = [s for s in statistics if s.momentum is None and s.mean in written]
    if not unknown:
        return
    seeds = [k for k in written if k in snapshot.saved and k not in bench.floats([k])]

    def look() -> None:
        first = {s.mean: snapshot.read(s.mean).astype(np.float64) for s in unknown}
        snapshot.restore(seeds)
        told.concrete(*[t for t in tf.nest.flatten(bench.subject.x) if t is not None])
        for s in unknown:
            one = first[s.mean] - s.now[0]
            two = snapshot.read(s.mean).astype(np.float64) - first[s.mean]
            large = (np.abs(one) >= np.median(np.abs(one))) & (one != 0)
            ratios = two[large] / one[large]
            if not ratios.size or not 0 < np.median(ratios) < 1:
                continue
            if np.ptp(np.percentile(ratios, [25, 75])) < 0.05:
                s.momentum = float(np.median(ratios))

    with bench.fresh():
        bench.run(told, bench.subject.x, look)


def compare_outputs(
    evidence: Evidence, full: Arrays, split: list[Arrays], halves: list[np.ndarray]
) -> dict[str, float] | None:
    """The distance of the phases, and what batch mates and masks change anyway."""
    base = evidence.base
    if len(base) != len(full):
        return None
    usable = [
        i
        for i, (b, f) in enumerate(zip(base, full, strict=True))
        if b.shape == f.shape
        and b.shape[:1] == (evidence.samples,)
        and all(part[i].shape[1:] == f.shape[1:] for part in split)
    ]
    if not usable:
        return None
    noise = []
    for i in usable:
        mixed = np.empty_like(full[i])
        for half, values in zip(halves, split, strict=True):
            mixed[half] = values[i]
        noise.append(mixed - full[i])
    return {
        "rms_between_phases": rms([base[i] - full[i] for i in usable]),
        "rms_noise": max(rms(noise), evidence.noise),
        "spread_inference": spread_of([base[i] for i in usable]),
        "spread_training": spread_of([full[i] for i in usable]),
        "spread_noise": spread_of(noise),
    }


def batch_statistics(
    statistic: Statistic, told: Route, seen: list[Values]
) -> list[tuple[np.ndarray, Any]] | None:
    """Mean and variance of each batch, from what the layer wrote and its momentum."""
    low, high = told.effects.writes.get(statistic.mean, (0, 0))
    momentum = statistic.momentum
    if not statistic.layer.trainable or low < 1 or math.isinf(high) or momentum is None:
        return None
    keep = momentum ** ((low + high) / 2)
    if not 0 < keep < 1 or any(key not in seen[0] for key in statistic.keys):
        return None

    def batch(values: Values, key: int | None, before: Any) -> Any:
        return None if key is None else (values[key] - keep * before) / (1 - keep)

    mean, variance = statistic.now
    return [
        (batch(v, statistic.mean, mean), batch(v, statistic.variance, variance))
        for v in seen
    ]


def compare_statistics(
    statistic: Statistic, batch: list[tuple[np.ndarray, Any]], phases: Phases
) -> dict[str, float]:
    """Distance of moving from batch statistics, its noise; what the start still is."""
    (mean, variance), *halves = batch
    moving, moving_variance = statistic.now
    start, start_variance = statistic.first
    if variance is not None and moving_variance is not None:
        # A channel that never varies may reach 0; one that varies here may not.
        wrong = int(np.sum((moving_variance == 0) & (variance > 1e-6)))
        if wrong:
            phases.vanished[statistic.mean] = wrong
        epsilon = statistic.epsilon
        own, left, right = (np.maximum(b[1], 0) + epsilon for b in batch)
        spread = moving_variance + epsilon
    else:
        epsilon = 0.0
        own = np.full_like(mean, max(float(np.var(mean)), 1e-12))
        spread = left = right = own
    if start_variance is None:
        start_variance = own
    sigma = np.sqrt(own)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift, stretch = (moving - mean) / sigma, 0.5 * np.log(spread / own)
        low, middle, high = np.percentile(-stretch, [25, 50, 75])
        quarter, three = np.percentile(0.5 * np.log(spread), [25, 75])
    least = np.minimum(start_variance, own) / 1.5
    most = np.maximum(start_variance, own) * 1.5
    noise_shift = (halves[0][0] - halves[1][0]) / sigma / 2
    noise_stretch = 0.5 * np.log(left / right) / 2
    return {
        "distance": math.sqrt(float(np.mean(shift**2 + stretch**2))),
        "noise": math.sqrt(float(np.mean(noise_shift**2 + noise_stretch**2))),
        "channels": stretch.size,
        "variance": float(np.median(own - epsilon)),
        # How many times as widely the batch varies, as a logarithm; its quartiles.
        "stretch": float(middle),
        "stretch_between_channels": float(high - low),
        "moving_between_channels": float(three - quarter),
        # Where the moving variance lies between the initial and the batch's.
        "between": float(np.mean((spread > least) & (spread < most))),
        "left": remaining(
            np.concatenate([moving, spread - epsilon]),
            np.concatenate([mean, own - epsilon]),
            np.concatenate([start, np.broadcast_to(start_variance, mean.shape)]),
            np.concatenate([sigma, own]),
        ),
    }


def substitute(
    evidence: Evidence, phases: Phases, bench: Bench, infer: Route, own: list[Values]
) -> None:
    """Inference with the batch's own statistics in place of the moving ones."""
    rows, base = evidence.ways[0].halves[0] if evidence.ways[0].halves else (None, None)
    x = bench.subject.x if rows is None else rows_of(bench.subject.x, rows)
    base = evidence.base if base is None else base

    def outputs(values: Values) -> Arrays:
        with bench.fresh():
            for key, value in values.items():
                bench.snapshot.write(key, value)
            return bench.outputs(infer, x)

    full, one, two = (outputs(values) for values in own)
    phases.effect = {
        "rms_change": rms(differences(base, full)),
        "rms_noise": max(rms(differences(one, two)) / 2, evidence.noise),
        "spread_batch": spread_of(full),
        "spread_moving": spread_of(base),
    }
    phases.substituted, phases.moving = full, base
