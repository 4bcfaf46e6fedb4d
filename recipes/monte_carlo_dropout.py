"""Monte Carlo dropout that samples in `predict`, in a `tf.function` and once exported.

Symptom: samples are identical though the model has `Dropout(0.5)(x, training=True)`;
    or they differ, and the statistics of BatchNormalization have moved.
Cause: Keras 3.0 to 3.15 override that True in `predict`. Where it holds, in `model(x)`
    and on 3.16.dev, it reaches the BatchNormalization behind it as well.
Fix: a Dropout subclass that drops in every phase and keeps its phase to itself.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/monte_carlo_dropout.md, Phasebook 0.2.0
"""

import os
import tempfile
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf


class AlwaysOn:
    """First base of a dropout layer that drops in every phase it is called in."""

    def __call__(self, inputs, **stated):
        # Keras 3.16.dev hands a stated phase on to every layer behind: it ends here.
        return super().__call__(inputs)

    # None: until Keras 3.15 a default of True reached the layers that follow.
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def twin(base):
    """Return the class MC<base>, registered, so that a model which has it is saved."""
    made = type(f"MC{base.__name__}", (AlwaysOn, base), {})
    return keras.saving.register_keras_serializable("phasebook")(made)


TWINS = {
    base: twin(base)
    for base in (
        keras.layers.Dropout,
        keras.layers.SpatialDropout1D,
        keras.layers.SpatialDropout2D,
        keras.layers.SpatialDropout3D,
        keras.layers.AlphaDropout,
        keras.layers.GaussianDropout,
    )
}
MCDropout = TWINS[keras.layers.Dropout]


def to_monte_carlo(model):
    """Return a copy of `model` whose dropout drops in every phase; `model` stays as is.

    Takes Functional, Sequential and subclassed models with all that is nested in them.
    The copy goes through a `.keras` file, so `load_model` must find your own classes.
    It is frozen: no BatchNormalization moves, whatever phase a layer gives it.

    Raises ValueError when `model` is not built, and for what cannot be sampled: see
    `dropouts`.
    """
    if not model.built:
        raise ValueError(f"{model.name} is not built yet: call it once")
    dropouts(model)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        copy = keras.models.load_model(path, compile=False)
    for part in copy._flatten_layers():
        part.trainable = False
        # It keeps its rate, seed and place; Keras would try to track the new class.
        object.__setattr__(part, "__class__", TWINS.get(type(part), type(part)))
    return copy


def dropouts(model):
    """Return the layers of `model` that drop something.

    Raises ValueError when there are none, when one draws one mask for the whole batch,
    is of a class of yours, or sits inside a recurrent layer, which cannot be switched.
    """
    parts = model._flatten_layers()  # private: no public list holds layers in layers
    found = [p for p in parts if isinstance(p, tuple(TWINS)) and p.rate > 0]
    for cell in [part for part in parts if hasattr(part, "recurrent_dropout")]:
        if cell.dropout or cell.recurrent_dropout:
            raise ValueError(f"dropout inside {cell.name}: put a Dropout before it")
    for part in found:
        if not isinstance(part, AlwaysOn) and type(part) not in TWINS:
            raise ValueError(f"derive {type(part).__name__} from AlwaysOn, too")
        if (getattr(part, "noise_shape", None) or [None])[0] is not None:
            raise ValueError(f"{part.name} draws one mask for all rows: noise_shape")
    if not found:
        raise ValueError(f"{model.name} has no dropout with a rate above 0")
    return found


def sample(model, x, samples=64, max_rows=4096):
    """Yield predictions for `x` in parts of shape (inputs, samples, ...), in order.

    `x` and each part are an array, or a list or dict of arrays, as the model has them.
    A part is one call of at most `max_rows` rows, or of one input's samples; each row
    draws masks of its own. Raises ValueError when a dropout is off at prediction.
    """
    off = [part.name for part in dropouts(model) if not isinstance(part, AlwaysOn)]
    if off:
        raise ValueError(f"{', '.join(off)} is off at prediction: use to_monte_carlo")
    step = max(1, max_rows // samples)
    arrays = tf.nest.flatten(x)
    for start in range(0, len(arrays[0]), step):
        rows = [np.repeat(a[start : start + step], samples, axis=0) for a in arrays]
        # Inference for all but the dropout, which no longer listens.
        p = model(tf.nest.pack_sequence_as(x, rows), training=False)
        yield tf.nest.map_structure(
            lambda a: np.reshape(a, (-1, samples, *a.shape[1:])), p
        )


class Uncertainty(NamedTuple):
    """What the samples of a classifier say; entropies in nats."""

    mean: np.ndarray  # (inputs, classes), the predictive mean
    entropy: np.ndarray  # (inputs,), of the predictive mean: all uncertainty
    mutual_information: np.ndarray  # (inputs,), what more training data removes


def entropy(p):
    """Return the entropy in nats of class probabilities (..., classes), as (...)."""
    return -np.sum(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny)), axis=-1)


def summarise(p):
    """Summarise class probabilities of shape (inputs, samples, classes).

    Mean: Gal & Ghahramani 2016, arXiv:1506.02142. Mutual information H[E p] - E H[p]:
    Houlsby et al. 2011, arXiv:1112.5745. Raises ValueError when rows do not sum to 1.
    """
    if not np.allclose(p.sum(-1), 1, atol=1e-3):
        raise ValueError("rows do not sum to 1: a model of logits needs a softmax")
    mean = p.mean(axis=1)
    return Uncertainty(mean, entropy(mean), entropy(mean) - entropy(p).mean(axis=1))


def predict_with_uncertainty(model, x, samples=64, max_rows=4096):
    """Return the `Uncertainty` of each output, holding one part of the samples."""
    parts = sample(model, x, samples, max_rows)
    found = [tf.nest.map_structure(summarise, part) for part in parts]
    return tf.nest.map_structure(lambda *values: np.concatenate(values), *found)


def network():
    """Probabilities (batch, 8) of (batch, 64) pixels, its dropout as in tutorials."""
    inputs = keras.Input((64,))
    x = keras.layers.Dense(64, activation="relu")(inputs)
    x = keras.layers.Dropout(0.5)(x, training=True)
    x = keras.layers.Dense(64, activation="relu")(x)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(8, activation="softmax")(x))


def main():
    """Train on the digits 0 to 7, draw samples in three ways, ask about 8 and 9."""
    from sklearn.datasets import load_digits  # real scans that come with the package

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    known = labels < 8
    x, y, x_test = images[known][:1000], labels[known][:1000], images[known][1000:]
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, batch_size=32, verbose=0)
    sampler = to_monte_carlo(model)

    print(f"{'20 samples by':<34}{'spread':<10}statistics moved")
    for way, asked, call in [
        ("model(x)", model, model),
        ("model.predict(x)", model, model.predict_on_batch),
        ("to_monte_carlo(model).predict(x)", sampler, sampler.predict_on_batch),
    ]:
        before = asked.get_layer("norm").moving_mean.numpy()
        spread = np.std([call(x_test) for _ in range(20)], axis=0).mean()
        moved = np.any(asked.get_layer("norm").moving_mean.numpy() != before)
        print(f"{way:<34}{spread:<10.3f}{'yes' if moved else 'no'}")
    for name, new in (("0 to 7", x_test), ("8 and 9, never seen", images[~known])):
        information = predict_with_uncertainty(sampler, new).mutual_information.mean()
        print(f"mutual information, {name}: {information:.2f} nats")


if __name__ == "__main__":
    main()
