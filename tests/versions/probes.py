"""The probes behind the version matrix: small questions to the installed TensorFlow, each with one measured answer.

    python probes.py --out answers.json [--keras tf_keras] [--facts ID ...] [--jobs 2]

Plain Python that runs on 3.7 with TensorFlow 1.14 as on 3.13 with today's. A probe takes nothing and returns True, False,
a number or a word; what it raises is recorded as its answer. Nothing here compares with an expected value.

On Linux each task (one learning-phase setting of one kind of model, say) runs in a process forked before TensorFlow has
executed anything, so that no probe sees a learning phase that another one set, and a crash takes nothing with it. Elsewhere they share a process, the learning phase last.

Keep in mind when reading a probe: every BatchNormalization starts from moving mean 0 and moving variance 1, the data have
a mean near 5 and a standard deviation near 3, and Dense layers only add up. So an output tells which statistics made it.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import os
import platform
import queue
import re
import signal
import socket
import sys
import tempfile
import time
import traceback

import numpy as np

tf = None
keras = None


def load(flavour):
    """Import TensorFlow and the Keras to be asked, and execute nothing yet: what is forked later must be able to."""
    global tf, keras
    import tensorflow

    tf = tensorflow
    if flavour == "tf_keras":
        import tf_keras

        keras = tf_keras
    elif version_of(tf) >= (2, 16):
        import keras as installed

        keras = installed
    else:
        keras = tf.keras
    # Lazily loaded modules are better loaded once here than in every child.
    keras.layers.BatchNormalization
    keras.applications.MobileNetV2


def start():
    """Make a process ready to answer: TensorFlow 1 with its documented switch to 2.x behaviour, and fixed seeds."""
    if version_of(tf) < (2, 0):
        tf.compat.v1.enable_v2_behavior()
    np.random.seed(0)
    tf.compat.v2.random.set_seed(0)
    # Two logical CPUs for the probes of MirroredStrategy. Everything else runs on the first one.
    config = tf.compat.v2.config.experimental
    cpu = config.list_physical_devices("CPU")[0]
    config.set_virtual_device_configuration(
        cpu, [config.VirtualDeviceConfiguration(), config.VirtualDeviceConfiguration()]
    )


def version_of(package):
    return tuple(int(part) for part in re.match(r"(\d+)\.(\d+)", package.__version__).groups())


def keras_version():
    """The release of the Keras that is asked. TensorFlow 2.13 to 2.15 hide it: there tf.keras is the package keras."""
    if hasattr(keras, "__version__"):
        return keras.__version__
    import keras as package

    return package.__version__


# --- the register of facts ---------------------------------------------------------------------------------------------

FACTS = {}  # id -> {"statement", "group", "probe", "task"}, in the order of the page


def register(fact, group, statement, probe, task=None):
    assert fact not in FACTS, fact
    statement = statement[0].upper() + statement[1:]
    FACTS[fact] = {"statement": statement, "group": group, "probe": probe, "task": task or group}


def fact(name, group, statement, task=None):
    def decorate(function):
        register(name, group, statement, function, task)
        return function

    return decorate


def line_of(name):
    """The line of this file on which the probe behind a fact starts."""
    probe = FACTS[name]["probe"]
    while isinstance(probe, functools.partial):
        probe = probe.func
    return probe.__code__.co_firstlineno


# --- what the probes are made of ---------------------------------------------------------------------------------------


def data(shape=(8, 4)):
    return np.random.RandomState(0).normal(5.0, 3.0, shape).astype("float32")


def targets(x):
    return np.zeros((len(x), 1), "float32")


def is_keras_3():
    return keras_version().startswith("3.")


def adder():
    """A Dense layer that adds up its inputs: it hides no statistics and trains nothing that a probe asks about."""
    return keras.layers.Dense(1, kernel_initializer="ones")


def start_of_sequential(shape):
    return keras.layers.Input(shape) if is_keras_3() else keras.layers.InputLayer(input_shape=shape)


def compiled(model, rate=0.0):
    """Compile with a learning rate of 0, so that only statistics can change."""
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse")
    return model


def fit(model, x, **kwargs):
    return model.fit(x, targets(x), batch_size=len(x), epochs=1, verbose=0, **kwargs)


def layer_statistics(bn):
    """Moving mean and variance as arrays; a layer not built yet will start from 0 and 1."""
    if getattr(bn, "moving_mean", None) is None:
        return np.zeros(4, "float32"), np.ones(4, "float32")
    return np.array(bn.moving_mean.numpy()), np.array(bn.moving_variance.numpy())


def moves_statistics(bn, action):
    """Do the moving statistics change while `action` runs? One update moves the mean by about 0.05."""
    before = layer_statistics(bn)
    action()
    after = layer_statistics(bn)
    return any(not np.allclose(a, b, rtol=0, atol=1e-4) for a, b in zip(after, before))


def normalised(x, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-3)


def batch_statistics(x):
    axes = tuple(range(x.ndim - 1))
    return x.mean(axis=axes), x.var(axis=axes)


def which(value, if_batch, if_moving):
    """True when `value` is what batch statistics give, False when it is what moving statistics give."""
    value, if_batch, if_moving = (np.asarray(array, "float64") for array in (value, if_batch, if_moving))
    near = [np.allclose(value, wanted, rtol=1e-3, atol=1e-2) for wanted in (if_batch, if_moving)]
    if near == [True, False]:
        return True
    if near == [False, True]:
        return False
    raise ValueError("the output fits %s" % ("both statistics" if all(near) else "neither statistics"))


def output_uses_batch_statistics(bn, x, action, head=True):
    """Which statistics made the output of `action`: those of the batch (True) or the moving ones of before (False)?"""
    moving = layer_statistics(bn)
    out = action()
    candidates = [normalised(x, *pair) for pair in (batch_statistics(x), moving)]
    if head:
        candidates = [array.sum(axis=-1, keepdims=True) for array in candidates]
    return which(np.array(out), *candidates)


def loss_uses_batch_statistics(x, loss, moving):
    candidates = [normalised(x, *pair).sum(axis=-1) for pair in (batch_statistics(x), moving)]
    return which(loss, *[(array**2).mean() for array in candidates])


# --- the kinds of model ------------------------------------------------------------------------------------------------


def functional():
    bn = keras.layers.BatchNormalization()
    inputs = keras.layers.Input((4,))
    return keras.Model(inputs, adder()(bn(inputs))), bn


def sequential():
    bn = keras.layers.BatchNormalization()
    return keras.Sequential([start_of_sequential((4,)), bn, adder()]), bn


def subclass_arg():
    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.bn = keras.layers.BatchNormalization()
            self.head = adder()

        def call(self, inputs, training=None):
            return self.head(self.bn(inputs, training=training))

    model = Net()
    return model, model.bn


def subclass_arg_false():
    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.bn = keras.layers.BatchNormalization()
            self.head = adder()

        def call(self, inputs, training=False):
            return self.head(self.bn(inputs, training=training))

    model = Net()
    return model, model.bn


def subclass_arg_true():
    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.bn = keras.layers.BatchNormalization()
            self.head = adder()

        def call(self, inputs, training=True):
            return self.head(self.bn(inputs, training=training))

    model = Net()
    return model, model.bn


def subclass_no_arg():
    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.bn = keras.layers.BatchNormalization()
            self.head = adder()

        def call(self, inputs):
            return self.head(self.bn(inputs))

    model = Net()
    return model, model.bn


def subclass_kwargs():
    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.bn = keras.layers.BatchNormalization()
            self.head = adder()

        def call(self, inputs, **kwargs):
            return self.head(self.bn(inputs, **kwargs))

    model = Net()
    return model, model.bn


def custom_layer_no_arg():
    class Block(keras.layers.Layer):
        def __init__(self):
            super(Block, self).__init__()
            self.bn = keras.layers.BatchNormalization()

        def call(self, inputs):
            return self.bn(inputs)

    block = Block()
    inputs = keras.layers.Input((4,))
    return keras.Model(inputs, adder()(block(inputs))), block.bn


def nested():
    bn = keras.layers.BatchNormalization()
    inner_inputs = keras.layers.Input((4,))
    inner = keras.Model(inner_inputs, bn(inner_inputs))
    inputs = keras.layers.Input((4,))
    return keras.Model(inputs, adder()(inner(inputs))), bn


def sequential_of_subclass_no_arg():
    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.bn = keras.layers.BatchNormalization()

        def call(self, inputs):
            return self.bn(inputs)

    net = Net()
    return keras.Sequential([start_of_sequential((4,)), net, adder()]), net.bn


KINDS = {
    "functional": (functional, "a Functional model"),
    "sequential": (sequential, "a Sequential model"),
    "subclass_arg": (subclass_arg, "a subclass with `call(x, training=None)`"),
    "subclass_arg_false": (subclass_arg_false, "a subclass with `call(x, training=False)`"),
    "subclass_arg_true": (subclass_arg_true, "a subclass with `call(x, training=True)`"),
    "subclass_no_arg": (subclass_no_arg, "a subclass with `call(x)`"),
    "subclass_kwargs": (subclass_kwargs, "a subclass with `call(x, **kwargs)`"),
    "custom_layer_no_arg": (custom_layer_no_arg, "a custom layer with `call(x)` in a Functional model"),
    "nested": (nested, "a Functional model inside a Functional model"),
    "sequential_of_subclass_no_arg": (
        sequential_of_subclass_no_arg,
        "a subclass with `call(x)` inside a Sequential model",
    ),
}


# --- routes: which of them update the moving statistics? ---------------------------------------------------------------


def eager_default(model, x):
    model(tf.constant(x))


def eager_training_true(model, x):
    model(tf.constant(x), training=True)


def eager_training_false(model, x):
    model(tf.constant(x), training=False)


def tffunction_default(model, x):
    @tf.function
    def step(batch):
        return model(batch)

    step(tf.constant(x))


def tffunction_training_true(model, x):
    @tf.function
    def step(batch):
        return model(batch, training=True)

    step(tf.constant(x))


def by_fit(model, x):
    fit(compiled(model), x)


def by_train_on_batch(model, x):
    compiled(model).train_on_batch(x, targets(x))


def by_evaluate(model, x):
    compiled(model).evaluate(x, targets(x), batch_size=len(x), verbose=0)


def by_predict(model, x):
    model.predict(x, batch_size=len(x))


ROUTES = {
    "eager_default": (eager_default, "`m(x)` in eager mode"),
    "eager_training_true": (eager_training_true, "`m(x, training=True)` in eager mode"),
    "eager_training_false": (eager_training_false, "`m(x, training=False)` in eager mode"),
    "tffunction_default": (tffunction_default, "`m(x)` in a `tf.function`"),
    "tffunction_training_true": (tffunction_training_true, "`m(x, training=True)` in a `tf.function`"),
    "fit": (by_fit, "`fit`"),
    "train_on_batch": (by_train_on_batch, "`train_on_batch`"),
    "evaluate": (by_evaluate, "`evaluate`"),
    "predict": (by_predict, "`predict`"),
}


def route_moves_statistics(kind, route):
    model, bn = KINDS[kind][0]()
    return moves_statistics(bn, lambda: ROUTES[route][0](model, data()))


for kind, (_, kind_text) in KINDS.items():
    for route, (_, route_text) in ROUTES.items():
        register(
            "%s/%s" % (kind, route),
            "Who moves the statistics",
            "%s moves the statistics of %s." % (route_text, kind_text),
            functools.partial(route_moves_statistics, kind, route),
            task=kind + "/routes",
        )


@fact(
    "tensor_training_works",
    "Who moves the statistics",
    "`m(x, training=t)` with a boolean tensor `t` in a `tf.function` moves the statistics when `t` is true.",
)
def tensor_training_works():
    model, bn = functional()

    @tf.function
    def step(batch, training):
        return model(batch, training=training)

    return moves_statistics(bn, lambda: step(tf.constant(data()), tf.constant(True)))


# --- the learning phase, set to 1 before or after the model is built ---------------------------------------------------


def lp1_eager_default_updates(model, bn, x):
    return moves_statistics(bn, lambda: eager_default(model, x))


def lp1_tffunction_default_updates(model, bn, x):
    return moves_statistics(bn, lambda: tffunction_default(model, x))


def lp1_fit_updates(model, bn, x):
    return moves_statistics(bn, lambda: by_fit(model, x))


def lp1_predict_uses_batch_stats(model, bn, x):
    compiled(model)
    return output_uses_batch_statistics(bn, x, lambda: model.predict(x, batch_size=len(x)))


def lp1_uncompiled_predict_uses_batch_stats(model, bn, x):
    return output_uses_batch_statistics(bn, x, lambda: model.predict(x, batch_size=len(x)))


def lp1_predict_on_batch_uses_batch_stats(model, bn, x):
    compiled(model)
    return output_uses_batch_statistics(bn, x, lambda: model.predict_on_batch(x))


def lp1_evaluate_uses_batch_stats(model, bn, x):
    compiled(model)
    moving = layer_statistics(bn)
    return loss_uses_batch_statistics(x, model.evaluate(x, targets(x), batch_size=len(x), verbose=0), moving)


def lp1_fit_validation_uses_batch_stats(model, bn, x):
    compiled(model)
    history = fit(model, x, validation_data=(x, targets(x))).history
    # After the one update of the epoch: what validation should have used.
    return loss_uses_batch_statistics(x, history["val_loss"][0], layer_statistics(bn))


def lp1_explicit_false_wins(model, bn, x):
    return not output_uses_batch_statistics(bn, x, lambda: model(tf.constant(x), training=False))


WHAT = {
    "eager_default_updates": (lp1_eager_default_updates, "`m(x)` in eager mode moves the statistics of %s"),
    "tffunction_default_updates": (
        lp1_tffunction_default_updates,
        "`m(x)` in a `tf.function` moves the statistics of %s",
    ),
    "fit_updates": (lp1_fit_updates, "`fit` moves the statistics of %s"),
    "predict_uses_batch_stats": (lp1_predict_uses_batch_stats, "`predict` on %s normalises with batch statistics"),
    "uncompiled_predict_uses_batch_stats": (
        lp1_uncompiled_predict_uses_batch_stats,
        "`predict` without `compile` on %s normalises with batch statistics",
    ),
    "predict_on_batch_uses_batch_stats": (
        lp1_predict_on_batch_uses_batch_stats,
        "`predict_on_batch` on %s normalises with batch statistics",
    ),
    "evaluate_uses_batch_stats": (lp1_evaluate_uses_batch_stats, "`evaluate` on %s normalises with batch statistics"),
    "fit_validation_uses_batch_stats": (
        lp1_fit_validation_uses_batch_stats,
        "the validation inside `fit` on %s normalises with batch statistics",
    ),
    "explicit_false_wins": (lp1_explicit_false_wins, "`m(x, training=False)` on %s still means inference"),
}

ready_for_after = {}  # kind -> models built while the phase was not set, one for each question


def learning_phase_1(kind, when, what):
    set_phase = keras.backend.set_learning_phase
    x = data()
    if when == "before":
        set_phase(1)
        model, bn = KINDS[kind][0]()
    else:
        if kind not in ready_for_after:
            built = [KINDS[kind][0]() for _ in WHAT]
            for model, _ in built:
                model(tf.constant(x))
            ready_for_after[kind] = built
        set_phase(1)
        model, bn = ready_for_after[kind].pop()
    return WHAT[what][0](model, bn, x)


for when in ("before", "after"):
    for kind, (_, kind_text) in KINDS.items():
        for what, (_, what_text) in WHAT.items():
            register(
                "%s/lp1_%s_build/%s" % (kind, when, what),
                "Learning phase 1 set %s building" % when,
                "After `set_learning_phase(1)` %s building, %s." % (when, what_text % kind_text),
                functools.partial(learning_phase_1, kind, when, what),
                task="%s/lp1_%s_build" % (kind, when),
            )


@fact(
    "functional/lp0_before_build/fit_updates",
    "Learning phase 0 set before building",
    "After `set_learning_phase(0)` before building, `fit` moves the statistics of a Functional model.",
    task="functional/lp0_before_build/fit_updates",
)
def learning_phase_0_fit_updates():
    keras.backend.set_learning_phase(0)
    model, bn = functional()
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact(
    "subclass_arg/lp0_before_build/fit_updates",
    "Learning phase 0 set before building",
    "After `set_learning_phase(0)` before building, `fit` moves the statistics of a subclass with `call(x, training=None)`.",
    task="subclass_arg/lp0_before_build/fit_updates",
)
def learning_phase_0_subclass_fit_updates():
    keras.backend.set_learning_phase(0)
    model, bn = subclass_arg()
    return moves_statistics(bn, lambda: by_fit(model, data()))


# --- a phase recorded while building a Functional graph ----------------------------------------------------------------

GROUP = "A phase recorded in a Functional graph"


def recorded(training):
    bn = keras.layers.BatchNormalization()
    inputs = keras.layers.Input((4,))
    return keras.Model(inputs, adder()(bn(inputs, training=training))), bn


def recorded_base(training):
    """The form of the transfer-learning guide: the phase is recorded on a whole base model."""
    bn = keras.layers.BatchNormalization()
    inner_inputs = keras.layers.Input((4,))
    base = keras.Model(inner_inputs, bn(inner_inputs))
    inputs = keras.layers.Input((4,))
    return keras.Model(inputs, adder()(base(inputs, training=training))), bn


@fact("built_training_false_fit_updates", GROUP, "`fit` moves the statistics of `bn(x, training=False)`.")
def built_training_false_fit_updates():
    model, bn = recorded(False)
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact("built_base_training_false_fit_updates", GROUP, "`fit` moves the statistics inside `base(x, training=False)`.")
def built_base_training_false_fit_updates():
    model, bn = recorded_base(False)
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact(
    "built_training_false_explicit_true_updates",
    GROUP,
    "`m(x, training=True)` moves the statistics of `bn(x, training=False)`.",
)
def built_training_false_explicit_true_updates():
    model, bn = recorded(False)
    return moves_statistics(bn, lambda: eager_training_true(model, data()))


@fact(
    "built_training_false_reloaded_fit_updates",
    GROUP,
    "After saving to h5 and loading, `fit` moves the statistics of `bn(x, training=False)`.",
)
def built_training_false_reloaded_fit_updates():
    model, _ = recorded(False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.h5")
        model.save(path)
        model = keras.models.load_model(path, compile=False)
    bn = batch_normalization_of(model)
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact(
    "built_training_false_cloned_fit_updates",
    GROUP,
    "After `clone_model`, `fit` moves the statistics of `bn(x, training=False)`.",
)
def built_training_false_cloned_fit_updates():
    model = keras.models.clone_model(recorded(False)[0])
    bn = batch_normalization_of(model)
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact(
    "wrapped_training_false_fit_updates",
    GROUP,
    "`fit` moves the statistics of a base that a custom layer calls as `self.base(x, training=False)`.",
)
def wrapped_training_false_fit_updates():
    base, bn = nested()

    class Inference(keras.layers.Layer):
        def __init__(self):
            super(Inference, self).__init__()
            self.base = base

        def call(self, inputs):
            return self.base(inputs, training=False)

    inputs = keras.layers.Input((4,))
    model = keras.Model(inputs, adder()(Inference()(inputs)))
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact(
    "built_training_true_predict_uses_batch_stats",
    GROUP,
    "`predict` normalises `bn(x, training=True)` with batch statistics.",
)
def built_training_true_predict_uses_batch_stats():
    model, bn = recorded(True)
    x = data()
    return output_uses_batch_statistics(bn, x, lambda: model.predict(x, batch_size=len(x)))


@fact(
    "built_training_true_default_call_uses_batch_stats",
    GROUP,
    "`m(x)` normalises `bn(x, training=True)` with batch statistics.",
)
def built_training_true_default_call_uses_batch_stats():
    model, bn = recorded(True)
    x = data()
    return output_uses_batch_statistics(bn, x, lambda: model(tf.constant(x)))


@fact(
    "built_training_true_explicit_false_uses_batch_stats",
    GROUP,
    "`m(x, training=False)` normalises `bn(x, training=True)` with batch statistics.",
)
def built_training_true_explicit_false_uses_batch_stats():
    model, bn = recorded(True)
    x = data()
    return output_uses_batch_statistics(bn, x, lambda: model(tf.constant(x), training=False))


@fact(
    "built_training_true_dropout_predict_active",
    GROUP,
    "`Dropout(0.5)(x, training=True)` drops in `predict`.",
)
def built_training_true_dropout_predict_active():
    inputs = keras.layers.Input((64,))
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(inputs, training=True))
    return bool((model.predict(np.ones((4, 64), "float32")) == 0).any())


@fact(
    "dropout_behind_recorded_false_fit_active",
    GROUP,
    "`fit` drops in a `Dropout(0.5)` behind `bn(x, training=False)`.",
)
def dropout_behind_recorded_false_fit_active():
    inputs = keras.layers.Input((64,))
    hidden = keras.layers.BatchNormalization()(inputs, training=False)
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(hidden))
    ones = np.ones((4, 64), "float32")
    model.compile("sgd", "mse")
    # Without a mask the output is the input but for epsilon; with one, each value is off by 1.
    return bool(model.fit(ones, ones, verbose=0).history["loss"][0] > 0.1)


@fact(
    "norm_behind_recorded_true_call_updates",
    GROUP,
    "`m(x)` moves the statistics of a BatchNormalization behind `Dropout(0.5)(x, training=True)`.",
)
def norm_behind_recorded_true_call_updates():
    inputs = keras.layers.Input((4,))
    bn = keras.layers.BatchNormalization()
    model = keras.Model(inputs, bn(keras.layers.Dropout(0.5)(inputs, training=True)))
    x = data()
    return moves_statistics(bn, lambda: model(tf.constant(x)))


# --- behind a phase that somebody stated --------------------------------------------------------------------------------

GROUP = "Behind a stated phase"
STEPS = (2, 4)  # time steps and channels


class Behind(object):
    """A model that states a phase and has layers behind it, and what each of them does on every route.

    A layer is in its training phase when its own weights move: no gradient moves any here. A dropout has none; a `tap`
    behind it counts the zeros that it leaves. Two things are not asked: exports before TensorFlow 2.2, which could not
    save a recurrent dropout, and SpectralNormalization where it does not work.
    """

    def __init__(self, stated, container):
        state, self.watched = STATED[stated][0]()
        chain = self.layers_behind(all_four=container == "functional")
        inputs = keras.layers.Input(STEPS)
        if container == "sequential":
            self.model = keras.Sequential([start_of_sequential(STEPS), state] + chain)
        elif container == "nested":
            head_inputs = keras.layers.Input(STEPS)
            head = keras.Model(head_inputs, self.through(chain, head_inputs))
            self.model = keras.Model(inputs, head(state(inputs)))
        else:
            self.model = keras.Model(inputs, self.through(chain, state(inputs)))
        # A compilation by XLA would take longer than all the rest, and changes no phase.
        kwargs = {"jit_compile": False} if is_keras_3() else {}
        self.model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse", **kwargs)
        self.start = {name: self.values(layer) for name, layer in self.watched.items()}
        self.answers = {}

    def layers_behind(self, all_four):
        layers = keras.layers
        self.watched.update(bn=layers.BatchNormalization(name="behind_bn"), dropout=tap("behind_dropout"))
        chain = [self.watched["bn"], layers.Dropout(0.5), self.watched["dropout"]]
        if all_four:
            # It adds nothing up and remembers nothing: a dropout in it leaves zeros, and nothing else does.
            plain = dict(kernel_initializer=identity, recurrent_initializer="zeros", use_bias=False, activation="linear")
            rnn = layers.SimpleRNN(STEPS[1], dropout=0.5, return_sequences=True, unroll=is_keras_3(), **plain)
            self.watched["rnn"] = tap("behind_rnn")
            chain += [rnn, self.watched["rnn"]]
        if all_four and spectral_normalization_trains():
            dense = layers.Dense(STEPS[1], use_bias=False, kernel_initializer="ones")
            self.watched["spectral"] = layers.SpectralNormalization(dense, name="behind_spectral")
            chain.append(self.watched["spectral"])
        return chain + [layers.Flatten(), adder()]

    @staticmethod
    def through(chain, tensor):
        for layer in chain:
            tensor = layer(tensor)
        return tensor

    @staticmethod
    def values(layer):
        """The weights from which a route starts: none that a batch would lead to, and a count that no batch can give."""
        return [value + 1.0 if value.shape else np.full_like(value, -1.0) for value in layer.get_weights()]

    @staticmethod
    def trained(before, after):
        if before[0].shape:
            return any(not np.allclose(a, b, rtol=0, atol=1e-4) for a, b in zip(after, before))
        if after[0] < 0:
            raise ValueError("the layer was not run")
        return bool(after[0] > 0)

    def by_export(self, x):
        with tempfile.TemporaryDirectory() as folder:
            own_exporter(self.model, folder)
            loaded = tf.compat.v2.saved_model.load(folder)  # its variables live as long as this name
            serve = loaded.signatures["serving_default"]
            variables = {
                name: [v for v in serve.variables if layer.name in v.name] for name, layer in self.watched.items()
            }
            before = {name: [v.numpy() for v in found] for name, found in variables.items()}
            serve(**{list(serve.structured_input_signature[1])[0]: tf.constant(x)})
            return {name: self.trained(before[name], [v.numpy() for v in found]) for name, found in variables.items()}

    def ask(self, route):
        x = data((8,) + STEPS)
        for name, layer in self.watched.items():
            layer.set_weights(self.start[name])
        if route == "export":
            return self.by_export(x)
        {
            "fit": lambda: fit(self.model, x),
            "predict": lambda: by_predict(self.model, x),
            "evaluate": lambda: self.model.evaluate(x, targets(x), batch_size=len(x), verbose=0),
            "call_true": lambda: eager_training_true(self.model, x),
            "call_false": lambda: eager_training_false(self.model, x),
        }[route]()
        return {name: self.trained(self.start[name], layer.get_weights()) for name, layer in self.watched.items()}


def identity(shape, dtype=None, **kwargs):
    return tf.eye(*shape)


def tap(name):
    """A layer that counts the zeros that reach it and hands on ones."""

    class Tap(keras.layers.Layer):
        def build(self, input_shape):
            self.zeros = self.add_weight(name="zeros", shape=(), initializer="zeros", trainable=False)
            super(Tap, self).build(input_shape)

        def call(self, inputs):
            self.zeros.assign(tf.reduce_sum(tf.cast(tf.equal(inputs, 0.0), tf.float32)))
            return inputs * 0.0 + 1.0

        def compute_output_shape(self, input_shape):
            return input_shape

    return Tap(name=name)


def base_model(layers, **kwargs):
    inputs = keras.layers.Input(STEPS)
    tensor = layers[0](inputs, **kwargs)
    return keras.Model(inputs, Behind.through(layers[1:], tensor))


def stating_norm():
    return [keras.layers.BatchNormalization(name="stating")]


def stating_dropout():
    return [keras.layers.Dropout(0.5), tap("stating")]


def recorded_on_base():
    layers = stating_norm()
    base = base_model(layers)
    return lambda tensor: base(tensor, training=False), {"itself": layers[-1]}


def recorded_on_dropout():
    layers = stating_dropout()
    return lambda tensor: layers[1](layers[0](tensor, training=True)), {"itself": layers[-1]}


def fixed_inside(make, training):
    layers = make()

    class Fixed(keras.layers.Layer):
        def __init__(self):
            super(Fixed, self).__init__(name="stating")
            self.inner = layers[0]
            self.rest = layers[1:]

        def call(self, inputs):
            return Behind.through(self.rest, self.inner(inputs, training=training))

    return Fixed(), {"itself": layers[-1]}


def recorded_inside(make, training):
    layers = make()
    return base_model(layers, training=training), {"itself": layers[-1]}


def frozen():
    layers = stating_norm()
    base = base_model(layers)
    base.trainable = False
    return base, {"itself": layers[-1]}


def forced():
    class Forced(keras.layers.Dropout):
        def call(self, inputs, training=None):
            return super(Forced, self).call(inputs, training=True)

    layer = base_model([Forced(0.5), tap("stating")])
    return layer, {"itself": layer.layers[-1]}


STATED = {
    "base_false": (recorded_on_base, "`base(x, training=False)`", ("functional", "nested")),
    "dropout_true": (recorded_on_dropout, "`Dropout(0.5)(x, training=True)`", ("functional", "nested")),
    "layer_false": (
        functools.partial(fixed_inside, stating_norm, False),
        "a layer whose `call` fixes `training=False` for a BatchNormalization inside",
        ("functional", "sequential"),
    ),
    "layer_true": (
        functools.partial(fixed_inside, stating_dropout, True),
        "a layer whose `call` fixes `training=True` for a Dropout inside",
        ("functional", "sequential"),
    ),
    "model_false": (
        functools.partial(recorded_inside, stating_norm, False),
        "a model that has recorded `bn(x, training=False)`",
        ("functional", "sequential"),
    ),
    "model_true": (
        functools.partial(recorded_inside, stating_dropout, True),
        "a model that has recorded `Dropout(0.5)(x, training=True)`",
        ("functional", "sequential"),
    ),
    # The two ways that state nothing to others.
    "base_frozen": (frozen, "a base with `trainable = False`", ("functional",)),
    "dropout_forced": (
        forced,
        "a Dropout subclass that passes `training=True` to `super().call`",
        ("functional", "sequential"),
    ),
}
BEHIND = {
    "itself": "%s itself is in training",
    "bn": "behind %s, BatchNormalization moves its statistics",
    "dropout": "behind %s, Dropout drops",
    "rnn": "behind %s, a recurrent layer's dropout drops",
    "spectral": "behind %s, SpectralNormalization moves its vector",
}
BEHIND_ROUTES = {
    "fit": "`fit`",
    "predict": "`predict`",
    "evaluate": "`evaluate`",
    "call_true": "`m(x, training=True)`",
    "call_false": "`m(x, training=False)`",
    "export": "the exported graph",
}
CONTAINERS = {"functional": "Functional", "sequential": "Sequential", "nested": "in a model of its own"}
# Everything is asked of a Functional model; elsewhere what is dear to ask and answers alike is left out.
LEFT_OUT = ("itself", "rnn", "spectral", "export")

behind_models = {}  # (stated, container) -> a Behind, asked once a route


@functools.lru_cache(maxsize=None)
def spectral_normalization_trains():
    """In a graph the layer of Keras 2 (new in TensorFlow 2.13) and of Keras 3.0 raises when `training` is true."""
    if not is_keras_3():
        return False
    layer = keras.layers.SpectralNormalization(adder())
    layer.build((None, 4))
    try:
        tf.function(lambda: layer(tf.ones((2, 4)), training=True))()
    except (TypeError, ValueError):
        return False
    return True


def behind(stated, watched, container, route):
    if (stated, container) not in behind_models:
        behind_models[stated, container] = Behind(stated, container)
    asked = behind_models[stated, container]
    if watched not in asked.watched or (route == "export" and version_of(tf) < (2, 2)):
        return "not asked"
    if route not in asked.answers:
        asked.answers[route] = asked.ask(route)
    return asked.answers[route][watched]


for stated, (_, stated_text, containers) in STATED.items():
    for container, watched, route in itertools.product(containers, BEHIND, BEHIND_ROUTES):
        if container != "functional" and (watched in LEFT_OUT or route in LEFT_OUT):
            continue
        register(
            "behind/%s/%s/%s/%s" % (stated, watched, container, route),
            GROUP,
            "%s: %s (%s)." % (BEHIND_ROUTES[route], BEHIND[watched] % stated_text, CONTAINERS[container]),
            functools.partial(behind, stated, watched, container, route),
            task="behind/" + container,
        )


# --- trainable ---------------------------------------------------------------------------------------------------------

GROUP = "Freezing"


@fact(
    "bn_trainable_false_uses_batch_stats",
    GROUP,
    "`bn(x, training=True)` with `bn.trainable = False` normalises with batch statistics.",
)
def bn_trainable_false_uses_batch_stats():
    bn = keras.layers.BatchNormalization()
    bn.trainable = False
    x = data()
    return output_uses_batch_statistics(bn, x, lambda: bn(tf.constant(x), training=True), head=False)


@fact(
    "bn_trainable_false_fit_updates",
    GROUP,
    "`fit` moves the statistics of a BatchNormalization frozen before `compile`.",
)
def bn_trainable_false_fit_updates():
    model, bn = functional()
    bn.trainable = False
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact(
    "model_trainable_false_updates",
    GROUP,
    "`m(x, training=True)` with `m.trainable = False` moves the statistics.",
)
def model_trainable_false_updates():
    model, bn = functional()
    model.trainable = False
    return moves_statistics(bn, lambda: eager_training_true(model, data()))


@fact(
    "model_trainable_false_fit_updates",
    GROUP,
    "`fit` moves the statistics inside a base model frozen before `compile`.",
)
def model_trainable_false_fit_updates():
    model, bn = nested()
    [layer for layer in model.layers if isinstance(layer, keras.Model)][0].trainable = False
    return moves_statistics(bn, lambda: by_fit(model, data()))


@fact(
    "frozen_after_compile_before_fit_updates",
    GROUP,
    "`bn.trainable = False` between `compile` and the first `fit`: `fit` moves the statistics.",
)
def frozen_after_compile_before_fit_updates():
    model, bn = functional()
    compiled(model)
    bn.trainable = False
    return moves_statistics(bn, lambda: fit(model, data()))


@fact(
    "frozen_after_fit_updates",
    GROUP,
    "`bn.trainable = False` between two `fit`, without `compile`: the second one moves the statistics.",
)
def frozen_after_fit_updates():
    model, bn = functional()
    by_fit(model, data())
    bn.trainable = False
    return moves_statistics(bn, lambda: fit(model, data()))


@fact(
    "frozen_after_fit_recompiled_updates",
    GROUP,
    "`bn.trainable = False` between two `fit`, with `compile`: the second one moves the statistics.",
)
def frozen_after_fit_recompiled_updates():
    model, bn = functional()
    by_fit(model, data())
    bn.trainable = False
    return moves_statistics(bn, lambda: by_fit(model, data()))


def frozen_dense_trains(fit_first):
    model, _ = functional()
    compiled(model, rate=0.01)
    if fit_first:
        fit(model, data())
    dense = model.layers[-1]
    dense.trainable = False
    before = dense.get_weights()
    fit(model, data())
    return any(not np.array_equal(a, b) for a, b in zip(before, dense.get_weights()))


@fact(
    "frozen_dense_after_compile_trains",
    GROUP,
    "`dense.trainable = False` between `compile` and the first `fit`: `fit` trains it all the same.",
)
def frozen_dense_after_compile_trains():
    return frozen_dense_trains(fit_first=False)


@fact(
    "frozen_dense_after_fit_trains",
    GROUP,
    "`dense.trainable = False` between two `fit`, without `compile`: the second one trains it all the same.",
)
def frozen_dense_after_fit_trains():
    return frozen_dense_trains(fit_first=True)


# --- GAN ---------------------------------------------------------------------------------------------------------------

GROUP = "The classic GAN recipe"


def gan():
    """Compile D, set D.trainable = False, compile G+D: as every older tutorial has it."""
    bn = keras.layers.BatchNormalization()
    discriminator = keras.Sequential([start_of_sequential((4,)), bn, keras.layers.Dense(1)])
    compiled(discriminator, rate=0.1)
    discriminator.trainable = False
    noise = keras.layers.Input((2,))
    model = keras.Model(noise, discriminator(keras.layers.Dense(4)(noise)))
    compiled(model, rate=0.1)
    return discriminator, bn, model


def kernel_changes(layer, action):
    before = layer.get_weights()[0]
    action()
    return not np.array_equal(before, layer.get_weights()[0])


@fact(
    "gan_discriminator_learns",
    GROUP,
    "Compile D, freeze D, compile GAN: `D.train_on_batch` still trains D.",
)
def gan_discriminator_learns():
    discriminator, _, _ = gan()
    return kernel_changes(
        discriminator.layers[-1], lambda: discriminator.train_on_batch(data(), np.ones((8, 1), "float32"))
    )


@fact(
    "gan_discriminator_statistics_move",
    GROUP,
    "Compile D, freeze D, compile GAN: `D.train_on_batch` moves D's statistics.",
)
def gan_discriminator_statistics_move():
    discriminator, bn, _ = gan()
    return moves_statistics(bn, lambda: discriminator.train_on_batch(data(), np.ones((8, 1), "float32")))


@fact(
    "gan_generator_step_trains_discriminator",
    GROUP,
    "Compile D, freeze D, compile GAN: `GAN.train_on_batch` trains D as well.",
)
def gan_generator_step_trains_discriminator():
    discriminator, _, model = gan()
    return kernel_changes(
        discriminator.layers[-1], lambda: model.train_on_batch(data((8, 2)), np.ones((8, 1), "float32"))
    )


@fact(
    "gan_generator_step_moves_discriminator_statistics",
    GROUP,
    "Compile D, freeze D, compile GAN: `GAN.train_on_batch` moves D's statistics.",
)
def gan_generator_step_moves_discriminator_statistics():
    _, bn, model = gan()
    return moves_statistics(bn, lambda: model.train_on_batch(data((8, 2)), np.ones((8, 1), "float32")))


# --- defaults of layers called alone -----------------------------------------------------------------------------------

GROUP = "Layers called without a phase"


def changes_its_input(layer, x):
    return not np.allclose(np.array(layer(tf.constant(x))), x, rtol=0, atol=1e-6)


@fact("dropout_default_active", GROUP, "`Dropout(0.5)(x)` called without a phase drops.")
def dropout_default_active():
    return changes_its_input(keras.layers.Dropout(0.5), np.ones((4, 64), "float32"))


@fact("gaussian_noise_default_active", GROUP, "`GaussianNoise(1.0)(x)` called without a phase adds noise.")
def gaussian_noise_default_active():
    return changes_its_input(keras.layers.GaussianNoise(1.0), np.ones((4, 64), "float32"))


@fact("lstm_dropout_default_active", GROUP, "`LSTM(8, dropout=0.5)(x)` called twice without a phase gives two results.")
def lstm_dropout_default_active():
    layer = keras.layers.LSTM(8, dropout=0.5)
    x = tf.constant(data((4, 6, 16)))
    return not np.allclose(np.array(layer(x)), np.array(layer(x)), rtol=0, atol=1e-6)


@fact("lstm_dropout_training_varies", GROUP, "`LSTM(8, dropout=0.5)(x, training=True)` called twice gives two results.")
def lstm_dropout_training_varies():
    layer = keras.layers.LSTM(8, dropout=0.5)
    x = tf.constant(data((4, 6, 16)))
    first, second = (np.array(layer(x, training=True)) for _ in range(2))
    return not np.allclose(first, second, rtol=0, atol=1e-6)


def preprocessing(name):
    """The class of a preprocessing layer: an experimental one in TensorFlow 2.3 to 2.5."""
    if hasattr(keras.layers, name):
        return getattr(keras.layers, name)
    return getattr(keras.layers.experimental.preprocessing, name)


@fact("random_flip_default_active", GROUP, '`RandomFlip("horizontal")(x)` called without a phase flips.')
def random_flip_default_active():
    # Sixty-four images, each flipped with probability 1/2: all unflipped by chance once in 2**64.
    return changes_its_input(preprocessing("RandomFlip")("horizontal"), data((64, 4, 4, 3)))


def in_front_of_batch_normalization(layer):
    bn = keras.layers.BatchNormalization()
    inputs = keras.layers.Input((4, 4, 4))
    return keras.Model(inputs, bn(layer(inputs))), bn


def leak(name, *args):
    model, bn = in_front_of_batch_normalization(preprocessing(name)(*args))
    return moves_statistics(bn, lambda: eager_default(model, data((8, 4, 4, 4))))


@fact("rescaling_leaks_training", GROUP, "Rescaling in front of BatchNormalization: `m(x)` moves the statistics.")
def rescaling_leaks_training():
    return leak("Rescaling", 1.0)


@fact("resizing_leaks_training", GROUP, "Resizing in front of BatchNormalization: `m(x)` moves the statistics.")
def resizing_leaks_training():
    return leak("Resizing", 4, 4)


@fact("center_crop_leaks_training", GROUP, "CenterCrop in front of BatchNormalization: `m(x)` moves the statistics.")
def center_crop_leaks_training():
    return leak("CenterCrop", 4, 4)


@fact("random_flip_leaks_training", GROUP, "RandomFlip in front of BatchNormalization: `m(x)` moves the statistics.")
def random_flip_leaks_training():
    return leak("RandomFlip", "horizontal")


@fact(
    "forced_dropout_subclass_predict_varies",
    GROUP,
    "A Dropout subclass that passes `training=True` to `super().call` gives two results in two calls of `predict`.",
)
def forced_dropout_subclass_predict_varies():
    class Always(keras.layers.Dropout):
        def call(self, inputs, training=None):
            return super(Always, self).call(inputs, training=True)

    inputs = keras.layers.Input((64,))
    model = keras.Model(inputs, Always(0.5)(inputs))
    x = np.ones((4, 64), "float32")
    return not np.array_equal(model.predict(x), model.predict(x))


# --- what BatchNormalization computes ----------------------------------------------------------------------------------

GROUP = "What BatchNormalization computes"


def variance_estimator(x):
    bn = keras.layers.BatchNormalization()
    bn(tf.constant(x), training=True)
    momentum = float(bn.momentum)
    used = (np.array(bn.moving_variance.numpy(), "float64") - momentum) / (1 - momentum)
    count = x.size // x.shape[-1]
    biased = batch_statistics(x.astype("float64"))[1]
    candidates = {"biased": biased, "unbiased": biased * count / (count - 1)}
    near = [name for name, value in candidates.items() if np.allclose(used, value, rtol=2e-3)]
    if len(near) != 1:
        raise ValueError("the moving variance fits %s estimators" % len(near))
    return near[0]


@fact("moving_variance_2d", GROUP, "The estimator behind the moving variance of a 2-D input (batch, channels).")
def moving_variance_2d():
    return variance_estimator(data((8, 4)))


@fact("moving_variance_4d", GROUP, "The estimator behind the moving variance of a 4-D input (images).")
def moving_variance_4d():
    return variance_estimator(data((4, 2, 2, 4)))


@fact("bn_momentum", GROUP, "The default momentum of BatchNormalization.")
def bn_momentum():
    return float(keras.layers.BatchNormalization().momentum)


@fact("bn_epsilon", GROUP, "The default epsilon of BatchNormalization.")
def bn_epsilon():
    return float(keras.layers.BatchNormalization().epsilon)


@fact("mbv2_momentum", GROUP, "The momentum of every BatchNormalization in `keras.applications.MobileNetV2`.")
def mbv2_momentum():
    model = keras.applications.MobileNetV2(input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None)
    found = {float(layer.momentum) for layer in model.layers if "BatchNorm" in type(layer).__name__}
    if len(found) != 1:
        raise ValueError("the layers have different momenta: %s" % sorted(found))
    return found.pop()


def count_updates(bn, action):
    """How many updates did `action` make? The data are constant 5, so n updates leave 5 * (1 - momentum**n)."""
    action()
    left = 1 - float(np.array(bn.moving_mean.numpy()).mean()) / 5
    count = round(math.log(left) / math.log(float(bn.momentum)), 1)
    return int(count) if count == int(count) else count


def time_distributed():
    bn = keras.layers.BatchNormalization()
    inputs = keras.layers.Input((3, 4))
    return keras.Model(inputs, keras.layers.TimeDistributed(bn)(inputs)), bn


@fact(
    "time_distributed_fit_update_count",
    GROUP,
    "Updates that one step of `fit` makes to `TimeDistributed(BatchNormalization())` on three time steps.",
)
def time_distributed_fit_update_count():
    model, bn = time_distributed()
    x = np.full((8, 3, 4), 5, "float32")
    return count_updates(bn, lambda: compiled(model).fit(x, x, batch_size=8, verbose=0))


@fact(
    "time_distributed_call_update_count",
    GROUP,
    "Updates that `m(x, training=True)` makes to `TimeDistributed(BatchNormalization())` on three time steps.",
)
def time_distributed_call_update_count():
    model, bn = time_distributed()
    return count_updates(bn, lambda: eager_training_true(model, np.full((8, 3, 4), 5, "float32")))


@fact(
    "shared_bn_fit_update_count",
    GROUP,
    "Updates that one step of `fit` makes to a BatchNormalization called on two branches.",
)
def shared_bn_fit_update_count():
    bn = keras.layers.BatchNormalization()
    inputs = keras.layers.Input((4,))
    model = keras.Model(inputs, keras.layers.Concatenate()([bn(inputs), bn(inputs)]))
    x = np.full((8, 4), 5, "float32")
    y = np.zeros((8, 8), "float32")
    return count_updates(bn, lambda: compiled(model).fit(x, y, batch_size=8, verbose=0))


@fact("masked_bn_ignores_padding", GROUP, "A mask keeps padded time steps out of the moving statistics.")
def masked_bn_ignores_padding():
    bn = keras.layers.BatchNormalization()
    inputs = keras.layers.Input((4, 3))
    model = keras.Model(inputs, bn(keras.layers.Masking()(inputs)))
    x = np.zeros((2, 4, 3), "float32")
    x[:, :2] = 5
    eager_training_true(model, x)
    mean = float(np.array(bn.moving_mean.numpy()).mean()) / (1 - float(bn.momentum))
    if not (abs(mean - 5) < 0.05 or abs(mean - 2.5) < 0.05):
        raise ValueError("the batch mean was %.2f, neither of the valid steps nor of all" % mean)
    return abs(mean - 5) < 0.05


@fact(
    "lambda_closure_bn_tracked",
    GROUP,
    "The weights of a BatchNormalization used inside a Lambda are in `model.weights`.",
)
def lambda_closure_bn_tracked():
    bn = keras.layers.BatchNormalization()
    bn(tf.constant(data()), training=False)
    inputs = keras.layers.Input((4,))
    model = keras.Model(inputs, adder()(keras.layers.Lambda(lambda tensor: bn(tensor))(inputs)))
    return any(weight is bn.moving_mean for weight in model.weights)


# --- saving ------------------------------------------------------------------------------------------------------------

GROUP = "Are the moving statistics kept?"


def known_statistics(bn, offset=0.0):
    bn.moving_mean.assign(np.arange(1, 5, dtype="float32") + offset)
    bn.moving_variance.assign(np.arange(2, 6, dtype="float32") + offset)


def has_known_statistics(bn, offset=0.0):
    mean, variance = layer_statistics(bn)
    return bool(np.allclose(mean, np.arange(1, 5) + offset) and np.allclose(variance, np.arange(2, 6) + offset))


def batch_normalization_of(model):
    found = [layer for layer in model.layers if "BatchNorm" in type(layer).__name__]
    if len(found) != 1:
        raise ValueError("%s BatchNormalization layers found in the loaded model" % len(found))
    return found[0]


def kept(file, save, load_back):
    model, bn = functional()
    known_statistics(bn)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, file)
        save(model, path)
        return has_known_statistics(load_back(path))


def kept_by_weights(file):
    def load_back(path):
        model, bn = functional()
        model.load_weights(path)
        return bn

    return kept(file, lambda model, path: model.save_weights(path), load_back)


def kept_by_model(file, **kwargs):
    def load_back(path):
        return batch_normalization_of(keras.models.load_model(path, compile=False))

    return kept(file, lambda model, path: model.save(path, **kwargs), load_back)


@fact("weights_h5_keeps_statistics", GROUP, '`save_weights("x.weights.h5")` and `load_weights` keep the statistics.')
def weights_h5_keeps_statistics():
    return kept_by_weights("model.weights.h5")


@fact("weights_checkpoint_keeps_statistics", GROUP, "`tf.train.Checkpoint(model=model)` keeps the statistics.")
def weights_checkpoint_keeps_statistics():
    def load_back(path):
        model, bn = functional()
        tf.train.Checkpoint(model=model).restore(path + "-1")
        return bn

    return kept("checkpoint", lambda model, path: tf.train.Checkpoint(model=model).save(path), load_back)


@fact("keras_file_keeps_statistics", GROUP, '`save("x.keras")` and `load_model` keep the statistics.')
def keras_file_keeps_statistics():
    return kept_by_model("model.keras")


@fact("h5_file_keeps_statistics", GROUP, '`save("x.h5")` and `load_model` keep the statistics.')
def h5_file_keeps_statistics():
    return kept_by_model("model.h5")


@fact("savedmodel_keeps_statistics", GROUP, '`save("folder", save_format="tf")` and `load_model` keep the statistics.')
def savedmodel_keeps_statistics():
    return kept_by_model("model", save_format="tf")


@fact("clone_model_keeps_statistics", GROUP, "`clone_model` keeps the statistics.")
def clone_model_keeps_statistics():
    model, bn = functional()
    known_statistics(bn)
    return has_known_statistics(batch_normalization_of(keras.models.clone_model(model)))


@fact(
    "h5_weights_of_frozen_base_load_right",
    GROUP,
    '`save_weights("x.weights.h5")` with a frozen base model, `load_weights` with an unfrozen one: all land in their place.',
)
def h5_weights_of_frozen_base_load_right():
    def two():
        first, second = keras.layers.BatchNormalization(), keras.layers.BatchNormalization()
        inner_inputs = keras.layers.Input((4,))
        base = keras.Model(inner_inputs, second(first(inner_inputs)))
        inputs = keras.layers.Input((4,))
        return keras.Model(inputs, adder()(base(inputs))), base, first, second

    model, base, first, second = two()
    known_statistics(first)
    known_statistics(second, offset=10.0)
    base.trainable = False
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.weights.h5")
        model.save_weights(path)
        other, _, first, second = two()
        other.load_weights(path)
    return has_known_statistics(first) and has_known_statistics(second, offset=10.0)


# --- export ------------------------------------------------------------------------------------------------------------

GROUP = "What an exported graph serves"


def own_exporter(model, folder):
    if hasattr(model, "export"):
        model.export(folder)
    else:
        tf.saved_model.save(model, folder)


def serves_batch_statistics(save, build, phase=None, head=True):
    if phase is not None:
        keras.backend.set_learning_phase(phase)
    model, bn = build()
    x = data((8,) + tuple(model.input_shape[1:]))
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        loaded = tf.compat.v2.saved_model.load(folder)
        serve = loaded.signatures["serving_default"]
        name = list(serve.structured_input_signature[1])[0]
        return output_uses_batch_statistics(
            bn, x, lambda: list(serve(**{name: tf.constant(x)}).values())[0].numpy(), head=head
        )


@fact(
    "savedmodel_serving_uses_batch_stats",
    GROUP,
    "The SavedModel of the model's own exporter (`Model.export` where it exists, else `tf.saved_model.save`) serves batch statistics.",
)
def savedmodel_serving_uses_batch_stats():
    return serves_batch_statistics(own_exporter, functional)


@fact(
    "savedmodel_serving_uses_batch_stats_lp1",
    GROUP,
    "With learning phase 1, the SavedModel of the model's own exporter serves batch statistics.",
    task="savedmodel_serving_uses_batch_stats_lp1",
)
def savedmodel_serving_uses_batch_stats_lp1():
    return serves_batch_statistics(own_exporter, functional, phase=1)


@fact(
    "tf_saved_model_save_uses_batch_stats",
    GROUP,
    "`tf.saved_model.save` writes a SavedModel that serves batch statistics.",
)
def tf_saved_model_save_uses_batch_stats():
    return serves_batch_statistics(lambda model, folder: tf.saved_model.save(model, folder), functional)


@fact(
    "tf_saved_model_save_uses_batch_stats_lp1",
    GROUP,
    "With learning phase 1, `tf.saved_model.save` writes a SavedModel that serves batch statistics.",
    task="tf_saved_model_save_uses_batch_stats_lp1",
)
def tf_saved_model_save_uses_batch_stats_lp1():
    return serves_batch_statistics(lambda model, folder: tf.saved_model.save(model, folder), functional, phase=1)


@fact(
    "resizing_serving_uses_batch_stats",
    GROUP,
    "Resizing in front of BatchNormalization: the model's own exporter writes a SavedModel that serves batch statistics.",
)
def resizing_serving_uses_batch_stats():
    return serves_batch_statistics(
        own_exporter, lambda: in_front_of_batch_normalization(preprocessing("Resizing")(4, 4)), head=False
    )


@fact(
    "resizing_explicit_false_signature_uses_batch_stats",
    GROUP,
    "Resizing in front of BatchNormalization, and a signature of your own that calls `m(x, training=False)`, saved by `tf.saved_model.save`: it serves batch statistics.",
)
def resizing_explicit_false_signature_uses_batch_stats():
    def save(model, folder):
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 4], tf.float32)])
        def serve(batch):
            return {"output": model(batch, training=False)}

        tf.saved_model.save(model, folder, signatures=serve)

    return serves_batch_statistics(
        save, lambda: in_front_of_batch_normalization(preprocessing("Resizing")(4, 4)), head=False
    )


def litert_of(converter, model, folder):
    """The path of a SavedModel by the model's own exporter, or the model itself, as a LiteRT file; return its bytes."""
    lite = tf.lite.TFLiteConverter
    if converter == "from_keras_model":
        return lite.from_keras_model(model).convert()
    own_exporter(model, folder)
    return lite.from_saved_model(folder).convert()


def litert_uses_batch_statistics(converter, build, head=True):
    model, bn = build()
    x = data((8,) + tuple(model.input_shape[1:]))
    with tempfile.TemporaryDirectory() as folder:
        interpreter = tf.lite.Interpreter(model_content=litert_of(converter, model, folder))
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()

    def run():
        interpreter.set_tensor(place, x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return output_uses_batch_statistics(bn, x, run, head=head)


def resizing_in_front():
    return in_front_of_batch_normalization(preprocessing("Resizing")(4, 4))


for name, told, build, head in (
    ("plain", "A LiteRT file", functional, True),
    ("resizing", "Resizing in front of BatchNormalization: a LiteRT file", resizing_in_front, False),
):
    for converter, source in (
        ("from_keras_model", "by `from_keras_model`"),
        ("from_saved_model", "by the model's own exporter and `from_saved_model`"),
    ):
        register(
            "litert_%s_%s_uses_batch_stats" % (name, converter),
            GROUP,
            "%s %s answers with batch statistics." % (told, source),
            functools.partial(litert_uses_batch_statistics, converter, build, head),
            task="litert",
        )


# --- distribution ------------------------------------------------------------------------------------------------------

GROUP = "Two replicas under MirroredStrategy"


def mirrored(index, **kwargs):
    """One step on two replicas fed different halves; say whose mean (index 0) or variance (index 1) is saved."""
    sign = np.array([[1], [-1]] * 4, "float32") * np.ones((1, 4), "float32")
    halves = np.stack([2 + sign, 6 + 2 * sign])
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        bn = keras.layers.BatchNormalization(**kwargs)
        bn.build((None, 4))

    def replica_step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return bn(tf.gather(tf.constant(halves), replica), training=True)

    @tf.function
    def step():
        return (strategy.run if hasattr(strategy, "run") else strategy.experimental_run_v2)(replica_step)

    step()
    # Reading the variable answers differently inside and outside of strategy.scope(); what is saved is what remains.
    name = ("moving_mean", "moving_variance")[index]
    with tempfile.TemporaryDirectory() as folder:
        saved = tf.train.Checkpoint(bn=bn).save(os.path.join(folder, "checkpoint"))
        reader = tf.train.load_checkpoint(saved)
        keys = [key for key in reader.get_variable_to_shape_map() if name in key and key.endswith("VARIABLE_VALUE")]
        if len(keys) != 1:
            raise ValueError("the checkpoint has %s entries for %s" % (len(keys), name))
        value = float(reader.get_tensor(keys[0]).mean())
    momentum = float(bn.momentum)
    seen = (value - momentum * index) / (1 - momentum)
    candidates = [
        {"first replica": 2, "second replica": 6, "whole batch": 4},
        {"first replica": 1, "second replica": 4, "average of the replicas": 2.5, "whole batch": 6.5},
    ][index]
    near = [name for name, wanted in candidates.items() if abs(seen - wanted) < 0.02]
    if len(near) != 1:
        raise ValueError("the saved value stands for %.3f, which fits none of %s" % (seen, sorted(candidates)))
    return near[0]


@fact("mirrored_mean", GROUP, "Whose mean a checkpoint keeps after a step of a plain BatchNormalization.")
def mirrored_mean():
    return mirrored(0)


@fact("mirrored_variance", GROUP, "Whose variance a checkpoint keeps after a step of a plain BatchNormalization.")
def mirrored_variance():
    return mirrored(1)


@fact(
    "mirrored_synchronized_mean",
    GROUP,
    "Whose mean a checkpoint keeps after a step of `BatchNormalization(synchronized=True)`.",
)
def mirrored_synchronized_mean():
    return mirrored(0, synchronized=True)


@fact(
    "mirrored_synchronized_variance",
    GROUP,
    "Whose variance a checkpoint keeps after a step of `BatchNormalization(synchronized=True)`.",
)
def mirrored_synchronized_variance():
    return mirrored(1, synchronized=True)


def step_under_mirrored_strategy(optimizer, build):
    """One weight from 0 with a gradient of -1 in each of two replicas: where `apply_gradients` leaves it."""
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with strategy.scope():
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        layer.build((None, 1))
        optimizer = optimizer()
        if build and hasattr(optimizer, "build"):
            optimizer.build(layer.trainable_variables)

    @tf.function
    def step():
        def replica_step():
            optimizer.apply_gradients([(tf.constant([[-1.0]]), layer.trainable_variables[0])])

        (strategy.run if hasattr(strategy, "run") else strategy.experimental_run_v2)(replica_step)

    step()
    return float(np.array(layer.get_weights()[0]).sum())


@fact(
    "mirrored_apply_gradients_adds_up",
    GROUP,
    "`apply_gradients` in `strategy.run` adds up the replicas' gradients.",
    task="a step under MirroredStrategy",
)
def mirrored_apply_gradients_adds_up():
    moved = step_under_mirrored_strategy(lambda: keras.optimizers.SGD(1.0), build=True)
    if moved not in (1.0, 2.0):
        raise ValueError("two gradients of -1 move a weight by %s" % moved)
    return moved == 2.0


@fact(
    "mirrored_unbuilt_optimizer_trains",
    GROUP,
    "An Adam that is built in the traced step, outside of `strategy.scope()`, trains.",
    task="an unbuilt optimizer under MirroredStrategy",
)
def mirrored_unbuilt_optimizer_trains():
    return step_under_mirrored_strategy(lambda: keras.optimizers.Adam(1.0), build=False) > 0.9


def fit_as_worker(index, cluster, answers):
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}})
    try:
        strategies = tf.distribute if hasattr(tf.distribute, "MultiWorkerMirroredStrategy") else tf.distribute.experimental
        with strategies.MultiWorkerMirroredStrategy().scope():
            model = compiled(keras.Sequential([start_of_sequential((4,)), keras.layers.Dense(1)]), 0.01)
        x = data((32, 4))
        model.fit(tf.data.Dataset.from_tensor_slices((x, targets(x))).batch(8), steps_per_epoch=2, verbose=0)
        answers.put(("", ""))
    except Exception as error:
        traceback.print_exc()
        answers.put((type(error).__name__, str(error)))


@fact("fit_under_two_workers_runs", GROUP, "`fit` runs under MultiWorkerMirroredStrategy with two workers.", task="fit")
def fit_under_two_workers_runs(limit=150):
    """Two forked processes over loopback. The first exception of either is the answer; the other is not waited for."""
    with contextlib.closing(socket.socket()) as one, contextlib.closing(socket.socket()) as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        cluster = ["127.0.0.1:%d" % each.getsockname()[1] for each in (one, other)]
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    workers = [fork.Process(target=fit_as_worker, args=(index, cluster, answers)) for index in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in workers:
            kind, text = answers.get(timeout=limit)
            if kind:
                raise type(kind, (Exception,), {})(text)
    except queue.Empty:
        raise RuntimeError("two workers did not end within %s s" % limit)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return True


# --- recurrent layers --------------------------------------------------------------------------------------------------

GROUP = "Recurrent layers"


def recurrent_layer_drops(layer, argument):
    """Two calls in the training phase give two outputs. Without a drop they are equal: nothing else is random."""
    rnn = getattr(keras.layers, layer)(16, **{argument: 0.5})
    x = tf.constant(data((8, 5, 4)) / 5)
    return bool(np.any(np.array(rnn(x, training=True)) != np.array(rnn(x, training=True))))


for layer, argument in itertools.product(("SimpleRNN", "GRU", "LSTM"), ("dropout", "recurrent_dropout")):
    register(
        "%s_%s_drops" % (layer.lower(), argument),
        GROUP,
        "`%s(16, %s=0.5)` drops when it is called with `training=True`." % (layer, argument),
        functools.partial(recurrent_layer_drops, layer, argument),
    )


# --- the optimizer -----------------------------------------------------------------------------------------------------

GROUP = "Gradient accumulation"


@fact(
    "accumulation_leaves_adam_its_first_step",
    GROUP,
    "`Adam(1.0, gradient_accumulation_steps=4)` moves a weight by 1 at its first update.",
)
def accumulation_leaves_adam_its_first_step():
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    layer.build((None, 1))
    optimizer = keras.optimizers.Adam(1.0, gradient_accumulation_steps=4)
    for _ in range(4):
        optimizer.apply_gradients([(tf.constant([[-1.0]]), layer.trainable_variables[0])])
    return bool(abs(float(layer.get_weights()[0].sum()) - 1.0) < 0.01)


# --- a run that goes on ------------------------------------------------------------------------------------------------

GROUP = "What a resumed run knows"


@fact("checkpoint_takes_an_optimizer", GROUP, "`tf.train.Checkpoint(model=model, optimizer=optimizer)` is accepted.")
def checkpoint_takes_an_optimizer():
    tf.train.Checkpoint(model=functional()[0], optimizer=keras.optimizers.Adam())
    return True


@fact(
    "checkpoint_keeps_the_seed_of_dropout",
    GROUP,
    "After `tf.train.Checkpoint(model=model).restore(path)`, Dropout draws what it drew after the save.",
)
def checkpoint_keeps_the_seed_of_dropout():
    inputs = keras.layers.Input((64,))
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(inputs))
    ones = tf.ones((4, 64))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tf.train.Checkpoint(model=model)
        path = checkpoint.write(os.path.join(folder, "checkpoint"))
        first = np.array(model(ones, training=True))
        checkpoint.restore(path)
        return bool((np.array(model(ones, training=True)) == first).all())


@fact(
    "by_name_passes_over_other_names",
    GROUP,
    '`load_weights("model.h5", by_name=True)` into a layer of another name loads nothing and raises nothing.',
)
def by_name_passes_over_other_names():
    def model(name):
        return keras.Sequential([start_of_sequential((4,)), keras.layers.Dense(2, name=name)])

    one, other = model("one"), model("other")
    before = other.get_weights()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.h5")
        one.save(path)
        other.load_weights(path, by_name=True)
    return bool((other.get_weights()[0] == before).all())


@fact(
    "backup_and_restore_knows_the_epoch",
    GROUP,
    "`fit` with `BackupAndRestore`, ended in its second epoch of three, starts anew at the second.",
)
def backup_and_restore_knows_the_epoch():
    class End(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            begun.append(epoch)
            if ends and epoch == 1:
                raise KeyboardInterrupt

    callbacks = keras.callbacks
    if not hasattr(callbacks, "BackupAndRestore"):
        callbacks = callbacks.experimental
    begun, ends = [], True
    x = data()
    with tempfile.TemporaryDirectory() as folder:
        for ends in (True, False):
            del begun[:]
            model = sequential()[0]
            model.compile("sgd", "mse")
            try:
                model.fit(
                    x, targets(x), epochs=3, verbose=0, callbacks=[callbacks.BackupAndRestore(folder + "/backup"), End()]
                )
            except KeyboardInterrupt:
                pass
    return begun[0] == 1


# --- names -------------------------------------------------------------------------------------------------------------

GROUP = "Names that came and went"


@fact("has_set_learning_phase", GROUP, "`keras.backend.set_learning_phase` exists.")
def has_set_learning_phase():
    return hasattr(keras.backend, "set_learning_phase")


@fact("has_learning_phase", GROUP, "`keras.backend.learning_phase` exists.")
def has_learning_phase():
    return hasattr(keras.backend, "learning_phase")


@fact("has_learning_phase_scope", GROUP, "`keras.backend.learning_phase_scope` exists.")
def has_learning_phase_scope():
    return hasattr(keras.backend, "learning_phase_scope")


@fact("has_updates", GROUP, "`Model.updates` exists.")
def has_updates():
    return hasattr(keras.Model, "updates")


@fact("has_get_updates_for", GROUP, "`Model.get_updates_for` exists.")
def has_get_updates_for():
    return hasattr(keras.Model, "get_updates_for")


@fact("updates_count", GROUP, "Entries in `model.updates` of a Functional model with one BatchNormalization.")
def updates_count():
    return len(functional()[0].updates)


@fact("has_model_export", GROUP, "`Model.export` exists.")
def has_model_export():
    return hasattr(keras.Model, "export")


@fact("has_group_normalization", GROUP, "`keras.layers.GroupNormalization` exists.")
def has_group_normalization():
    return hasattr(keras.layers, "GroupNormalization")


def accepts(argument, value):
    try:
        keras.layers.BatchNormalization(**{argument: value})
    except (TypeError, ValueError):
        return False
    return True


for argument, value in (("synchronized", True), ("renorm", True), ("virtual_batch_size", 2), ("fused", False)):
    register(
        "bn_accepts_" + argument,
        GROUP,
        "`BatchNormalization(%s=%s)` is accepted." % (argument, value),
        functools.partial(accepts, argument, value),
    )


# --- running -----------------------------------------------------------------------------------------------------------


def describe(error):
    """An exception in one line, without what differs from machine to machine: addresses, folders, lines of code."""
    text = str(error)
    # AutoGraph puts the stack into the message, two lines a frame.
    text = re.sub(r'\n *(File "[^"\n]*", line \d+, in [^\n]*|/[^\n]*\.py:\d+ [^\n]*)\n[^\n]*', "", text)
    text = re.sub(r"\x1b\[\d*m", "", text.replace("in user code:", "").replace("in converted code:", ""))
    text = " ".join(text.split())
    name = type(error).__name__
    if not text.startswith(name + ":"):
        text = "%s: %s" % (name, text)
    text = re.sub(r"0x[0-9a-f]+", "0x...", text)
    text = re.sub(re.escape(tempfile.gettempdir()) + r"[\w./-]*", "<folder>", text)
    text = re.sub(r"(/[\w.+-]+){2,}/", ".../", text)
    return text if len(text) <= 240 else text[:237] + "..."


def answer(name):
    """Ask one fact. Whatever the probe raises is its answer."""
    try:
        value = FACTS[name]["probe"]()
    except Exception as error:
        traceback.print_exc()
        return {"error": describe(error)}
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, float, str)):
        return value
    raise TypeError("%s answered with a %s" % (name, type(value).__name__))


def in_child(names, folder, limit):
    """Answer facts in a forked process. A crash is the answer of the fact under way; the rest are asked again."""
    path = tempfile.mkstemp(dir=folder)[1]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            signal.alarm(limit)
            start()
            with open(path, "w") as out:
                for name in names:
                    out.write(json.dumps([name, answer(name)]) + "\n")
                    out.flush()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid, names, path


def ask_forked(names, jobs, folder, limit=900):
    """Answer facts, each task in a process of its own, `jobs` of them at a time."""
    tasks = {}
    for name in names:
        tasks.setdefault(FACTS[name]["task"], []).append(name)
    waiting, running, answers = list(tasks.values()), {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            pid, asked, path = in_child(waiting.pop(0), folder, limit)
            running[pid] = (asked, path)
        pid, status = os.wait()
        asked, path = running.pop(pid)
        with open(path) as file:
            got = [json.loads(line) for line in file if line.endswith("\n")]
        answers.update(got)
        left = asked[len(got) :]
        if os.WIFSIGNALED(status) and left:
            if os.WTERMSIG(status) == signal.SIGALRM:
                raise RuntimeError("%s did not answer within %s s" % (left[0], limit))
            answers[left[0]] = {"error": "the process was ended by signal %s" % os.WTERMSIG(status)}
            if left[1:]:
                waiting.insert(0, left[1:])
        elif left:
            with open(os.path.join(folder, "log"), errors="replace") as file:
                raise RuntimeError("the process that asked %s failed:\n%s" % (left[0], file.read()[-3000:]))
    return answers


def ask_here(names):
    """Answer facts in this process, those that set the learning phase last."""
    start()
    answers = {}
    task = None
    for name in sorted(names, key=lambda name: "lp1" in name or "lp0" in name):
        if FACTS[name]["task"] != task:
            keras.backend.clear_session()
        task = FACTS[name]["task"]
        answers[name] = answer(name)
    return answers


def ask(names, flavour="keras", jobs=2):
    """Answer facts about the installed TensorFlow and say which release that is."""
    began = time.time()
    load(flavour)
    if sys.platform.startswith("linux"):
        with tempfile.TemporaryDirectory() as folder:
            answers = ask_forked(names, jobs, folder)
            if os.environ.get("PHASEBOOK_PROBE_LOG"):
                os.replace(os.path.join(folder, "log"), os.environ["PHASEBOOK_PROBE_LOG"])
    else:
        answers = ask_here(names)
    return {
        "tensorflow": tf.__version__,
        "keras": keras_version(),
        "python": platform.python_version(),
        "seconds": round(time.time() - began, 1),
        "cells": {name: answers[name] for name in names},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="the JSON file to write")
    parser.add_argument("--keras", choices=("keras", "tf_keras"), default="keras", help="which Keras to ask")
    parser.add_argument("--facts", nargs="+", default=list(FACTS), help="fact ids; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args()
    unknown = sorted(set(options.facts) - set(FACTS))
    if unknown:
        parser.error("there is no fact %s" % ", ".join(unknown))
    result = ask(options.facts, options.keras, options.jobs)
    with open(options.out, "w") as out:
        json.dump(result, out, indent=1, sort_keys=True)


if __name__ == "__main__":
    main()
