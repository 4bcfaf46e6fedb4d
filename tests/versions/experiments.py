"""The article's experiments, C1 to C14, replayed on whichever TensorFlow is installed.

    python experiments.py OUT.json [--data digits.npz] [--only stuck_loop ...] [--seed 0]

One plain file for every release from TensorFlow 1.14 (v2 behaviour, Python 3.7) to today's. It writes one JSON file:
version, seed, date, and every curve. Initial weights and batches come from NumPy alone, so every release starts from
the same numbers and sees the same images in the same order: what differs afterwards is the release.

The images are scikit-learn's digits (1,797 scans), enlarged to 32x32; the question is "odd or even?". `digits.npz`
holds them as `images` (n, 8, 8) and `labels` (n,) where scikit-learn is not installed.
"""

import argparse
import contextlib
import datetime
import gc
import io
import json
import os
import platform
import shutil
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF2_BEHAVIOR", "1")  # TensorFlow 1.14 and 1.15 read it on import
import numpy as np
import tensorflow as tf

if tf.__version__.startswith("1."):
    tf.compat.v1.enable_v2_behavior()
keras = tf.keras

BATCH = 32
STEPS = 45  # batches in an epoch: 1,440 training images


# --- data, weights, batches: the same numbers on every release ---


def load_digits(path=None):
    """Return images (n, 8, 8) in 0..1, float32, and labels (n,), shuffled once and for all."""
    if path is None:
        from sklearn.datasets import load_digits as load

        digits = load()
        images, labels = digits.images, digits.target
    else:
        with np.load(path) as file:
            images, labels = file["images"], file["labels"]
    order = np.random.RandomState(0).permutation(len(images))
    return (images[order] / 16).astype("float32"), labels[order].astype("int32")


def enlarge(images):
    """8x8 scans as the 32x32 RGB images in -1..1 that MobileNetV2 expects."""
    images = images.repeat(4, axis=1).repeat(4, axis=2)[..., None] * 2 - 1
    return np.concatenate([images] * 3, axis=-1)


def odd_or_even(images, labels):
    """The article's two-class question: ((x_train, y_train), (x_val, y_val)), 1,440 and 357 images."""
    x, y, cut = enlarge(images), labels % 2, BATCH * STEPS
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def flatten(model):
    """All layers of a model that hold no other layers, in order."""
    layers = []
    for layer in model.layers:
        layers += flatten(layer) if hasattr(layer, "layers") else [layer]
    return layers


def batch_norms(model):
    return [layer for layer in flatten(model) if "BatchNormalization" in type(layer).__name__]


def initialise(model, seed):
    """Keras's own default, Glorot uniform, but drawn by NumPy: the same weights on every release."""
    random = np.random.RandomState(seed)
    for layer in flatten(model):
        weights = layer.get_weights()
        if "BatchNormalization" in type(layer).__name__:
            gamma = np.ones_like(weights[0])
            layer.set_weights([gamma, 0 * gamma, 0 * gamma, gamma])  # gamma, beta, moving mean, moving variance
        elif weights:
            shape = weights[0].shape
            field = int(np.prod(shape[:-2]))
            limit = np.sqrt(6 / (field * (shape[-2] + shape[-1])))
            kernel = random.uniform(-limit, limit, shape).astype("float32")
            layer.set_weights([kernel] + [0 * bias for bias in weights[1:]])


def forget_models():
    """TensorFlow 1.14 keeps all models in one graph and copies it for each that is compiled: 3 GB for the second."""
    keras.backend.clear_session()
    gc.collect()


def batches(x, y, steps, seed):
    """Yield `steps` batches, reshuffled every epoch, the same on every release."""
    done, epoch = 0, 0
    while done < steps:
        order = np.random.RandomState(1000 * seed + epoch).permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            if done == steps:
                return
            rows = order[start : start + BATCH]
            yield tf.constant(x[rows]), tf.constant(y[rows])
            done += 1
        epoch += 1


# --- models and loops ---


def mobilenet(units=2, activation="softmax", weights=None, momentum=None):
    """The article's model: MobileNetV2, global average pooling, one Dense layer."""
    base = keras.applications.MobileNetV2(input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=weights)
    if momentum is not None:
        for layer in batch_norms(base):
            layer.momentum = momentum
    head = keras.layers.Dense(units, activation=activation)
    return keras.Sequential([base, keras.layers.GlobalAveragePooling2D(), head])


def rmsprop(learning_rate=1e-3):
    return keras.optimizers.RMSprop(learning_rate)


class Loop:
    """The article's own training loop: tf.function, GradientTape, and `forward` says how the model is called."""

    def __init__(self, model, forward):
        self.model, self.optimizer, self.fresh = model, rmsprop(), None
        cross_entropy = keras.losses.SparseCategoricalCrossentropy()  # expects probabilities, as in the article

        @tf.function
        def step(image, label):
            with tf.GradientTape() as tape:
                predictions = forward(image)
                loss = cross_entropy(label, predictions)
            gradients = tape.gradient(loss, model.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return loss, predictions

        self.step = step

    def run(self, x, y, steps, seed, learning_rate=1e-3, watch=None):
        """Train; return loss, training accuracy and output spread over the batch, one value a step."""
        self.restart(learning_rate)
        curve = {"loss": [], "accuracy": [], "spread": []}
        for number, (image, label) in enumerate(batches(x, y, steps, seed)):
            loss, predictions = self.step(image, label)
            predictions = predictions.numpy()
            curve["loss"].append(float(loss))
            curve["accuracy"].append(float(np.mean(predictions.argmax(-1) == label.numpy())))
            curve["spread"].append(float(np.ptp(predictions, axis=0).max()))
            if watch is not None:
                watch(number + 1)
        return curve

    def restart(self, learning_rate):
        """Forget the optimizer's state, so that one traced step serves many runs."""
        variables = self.optimizer.variables
        for variable in variables() if callable(variables) else variables:
            if "learning_rate" not in variable.name:
                variable.assign(tf.zeros_like(variable))
        self.optimizer.learning_rate.assign(learning_rate)


def compiled(model, learning_rate=1e-3):
    model.compile(
        optimizer=rmsprop(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["sparse_categorical_accuracy"],
    )
    return model


def fit(model, train, val, epochs, seed, watch=None):
    """`fit` one epoch at a time over batches that every release sees in the same order."""
    curve = {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
    callbacks = []
    if watch is not None:
        seen = [0]

        def after_batch(batch, logs=None):
            seen[0] += 1
            watch(seen[0])

        callbacks = [keras.callbacks.LambdaCallback(on_batch_end=after_batch)]
    for epoch in range(epochs):
        order = np.random.RandomState(1000 * seed + epoch).permutation(len(train[0]))
        history = model.fit(
            train[0][order], train[1][order], batch_size=BATCH, shuffle=False, epochs=1, verbose=0,
            validation_data=val, callbacks=callbacks,
        ).history
        for key in curve:
            curve[key].append(float(history[key.replace("accuracy", "sparse_categorical_accuracy")][0]))
    return curve


# --- measuring: what the moving statistics are, and what each phase answers ---


def statistics(model):
    """Moving mean and moving variance of every BatchNormalization layer."""
    return [(layer.get_weights()[2], layer.get_weights()[3]) for layer in batch_norms(model)]


def put_statistics(model, values):
    for layer, (mean, variance) in zip(batch_norms(model), values):
        layer.set_weights(layer.get_weights()[:2] + [mean, variance])


def moved(before, after):
    """Mean absolute change of moving mean and moving variance, one pair a layer."""
    return [
        [float(np.abs(a[0] - b[0]).mean()), float(np.abs(a[1] - b[1]).mean())] for b, a in zip(before, after)
    ]


def still(before, after):
    """Whether no statistic changed at all."""
    return max(max(pair) for pair in moved(before, after)) == 0


def both_phases(model, x):
    """The model's answers to one batch in each phase, asked for explicitly; its statistics are put back."""
    before = statistics(model)
    inference = np.asarray(model(tf.constant(x), training=False))
    training = np.asarray(model(tf.constant(x), training=True))
    put_statistics(model, before)
    return {"inference": inference, "training": training}


def phase_of(answer, phases):
    """Name the phase whose answer this is: "inference", "training", or "neither"."""
    gaps = {phase: float(np.abs(np.asarray(answer) - expected).max()) for phase, expected in phases.items()}
    phase = min(gaps, key=gaps.get)
    other = max(gaps, key=gaps.get)
    return phase if gaps[phase] < 1e-4 and gaps[other] > 100 * gaps[phase] else "neither"


def accuracy(answer, y):
    return float(np.mean(np.asarray(answer).argmax(-1) == y))


def spread(answer):
    return float(np.ptp(np.asarray(answer), axis=0).max())


def reestimate(model, x):
    """Set every layer's statistics to those of one training-phase pass over x; change nothing else."""
    put_statistics(model, [(0 * mean, 0 * variance) for mean, variance in statistics(model)])
    model(tf.constant(x), training=True)  # leaves (1 - momentum) * the batch's statistics
    scale = [1 - layer.momentum for layer in batch_norms(model)]
    put_statistics(model, [(mean / s, variance / s) for (mean, variance), s in zip(statistics(model), scale)])


def attempt(action):
    """The action's answer, or the error it raised, as text."""
    try:
        return action()
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        # TensorFlow's graph errors open with a heading; the reason comes later.
        line = next((line for line in lines if "Received a label" in line), lines[0])
        return {"error": "{}: {}".format(type(error).__name__, line.strip()[:200])}


# --- the experiments ---


def pretrained(digits, seed, steps=250, imagenet=False):
    """C1, C2: with pretrained statistics, `fit` and a loop that never says `training` both work."""
    images, labels = digits
    old, new = labels >= 5, labels < 5
    if not imagenet:
        # Another task on other digits: which of 5 to 9? Momentum 0.9, so that its statistics are good in 8 epochs.
        teacher = compiled(mobilenet(units=5, momentum=0.9))
        initialise(teacher, seed)
        x, y = enlarge(images[old]), labels[old] - 5
        teacher_curve = fit(teacher, (x[:800], y[:800]), (x[800:], y[800:]), 8, seed)
        learned = teacher.layers[0].get_weights()
        forget_models()
    # Momentum 0.99: these 250 steps are to the statistics what 2,500 of the article's 11,620 were at 0.999.
    model = mobilenet(weights="imagenet" if imagenet else None, momentum=0.99)
    if imagenet:
        learned = model.layers[0].get_weights()
    x, y = enlarge(images[new]), labels[new] % 2
    train, val = (x[:736], y[:736]), (x[736:], y[736:])
    out = {} if imagenet else {"teacher": teacher_curve}

    def start():
        initialise(model, seed)
        model.layers[0].set_weights(learned)

    loop = Loop(model, lambda image: model(image))
    start()
    out["before"] = accuracy(model.predict(val[0], verbose=0), val[1])
    before = statistics(model)
    out["loop"] = loop.run(train[0], train[1], steps, seed, learning_rate=1e-4)
    out["loop_val_accuracy"] = accuracy(model.predict(val[0], verbose=0), val[1])
    out["loop_moved"] = moved(before, statistics(model))
    start()
    out["fit"] = fit(compiled(model, 1e-4), train, val, (steps + 22) // 23, seed)
    return out


def stuck_loop(digits, seed, steps=300, long_steps=600, learning_rates=(1e-5, 1e-4, 1e-2), lr_steps=100):
    """C3, C4, C5, C8: the same loop with weights=None; learning rates; initial weights; statistics; the cure."""
    train, val = odd_or_even(*digits)
    model = mobilenet()
    out = {"initial": initial_weights(model)}
    loop = Loop(model, lambda image: model(image))

    initialise(model, seed)
    out["signal"] = signal(model, train[0][:BATCH])
    before = statistics(model)
    out["stuck"] = loop.run(train[0], train[1], long_steps, seed)
    answer = model.predict(train[0][:BATCH], verbose=0)
    out["stuck_rows"] = [[float(p) for p in row] for row in answer[:10]]
    out["stuck_spread"] = spread(answer)
    out["stuck_moved"] = moved(before, statistics(model))
    out["stuck_val_accuracy"] = accuracy(model.predict(val[0], verbose=0), val[1])

    out["learning_rates"] = {}
    for rate in learning_rates:
        initialise(model, seed)
        out["learning_rates"]["%g" % rate] = loop.run(train[0], train[1], lr_steps, seed, learning_rate=rate)
    cure = Loop(model, lambda image: model(image, training=True))
    initialise(model, seed)
    out["cure"] = cure.run(train[0], train[1], steps, seed)
    out["cure_moved"] = moved(before, statistics(model))
    out["cure_val_accuracy"] = accuracy(model.predict(val[0], verbose=0), val[1])
    reestimate(model, train[0])
    out["cure_val_accuracy_reestimated"] = accuracy(model.predict(val[0], verbose=0), val[1])
    return out


def signal(model, x):
    """C3: how much the images of one batch differ at the output of each BatchNormalization layer, in each phase."""
    base = model.layers[0]
    norms = batch_norms(base)
    taps = keras.Model(base.inputs, [layer.output for layer in norms])
    before = statistics(model)
    out = {"layers": [layer.name for layer in norms]}
    for phase in (False, True):
        outputs = taps(tf.constant(x), training=phase)
        out["training" if phase else "inference"] = [float(np.std(np.asarray(o), axis=0).mean()) for o in outputs]
    put_statistics(model, before)
    return out


def initial_weights(model):
    """C5: each kernel's mean and standard deviation as the release drew them, over what Glorot's formula says."""
    rows = []
    for layer in flatten(model):
        weights = layer.get_weights()
        if weights and "BatchNormalization" not in type(layer).__name__:
            shape = weights[0].shape
            expected = np.sqrt(2 / (np.prod(shape[:-2]) * (shape[-2] + shape[-1])))
            rows.append([layer.name, int(weights[0].size), float(weights[0].mean() / expected),
                         float(weights[0].std() / expected)])
    return rows


def scratch_fit(digits, seed, epochs=6, long_epochs=16):
    """C6, C7, C8: `fit` from scratch, its lag, what share of the initial statistics is left, and two cures."""
    train, val = odd_or_even(*digits)
    out = {}

    # Two runs that differ only in the statistics they start from. The training phase never reads them, so the
    # difference that is left after n batches is the share of the initial value that is left, and nothing else.
    traces = []
    for offset in (0, 1):
        trace, model, norms = [], None, None
        forget_models()
        model = compiled(mobilenet())  # with an optimizer of its own
        initialise(model, seed)
        put_statistics(model, [(mean + offset, variance + offset) for mean, variance in statistics(model)])

        def watch(number, trace=trace):
            if number % 15 == 0:
                trace.append([number, np.concatenate([np.concatenate(pair) for pair in statistics(model)])])

        before = statistics(model)
        curve = fit(model, train, val, (epochs + 1) // 2 if offset else epochs, seed, watch)
        traces.append(trace)
        if offset == 0:
            norms = batch_norms(model)
            out.update(momentum=sorted({float(layer.momentum) for layer in norms}), layers=len(norms))
            out["fit"], out["moved"] = curve, moved(before, statistics(model))
            out["spread"] = spread(model.predict_on_batch(val[0][:BATCH]))
            out["saved"] = attempt(lambda: statistics_after_saving(model))
            out["before_reestimate"] = accuracy(model.predict(val[0], verbose=0), val[1])
            lagging = statistics(model)
            reestimate(model, train[0])
            out["reestimated"] = accuracy(model.predict(val[0], verbose=0), val[1])
            pairs = zip(lagging, statistics(model))
            out["needed"] = [[float(np.median(v)), float(np.median(w))] for (_, v), (_, w) in pairs]
            # C6: a model that is right loses its statistics, as an export handled wrongly would make it.
            put_statistics(model, [(0 * mean, 0 * variance + 1) for mean, variance in lagging])
            answer = model.predict(val[0], verbose=0)
            out["lost"] = {"accuracy": accuracy(answer, val[1]), "spread": spread(answer[:BATCH])}
    # One number a channel: the median, the smallest and the largest.
    out["share_left"] = [
        [a[0]] + [float(np.percentile(b[1] - a[1], p)) for p in (50, 0, 100)] for a, b in zip(*traces)
    ]

    model = norms = None
    forget_models()
    quick = compiled(mobilenet(momentum=0.9))
    initialise(quick, seed)
    out["fit_momentum_0.9"] = fit(quick, train, val, epochs, seed)
    if long_epochs:
        # 0.99 forgets in 1 update what 0.999 forgets in 10, so the article's 20 epochs of 581 fit into minutes.
        quick = None
        forget_models()
        patient = compiled(mobilenet(momentum=0.99))
        initialise(patient, seed)
        out["fit_momentum_0.99"] = fit(patient, train, val, long_epochs, seed)
    return out


def statistics_after_saving(model):
    """C6: largest difference that saving and loading the weights makes to the moving statistics."""
    before = statistics(model)
    folder = tempfile.mkdtemp()
    try:
        path = os.path.join(folder, "model.weights.h5")
        model.save_weights(path)
        put_statistics(model, [(mean + 7, variance + 7) for mean, variance in before])
        model.load_weights(path)
    finally:
        shutil.rmtree(folder)
    pairs = zip(before, statistics(model))
    difference = max(float(np.abs(a - b).max()) for old, new in pairs for a, b in zip(old, new))
    put_statistics(model, before)
    return difference


def without_training():
    """C9: a subclass as the article's first one: `call` has no `training`."""

    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.conv = keras.layers.Conv2D(32, 3, activation="relu")
            self.norm = keras.layers.BatchNormalization()
            self.flat = keras.layers.Flatten()
            self.hidden = keras.layers.Dense(128, activation="relu")
            self.head = keras.layers.Dense(10, activation="softmax")

        def call(self, x):
            return self.head(self.hidden(self.flat(self.norm(self.conv(x)))))

    return Net()


def with_training(default=True):
    """C10: `call` takes `training` and hands it on; the article's default is True."""

    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.conv = keras.layers.Conv2D(32, 3, activation="relu")
            self.norm = keras.layers.BatchNormalization()
            self.flat = keras.layers.Flatten()
            self.hidden = keras.layers.Dense(128, activation="relu")
            self.head = keras.layers.Dense(10, activation="softmax")

        def call(self, x, training=default):
            return self.head(self.hidden(self.flat(self.norm(self.conv(x), training=training))))

    return Net()


def subclass(digits, seed, steps=135):
    """C9, C10: subclasses without and with `training`, in the loop and under `fit`; the default at inference."""
    images, labels = digits
    x, y, cut = images[..., None], labels, BATCH * STEPS
    train, val = (x[:cut], y[:cut]), (x[cut:], y[cut:])
    out = {}

    def start(make):
        model = make()
        model(tf.constant(x[:1]))
        initialise(model, seed)
        return model, statistics(model)

    # C9
    model, before = start(without_training)
    out["c9_loop"] = Loop(model, lambda image: model(image)).run(train[0], train[1], steps, seed)
    out["c9_loop_moved"] = moved(before, statistics(model))
    out["c9_loop_val_accuracy"] = accuracy(model(tf.constant(val[0])), val[1])
    model, before = start(without_training)
    out["c9_fit"] = fit(compiled(model), train, val, steps // STEPS, seed)
    out["c9_fit_moved"] = moved(before, statistics(model))

    # C10
    model, before = start(with_training)
    out["c10_loop"] = Loop(model, lambda image: model(image, training=True)).run(train[0], train[1], steps, seed)
    out["c10_loop_moved"] = moved(before, statistics(model))
    out["c10_test_accuracy"] = accuracy(model(tf.constant(val[0]), training=False), val[1])
    trained, before = start(with_training)
    fit(compiled(trained), train, val, steps // STEPS, seed)
    out["c10_fit_moved"] = moved(before, statistics(trained))
    # Seven pictures of one kind make the two phases differ.
    probe = val[0][np.argsort(val[1], kind="stable")][:7]
    weights = model.get_weights()
    out["c10_predict_after_loop"] = attempt(lambda: spread(model.predict(probe, verbose=0)))
    for default in (True, False):
        model, _ = start(lambda: with_training(default))
        model.set_weights(weights)
        out["c10_default_%s" % str(default).lower()] = phases_by_route(model, probe)
    return out


def phases_by_route(model, x):
    """C10: in which phase does each route run a model whose `call` has a default of its own?"""
    phases = both_phases(model, x)
    keep = model.get_weights()

    def route(action):
        answer = attempt(lambda: np.asarray(action()))
        moves = any(np.abs(a - b).max() > 0 for a, b in zip(keep, model.get_weights()))
        model.set_weights(keep)
        if isinstance(answer, dict):
            return answer
        return {"phase": phase_of(answer, phases), "moves_statistics": bool(moves)}

    def served():
        folder = tempfile.mkdtemp()
        try:
            path = os.path.join(folder, "served")
            if hasattr(model, "export"):
                with contextlib.redirect_stdout(io.StringIO()):
                    model.export(path)
            else:
                save = tf.compat.v2.saved_model.save if tf.__version__.startswith("1.") else tf.saved_model.save
                save(model, path)
            load = tf.compat.v2.saved_model.load if tf.__version__.startswith("1.") else tf.saved_model.load
            loaded = load(path)
            serve = loaded.signatures["serving_default"]
            out["served_assigns"] = assigns(serve.graph)
            return list(serve(tf.constant(x)).values())[0]
        finally:
            shutil.rmtree(folder)

    out = {"written_by": "Model.export" if hasattr(model, "export") else "tf.saved_model.save"}
    out["predict"] = route(lambda: model.predict(x, verbose=0))
    out["predict_on_batch"] = route(lambda: model.predict_on_batch(x))
    out["served"] = route(served)
    out["call"] = route(lambda: model(tf.constant(x)))
    return out


def assigns(graph):
    """Whether a served graph, or a function that it calls, writes to a variable."""
    definition = graph.as_graph_def()
    functions = {function.signature.name: list(function.node_def) for function in definition.library.function}
    todo = list(definition.node)
    while todo:
        node = todo.pop()
        if node.op.startswith("Assign"):
            return True
        for name in [node.op] + [attribute.func.name for attribute in node.attr.values()]:
            todo += functions.pop(name, [])
    return False


def fit_anatomy(digits, seed, epochs=2):
    """The open questions: what `fit` tells a layer, and how it updates moving statistics."""
    images, labels = digits
    x, y = images[: BATCH * STEPS, ..., None], labels[: BATCH * STEPS]
    out = {"told": {route: sorted(seen) for route, seen in what_layers_are_told(x, y).items()}}

    # Learning rate 0: the weights stand still, so the statistics of every batch can be computed beforehand.
    norm = keras.layers.BatchNormalization()
    conv = keras.layers.Conv2D(8, 3, activation="relu", input_shape=(8, 8, 1))
    head = keras.layers.Dense(10, activation="softmax")
    model = compiled(keras.Sequential([conv, norm, keras.layers.Flatten(), head]), learning_rate=0.0)
    initialise(model, seed)
    batch_means, expected, measured = [], [], []
    mean = np.zeros(8)
    for image, _ in batches(x, y, epochs * STEPS, seed):
        batch_means.append(np.asarray(conv(image)).mean(axis=(0, 1, 2)))
        mean = norm.momentum * mean + (1 - norm.momentum) * batch_means[-1]
        expected.append(mean)
    fit(model, (x, y), (x[:BATCH], y[:BATCH]), epochs, seed, lambda number: measured.append(norm.get_weights()[2]))
    channel = int(np.argmax(expected[-1]))
    out.update(
        momentum=float(norm.momentum),
        batch_mean=[float(row[channel]) for row in batch_means],
        expected=[float(row[channel]) for row in expected],
        measured=[float(row[channel]) for row in measured],
        largest_gap=float(np.abs(np.array(expected) - np.array(measured)).max()),
    )
    return out


def what_layers_are_told(x, y):
    """For each route: which `training` arrives in a layer, and which global learning phase, where there is one."""
    seen = set()

    def described(value):
        return str(value) if value is None or isinstance(value, (bool, int)) else "tensor"

    class Spy(keras.layers.Layer):
        def call(self, x, training=None):
            has = hasattr(keras.backend, "learning_phase")
            phase = described(keras.backend.learning_phase()) if has else "gone"
            seen.add("training={}, learning phase {}".format(described(training), phase))
            return x

    class Net(keras.Model):
        def __init__(self):
            super(Net, self).__init__()
            self.spy, self.head = Spy(), keras.layers.Dense(10, activation="softmax")

        def call(self, x, training=None):
            return self.head(self.spy(tf.reshape(x, (-1, 64)), training=training))

    model = compiled(Net())
    routes = {
        "m(x)": lambda: model(tf.constant(x[:BATCH])),
        "fit": lambda: model.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0),
        "evaluate": lambda: model.evaluate(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0),
        "predict": lambda: model.predict(x[:BATCH], verbose=0),
        "m(x) after fit": lambda: model(tf.constant(x[:BATCH])),
    }
    out = {}
    for route, run in routes.items():
        seen.clear()
        run()
        out[route] = set(seen)
    return out


def learning_phase(digits, seed, steps=200, epochs=6):
    """C11, C12, C13: the global learning phase, in the loop and under `fit`, and `model.updates`."""
    train, val = odd_or_even(*digits)
    out = {"setter": attempt(lambda: keras.backend.set_learning_phase(True)) or "exists"}
    if out["setter"] == "exists":
        try:
            model = mobilenet()
            initialise(model, seed)
            before = statistics(model)
            out["loop"] = Loop(model, lambda image: model(image)).run(train[0], train[1], steps, seed)
            out["loop_moved"] = moved(before, statistics(model))
            keep = statistics(model)
            phases = both_phases(model, val[0][:BATCH])
            out["left_on_phase"] = phase_of(model(tf.constant(val[0][:BATCH])), phases)
            out["left_on_moves_statistics"] = not still(keep, statistics(model))
            put_statistics(model, keep)
            keras.backend.set_learning_phase(False)
            out["switched_off_phase"] = phase_of(model(tf.constant(val[0][:BATCH])), phases)
            out["switched_off_moves_statistics"] = not still(keep, statistics(model))
            out["loop_val_accuracy"] = accuracy(model(tf.constant(val[0])), val[1])
            keras.backend.set_learning_phase(True)
            reestimate(model, train[0])
            out["loop_val_accuracy_reestimated"] = accuracy(model(tf.constant(val[0]), training=False), val[1])

            # Compiled under the learning phase, as the article did: the line stands above all others.
            model = compiled(mobilenet())
            initialise(model, seed)
            out["fit"] = fit(model, train, val, epochs, seed)
            # The same weights, asked in both phases, in the batches that `fit` validates in.
            parts = [both_phases(model, val[0][i : i + BATCH]) for i in range(0, len(val[0]), BATCH)]
            for phase in ("inference", "training"):
                answer = np.concatenate([part[phase] for part in parts])
                out["fit_val_accuracy_" + phase] = accuracy(answer, val[1])
            keep = statistics(model)
            batch = both_phases(model, val[0][:BATCH])
            out["predict_phase"] = phase_of(model.predict(val[0][:BATCH], batch_size=BATCH, verbose=0), batch)
            out["predict_on_batch_phase"] = phase_of(model.predict_on_batch(val[0][:BATCH]), batch)
            put_statistics(model, keep)
            out["evaluate_accuracy"] = float(model.evaluate(val[0], val[1], batch_size=BATCH, verbose=0)[1])
            out["evaluate_moves_statistics"] = not still(keep, statistics(model))
        finally:
            keras.backend.set_learning_phase(False)
            keras.backend.clear_session()
    out["updates"] = updates()
    return out


def updates():
    """C12: what `model.updates` holds, and what comes of trying to run it eagerly."""
    model = keras.Sequential([keras.layers.Dense(4, input_shape=(4,)), keras.layers.BatchNormalization()])
    x = np.arange(32.0, dtype="float32").reshape(8, 4)
    before = statistics(model)
    held = attempt(lambda: list(model.updates))
    if isinstance(held, dict):
        return held
    out = {"count": len(held), "kinds": sorted({type(update).__name__ for update in held})}
    model(tf.constant(x))
    out["read"] = attempt(lambda: [update.numpy() for update in held] and "ran")
    out["called"] = attempt(lambda: [update() for update in held] and "ran")
    out["session"] = attempt(lambda: run_in_session(held, model, x)) if held else []
    out["moved"] = bool(max(max(row) for row in moved(before, statistics(model))) > 0)
    return out


def run_in_session(operations, model, x):
    """C12: the way of TensorFlow 1, in the graph that holds the operations, with the input fed."""
    with tf.compat.v1.Session(graph=operations[0].graph) as session:
        session.run(operations, {model.inputs[0].name: x})
    return "ran"


def listing_head(digits, seeds=(0, 1, 2, 3), steps=120, names=("printed", "meant")):
    """The listing as printed: a linear head under a loss that expects probabilities; and as meant, with softmax."""
    train, _ = odd_or_even(*digits)
    out = {}
    for name in names:
        model = mobilenet(activation=None if name == "printed" else "softmax")
        loop, out[name] = Loop(model, lambda image: model(image, training=True)), []
        for seed in seeds:
            initialise(model, seed)
            curve = loop.run(train[0], train[1], steps, seed)
            out[name].append(dict(curve, seed=seed))
    return out


def listing_summary(digits, seed):
    """The summary as printed: 1,281 trainable parameters under a head labelled (None, 2)."""
    train, _ = odd_or_even(*digits)
    full = keras.applications.MobileNetV2(input_shape=(160, 160, 3), include_top=False, weights=None)
    out = {"parameters": {}}
    for units in (1, 2):
        head = units * (full.output_shape[-1] + 1)
        out["parameters"][str(units)] = {"head": head, "total": head + full.count_params()}
    model = mobilenet(units=1, activation=None)
    model.layers[0].trainable = False
    initialise(model, seed)
    few = train[0][:BATCH], train[1][:BATCH]
    out["one_unit_loss"] = attempt(lambda: float(compiled(model).fit(*few, verbose=0).history["loss"][0]))
    return out


def listing_frozen(digits, seed, steps=100):
    """The frozen base that the printed summary implies, from scratch, in both phases."""
    train, _ = odd_or_even(*digits)
    out = {}
    for name, forward in (("frozen", None), ("frozen_training_true", True)):
        model = mobilenet()
        model.layers[0].trainable = False
        initialise(model, seed)
        before = statistics(model)
        loop = Loop(model, lambda image: model(image, training=True) if forward else model(image))
        out[name] = loop.run(train[0], train[1], steps, seed)
        out[name + "_moved"] = moved(before, statistics(model))
    # Until 2.0 applications were built from the old layer class, to which frozen did not mean the inference phase.
    classes = {"keras.applications": type(batch_norms(model)[0]), "keras.layers": keras.layers.BatchNormalization}
    out["frozen_means_inference"] = {name: getattr(cls, "_USE_V2_BEHAVIOR", True) for name, cls in classes.items()}
    return out


def documentation():
    """C14: what the documentation that comes with the release says where a reader would look."""
    layer = keras.layers.BatchNormalization
    text = " ".join(((layer.__doc__ or "") + " " + (layer.call.__doc__ or "")).split())
    return {
        "BatchNormalization": {
            "what training=True does": "`training=True`" in text,
            "what a call without the argument does": "(which is the default)" in text,
            "quote": [sentence for sentence in text.split(". ") if "`training=True`" in sentence][:1],
        }
    }


def experiments(digits, seed, imagenet=False):
    """Every experiment by name, as the era runs measure it."""
    return {
        "documentation": documentation,
        "fit_anatomy": lambda: fit_anatomy(digits, seed),
        "subclass": lambda: subclass(digits, seed),
        "stuck_loop": lambda: stuck_loop(digits, seed),
        "scratch_fit": lambda: scratch_fit(digits, seed),
        "pretrained": lambda: pretrained(digits, seed, imagenet=imagenet),
        "listing_head": lambda: listing_head(digits),
        "listing_summary": lambda: listing_summary(digits, seed),
        "listing_frozen": lambda: listing_frozen(digits, seed),
        # Last: it sets a process-wide phase.
        "learning_phase": lambda: learning_phase(digits, seed),
    }


def keras_version():
    if hasattr(keras, "__version__"):
        return keras.__version__
    import keras as package  # tf.keras of 2.12 to 2.15 does not say

    return package.__version__


def about():
    return {
        "tensorflow": tf.__version__,
        "keras": keras_version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def rounded(value):
    """Five significant digits are enough for curves and keep the files small."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float("%.5g" % value) if isinstance(value, float) and np.isfinite(value) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", help="the JSON file to write; experiments that it already holds are kept with --only")
    parser.add_argument("--data", help="digits.npz, where scikit-learn is not installed")
    parser.add_argument("--only", nargs="+", help="names of experiments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imagenet", action="store_true", help="C1, C2 on weights='imagenet' (downloads 2 MB)")
    options = parser.parse_args()
    # One thread: half the CPU time for a model this small, and sums in a fixed order.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    runs = experiments(load_digits(options.data), options.seed, options.imagenet)
    unknown = set(options.only or ()) - set(runs)
    if unknown:
        parser.error("no experiment named {}; there are {}".format(", ".join(sorted(unknown)), ", ".join(runs)))
    record = {"results": {}}
    if options.only and os.path.exists(options.out):
        with open(options.out) as file:
            record = json.load(file)
    record.update(version=about(), seed=options.seed, date=datetime.date.today().isoformat())
    for name in options.only or runs:
        started = time.time(), time.process_time()
        forget_models()
        record["results"][name] = rounded(runs[name]())
        print("{:16} {:6.1f} s, {:6.1f} s of CPU".format(
            name, time.time() - started[0], time.process_time() - started[1]), flush=True)
        with open(options.out + ".part", "w") as file:
            json.dump(record, file, sort_keys=True)
        os.replace(options.out + ".part", options.out)


if __name__ == "__main__":
    main()
