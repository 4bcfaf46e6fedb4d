"""Put models of a published package before the doctor, fresh and after training steps, and write what it said.

    python tests/doctor/wild.py PACKAGE OUT.json [--only MODEL ...]

lane_wild.py runs it in an environment that has the package. A function a package yields names and what builds them:
a small model with random weights, one batch, and targets where the package brings its own step. Any other learns
random targets by `mse`: a phase fault shows whatever the task.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "recipes")]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

FAULTS = HERE.parents[1] / "docs/reference/doctor/wild-faults.json"
# Two threads on small models wait for each other more than they compute.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
STEPS = 12
Models = Iterator[tuple[str, Callable[[], tuple[Any, ...]]]]
numbers = np.random.default_rng(0)


def images(samples: int = 16, size: int = 32, channels: int = 3) -> np.ndarray:
    return numbers.uniform(0, 1, (samples, size, size, channels)).astype("float32")


def series(samples: int = 16, length: int = 24, channels: int = 3) -> np.ndarray:
    return numbers.normal(0, 1, (samples, length, channels)).astype("float32")


def tokens(samples: int = 16, length: int = 12, vocabulary: int = 50) -> np.ndarray:
    return numbers.integers(1, vocabulary, (samples, length)).astype("int32")


def text(**others: Any) -> dict[str, np.ndarray]:
    ids = tokens()
    return {"token_ids": ids, "padding_mask": np.ones_like(ids), **others}


def keras_hub() -> Models:
    from keras_hub import models as hub

    labels = numbers.integers(0, 3, 16)  # its classifiers are compiled when they are made

    def classifier(backbone: Any) -> Any:
        return hub.ImageClassifier(backbone, num_classes=4, preprocessor=None)

    def resnet(**options: Any) -> Any:
        return hub.ResNetBackbone(
            **{
                "input_conv_filters": [64],
                "input_conv_kernel_sizes": [3],
                "stackwise_num_filters": [64, 16, 16, 16],
                "stackwise_num_blocks": [1, 1, 1, 1],
                "stackwise_num_strides": [1, 2, 2, 2],
                "block_type": "basic_block",
                "image_shape": (32, 32, 3),
                **options,
            }
        )

    yield "DeepLabV3ImageSegmenter", lambda: (
        hub.DeepLabV3ImageSegmenter(
            hub.DeepLabV3Backbone(
                resnet(), spatial_pyramid_pooling_key="P4", upsampling_size=4, dilation_rates=[2],
                low_level_feature_key="P2", projection_filters=8, image_shape=(32, 32, 3),
            ),
            num_classes=3, preprocessor=None,
        ),
        images(),
    )  # fmt: skip
    yield (
        "RetinaNetBackbone",
        lambda: (
            hub.RetinaNetBackbone(
                resnet(), min_level=3, max_level=5, use_p5=False, use_fpn_batch_norm=True, image_shape=(32, 32, 3)
            ),
            images(),
        ),
    )
    yield "ResNetImageClassifier", lambda: (hub.ResNetImageClassifier(resnet(), 4, preprocessor=None), images(), labels)
    yield "ResNetBackbone, v2", lambda: (classifier(resnet(use_pre_activation=True)), images(), labels)
    yield (
        "DenseNetImageClassifier",
        lambda: (
            hub.DenseNetImageClassifier(
                hub.DenseNetBackbone([1, 2, 1], growth_rate=4, image_shape=(32, 32, 3)), 4, preprocessor=None
            ),
            images(),
            labels,
        ),
    )
    yield (
        "VGGBackbone",
        lambda: (classifier(hub.VGGBackbone([1, 1, 1], [8, 8, 16], image_shape=(32, 32, 3))), images(), labels),
    )
    yield (
        "ViTImageClassifier",
        lambda: (
            hub.ViTImageClassifier(
                hub.ViTBackbone((32, 32, 3), 8, 2, 2, 16, 32, dropout_rate=0.1, attention_dropout=0.1),
                4,
                preprocessor=None,
            ),
            images(),
            labels,
        ),
    )
    yield "MiTBackbone", lambda: (
        hub.MiTBackbone(
            hidden_dims=[8, 16], num_layers=2, layerwise_depths=[1, 1], layerwise_num_heads=[1, 2],
            layerwise_sr_ratios=[2, 1], layerwise_patch_sizes=[7, 3], layerwise_strides=[4, 2],
            max_drop_path_rate=0.1, image_shape=(32, 32, 3),
        ),
        images(),
    )  # fmt: skip
    yield "CSPNetBackbone", lambda: (
        classifier(
            hub.CSPNetBackbone(
                stem_filters=8, stem_kernel_size=3, stem_strides=1, stackwise_depth=[1, 1],
                stackwise_strides=[2, 2], stackwise_num_filters=[8, 16], block_type="dark_block", stage_type="dark",
                image_shape=(32, 32, 3),
            )
        ),
        images(), labels,
    )  # fmt: skip
    small = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    segments = {"segment_ids": np.zeros((16, 12), "int32")}
    for name, options, more in (
        ("AlbertBackbone", {"num_groups": 1, "num_inner_repetitions": 1, "embedding_dim": 8}, segments),
        ("BertBackbone", {}, segments),
        ("DebertaV3Backbone", {"bucket_size": 8}, {}),
        ("DistilBertBackbone", {}, {}),
        ("GPT2Backbone", {}, {}),
        ("GPTNeoXBackbone", {}, {}),
        ("OPTBackbone", {}, {}),
        ("RobertaBackbone", {}, {}),
    ):
        yield name, lambda name=name, options=options, more=more: (getattr(hub, name)(**small, **options), text(**more))
    yield (
        "FNetBackbone",
        lambda: (
            hub.FNetBackbone(**{k: v for k, v in small.items() if k != "num_heads"}),
            {"token_ids": tokens(), **segments},
        ),
    )
    seq2seq = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in text().items()}
    yield "BartBackbone", lambda: (hub.BartBackbone(**small), seq2seq)
    yield (
        "BertTextClassifier",
        lambda: (
            hub.BertTextClassifier(hub.BertBackbone(**small), num_classes=3, preprocessor=None, dropout=0.2),
            text(**segments),
            labels,
        ),
    )


def tabtransformertf() -> Models:
    from tabtransformertf.models.fttransformer import FTTransformer, FTTransformerEncoder
    from tabtransformertf.models.tabtransformer import TabTransformer

    rows = {f"n{i}": numbers.normal(0, 1, (16, 1)).astype("float32") for i in range(3)}
    labels = {"c0": np.array([["a"], ["b"]] * 8), "c1": np.array([["u"], ["v"]] * 8)}
    x = {**rows, **{name: tf.constant(column) for name, column in labels.items()}}
    common = {"categorical_features": list(labels), "numerical_features": list(rows), "embedding_dim": 8, "depth": 1}

    def tab() -> Any:
        lookups = {name: keras.layers.StringLookup(vocabulary=sorted(set(labels[name].ravel()))) for name in labels}
        return TabTransformer(1, "sigmoid", categorical_lookup=lookups, heads=2, mlp_hidden_factors=[2], **common)

    def ft() -> Any:
        encoder = FTTransformerEncoder(
            numerical_data=np.hstack(list(rows.values())), categorical_data=np.hstack(list(labels.values())),
            heads=2, **common,
        )  # fmt: skip
        return FTTransformer(1, "sigmoid", encoder=encoder)

    yield "TabTransformer", lambda: (tab(), x)
    yield "FTTransformer", lambda: (ft(), x)


def tfts() -> Models:
    from tfts import AutoConfig, AutoModelForForecasting

    small = {
        "hidden_size": 8, "num_layers": 1, "num_attention_heads": 2, "ffn_intermediate_size": 16, "d_model": 8,
        "d_ff": 16, "num_kernels": 2, "top_k": 2, "num_encoder_layers": 1, "num_decoder_layers": 1,
        "rnn_hidden_size": 8, "filters": 8, "dense_hidden_size": 8,
    }  # fmt: skip

    def forecaster(name: str) -> Any:
        config = AutoConfig.for_model(name)
        config.update({key: value for key, value in small.items() if hasattr(config, key)})
        model = AutoModelForForecasting.from_config(config, output_chunk_length=4)
        model.compile(keras.optimizers.Adam(1e-4), jit_compile=False)
        return model

    for name in (
        *("timesnet", "bert", "dlinear", "gpt", "itransformer", "nbeats", "patch_tst", "rnn", "rwkv", "seq2seq"),
        *("tcn", "tide", "timemixer", "timesfm", "timexer", "unet", "wavenet", "transformer", "informer", "autoformer"),
    ):
        yield name, lambda name=name: (forecaster(name), series(channels=1), series(length=4, channels=1))


def deepctr() -> Models:
    from deepctr import models
    from deepctr.feature_column import SparseFeat, VarLenSparseFeat

    # Sparse features alone: what it does with dense ones does not build on Keras 3.
    columns = [SparseFeat(f"s{i}", 8, embedding_dim=4) for i in range(4)]
    x = {f"s{i}": numbers.integers(0, 8, 32) for i in range(4)}
    dnn = {"dnn_hidden_units": (8, 8), "dnn_dropout": 0.2}
    norm = {"dnn_use_bn": True}

    for name, options in (
        ("AFM", {"afm_dropout": 0.2}),
        ("AutoInt", {**dnn, **norm, "att_layer_num": 1}),
        ("DCN", {**dnn, **norm}),
        ("DCNMix", {**dnn, **norm}),
        ("DeepFM", {**dnn, **norm}),
        ("DIFM", {**dnn, **norm, "att_head_num": 2}),
        ("EDCN", {"dnn_dropout": 0.2, **norm}),
        ("FiBiNET", dnn),
        ("FNN", dnn),
        ("FwFM", {**dnn, **norm}),
        ("IFM", {**dnn, **norm}),
        ("NFM", {**dnn, "bi_dropout": 0.2}),
        ("ONN", dnn),
        ("WDL", {"dnn_hidden_units": (8, 8), "dnn_dropout": 0.2}),
        ("xDeepFM", {**dnn, **norm, "cin_layer_size": (8, 8)}),
    ):
        yield name, lambda name=name, options=options: (getattr(models, name)(columns, columns, **options), x)
    yield "PNN", lambda: (models.PNN(columns, **dnn), x)
    yield "MMOE", lambda: (
        models.MMOE(columns, 2, (8,), (8,), dnn_dropout=0.2, dnn_use_bn=True, task_names=("click", "buy")), x
    )  # fmt: skip
    yield "PLE", lambda: (
        models.PLE(
            columns, expert_dnn_hidden_units=(8,), tower_dnn_hidden_units=(8,), gate_dnn_hidden_units=(4,),
            dnn_dropout=0.2, dnn_use_bn=True, task_names=("click", "buy"),
        ),
        x,
    )  # fmt: skip
    history = {"s0": x["s0"], "hist_s0": numbers.integers(1, 8, (32, 4)), "seq_length": numbers.integers(1, 5, 32)}
    sequence = [
        SparseFeat("s0", 8, embedding_dim=4),
        VarLenSparseFeat(
            SparseFeat("hist_s0", 8, embedding_dim=4, embedding_name="s0"), maxlen=4, length_name="seq_length"
        ),
    ]
    yield "DIN", lambda: (models.DIN(sequence, ["s0"], dnn_use_bn=True, att_hidden_size=(8,), **dnn), history)


def aeon() -> Models:
    from aeon import networks

    small = {"n_filters": 8}
    for name, options in (
        ("TimeCNNNetwork", {}),
        ("DCNNNetwork", {"latent_space_dim": 8, "n_layers": 2}),
        ("DisjointCNNNetwork", {**small, "n_layers": 2, "kernel_size": [8, 5], "hidden_fc_units": 8}),
        ("EncoderNetwork", {"n_filters": [8, 8, 16], "fc_units": 16}),
        ("FCNNetwork", {"n_filters": [8, 8, 8]}),
        ("InceptionNetwork", {**small, "depth": 3}),
        ("LITENetwork", small),
        ("MLPNetwork", {"n_layers": 2, "n_units": 16}),
        ("ResNetNetwork", {"n_residual_blocks": 2, "n_filters": 8}),
    ):

        def classifier(name: str = name, options: dict = options) -> Any:
            inputs, features = getattr(networks, name)(**options).build_network((24, 3))
            return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(features))

        yield name, lambda make=classifier: (make(), series())
    for name, options in (
        ("AEFCNNetwork", {"latent_space_dim": 8, "n_filters": [8, 8, 8]}),
        ("AEResNetNetwork", {"latent_space_dim": 8, "n_residual_blocks": 1, "n_filters": [8]}),
        ("AEDCNNNetwork", {"latent_space_dim": 8, "n_layers": 2}),
    ):

        def autoencoder(name: str = name, options: dict = options) -> Any:
            encoder, decoder = getattr(networks, name)(**options).build_network((24, 3))
            inputs = keras.Input((24, 3))
            return keras.Model(inputs, decoder(encoder(inputs)))

        yield name, lambda make=autoencoder: (make(), series())


def medicai() -> Models:
    from medicai import models
    from medicai.models.densenet.densenet import DenseNetBase
    from medicai.models.resnet.resnet import ResNetBase
    from medicai.models.vit.vit import ViTVariantsBase

    image = (32, 32, 3)
    resnet = {
        "block_type": "basic_block", "num_blocks": [1, 1, 1, 1], "conv_filters": [64], "conv_kernel_sizes": [3],
        "num_filters": [64, 8, 16, 16], "num_strides": [1, 2, 2, 2],
    }  # fmt: skip

    def encoder() -> Any:
        return models.ResNetBackbone(input_shape=image, **resnet)

    swin = {"embed_dim": 8, "window_size": 4, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 2], "drop_path_rate": 0.1}
    mit = {"project_dim": [8, 8, 16, 16], "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]}
    yield "ResNetBase", lambda: (
        ResNetBase(**resnet, use_pre_activation=False, input_shape=image, num_classes=4, name="resnet"), images()
    )  # fmt: skip
    yield (
        "ResNetBase, squeeze and excitation",
        lambda: (
            ResNetBase(
                **resnet,
                use_pre_activation=True,
                se_block=True,
                se_ratio=4,
                input_shape=image,
                num_classes=4,
                name="resnet",
            ),
            images(),
        ),
    )
    yield (
        "DenseNetBase",
        lambda: (DenseNetBase(blocks=[1, 1, 1, 1], input_shape=image, num_classes=4, name="densenet"), images()),
    )
    yield "ViTVariantsBase", lambda: (
        ViTVariantsBase(
            input_shape=image, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4,
            use_class_token=True, dropout=0.1,
        ),
        images(),
    )  # fmt: skip
    yield (
        "ConvNeXtBackbone",
        lambda: (
            models.ConvNeXtBackbone(
                depths=[1, 1, 1, 1],
                projection_dims=[8, 8, 16, 16],
                input_shape=image,
                drop_path_rate=0.2,
                name="convnext",
            ),
            images(),
        ),
    )
    yield "MiTBackbone", lambda: (models.MiTBackbone(input_shape=image, **mit), images())
    yield "SegFormer", lambda: (
        models.SegFormer(
            encoder=models.MiTBackbone(input_shape=image, **mit), num_classes=2, decoder_head_embedding_dim=8,
            dropout=0.2,
        ),
        images(),
    )  # fmt: skip
    yield "SwinBackbone", lambda: (models.SwinBackbone(input_shape=image, patch_size=2, **swin), images())
    yield "UNet", lambda: (
        models.UNet(encoder=encoder(), encoder_depth=4, decoder_filters=(16, 8, 8, 8)), images()
    )  # fmt: skip


def keras_cv() -> Models:
    from keras_cv import layers, models

    def classifier(backbone: Any) -> Any:
        return models.ImageClassifier(backbone=backbone, num_classes=4)

    def resnet() -> Any:
        return models.ResNetBackbone(
            stackwise_filters=[64, 16, 16, 16], stackwise_blocks=[1, 1, 1, 1], stackwise_strides=[1, 2, 2, 2],
            include_rescaling=False, block_type="basic_block", input_shape=(64, 64, 3),
        )  # fmt: skip

    def augmented() -> Any:
        head = [keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)]
        return keras.Sequential([keras.Input((32, 32, 3)), layers.RandomFlip("horizontal"), *head])

    one = {"stackwise_kernel_sizes": [3], "stackwise_num_repeats": [2], "stackwise_input_filters": [8]}
    one |= {"stackwise_output_filters": [8], "stackwise_expansion_ratios": [2], "stackwise_strides": [1]}
    one |= {"stackwise_squeeze_and_excite_ratios": [0.25], "width_coefficient": 1.0, "depth_coefficient": 1.0}
    yield "ImageClassifier, ResNetBackbone", lambda: (classifier(resnet()), images(size=64))
    yield (
        "ImageClassifier, EfficientNetV2Backbone",
        lambda: (
            classifier(
                models.EfficientNetV2Backbone(
                    **one, stackwise_conv_types=["fused"], include_rescaling=False, input_shape=(32, 32, 3)
                )
            ),
            images(),
        ),
    )
    yield "ImageClassifier, MobileNetV3Backbone", lambda: (
        classifier(
            models.MobileNetV3Backbone(
                stackwise_expansion=[1, 2], stackwise_filters=[8, 8], stackwise_kernel_size=[3, 3],
                stackwise_stride=[2, 1], stackwise_se_ratio=[0.25, None], stackwise_activation=["relu", "hard_swish"],
                include_rescaling=False, input_shape=(32, 32, 3),
            )
        ),
        images(),
    )  # fmt: skip
    yield (
        "DeepLabV3Plus",
        lambda: (models.DeepLabV3Plus(backbone=resnet(), num_classes=3, projection_filters=8), images(8, 64)),
    )
    yield "RandomFlip before a network", lambda: (augmented(), images())


def autokeras() -> Models:
    import keras_tuner
    from autokeras import blocks

    def network(block: Any, shape: tuple) -> Any:
        inputs = keras.Input(shape)
        features = block.build(keras_tuner.HyperParameters(), inputs)
        features = features[0] if isinstance(features, list) else features
        return keras.Model(
            inputs, keras.layers.Dense(4)(blocks.Flatten().build(keras_tuner.HyperParameters(), features))
        )

    yield (
        "DenseBlock",
        lambda: (
            network(blocks.DenseBlock(num_units=16, use_batchnorm=True, dropout=0.25), (8,)),
            numbers.normal(0, 1, (32, 8)).astype("float32"),
        ),
    )
    yield (
        "ConvBlock",
        lambda: (
            network(blocks.ConvBlock(kernel_size=3, num_blocks=1, num_layers=2, filters=16, dropout=0.25), (32, 32, 3)),
            images(),
        ),
    )
    yield "RNNBlock", lambda: (network(blocks.RNNBlock(num_layers=1), (24, 3)), series())
    yield "ImageAugmentation and ConvBlock", lambda: (
        network(
            Chain(
                blocks.ImageAugmentation(
                    translation_factor=0.1, vertical_flip=False, horizontal_flip=True, rotation_factor=0.1,
                    zoom_factor=0.0, contrast_factor=0.1,
                ),
                blocks.ConvBlock(kernel_size=3, num_blocks=1, num_layers=1, filters=16, dropout=0.0),
            ),
            (32, 32, 3),
        ),
        images(),
    )  # fmt: skip


class Chain:
    """Blocks of autokeras, one behind the other."""

    def __init__(self, *blocks: Any) -> None:
        self.blocks = blocks

    def build(self, hyper: Any, node: Any) -> Any:
        for block in self.blocks:
            node = block.build(hyper, node)
        return node


def keras_tuner() -> Models:
    import keras_tuner
    from keras_tuner import applications

    def augmenter() -> Any:
        hyper = keras_tuner.HyperParameters()
        make = applications.HyperImageAugment(input_shape=(32, 32, 3), augment_layers=0)
        make.build(hyper)
        chosen = {name: 0.2 for name in hyper.values if name.startswith("factor_")}
        hyper.values.update(chosen)
        augment = make.build(hyper)
        inputs = keras.Input((32, 32, 3))
        features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(augment(inputs)))
        return keras.Model(inputs, keras.layers.Dense(4)(features))

    yield "HyperImageAugment", lambda: (augmenter(), images())


def vit_keras() -> Models:
    from vit_keras import vit

    yield "vit", lambda: (
        vit.build_model(
            image_size=32, patch_size=8, num_layers=2, hidden_size=16, num_heads=2, name="vit", mlp_dim=32, classes=4,
            dropout=0.1,
        ),
        images(),
    )  # fmt: skip


def keras_lmu() -> Models:
    from keras_lmu import LMU

    def network(**options: Any) -> Any:
        inputs = keras.Input((24, 3))
        hidden = keras.layers.LSTMCell(8)
        return keras.Model(inputs, keras.layers.Dense(2)(LMU(1, 4, 24, hidden, **options)(inputs)))

    yield "LMU", lambda: (network(), series())
    yield "LMU, dropout", lambda: (network(dropout=0.2), series())


def ncps() -> Models:
    from ncps.keras import LTC, CfC
    from ncps.wirings import AutoNCP

    def network(layer: Any) -> Any:
        return keras.Sequential([keras.Input((12, 3)), layer, keras.layers.Dense(2)])

    yield "CfC", lambda: (network(CfC(8, backbone_units=8, backbone_dropout=0.2)), series(length=12))
    yield "LTC", lambda: (network(LTC(AutoNCP(8, 4))), series(length=12))


def kerasfactory() -> Models:
    from kerasfactory import models

    rows = numbers.normal(0, 1, (32, 6)).astype("float32")
    yield "SFNEBlock", lambda: (
        models.SFNEBlock(input_dim=6, output_dim=2, hidden_dim=8, slow_network_units=8), rows
    )  # fmt: skip
    yield (
        "TerminatorModel",
        lambda: (
            models.TerminatorModel(
                input_dim=6, context_dim=3, output_dim=2, hidden_dim=8, num_blocks=1, slow_network_units=8
            ),
            [rows, rows[:, :3]],
        ),
    )
    yield "Autoencoder", lambda: (models.Autoencoder(input_dim=6, encoding_dim=4, intermediate_dim=8), rows)
    yield (
        "BaseFeedForwardModel",
        lambda: (
            models.BaseFeedForwardModel(["a", "b"], [8, 8], dropout_rate=0.2),
            {name: rows[:, i : i + 1] for i, name in enumerate("ab")},
        ),
    )
    yield "TSMixer", lambda: (
        models.TSMixer(seq_len=24, pred_len=4, n_features=3, n_blocks=1, ff_dim=8), series()
    )  # fmt: skip
    yield (
        "TimeMixer",
        lambda: (models.TimeMixer(seq_len=24, pred_len=4, n_features=3, d_model=8, d_ff=8, e_layers=1), series()),
    )


PACKAGES = {
    "keras-hub": keras_hub,
    "tabtransformertf": tabtransformertf,
    "tfts": tfts,
    "deepctr": deepctr,
    "aeon": aeon,
    "medicai": medicai,
    "keras-cv": keras_cv,
    "autokeras": autokeras,
    "keras-tuner": keras_tuner,
    "vit-keras": vit_keras,
    "keras-lmu": keras_lmu,
    "ncps": ncps,
    "kerasfactory": kerasfactory,
}


def norms_of(model: Any) -> list[Any]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def train(model: Any, x: Any, y: Any) -> None:
    """A few steps of `fit`, in which the moving statistics follow the batch: a short training leaves them behind.

    That they are behind is right to say and no fault of the package, so the momentum is 0.5 meanwhile.
    """
    norms = norms_of(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.5
    model.fit(x, y, batch_size=1024, epochs=STEPS, verbose=0)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train_function = None  # the kept one has the other momentum


def told(diagnosis: Any) -> list[dict[str, Any]]:
    """Every finding; layers with one fault are one entry with a count. A note keeps no words."""
    kinds: dict[tuple, dict[str, Any]] = {}
    for finding in diagnosis.findings:
        key = (finding.code, finding.severity, finding.cure_id)
        entry = kinds.setdefault(key, {"code": finding.code, "severity": finding.severity, "where": finding.where})
        entry["count"] = entry.get("count", 0) + 1
        if finding.severity != "note":
            entry.setdefault("message", finding.message)
            entry.setdefault("cure", finding.cure_id)
    return list(kinds.values())


def examine(build: Callable[[], tuple[Any, ...]]) -> dict[str, Any]:
    """What the doctor says of a fresh model and of the same after training, and how long both took."""
    from phase_doctor import diagnose

    keras.utils.set_random_seed(0)
    model, x, *y = build()
    y = y[0] if y else None
    if y is None:
        y = keras.tree.map_structure(
            lambda output: numbers.normal(0, 1, output.shape).astype("float32"), model(x, training=False)
        )
        model.compile(keras.optimizers.Adam(1e-4), "mse", metrics=None, jit_compile=False)
    entry: dict[str, Any] = {"states": {}}
    for state in ("fresh", "trained"):
        if state == "trained":
            train(model, x, y)
        began = time.process_time()
        diagnosis = diagnose(model, x, y, progress=False)
        if not diagnosis.ok:
            print(diagnosis)
        entry["states"][state] = {"findings": told(diagnosis), "seconds": round(time.process_time() - began, 1)}
    return entry


def line_of(file: str, wanted: list[str]) -> int:
    """The number of the line that shows a fault: the last of `wanted`, each looked for behind the one before."""
    (path,) = (folder / file for folder in map(Path, sys.path) if (folder / file).is_file())
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    number = 0
    for text in wanted:
        number = next(number for number, line in lines if text in line)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--only", nargs="+", help="names of models")
    options = parser.parse_args()
    entry: dict[str, Any] = {
        "version": importlib.metadata.version(options.package),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "models": {},
    }
    entry["lines"] = {
        fault["name"]: line_of(fault["file"], fault["line"])
        for fault in json.loads(FAULTS.read_text(encoding="utf-8"))
        if fault["package"] == options.package
    }
    raised: list[str] = []
    for name, build in PACKAGES[options.package]():
        if options.only and name not in options.only:
            continue
        keras.backend.clear_session()
        began = time.process_time()
        try:
            entry["models"][name] = examine(build)
            faults = [
                f"{state} {found['code']} ({found['severity']})"
                for state, told in entry["models"][name]["states"].items()
                for found in told["findings"]
                if found["severity"] != "note"
            ]
        except Exception as error:
            faults = [f"RAISED {type(error).__name__}: {str(error)[:300]}"]
            raised.append(name)
        print(f"{name:32} {', '.join(faults) or 'clean'}  ({time.process_time() - began:.0f} s of CPU)", flush=True)
        options.out.write_text(json.dumps(entry))
    sys.exit(f"raised: {', '.join(raised)}" if raised else 0)


if __name__ == "__main__":
    main()
