"""What a reader calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from .report import Diagnosis


# --8<-- [start:diagnose]
def diagnose(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    train_step: Callable[..., Any] | None = None,
    artifact: str | os.PathLike[str] | None = None,
    loss: Any = None,
    allow: Sequence[str] = (),
    insist: bool = False,
    progress: bool = True,
) -> Diagnosis:
    """Examines a model, and the reader's own step and artifact, for phase bugs.

    Everything is left as it was, bit for bit: weights, statistics, optimizer slots,
    metrics and seed generators are put back even after an exception or Ctrl-C. An
    unbuilt model comes back built, and optimizer slots that the first step would create
    exist afterwards; the diagnosis says so.

    Args:
        model: A Keras 3 or tf_keras model: Functional, Sequential, subclassed, nested.
        x: One batch as the model takes it (array, tensor, dict, tuple; shape
            (samples, ...)), or an iterable of batches. At least 8 samples are better;
            statistics need 4, the batch-mates rule 2.
        y: The targets of that batch, or None. Iterables of batches bring their own.
        train_step: The reader's step, called as `train_step(x, y)`. Without one, a
            compiled model's own `train_step` stands in.
        artifact: Path of what was exported: SavedModel folder, .keras, .h5, .tflite or
            .onnx.
        loss: `loss(y, output)`, to report both phases' losses; default is the compiled
            one.
        allow: Codes to report as notes, for models that mean it: `("PD305",)` for Monte
            Carlo dropout or a VAE.
        insist: Run the step even when what it does cannot be put back (stateful
            `tf.random`, Python side effects, a one-shot iterator). Without it such a
            step is traced and judged by its graph alone.
        progress: Say on stderr what is going on once two seconds have passed.

    Raises:
        CannotExamine: For what is no Keras model, no data or no artifact; before
            anything is run.
    """
    # --8<-- [end:diagnose]
    from .doctor import visit  # which loads TensorFlow

    return visit(
        model,
        x,
        y,
        train_step=train_step,
        artifact=artifact,
        loss=loss,
        allow=allow,
        insist=insist,
        progress=progress,
    )


def assert_healthy(model: Any, x: Any, y: Any = None, **options: Any) -> Diagnosis:
    """Raises AssertionError with the whole table where there is an error or a warning.

    Takes the arguments of `diagnose` and returns its diagnosis, so that a test can look
    at the notes as well.
    """
    diagnosis = diagnose(model, x, y, **options)
    if not diagnosis.ok:
        raise AssertionError(str(diagnosis))
    return diagnosis
