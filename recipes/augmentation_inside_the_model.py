"""Augmentation in the model, in training alone, and absent from what is exported.

Symptom: `model(x)` and the exported file answer differently each time, while `predict`
    is right; statistics behind a `Random…` layer move on a bare call.
Cause: the `call` of Keras' preprocessing layers has `training=True` as its default, so
    a bare call augments; up to Keras 3.15 the layers behind inherit that True.
Fix: `Augmented(augment, network)`, which calls them in training alone, and `serve`.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/augmentation_inside_the_model.md, Phasebook 0.2.0
"""

import contextlib
import io
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf


class Augmented(keras.Model):
    """`network`, with `augment` in front of it in the training phase and only there.

    `augment` is a layer or a Sequential model of `Random…` layers. Under `fit` and in
    a loop, told `training=True`, it augments; without a phase and in inference it is
    not called.
    """

    def __init__(self, augment, network, **options):
        super().__init__(**options)
        self.augment, self.network = augment, network
        self.built = network.built

    def build(self, shape):
        self.network.build(shape)

    def call(self, x, training=None):
        if training:
            x = self.augment(x, training=True)
        return self.network(x, training=bool(training))


def augmented(dataset, augment):
    """The other place: in the pipeline of training data, batches of (x, y).

    The phase is stated, since nobody tells a layer in `map` which one is meant. Do not
    put it into the pipeline of validation data.
    """
    return dataset.map(
        lambda x, y: (augment(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE
    )


def serve(model, folder, shape):
    """Write a SavedModel of inference, for inputs (batch, *shape), and prove it.

    Raises ValueError, and leaves no file, when the graph holds a random operation or
    assigns to a variable: then a layer inside is in its training phase.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda x: model(x, training=False),
        [tf.TensorSpec((None, *shape), "float32")],
    )
    with quiet():
        archive.write_out(folder)
    left = acts(folder)
    if left:
        shutil.rmtree(folder)
        raise ValueError(
            f"The graph of {model.name!r} holds {left}: something in it ignores "
            "`training=False`. Put it into `augment`, or hand the phase on."
        )


def acts(folder):
    """The operations of a SavedModel's endpoint that are random or assign, by type."""
    loaded = tf.saved_model.load(folder)
    graph = loaded.signatures["serve"].graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    found = {n.op for n in nodes if "Random" in n.op or n.op.startswith("Assign")}
    return sorted(found)


def quiet():
    return contextlib.redirect_stdout(io.StringIO())  # `verbose` came with Keras 3.6


def network():
    """Ten logits for scans (8, 8, 1)."""
    layers = keras.layers
    body = [keras.Input((8, 8, 1)), layers.BatchNormalization(momentum=0.9)]
    body += [layers.Conv2D(16, 3, activation="relu"), layers.Flatten()]
    return keras.Sequential([*body, layers.Dense(10)])


def main():
    """Train with shifted scans in two ways, export both, and ask the files twice."""
    from sklearn.datasets import load_digits  # scans that come with the package

    digits = load_digits()
    x, y = np.float32(digits.images[..., None] / 16), digits.target
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    print("the shift is in   predict   file   file again")
    for inside in True, False:
        keras.utils.set_random_seed(0)
        shift = keras.layers.RandomTranslation(0.2, 0.2, fill_mode="constant")
        if inside:
            model = keras.Sequential([keras.Input((8, 8, 1)), shift, network()])
        else:
            model = Augmented(shift, network())
        model.compile(keras.optimizers.Adam(0.003), loss)
        model.fit(x[:1440], y[:1440], epochs=6, verbose=0)
        with tempfile.TemporaryDirectory() as folder:
            if inside:
                with quiet():
                    model.export(folder + "/file")
            else:
                serve(model, folder + "/file", (8, 8, 1))
            file = tf.saved_model.load(folder + "/file")
            told = [model.predict(x[1440:], verbose=0)]
            told += [file.serve(x[1440:]), file.serve(x[1440:])]
        right = (f"{np.mean(np.argmax(t, -1) == y[1440:]):.3f}" for t in told)
        print(f"{'the model' if inside else 'Augmented':<18}", *right, sep="   ")


if __name__ == "__main__":
    main()
