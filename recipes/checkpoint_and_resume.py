"""Resume a run that was killed, so that it goes on as if nothing had happened.

Symptom: the loss jumps after a restart, and no error: dropout draws other masks, Adam
    starts anew, batches come twice, or the moving statistics are those of a new model.
Cause: the checkpoint lacks some of the state. Weights and optimizer are not all of it:
    every Dropout and random layer counts its draws in a seed that is not a weight.
Fix: `Resumable(folder, model, optimizer)`, and its `epochs` and `batches` as the loops.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/checkpoint_and_resume.md, Phasebook 0.2.0
"""

import itertools
import math
import tempfile

import keras
import numpy as np
import tensorflow as tf


class Resumable:
    """A run whose every step depends on nothing but what its checkpoint holds.

        run = Resumable("folder", model, optimizer, [accuracy])
        for epoch in run.epochs(10):
            for x, y in run.batches(data(epoch)):
                train_step(x, y)
            print(float(accuracy.result()))
            accuracy.reset_state()

    `data(epoch)` gives the epoch's batches, in the same order whenever it is asked.
    The run is saved after each `every` batches and after each epoch; started again,
    both loops leave out what was done. `more` are further things to be saved, such as
    `tf.Variable`s or a `tf.data` iterator, each under a name.
    Raises ValueError, before anything is read or written, when the model is not built.
    """

    def __init__(self, folder, model, optimizer, metrics=(), every=100, keep=3, **more):
        if not model.built:
            raise ValueError(
                f"{model.name!r} is not built, and a variable that is made later would "
                "not be saved. Call the model on a batch first."
            )
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        self.parts, self.every = [model, optimizer, *metrics], every
        self.epoch = tf.Variable(0, dtype="int64")
        self.step = tf.Variable(0, dtype="int64")  # batches of this epoch that are done
        self.saved = variables(self.parts)
        self.checkpoint = tf.train.Checkpoint(
            state=self.saved, epoch=self.epoch, step=self.step, **more
        )
        self.manager = tf.train.CheckpointManager(self.checkpoint, folder, keep)
        if self.manager.latest_checkpoint:
            self.restore(self.manager.latest_checkpoint)

    def epochs(self, count):
        """Yield the numbers of the epochs up to `count` that are not yet done."""
        while int(self.epoch) < count:
            yield int(self.epoch)
            self.epoch.assign_add(1)
            self.step.assign(0)
            self.save()

    def batches(self, data):
        """Yield the batches of this epoch that are not yet done; count and save."""
        for batch in itertools.islice(data, int(self.step), None):
            yield batch
            self.step.assign_add(1)
            if int(self.step) % self.every == 0:
                self.save()

    def save(self):
        """Write a checkpoint; a kill in the midst of it leaves the one before."""
        if len(variables(self.parts)) != len(self.saved):
            raise ValueError(
                "The model or a metric has made variables since the run began, so the "
                "checkpoint lacks them. Build all of it before `Resumable`."
            )
        self.manager.save()

    def restore(self, path):
        """Read a checkpoint; ValueError, before that, when another model wrote it."""
        held = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        held = {name: shape for name, shape in held.items() if name[:6] == "state/"}
        end = ".ATTRIBUTES/VARIABLE_VALUE"
        mine = {f"state/{n}/{end}": list(v.shape) for n, v in enumerate(self.saved)}
        if held != mine:
            raise ValueError(f"Another model, optimizer or metric wrote {path}.")
        self.checkpoint.restore(path)

    def prove(self, step):
        """Take `step()`, which returns its loss, go back by a checkpoint, and repeat.

        Raises ValueError when the two losses differ: then the step depends on state
        that no checkpoint of this run holds. In the end the run is where it was.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = self.checkpoint.write(folder + "/before")
            first = float(step())
            self.checkpoint.restore(path)
            again = float(step())
            self.checkpoint.restore(path)
        if not math.isclose(first, again, rel_tol=1e-4):  # float32, summed in any order
            raise ValueError(
                f"The same step gives a loss of {first:.6f}, and {again:.6f} after a "
                "restore: something that it depends on is not in the checkpoint."
            )


def variables(parts):
    """The `tf.Variable`s of models, optimizers, metrics: seeds and statistics too.

    A list of variables, since Keras 3.0 gives no optimizer to `tf.train.Checkpoint`.
    """
    return [variable.value for part in parts for variable in part.variables]


def make_step(model, optimizer, loss):
    """Return `train_step(x, y)`, which trains and gives the loss, a scalar."""

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True)) + sum(model.losses)
            scaled = optimizer.scale_loss(value)
        weights = model.trainable_variables
        gradients = tape.gradient(scaled, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return value

    return train_step


def main():
    """After two epochs go on in one piece, and in new models from two checkpoints."""
    from sklearn.datasets import load_digits  # scans that come with the package

    keras.utils.set_random_seed(2)
    x, y = load_digits(return_X_y=True)

    def data(epoch):
        order = np.random.default_rng(epoch).permutation(960)
        return [(x[rows] / 16, y[rows]) for rows in order.reshape(8, 120)]

    def start():
        hidden = keras.layers.Dense(64, "relu"), keras.layers.Dropout(0.5)
        model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        usual = tf.train.Checkpoint(model=model, optimizer=variables([optimizer]))
        return model, optimizer, make_step(model, optimizer, loss), usual

    with tempfile.TemporaryDirectory() as folder:
        model, optimizer, step, usual = start()
        run = Resumable(folder + "/run", model, optimizer)
        for epoch in run.epochs(2):
            for batch in run.batches(data(epoch)):
                step(*batch)
        path = usual.save(folder + "/usual")
        print("in one piece         ", *(f"{step(*batch):.3f}" for batch in data(2)))
        *_, step, usual = start()  # all is new, as in a new process
        usual.restore(path)
        print("weights and optimizer", *(f"{step(*batch):.3f}" for batch in data(2)))
        model, optimizer, step, _ = start()
        run = Resumable(folder + "/run", model, optimizer)
        rest = (batch for epoch in run.epochs(3) for batch in run.batches(data(epoch)))
        print("all of the state     ", *(f"{step(*batch):.3f}" for batch in rest))


if __name__ == "__main__":
    main()
