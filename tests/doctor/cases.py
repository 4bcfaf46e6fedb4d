"""What both halves of the corpus share: the shape of a case, digits, and quick ways to a trained state."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

L = keras.layers
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

_digits = load_digits()
IMAGES = (_digits.images[..., None] / 16.0).astype("float32")  # (1797, 8, 8, 1), values 0 to 1
LABELS = _digits.target.astype("int64")
X, Y = IMAGES[:32], LABELS[:32]


@dataclass
class Followed:
    """The printed cure, followed: `apply` gives the cured model, `measure` (higher is better) gains at least `by`.

    `harms`: cures that would make this model worse; none of them may be printed.
    """

    id: str
    apply: Callable[[], Any]
    measure: Callable[[Any], float]
    by: float
    harms: tuple[str, ...] = ()


@dataclass
class Case:
    """One examination and what it has to say. `codes` and `where` stay empty for a healthy model.

    Of notes only PD108 is asked, and of every case: it is told where it is in `codes`, and nowhere else.
    """

    model: Any
    x: Any
    y: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    codes: tuple[str, ...] = ()
    where: str | None = None
    cure: Followed | None = None


def registry() -> tuple[dict[str, Callable[..., Case]], Callable]:
    cases: dict[str, Callable[..., Case]] = {}

    def case(build: Callable[..., Case]) -> Callable[..., Case]:
        cases[build.__name__] = build
        return build

    return cases, case


def settle(model: Any, x: Any, passes: int = 12) -> Any:
    """A trained state without the time of training: gamma, beta and biases moved, then statistics that fit them.

    The momentum of every BatchNormalization is 0.5 meanwhile, so that 12 passes leave 0.02 % of the start.
    """
    model(x, training=False)
    norms = [n for n in model._flatten_layers() if isinstance(n, L.BatchNormalization)]
    generator = np.random.default_rng(7)
    for norm in norms:
        for weight in norm.trainable_weights:
            weight.assign(weight + generator.normal(0, 0.1, weight.shape).astype("float32"))
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.5
        for _ in range(passes):
            model(x, training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model


@functools.cache
def handed_on() -> bool:
    """Whether this Keras hands a stated phase on to the layers behind, in Functional and Sequential models."""
    inputs = keras.Input((64,))
    model = keras.Model(inputs, L.Dropout(0.5)(L.BatchNormalization()(inputs, training=False)))
    return not np.any(np.array(model(np.ones((4, 64)), training=True)) == 0)


def make_step(
    model: Any,
    loss: Any = LOGITS,
    optimizer: Any = None,
    training: Any = True,
    compiled: bool = True,
    variables: Any = None,
) -> Any:
    """The textbook step, of all that is trainable or of these variables; `training="none"` leaves the argument out."""
    optimizer = optimizer or keras.optimizers.SGD(1e-2)  # without slots, which are traced and run
    phase = {} if training == "none" else {"training": training}

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(y, model(x, **phase)))
        chosen = model.trainable_variables if variables is None else variables
        optimizer.apply_gradients(zip(tape.gradient(value, chosen), chosen, strict=True))
        return value

    return tf.function(step) if compiled else step


def conv_block(x: Any, filters: int, name: str, momentum: float = 0.9, **conv: Any) -> Any:
    x = L.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv", **conv)(x)
    x = L.BatchNormalization(momentum=momentum, name=f"{name}_bn")(x)
    return L.ReLU(name=f"{name}_relu")(x)


def small_cnn(name: str = "cnn", momentum: float = 0.9, outputs: int = 10) -> Any:
    inputs = keras.Input((8, 8, 1))
    x = conv_block(inputs, 8, "one", momentum)
    x = conv_block(x, 12, "two", momentum, strides=2)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(outputs, name="head")(x), name=name)


def small_mlp(name: str = "mlp", momentum: float = 0.9, dropout: float = 0.2) -> Any:
    return keras.Sequential(
        [
            keras.Input((64,)),
            L.Dense(24, name="hidden"),
            L.BatchNormalization(momentum=momentum, name="norm"),
            L.ReLU(),
            L.Dropout(dropout, name="drop"),
            L.Dense(10, name="head"),
        ],
        name=name,
    )


FLAT = X.reshape(len(X), 64)


def write_lite(model: Any, shape: list[int | None], path: Any) -> None:
    """A LiteRT file of inference. The variables are frozen into it: without a tracked owner they become constants."""
    serve = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec(shape))
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([serve]).convert())


def build(make: Callable[..., Case], folder: Any) -> Case:
    return make(folder) if inspect.signature(make).parameters else make()


def judge(case: Case, healthy: bool) -> str:
    """Examines one case. Empty when the doctor is right, else what it got wrong."""
    from phase_doctor import diagnose

    found = diagnose(case.model, case.x, case.y, progress=False, **case.options)
    told = [f for f in found.findings if f.severity != "note" or f.code == "PD108"]
    codes = {f.code for f in told}
    if ("PD108" in codes) != ("PD108" in case.codes):
        return f"{'says' if 'PD108' in codes else 'missed'} PD108:\n{found}"
    if healthy:
        return "" if found.ok else f"flagged a healthy model:\n{found}"
    missing = [code for code in case.codes if code not in codes]
    if missing:
        return f"missed {', '.join(missing)}:\n{found}"
    places = [f.where for f in told if f.code == case.codes[0]]
    if case.where is not None and case.where not in places:
        return f"{case.codes[0]} at {places}, not {case.where!r}"
    return follow(case, told) if case.cure else ""


def follow(case: Case, told: list[Any]) -> str:
    """Whether the cure that is printed cures, and no other one is printed that harms."""
    cure = case.cure
    assert cure is not None
    printed = {f.cure_id: f.code for f in told}
    if cure.id not in printed:
        return f"prints {', '.join(printed)}, not {cure.id}"
    harmful = [id for id in cure.harms if id in printed]
    if harmful:
        return f"prints {', '.join(harmful)}, which makes this model worse"
    before = cure.measure(case.model)
    after = cure.measure(cure.apply())
    return "" if after - before >= cure.by else f"{cure.id} takes it from {before:.3g} to {after:.3g} only"


def agreement(one: Any, two: Any) -> float:
    """0 where two answers agree, else minus their root mean square distance."""
    return -float(np.sqrt(np.mean(np.square(np.asarray(one, "float64") - np.asarray(two, "float64")))))


def finite(model: Any, x: Any) -> float:
    """Share of finite numbers in what inference answers."""
    return float(np.mean(np.isfinite(np.array(model(x, training=False)))))


def stillness(model: Any, act: Callable[[], Any], weights: Any) -> float:
    """Minus what `act` moves these weights by."""
    before = [np.array(w) for w in weights]
    act()
    return min(agreement(w, old) for w, old in zip(weights, before, strict=True))
