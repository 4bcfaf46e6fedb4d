"""One visit: check what was handed in, examine, judge, and leave all as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from .batches import first_batch
from .bench import Bench
from .building import build
from .clock import Clock
from .examine import examine
from .layers import library_of
from .reach import PythonState
from .report import CannotExamine, Diagnosis
from .rules import RULES
from .subject import Subject
from .verdict import judge


def check(model: Any, step: Any, artifact: Path | None, allow: tuple[str, ...]) -> None:
    """Refuses what cannot be examined, before anything is run."""
    unknown = ", ".join(repr(code) for code in allow if code not in RULES)
    if unknown:
        codes = ", ".join(RULES)
        raise CannotExamine(f"`allow` names {unknown}; the doctor's codes are {codes}.")
    library = library_of(model)
    if library is None or not hasattr(model, "variables"):
        raise CannotExamine(
            f"`model` is {type(model).__module__}.{type(model).__name__}, not a Keras "
            "model: hand the doctor a keras.Model (or a tf_keras.Model). "
            "Load a file first with keras.models.load_model."
        )
    backend = keras.backend.backend()
    if library is keras and backend != "tensorflow":
        raise CannotExamine(
            f"Keras runs on {backend!r}: the doctor reads TensorFlow graphs."
        )
    if step is not None and not callable(step):
        raise CannotExamine(
            f"`train_step` is {type(step).__name__}: "
            "hand the doctor a function of (x, y)."
        )
    if artifact is not None and not artifact.exists():
        raise CannotExamine(f"There is no artifact at {artifact}.")


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Inside, a GPU multiplies in float32 proper.

    TensorFloat-32 keeps three digits, and which ones depends on the size of the batch:
    as if batch mates mattered.
    """
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


@float32()
def visit(
    model: Any,
    x: Any,
    y: Any,
    *,
    train_step: Any,
    artifact: Any,
    loss: Any,
    allow: Any,
    insist: bool,
    progress: bool,
) -> Diagnosis:
    allow = (allow,) if isinstance(allow, str) else tuple(allow)
    artifact = None if artifact is None else Path(artifact)
    check(model, train_step, artifact, allow)
    clock = Clock(progress)
    batch, remark = first_batch(model, x, y)
    subject = Subject(model, batch, train_step, loss)
    if remark:
        subject.remarks.append(remark)
    build(subject, clock)
    python = PythonState(train_step, model)
    bench = Bench(subject, clock)
    try:
        evidence = examine(bench, insist, artifact)
        findings = judge(evidence, allow)
    finally:
        bench.snapshot.restore()
        python.restore()
    package = subject.package
    versions = {"TensorFlow": tf.__version__, package.__name__: package.__version__}
    return Diagnosis(findings, clock.timing(), versions, model.name)
