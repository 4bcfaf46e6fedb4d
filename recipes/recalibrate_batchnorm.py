"""Re-estimate BatchNormalization's statistics exactly, in `fit` before each validation.

Symptom: training accuracy climbs while validation accuracy sits at chance; `evaluate`
    on the training data itself disagrees with what `fit` printed.
Cause: validation uses the moving statistics. After n training steps they still hold
    momentum**n of the initial (0, 1): 76 % after 270 steps at momentum 0.999.
Fix: before each validation, set them to what the training data gives, in one pass.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/recalibrate_batchnorm.md, Phasebook 0.2.0
"""

import random

import keras
import numpy as np
import tensorflow as tf


class RecalibrateBatchNormalization(keras.callbacks.Callback):
    """Re-estimate before each validation in `fit`, or at its end if there is none.

    Training stays the same to the last bit. Give it a dataset of its own: `shuffle`
    counts every pass over one, so sharing that of `fit` would change its next order.
    """

    def __init__(self, batches, forward=None):
        super().__init__()
        self.batches, self.forward = batches, forward

    def set_model(self, model):
        super().set_model(model)
        self.recalibrator = Recalibrator(model, self.forward)

    def on_test_begin(self, logs=None):  # `on_epoch_end` comes after validation
        self.recalibrator(self.batches)

    def on_train_end(self, logs=None):
        if not any(name.startswith("val_") for name in logs):
            self.recalibrator(self.batches)


def recalibrate(model, batches, forward=None):
    """Re-estimate once: `Recalibrator(model, forward)(batches)`."""
    return Recalibrator(model, forward)(batches)


class Recalibrator:
    """Runs batches through `model` in the training phase and sets its statistics.

    Each layer gets the mean and population variance of all values it received: over
    batches of any size, several calls, unmasked positions. Frozen layers, and layers
    called with `training=False`, keep theirs. All else is put back, random states too;
    after an error or Ctrl-C, all. `forward(x)` may replace `model(x, training=True)`.
    """

    def __init__(self, model, forward=None):
        self.model, self.sums = model, {}
        self.forward = forward or (lambda x: model(x, training=True))

    def __call__(self, batches):
        """Re-estimate from batches as of `fit`; return the names of the layers set.

        Raises ValueError when no layer ran in the training phase, NaN or infinity
        reached one, or one with `synchronized=True` met a mask.
        """
        layers = trainable_normalizations(self.model)
        if layers != list(self.sums):  # the first use, or one was frozen since
            shapes = {layer: [4, layer.moving_mean.shape[0]] for layer in layers}
            self.sums = {n: tf.Variable(np.zeros(shape)) for n, shape in shapes.items()}
            self.step = tf.function(self.observe, autograph=False)
        spec, held = None, {}  # held: what each variable will hold in the end
        states = random.getstate(), np.random.get_state()
        try:
            for batch in batches if layers else ():  # all frozen: nothing to estimate
                x = keras.utils.unpack_x_y_sample_weight(batch)[0]
                x = tf.nest.map_structure(tf.convert_to_tensor, x)
                if spec != (spec := tf.nest.map_structure(any_batch_size, x)):
                    step = self.step.get_concrete_function(spec)
                    held = {v.ref(): (v, v.read_value()) for v in step.variables} | held
                    moving = (v for layer in layers for v in statistics(layer))
                    for v in (v for v in moving if not np.isfinite(v.numpy()).all()):
                        v.assign(np.nan_to_num(v.numpy()))  # 0 * NaN would be NaN
                step(x)
            ran = [layer for layer in layers if self.sums[layer][0].numpy().all()]
            if layers and not ran:
                raise ValueError("No layer ran in training: does `call` pass it on?")
            new = [pair for n in ran for pair in population(n, self.sums[n].numpy())]
            held |= {v.ref(): (v, value) for v, value in new}
        finally:
            for variable, value in held.values():
                variable.assign(value)
            random.setstate(states[0])
            np.random.set_state(states[1])
        return [layer.name for layer in ran]

    def observe(self, x):
        """Run `forward`; every training-phase call of a layer adds to its sums."""
        eagerly, calls = tf.config.functions_run_eagerly(), []
        kept = [(layer, layer.momentum, layer.synchronized) for layer in self.sums]
        tf.config.run_functions_eagerly(True)  # no inner trace hides or keeps a call
        try:
            for layer, total in self.sums.items():
                call = observed(layer, total, calls)
                # After a call, the moving variables hold that call's own statistics.
                vars(layer).update(call=call, momentum=0.0, synchronized=False)
            self.forward(x)
            add(calls)
        finally:
            for layer, momentum, synchronized in kept:
                vars(layer).update(momentum=momentum, synchronized=synchronized)
                vars(layer).pop("call", None)
            tf.config.run_functions_eagerly(eagerly)


def trainable_normalizations(model):
    """Every BatchNormalization that `fit` may update, at any depth, each once."""
    every = model._flatten_layers()  # nothing public goes into layers
    layers = [n for n in every if isinstance(n, keras.layers.BatchNormalization)]
    if not layers or not all(n.built and "16" not in n.variable_dtype for n in layers):
        raise ValueError(f"{model.name!r} needs BatchNormalization, built, in float32.")
    return [layer for layer in layers if layer.trainable]


def statistics(layer):
    names = ("moving_mean", "moving_variance", "moving_stddev")  # the last with renorm
    return [getattr(layer, name).value for name in names if hasattr(layer, name)]


def population(layer, sums):
    """Pair a layer's statistics with their new values."""
    if not np.isfinite(sums).all():
        raise ValueError(f"NaN or infinity reached {layer.name!r}.")
    mean, within, squared_means = sums[1:] / sums[0]
    variance = within + np.maximum(squared_means - mean**2, 0)
    values = mean, variance, np.sqrt(variance + layer.epsilon)
    return zip(statistics(layer), values, strict=False)


def any_batch_size(tensor):
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def observed(layer, total, calls):
    step, variables = tf.compat.v1.get_default_graph(), statistics(layer)[:2]
    call, synchronized = layer.call, layer.synchronized

    def observed_call(inputs, **options):
        outputs, mask = call(inputs, **options), options.get("mask")
        if options.get("training"):
            if mask is not None and synchronized:
                raise ValueError(f"Keras synchronizes {layer.name!r} wrongly if masked")
            elements = tf.size(inputs, tf.int64) // total.shape[1]
            count = elements if mask is None else tf.math.count_nonzero(mask)
            calls.append((total, count, *(v.read_value() for v in variables)))
            if tf.compat.v1.get_default_graph() is not step:  # no tensor leaves a loop
                add([calls.pop()])
        return outputs

    return observed_call


def add(calls):
    """All calls at once: some ten small operations for each would cost 10 %."""
    if calls:
        totals, counts, *moving = zip(*calls, strict=True)
        sizes = [total.shape[1] for total in totals]
        mean, variance = (tf.cast(tf.concat(each, 0), tf.float64) for each in moving)
        count = tf.cast(tf.repeat(counts, sizes), tf.float64)
        terms = count * [tf.ones_like(mean), mean, variance, mean**2]
        for total, part in zip(totals, tf.split(terms, sizes, 1), strict=True):
            total.assign_add(part)


def main():
    """Train the same net with and without the callback and compare validations."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    x, y = (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), y % 2
    train, validation = (x[:1440], y[:1440]), (x[1440:], y[1440:])
    batches = tf.data.Dataset.from_tensor_slices(train[0]).batch(32)
    for callbacks in [], [RecalibrateBatchNormalization(batches)]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 1))])
        for filters in (16, 32, 32):
            model.add(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
            model.add(keras.layers.BatchNormalization(momentum=0.999))
            model.add(keras.layers.ReLU())
        model.add(keras.layers.GlobalAveragePooling2D())
        model.add(keras.layers.Dense(2, activation="softmax"))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        options = dict(validation_data=validation, callbacks=callbacks, verbose=0)
        history = model.fit(*train, 32, epochs=4, **options).history
        print("with the callback" if callbacks else "fit alone")
        for metric in ("accuracy", "val_accuracy"):
            print(f"  {metric:<14}", *(f"{value:.2f}" for value in history[metric]))


if __name__ == "__main__":
    main()
