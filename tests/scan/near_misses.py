"""Sources that look like a finding and are none, by code: what a check must not name."""

NP = "import numpy as np\n"
K = "import keras\nfrom keras import layers\nimport tensorflow as tf\n"


def model(call: str, init: str = "self.drop = layers.Dropout(0.5)", base: str = "keras.Model", after: str = "") -> str:
    body = "\n".join(f"        {line}" for line in call.splitlines()[1:])
    inits = "\n".join(f"        {line}" for line in init.splitlines())
    return (
        f"{K}\nclass Net({base}):\n    def __init__(self):\n        super().__init__()\n{inits}\n"
        f"    {call.splitlines()[0]}\n{body}\n{after}\n"
    )


DROP = "self.drop = layers.Dropout(0.5)"
HEAD = "self.head = layers.Dense(1)"
TOLD = "def call(self, x, training=None):\n    "
FIT = "net = Net()\nnet.compile('sgd', 'mse')\nnet.fit(x, y)"
NET = K + "model = keras.Sequential([layers.BatchNormalization(), layers.Dense(1)])\n"
STEP = """
def step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_fn(y, {call})
    gradients = tape.gradient(loss, {variables})
    optimizer.apply_gradients(zip(gradients, {variables}))
"""


def step(call: str, variables: str = "model.trainable_variables", head: str = NET) -> str:
    return head + STEP.format(call=call, variables=variables)


TRAIN = STEP.format(call="model(x)", variables="model.trainable_variables").lstrip().replace("step(", "train(model, ")
BY_NAME = model(
    "def call(self, x, is_training=False):\n    return self.drop(x, training=is_training)", after="model = Net()"
)
BLOCK = (
    K + "class Block(layers.Layer):\n    def __init__(self):\n        super().__init__()\n"
    "        self.drop = layers.Dropout(0.5)\n    {}\n"
    "class Net(keras.Model):\n    def __init__(self):\n        super().__init__()\n        self.block = Block()\n"
    "    def call(self, x):\n        return self.block(x)\n" + FIT
)
TWO = K + "model = keras.Sequential([layers.Dense(4), layers.Dense(1)])\nmodel.compile('sgd', 'mse')\nmodel.fit(x, y)\n"
GAN = (
    K
    + """
d = keras.Sequential([layers.Dense(1)])
d.compile("sgd", "mse")
z = keras.Input((4,))
d.trainable = False
gan = keras.Model(z, d(z))
"""
)
FREE = (
    K
    + """
def made():
    model = keras.Sequential([layers.Dense(1)])
    model.compile("sgd", "mse")
    return model

def combined(d):
    {}
    z = keras.Input((4,))
    gan = keras.Model(z, d(z))
    gan.compile("sgd", "mse")
    return gan

def train(d):
    {}

d = made()
gan = combined(d)
train(d)
"""
)
BASE = (
    K
    + """
base = keras.applications.{app}(include_top=False)
base.trainable = False
inputs = keras.Input((224, 224, 3))
x = base(inputs{phase})
model = keras.Model(inputs, layers.Dense(1)(x))
"""
)

SILENT: dict[str, list[str]] = {
    "PS101": [
        "from mine import backend as K\nK.set_learning_phase(0)",
        "from keras import backend as K\nif hasattr(K, 'set_learning_phase'):\n    K.set_learning_phase(0)",
        "import keras\nclass A:\n    def set_learning_phase(self, x): ...\nA().set_learning_phase(0)",
        "from keras import backend as K\ntry:\n    K.set_learning_phase(0)\nexcept AttributeError:\n    pass",
        "from keras import backend as K\nif getattr(K, 'set_learning_phase', None):\n    K.set_learning_phase(0)",
        "import keras\nfrom keras import backend as K\nOLD = keras.__version__.startswith('2')\n"
        "if OLD:\n    K.set_learning_phase(0)",
        "import keras\ndef f():\n    if keras.__version__ >= '3':\n        return\n"
        "    keras.backend.set_learning_phase(0)",
        "from keras import backend as K\nphase = K.learning_phase() if hasattr(K, 'learning_phase') else False",
        "from keras import backend as K\nhasattr(K, 'set_learning_phase') and K.set_learning_phase(0)",
        "import os\nos.environ.update({'TF_USE_LEGACY_KERAS': '1'})\n"
        "from tensorflow.keras import backend as K\nK.set_learning_phase(0)",
    ],
    "PS102": [
        "import keras\nupdates = anything.get_updates_for(x)",
        f"{K}def f(model):\n    return model.get_updates_for(None)",
        f"{K}class A:\n    def get_updates_for(self, x): ...\nA().get_updates_for(None)",
    ],
    "PS103": [
        f"{K}def f(model):\n    return model.updates",
        f"{K}class Net(keras.Model):\n    def updates(self): ...\nNet().updates",
        f"{K}run(response.updates)",
        f"{NET}model.updates = []",
        model("def call(self, x):\n    return x", "self.updates = 0", after="print(Net().updates)"),
    ],
    "PS104": [
        f"{K}layers.BatchNormalization(renorm=True)",
        f"{K}from mine import BatchNormalization\nBatchNormalization(fused=True)",
        f"{K}layers.Dropout(rate=0.5)",
        f"{K}layers.Conv2D(8, 3, fused=True)",
    ],
    "PS105": [
        "from tensorflow.python.keras.layers.core import Dropout",
        "from .layers.normalization import BatchNormalization\nimport keras",
        "try:\n    from keras.layers.core import Dropout\nexcept ImportError:\n    from keras.layers import Dropout",
        "from keras.layers import Dropout, BatchNormalization",
    ],
    "PS106": [
        f"{NET}model(x, training=True)",
        f"{NET}model(x, mask)",
        f"{K}layers.LSTM(4)(x, training)",
        model(TOLD + "return self.att(x, x)", "self.att = layers.MultiHeadAttention(2, 8, dropout=0.1)"),
        "from models import Net\nimport keras\nNet()(x, True)",
    ],
    "PS201": [
        model("def call(self, x):\n    return self.drop(x)"),
        model("def call(self, x):\n    return self.head(x)", HEAD, after=FIT),
        model("def call(self, x):\n    return self.drop(x, training=True)", after=FIT),
        model("def call(self, x):\n    return self.drop(x)", "self.drop = layers.Dropout(0.0)", after=FIT),
        model("def call(self, x):\n    return self.drop(x)", base="layers.Layer", after=FIT),
        model(
            "def call(self, x):\n    return self.drop(self.size(x))",
            f"{DROP}\nself.size = layers.Resizing(8, 8)",
            after=FIT,
        ),
        step("model(x)", head=model("def call(self, x):\n    return self.head(x)", HEAD, after="model = Net()")),
        step("model(x, is_training=True)", head=BY_NAME),
        step("model(x)", "student.trainable_variables", model("def call(self, x):\n    return self.drop(x)")),
        BLOCK.format("def call(self, x):\n        return self.drop(x, training=True)"),
        model("def call(self, x):\n    return self.drop(x)", after="    def fit(self, x, y):\n        pass\n" + FIT),
        model(
            "def call(self, x):\n    return self.bn(x)",
            "self.bn = layers.BatchNormalization()\nself.bn.trainable = False",
            after=FIT,
        ),
    ],
    "PS202": [
        model(TOLD + "x = self.drop(x, training=training)\n    return self.drop(x)"),
        model(TOLD + "x = self.drop(x)\n    return self.drop(x, training=False)"),
        model(TOLD + "if x:\n        self.drop(x, training=False)\n    return self.drop(x)"),
        model(
            TOLD + "x = self.drop(x, training=False)\n    return self.head(x)",
            f"{DROP}\nself.head = layers.Dense(1)",
        ),
        model(
            TOLD + "return self.base(self.drop(x), training=False)", f"{DROP}\nself.base = layers.BatchNormalization()"
        ),
        model(
            TOLD + "x = self.drop(x, training=True)\n    return self.bn(x)",
            f"{DROP}\nself.bn = layers.BatchNormalization()\nself.bn.trainable = False",
        ),
    ],
    "PS203": [
        model("def call(self, x, training=False):\n    return self.drop(x, training=training)"),
        model("def call(self, x, training=True):\n    return self.head(x)", HEAD),
        f"{K}class A:\n    def call(self, x, training=True):\n        return training",
        model("def step(self, x, training=True):\n    return self.drop(x, training=training)"),
    ],
    "PS204": [
        model(TOLD + "if training:\n        return x\n    else:\n        return layers.Dropout(0.5)(x)"),
        f"{K}class Net(keras.Model):\n    def build(self, shape):\n        self.drop = layers.Dropout(0.5)",
        model(TOLD + "if self.drop is None:\n        self.drop = layers.Dropout(0.5)\n    return self.drop(x)"),
        f"{K}class A:\n    def call(self, x):\n        return layers.Dropout(0.5)(x)",
        f"{K}f = layers.Lambda(lambda x: layers.Flatten()(x))",
    ],
    "PS205": [
        f"{NET}def f(x):\n    return model(x, training=tf.constant(True))",
        f"{NET}@tf.function\ndef f(x, phase):\n    return model(x, training=phase)",
        f"{NET}@tf.function\ndef f(x):\n    return other(x, training=tf.constant(True))",
        f"{NET}TRAINING = tf.constant(True)\n@tf.function\ndef f(x):\n    return model(x, training=TRAINING)",
    ],
    "PS301": [
        step("model(x, True)"),
        step("model(x, **given)"),
        NET + "def step(x, y):\n    with tf.GradientTape() as t:\n        t.watch(x)\n        value = model(x)\n"
        "    x = x + t.gradient(value, x)\n    optimizer.minimize(loss_fn, model.trainable_variables)",
        step("model(x, is_training=True)", head=BY_NAME),
        step("model(x, True)", head=BY_NAME),
        step("teacher(x)"),
        NET + TRAIN + "train(model, x, y)\ntrain(other, x, y)",
        NET + "@retried\n" + TRAIN + "train(model, x, y)",
        NET + TRAIN + "train(*given)\ntrain(model, x, y)",
        step(
            "model(x)",
            head=f"{K}base = keras.applications.ResNet50()\nbase.trainable = False\n"
            "model = keras.Sequential([base, layers.Dense(1)])\n",
        ),
        step("model(x)", "student.trainable_variables"),
        step("model(x)", head=K + "model = keras.Sequential([layers.Dense(1)])\n"),
        step("model(x)", head=K + "def train(model): ...\n"),
        step(
            "model(x)",
            head=model(
                "def call(self, x, training=True):\n    return self.drop(x, training=training)", after="model = Net()"
            ),
        ),
        step("model(x)", head=K + "model = keras.Sequential([layers.Resizing(8, 8), layers.Dropout(0.5)])\n"),
        step(
            "student(x, training=True) - tf.stop_gradient(model(x))",
            "student.trainable_variables",
            NET + "student = model",
        ),
        step("model(x, training=True) - tf.stop_gradient(model(x))"),
        step("student(x, training=True) - model(x)", "student.trainable_variables")
        + "    for t, s in zip(model.trainable_variables, student.trainable_variables):\n"
        "        t.assign(0.9 * t + 0.1 * s)\n",
        step("model(x, training=True)") + "with tf.GradientTape() as tape:\n    tape.watch(x)\n    score = model(x)\n"
        "grad = tape.gradient(score, [x])\n",
        step("model(x)", head=NET + "model.layers[0].trainable = False\n"),
    ],
    "PS302": [
        f"{NET}def f(t, n, x):\n    y, n = model.stateless_call(t, n, x, training=True)\n    return y, n",
        f"{NET}def f(t, n, x):\n    y, _ = model.stateless_call(t, n, x, training=False)\n    return y",
        f"{NET}def f(t, n, x):\n    return model.stateless_call(t, n, x, training=True)",
        f"{NET}def f(t, n, x):\n    return model.stateless_call(t, n, x, training=True)[1]",
        f"{NET}for x in data:\n    keep(state)\n    y, state = model.stateless_call(t, n, x, training=True)",
        f"{K}model = keras.Sequential([layers.Dense(1)])\ndef f(t, n, x):\n"
        "    y, _ = model.stateless_call(t, n, x, training=True)\n    return y",
        "import keras\nfrom models import make\nmodel = make()\ndef f(t, n, x):\n"
        "    y, _ = model.stateless_call(t, n, x, training=True)\n    return y",
    ],
    "PS311": [
        BASE.format(app="ResNet50", phase=", training=False"),
        BASE.format(app="VGG16", phase=", training=False") + "base.trainable = True",
        BASE.format(app="ResNet50", phase="") + "base.trainable = True",
        f"{K}base = keras.applications.ResNet50()\nbase.trainable = True\nfeatures = base(images, training=False)",
        model(
            TOLD + "return self.norm(x, training=False)",
            "self.norm = layers.BatchNormalization()",
        ),
        f"{K}base = keras.applications.MobileNetV2(include_top=False)\ninputs = keras.Input((8, 8, 3))\n"
        "model = keras.Model(inputs, base(inputs, training=False))\nbase.trainable = True\n"
        "for layer in base.layers:\n    layer.trainable = layer.name == 'last'",
    ],
    "PS312": [
        f"{K}x = layers.Dropout(0.5)(data, training=True)",
        f"{K}x = layers.Dropout(0.5)(keras.Input((8,)), training=False)",
        f"{K}x = layers.Dropout(0.0)(keras.Input((8,)), training=True)",
        model(TOLD + "return self.drop(x, training=True)"),
    ],
    "PS313": [
        f"{K}x = layers.Dropout(0.5)(keras.Input((8,)), training=True)\nx = layers.Dense(1)(x)",
        f"{K}x = layers.Dropout(0.5)(keras.Input((8,)))\nx = layers.BatchNormalization()(x)",
        f"{K}x = layers.Dropout(0.5)(keras.Input((8,)), training=True)\n"
        "x = layers.BatchNormalization()(x, training=False)",
    ],
    "PS321": [
        f"{NET}model.compile()\nmodel.layers[0].trainable = False\nmodel.fit(x, y)",
        f"{NET}model.compile()\nmodel.fit(x, y)\nother.trainable = False\nmodel.fit(x, y)",
        f"{NET}model.compile()\nmodel.fit(x, y)\nmodel.trainable = False\nmodel = make()\nmodel.fit(x, y)",
        f"{NET}model.compile()\nmodel.fit(x, y)\nif late:\n    model.trainable = False\n"
        "    model.compile()\nmodel.fit(x, y)",
        f"{TWO}model.layers[0].trainable = False\nagain(model)\nmodel.fit(x, y)",
        f"{TWO}model.layers[0].trainable = False\nmodel.make_train_function(force=True)\nmodel.fit(x, y)",
        TWO.replace("'mse')", "'mse', run_eagerly=True)") + "model.layers[0].trainable = False\nmodel.fit(x, y)",
    ],
    "PS322": [
        GAN + "gan.compile('sgd', 'mse')\nd.trainable = True\nd.train_on_batch(x, y)",
        GAN + "d.compile('sgd', 'mse')\ngan.compile('sgd', 'mse')\nd.train_on_batch(x, y)",
        GAN + "gan.compile('sgd', 'mse')\ngan.train_on_batch(x, y)",
        GAN.replace("d.trainable", "d.train_on_batch(x, y)\nd.trainable")
        + "gan.compile('sgd', 'mse')\nd.train_on_batch(x, y)",
        FREE.format("g.trainable = False", "d.train_on_batch(x, y)"),
        FREE.format("d.trainable = False", "d.trainable = True\n    d.train_on_batch(x, y)"),
        FREE.format("d.trainable = False", "d.compile('sgd', 'mse')\n    d.train_on_batch(x, y)"),
        FREE.format("d.trainable = False", "d.train_on_batch(x, y)") + "train(d)",
        FREE.replace("gan = combined(d)\ntrain(d)", "train(d)\ngan = combined(d)").format(
            "d.trainable = False", "d.train_on_batch(x, y)"
        ),
    ],
    "PS401": [
        f"{NET}{NP}np.save('sizes.npy', [v.numpy().size for v in model.trainable_variables])",
        f"{NET}{NP}np.savez('w.npz', *model.weights)",
        f"{NET}{NP}np.savez('w.npz', *model.trainable_variables, *model.non_trainable_variables)",
        f"{K}{NP}model = keras.Sequential([layers.Dense(1)])\nnp.savez('w.npz', *model.trainable_variables)",
        f"{NET}{NP}np.savez('w.npz', count=len(model.trainable_variables))",
        f"{NET}{NP}np.savez('w.npz', *[np.linalg.norm(v) for v in model.trainable_variables])",
        f"{NET}{NP}np.save('w.npy', [v.shape for v in model.trainable_variables])",
        f"{K}{NP}def save(model):\n    np.savez('w.npz', *model.trainable_variables)",
        f"{NET}{NP}np.savez('w.npz', *[v.numpy() for v in model.trainable_variables])\nmodel.save('model.keras')",
        f"{NET}{NP}np.savez('fisher.npz', *[v.numpy() ** 2 for v in model.trainable_variables])",
    ],
    "PS402": [
        f"{K}model = keras.Sequential([layers.BatchNormalization(), layers.Resizing(8, 8)])\nmodel.export('served')",
        f"{K}model = keras.Sequential([layers.Resizing(8, 8), layers.Dense(1)])\nmodel.export('served')",
        f"{K}model = keras.Sequential([layers.Resizing(8, 8), layers.Dropout(0.5)])\nmodel.export('served')",
        f"{K}inputs = keras.Input((8, 8, 3))\nbase = keras.Sequential([layers.BatchNormalization()])\n"
        "model = keras.Model(inputs, base(layers.Resizing(8, 8)(inputs), training=False))\nmodel.export('served')",
        f"{K}model = keras.Sequential([layers.Resizing(8, 8), layers.BatchNormalization()])\nmodel.save('model.keras')",
        f"{K}model = keras.Sequential([layers.RandomFlip(), layers.BatchNormalization()])\n"
        "tf.saved_model.save(model, 'served')",
        f"{K}model = keras.Sequential([layers.Resizing(8, 8), layers.BatchNormalization()])\n"
        "tf.saved_model.save(model, 'served', signatures=serve)",
        f"{K}base = keras.applications.MobileNetV2(include_top=False)\nbase.trainable = False\n"
        "model = keras.Sequential([layers.RandomFlip(), base])\nmodel.export('served')",
    ],
    "PS403": [
        f"{K}layers.BatchNormalization(momentum=0.9)",
        f"{K}keras.optimizers.SGD(momentum=0.1)",
        f"{K}layers.BatchNormalization(momentum=MOMENTUM)",
        f"{K}layers.BatchNormalization(epsilon=0.1)",
    ],
    "PS901": [
        model(TOLD + "return self.head(x)", HEAD),
        model("def call(self, x):\n    return self.drop(x)"),
        model(TOLD + "return self.drop(x, training)"),
    ],
    "PS902": [
        model(TOLD + "return self.drop(x, training=False)"),
        model(TOLD + "return self.head(x, training=True)", HEAD),
        f"{NET}model(x, training=True)",
    ],
    "PS903": [
        f"{NET}def train(x):\n    return model(x, training=True)",
        f"{NET}def evaluate(x):\n    return model(x)",
        f"{NET}model(x, training=True)",
    ],
    "PS904": [
        f"{K}layers.BatchNormalization()",
        f"{K}s = tf.distribute.OneDeviceStrategy('cpu')\nlayers.BatchNormalization()",
        f"{K}s = tf.distribute.MirroredStrategy()\nlayers.LayerNormalization()",
    ],
    "PS905": [f"{K}UPDATE_OPS = 1", f"{K}print('tf.GraphKeys.UPDATE_OPS')", f"{K}mine.GraphKeys.UPDATE_OPS"],
    "PS911": [f"{K}requests.Session()", f"{K}placeholder = 1", f"{K}from mine import placeholder\nplaceholder()"],
    "PS912": ["import keras\nimport slim", "import keras\nfrom mine import slim", "from keras.layers import slim"],
    "PS913": [f"{K}tf.keras.layers.Dropout(0.5)", f"{K}layers.BatchNormalization()", f"{K}tf.layers.dense(x)"],
}

# Longer ways to say what a check's example says: named once.
NAMED: dict[str, list[str]] = {
    "PS106": [
        model(TOLD + "return self.drop(x, training)"),
        model(TOLD + "return self.drop(x, training=training)", after="net = Net()\nnet(x, False)"),
    ],
    "PS101": ["from keras import backend as K\ny = a if K.learning_phase() else b"],
    "PS103": [
        f"{NET}def f():\n    updates = model.updates\n    return updates",
    ],
    "PS202": [
        model(TOLD + "return self.drop(self.bn(x, training=False))", f"{DROP}\nself.bn = layers.BatchNormalization()"),
    ],
    "PS204": [
        model(TOLD + "if training:\n        x = layers.Dropout(0.5)(x, training=True)\n    return x"),
    ],
    "PS201": [
        step("model(x)", head=model("def call(self, x):\n    return self.drop(x)", after="model = Net()")),
        model("def call(self, x):\n    return self.drop(x)") + TRAIN + "train(Net(), x, y)",
    ],
    "PS301": [
        NET + TRAIN + "train(model, x, y)",
        NET + TRAIN + "def main():\n    net = model\n    for x, y in data:\n        train(net, y=y, x=x)\nmain()",
        NET + "@tf.function\n" + TRAIN + "train(model, x, y)",
    ],
    "PS302": [
        f"{NET}def f(t, n, x):\n    y, n = model.stateless_call(t, n, x, training=True)\n    return y",
        f"{NET}def f(t, n, x):\n    return loss_fn(model.stateless_call(t, n, x, training=True)[0])",
        f"{NET}for x in data:\n    y, _ = model.stateless_call(t, n, x, training=True)",
        f"{NET}def f(t, n, x):\n    y, *_ = model.stateless_call(t, n, x, training=True)\n    return y",
        f"{NET}def f(model, t, n, x):\n    y, new = model.stateless_call(t, n, x, training=True)\n    return y\n"
        "f(model, t, n, x)",
    ],
    "PS402": [
        f"{K}model = keras.Sequential([layers.Resizing(8, 8), layers.BatchNormalization()])\n"
        "tf.saved_model.save(model, 'served')",
    ],
    "PS322": [
        FREE.format("d.trainable = False", "d.train_on_batch(x, y)"),
        FREE.format("d.trainable = False", "for x, y in data:\n        d.train_on_batch(x, y)"),
    ],
    "PS401": [
        f"{NET}{NP}np.save('w.npy', [v.numpy() for v in model.trainable_variables])",
        f"{NET}c = tf.train.Checkpoint(v=model.trainable_variables)\nc.save('x')",
        f"{NET}{NP}def save(m, path):\n    np.savez(path, *[v.numpy() for v in m.trainable_weights])\nsave(model, 'w')",
        f"{NET}import pickle\nkept = [v.numpy() for v in model.trainable_variables]\npickle.dump(kept, file)",
        f"{NET}tf.train.Checkpoint(weights=model.trainable_variables)",
    ],
}
