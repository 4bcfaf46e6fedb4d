"""How far is far: distances, spreads, and the limits that chance seldom passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

# Student's t with 3 degrees of freedom exceeds 48 with probability 1e-5.
ROUNDING_SIGMAS = 48.0
# Fisher's F with (5, 5) degrees of freedom exceeds 29.75 with probability 0.001; this
# is its root.
F_LIMIT = math.sqrt(29.75)
# Half a standard deviation: "medium" in J. Cohen, Statistical Power Analysis for the
# Behavioral Sciences (1988).
MEDIUM_EFFECT = 0.5

Arrays = Sequence[np.ndarray]


def rms(values: Arrays) -> float:
    flat = np.concatenate([np.ravel(v) for v in values]) if values else np.zeros(0)
    return float(np.sqrt(np.mean(np.square(flat)))) if flat.size else 0.0


def differences(first: Arrays, second: Arrays) -> list[np.ndarray]:
    pairs = zip(first, second, strict=False)
    return [a - b for a, b in pairs if a.shape == b.shape and a.size]


def spread_of(outputs: Arrays) -> float:
    """Root mean square deviation of the samples from their mean."""
    return rms([o - o.mean(axis=0, keepdims=True) for o in outputs if o.size])


def effect_size(change: float, noise: float, spread: float) -> float:
    """The change without its noise, in standard deviations over the samples."""
    return math.sqrt(max(change**2 - noise**2, 0.0)) / max(spread, 1e-30)


def draws(first: Arrays, second: Arrays | None) -> bool:
    """Whether two runs on one batch differ; without a second, nothing draws."""
    if second is None:
        return False
    return rms(differences(first, second)) > 1e-5 * rms(first)


def agree(first: Arrays, second: Arrays, rows: np.ndarray | None) -> bool:
    """Whether two runs are equal up to 1e-4 of their size; names a layer, no fault."""
    for a, b in zip(first, second, strict=False):
        if rows is not None and a.ndim and len(a) != len(b) and rows[-1] < len(a):
            a = a[rows]
        if a.shape == b.shape and rms([a - b]) > 1e-4 * max(rms([a]), 1e-12):
            return False
    return True


def apart(inputs: Arrays, axis: int = -1) -> tuple[float, float]:
    """Largest Welch t between the channel means of two calls, and its limit.

    One sample is one observation (its mean over space), so neighbouring pixels do not
    count twice. The limit is the normal quantile for an error rate of 1e-4 over all
    channels and pairs (Bonferroni); with fewer than 30 samples it is widened by
    Student's t, approximated after Cornish and Fisher.
    """
    rows = []
    for value in inputs:
        moved = np.moveaxis(np.asarray(value, dtype=np.float64), axis, -1)
        rows.append(moved.reshape(len(moved), -1, moved.shape[-1]).mean(axis=1))
    if len(rows) < 2 or len({r.shape[1] for r in rows}) > 1 or min(map(len, rows)) < 3:
        return 0.0, math.inf
    largest, pairs = 0.0, list(itertools.combinations(rows, 2))
    for one, two in pairs:
        parts = (r.var(axis=0, ddof=1) / len(r) for r in (one, two))
        error = np.sqrt(sum(parts, np.zeros(1)))
        scale = max(np.abs(one).max(), np.abs(two).max())
        gap = np.abs(one.mean(axis=0) - two.mean(axis=0))
        t = gap / np.maximum(error, 1e-6 * scale + 1e-30)
        largest = max(largest, float(t.max()))
    error_rate = 1e-4 / (len(pairs) * rows[0].shape[1])
    return largest, t_limit(error_rate, min(map(len, rows)) - 1)


def t_limit(error_rate: float, freedom: int) -> float:
    """Two-sided Student quantile: bisection on erfc, Cornish-Fisher for the rest."""
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        more = math.erfc(middle / math.sqrt(2)) > error_rate
        low, high = (middle, high) if more else (low, middle)
    z, n = low, max(freedom, 1)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def tell_apart_alike(first: Arrays, second: Arrays) -> bool:
    """Whether two random runs over one batch tell its samples apart alike.

    One-sided t test over the samples, error rate 0.001: the products of a sample's
    deviations in the two runs average zero when only the draws differ.
    """
    for a, b in zip(first, second, strict=False):
        if a.shape != b.shape or not a.ndim or len(a) < 4:
            continue
        one, two = ((v - v.mean(axis=0)).reshape(len(v), -1) for v in (a, b))
        products = (one * two).sum(axis=1)
        error = float(np.std(products, ddof=1)) / math.sqrt(len(products))
        if np.mean(products) > t_limit(0.002, len(products) - 1) * max(error, 1e-30):
            return True
    return False


def remaining(
    now: np.ndarray, data: np.ndarray, start: np.ndarray, unit: np.ndarray
) -> float:
    """Share of the start that is left: the median of (now - data) / (start - data).

    Only channels whose data lie at least half a standard deviation from the start say
    anything; NaN without any.
    """
    far = np.abs(start - data) > 0.5 * unit
    if not far.any():
        return math.nan
    return float(np.median((now[far] - data[far]) / (start[far] - data[far])))
