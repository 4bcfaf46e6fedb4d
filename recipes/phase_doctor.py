"""Examine a Keras model and its training step, and name every phase bug with evidence.

Symptom: Training looks fine and validation does not, or the exported model disagrees with the one in memory.
Nothing raises, so it is unclear which of two dozen known phase pitfalls this model has.

Cause: A layer runs in another phase than meant, or its moving statistics do not fit its weights.
Both can be seen from outside: by running the model in each phase and watching what changes.

Fix: `diagnose(model, x, y, train_step=step)` names each fault by a stable code (PD101, PD201, ...), says which layer,
gives the numbers and the cure. `assert_healthy(...)` does the same inside a test suite.
`python phase_doctor.py model.keras --data x.npy` does it from a shell.

Holds on: Keras 3.0 to 3.16.dev on the TensorFlow backend, and tf_keras 2.21 (Keras 2).

More: docs/recipes/phase_doctor.md in Phasebook
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import dis
import functools
import importlib
import inspect
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and "PHASEBOOK_DEMO" not in os.environ:
    # Run the demo in a child process and drop TensorFlow's start-up lines, which no setting stops.
    noise = re.compile(
        r"WARNING: All log messages before absl|To enable the following instructions"
        r"|[IWE]\d{4} .*(port|cudart_stub|cpu_feature_guard|cuda_platform|cuda_executor|gpu_device"
        r"|mlir_graph_optimization_pass|tf_tfl_flatbuffer_helpers|reader|loader|function_optimizer|flatbuffer_export"
        r"|cuda_fft|cuda_dnn|cuda_blas|computation_placer|service|device_compiler|xla_compilation_cache|devices|grappler)\.cc:"
    )
    command = [sys.executable, *sys.argv]
    with subprocess.Popen(command, env={**os.environ, "PHASEBOOK_DEMO": "1"}, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if not noise.match(line):
                sys.stderr.write(line)
    sys.exit(child.returncode)

import keras
import numpy as np
import tensorflow as tf

# --8<-- [start:rules]
# code: (what the finding says, severity when nothing softens it, cure, recipe)
RULES: dict[str, tuple[str, str, str, str | None]] = {
    "PD001": ("the model, the step or the artifact raised", "error", "Make it run on this batch first.", None),
    "PD002": ("not examined, or not put back", "note", "Read the message; `insist=True` runs the step all the same.", None),
    "PD101": (
        "`call` cannot be told the phase",
        "error",
        "Declare `def call(self, inputs, training=None)` and pass `training` to every layer inside.",
        "subclass_training_arg",
    ),
    "PD102": (
        "a recorded `training=` is ignored by this Keras",
        "error",
        "Set `trainable = False` on each BatchNormalization before `compile`, or call the layer from a subclass's `call`.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD103": (
        "a phase-dependent layer whose variables the model does not track",
        "error",
        "Assign the layer to an attribute of the model, not to a closure, a global or a hidden container.",
        "subclass_training_arg",
    ),
    "PD104": (
        "one BatchNormalization serves several places",
        "warning",
        "Create one BatchNormalization for each place; weights of other layers may stay shared.",
        "fit_explicit_phase",
    ),
    "PD105": (
        "`trainable` changed after `compile`",
        "error",
        "Call `compile` again after every change of `trainable`.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD106": (
        "a layer's default `training=True` puts later layers in training mode on a bare call",
        "warning",
        "Call `model(x, training=False)`, and export through an endpoint that says so.",
        "export_inference_model",
    ),
    "PD201": (
        "statistics untouched since initialisation though weights were trained",
        "error",
        "Call `model(x, training=True)` in the train step; save and restore `model.weights`, not only the trainable ones.",
        "functional_learning_phase",
    ),
    "PD202": (
        "statistics far behind the data",
        "warning",
        "Train for more steps, lower the momentum, or re-estimate the statistics over training batches.",
        "fit_explicit_phase",
    ),
    "PD203": (
        "statistics not finite, or a variance not positive",
        "error",
        "Find the batch that was empty or not finite, then re-estimate the statistics.",
        "fit_explicit_phase",
    ),
    "PD301": (
        "the step leaves statistics unmoved",
        "error",
        "Call the model with `training=True` inside the train step.",
        "functional_learning_phase",
    ),
    "PD302": (
        "statistics move more than once a step",
        "error",
        "Run one training-phase forward pass a step; run any other with `training=False`.",
        "fit_explicit_phase",
    ),
    "PD303": (
        "a frozen layer moves",
        "error",
        "Set `trainable = False` before `compile` and before the step is first traced.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD304": (
        "inference depends on batch mates",
        "error",
        "Pass `training=False` down to the layer at inference; never fix `training=True` in `call`.",
        "subclass_training_arg",
    ),
    "PD305": (
        "inference is stochastic",
        "error",
        "Make the random layer obey `training`. If you mean it, pass `allow=('PD305',)`.",
        "monte_carlo_dropout",
    ),
    "PD306": (
        "inference changes state",
        "error",
        "Update state only when `training` is true.",
        "subclass_training_arg",
    ),
    "PD307": (
        "inference output constant though training output is not",
        "error",
        "Repair the moving statistics: update them while training, or re-estimate them.",
        "functional_learning_phase",
    ),
    "PD308": (
        "the two phases disagree far beyond noise",
        "warning",
        "Repair the moving statistics, or the layer that behaves differently in the two phases.",
        "fit_explicit_phase",
    ),
    "PD309": (
        "`model(x)` differs from `predict`",
        "warning",
        "Say the phase on every direct call: `model(x, training=False)`.",
        "functional_learning_phase",
    ),
    "PD401": (
        "the artifact differs from `model(x, training=False)`",
        "error",
        "Export again through an endpoint that passes `training=False`.",
        "export_inference_model",
    ),
    "PD402": (
        "the artifact holds assigning or random operations",
        "error",
        "Export a function that calls `model(x, training=False)`.",
        "export_inference_model",
    ),
    "PD403": (
        "the artifact has a fixed batch size or a phase input",
        "warning",
        "Export with a batch dimension of None and with the phase fixed.",
        "export_inference_model",
    ),
}
# --8<-- [end:rules]
