"""Averaged weights whose moving statistics are averaged with them; teachers, targets.

Symptom: accuracy falls when the averages are put in place (`use_ema=True`, SWA), or a
    mean teacher, a target network with BatchNormalization lags or drifts.
Cause: the optimizer averages what it trains. The moving statistics stay those of the
    last weights, or, in a second network, at 0 and 1.
Fix: `AveragedWeights(decay)` under `fit`; `follow` in a step of your own.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/averaged_weights.md, Phasebook 0.2.0
"""

import keras
import numpy as np
import tensorflow as tf


class AveragedWeights(keras.callbacks.Callback):
    """Under `fit`: validates with the average of all weights, and ends with it.

    Training goes on from the weights themselves and is as without the callback. After
    step n the decay is min(decay, (1 + n) / (10 + n)), so that the initial weights are
    soon forgotten: the formula of `tf.train.ExponentialMovingAverage`.
    Raises ValueError, before the first step, when the model is not built.
    """

    def __init__(self, decay=0.99):
        super().__init__()
        self.decay, self.steps = decay, 0

    def on_train_begin(self, logs=None):
        if not self.model.built:
            raise ValueError(
                f"{self.model.name!r} is not built, so it has no weights to average. "
                "Call it on a batch before `fit`."
            )
        self.average = [tf.Variable(w.value) for w in weights(self)]
        self.update = tf.function(follow)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.update(self.average, weights(self), tf.constant(decay))

    def on_test_begin(self, logs=None):
        self.held = [tf.identity(w.value) for w in weights(self)]
        self.put(self.average)

    def on_test_end(self, logs=None):
        self.put(self.held)

    def on_train_end(self, logs=None):
        self.put(self.average)

    def put(self, values):
        for weight, value in zip(weights(self), values, strict=True):
            weight.assign(value)


def weights(callback):
    return callback.model.weights  # moving statistics too; no seeds of dropout


def follow(average, weights, decay):
    """Move each of `average` to decay * itself + (1 - decay) * the weight beside it.

    Two lists of variables in one order, such as `teacher.weights, student.weights`:
    with the moving statistics, which `trainable_variables` lacks. Counts are copied.
    """
    for mine, theirs in zip(average, weights, strict=True):
        value = tf.convert_to_tensor(theirs)
        if value.dtype.is_floating:
            share = tf.cast(decay, value.dtype)
            value = share * tf.convert_to_tensor(mine) + (1 - share) * value
        mine.assign(value)


def make_student_step(student, teacher, optimizer, loss, decay=0.99, weight=1.0):
    """Return `train_step(x, y, views)`: a student that agrees with its mean teacher.

    The teacher, built like the student, answers in inference: no gradient reaches it,
    no unit is dropped, and nothing but `follow` moves its statistics. `views` are two
    variants of unlabelled inputs, for the student and for the teacher. Gives the loss.
    """

    @tf.function
    def train_step(x, y, views):
        target = tf.stop_gradient(teacher(views[1], training=False))
        with tf.GradientTape() as tape:
            value = loss(y, student(x, training=True))
            answer = student(views[0], training=True)
            value += weight * tf.reduce_mean(tf.square(answer - target))
            scaled = optimizer.scale_loss(value + sum(student.losses))
        trained = student.trainable_variables
        gradients = tape.gradient(scaled, trained)
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
        follow(teacher.weights, student.weights, decay)
        return value

    return train_step


def net():
    """Eight dense layers with BatchNormalization: ten answers for 64 pixels."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(8):
        model.add(keras.layers.Dense(48, use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10, activation="softmax"))
    return model


def main():
    """Average the weights of one training in two ways; validate after each epoch."""
    from sklearn.datasets import load_digits  # scans that come with the package

    x, y = load_digits(return_X_y=True)
    x = np.float32(x / 16)
    print("validation accuracy of the averages, by epoch")
    for name, ema, callback in (
        ("optimizer's use_ema", True, keras.callbacks.SwapEMAWeights),
        ("AveragedWeights", False, AveragedWeights),
    ):
        model = net()
        sgd = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=ema)
        model.compile(sgd, "sparse_categorical_crossentropy", metrics=["accuracy"])
        data = {"validation_data": (x[1440:], y[1440:]), "callbacks": [callback()]}
        told = model.fit(x[:1440], y[:1440], epochs=4, verbose=0, **data).history
        print(f"{name:<21}", *(f"{value:.2f}" for value in told["val_accuracy"]))


if __name__ == "__main__":
    main()
