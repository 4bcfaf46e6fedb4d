"""What is known of Keras by name: layers that heed a phase, names in one spelling."""

from __future__ import annotations

import functools
import re

NORMALISATIONS = {"BatchNormalization", "SyncBatchNormalization"}
DROPOUTS = {
    "Dropout",
    "AlphaDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianDropout",
    "GaussianNoise",
}
HEED_ALWAYS = NORMALISATIONS | DROPOUTS | {"SpectralNormalization"}
# They heed it where one of these arguments is not 0.
HEED_WITH = {
    **dict.fromkeys(
        ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
        ("dropout", "recurrent_dropout"),
    ),
    **dict.fromkeys(
        ("MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention"),
        ("dropout",),
    ),
}
RATE = dict.fromkeys(DROPOUTS, "rate") | {"GaussianNoise": "stddev"}
WRAPPERS = {"TimeDistributed", "Bidirectional"}
# On Keras 3.0 to 3.15 their `training=True` default reaches the layers behind.
LEAKING = re.compile(
    r"Random[A-Z]\w+|RandAugment|AugMix|MixUp|CutMix|Resizing|CenterCrop|Pipeline"
)
LEAKS_NOT = {"RandomFourierFeatures"}
APPLICATIONS_WITH_NORM = re.compile(
    r"(ResNet|MobileNet|Inception|Xception|DenseNet|NASNet|EfficientNet|RegNet)\w*"
)
MODELS = {"Model", "Functional", "Sequential"}
OTHER_LAYERS = {
    "Dense", "Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "Conv1DTranspose",
    "Conv3DTranspose", "SeparableConv2D", "DepthwiseConv2D", "Activation", "ReLU",
    "LeakyReLU", "PReLU", "ELU", "Flatten", "Reshape", "MaxPooling2D", "MaxPool2D",
    "MaxPooling1D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    "UpSampling2D", "ZeroPadding2D", "Cropping2D", "Concatenate", "Add", "Multiply",
    "Embedding", "Lambda", "Input", "InputLayer", "LayerNormalization", "Rescaling",
    "Softmax", "Permute", "RepeatVector", "Average", "Layer",
}  # fmt: skip
LAYERS = HEED_ALWAYS | set(HEED_WITH) | WRAPPERS | OTHER_LAYERS

ROOTS = (
    ("tensorflow.compat.v2.keras", "keras"),
    ("tensorflow.compat.v1.keras", "keras"),
    ("tensorflow.contrib.keras.api.keras", "keras"),
    ("tensorflow.contrib.keras", "keras"),
    ("tensorflow.python.keras", "tf_keras"),
    ("tensorflow._api.v2.keras", "keras"),
    ("tensorflow.keras", "keras"),
    ("tensorflow.compat.v1", "tensorflow"),
    ("keras.api", "keras"),
    ("tf_keras.src", "tf_keras"),
)
MODEL_HOMES = re.compile(
    r"keras\.(?:models|engine|engine\.training|engine\.topology|engine\.sequential|engine\.functional)?\.?"
    r"(Model|Sequential|Functional)"
)


@functools.lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """One spelling: `tensorflow.keras.models.Model` is `keras.Model`.

    `tf_keras.…` and `tensorflow.python.keras.…`, which are Keras 2, read `keras.…` too.
    """
    for old, new in ROOTS:
        if name == old or name.startswith(f"{old}."):
            name = new + name[len(old) :]
            break
    if name == "tf_keras" or name.startswith("tf_keras."):
        name = name[3:]
    model = MODEL_HOMES.fullmatch(name)
    if model:
        return f"keras.{model[1]}"
    if name.startswith("keras."):
        parts = name.split(".")
        if parts[-1] == "Layer" and parts[1] in ("layers", "engine", "Layer"):
            return "keras.layers.Layer"
        homes = parts[1] in ("layers", "applications") and len(parts) > 3
        if homes and parts[-1][:1].isupper():
            return f"keras.{parts[1]}.{parts[-1]}"
    return name


def layer_of(name: str) -> str | None:
    """`Dropout` for `keras.layers.Dropout`."""
    if name.startswith("keras.layers.") and name[13:14].isupper():
        return name[13:]
    return None


def leaks(layer: str, release: tuple[int, ...] = (3, 6)) -> bool:
    """Does it open the training phase? `Resizing` and `CenterCrop` do from 3.6 on."""
    if layer in ("Resizing", "CenterCrop") and release < (3, 6):
        return False
    return LEAKING.fullmatch(layer) is not None and layer not in LEAKS_NOT
