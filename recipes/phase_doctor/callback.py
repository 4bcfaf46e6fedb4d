"""The doctor inside `fit`, and at the first call of a step of one's own."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from .interface import diagnose
from .report import Diagnosis


# --8<-- [start:callback]
class PhaseDoctor(keras.callbacks.Callback):
    """Examines the model that `fit` trains: before the first step and after the last.

    Prints each diagnosis; `diagnoses` holds them as pairs of a moment and a
    `Diagnosis`. Training is the same, bit for bit, with and without it.

    Args:
        x, y: One batch as for `diagnose`. It is not taken from the training data, whose
            order stays as it is.
        every: Examine after every n-th epoch, too.
        strict: Raise AssertionError where an error or a warning is found, before
            anything is trained or at the end of that epoch.
        report: Path of a JSON file that is written anew after each examination: a list
            of objects with `when` and what `Diagnosis.to_json` tells.
        allow: Codes to report as notes.
    """

    # --8<-- [end:callback]
    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        every: int | None = None,
        strict: bool = False,
        report: Any = None,
        allow: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.batch, self.every, self.strict = (x, y), every, strict
        self.report = None if report is None else Path(report)
        self.allow = allow
        self.diagnoses: list[tuple[str, Diagnosis]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.diagnoses = []
        self.examine("before the first step")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        last = epoch + 1 == self.params.get("epochs")  # the end of training follows
        if self.every and (epoch + 1) % self.every == 0 and not last:
            self.examine(f"after epoch {epoch + 1}")

    def on_train_end(self, logs: Any = None) -> None:
        self.examine("after the last step")

    def examine(self, when: str) -> None:
        kept = self.model.train_function, self.model.stop_training
        try:
            found = diagnose(self.model, *self.batch, allow=self.allow, progress=False)
        finally:
            self.model.train_function, self.model.stop_training = kept
        self.diagnoses.append((when, found))
        print(f"{when}: {found}")
        if self.report:
            told = [{"when": w, **json.loads(d.to_json())} for w, d in self.diagnoses]
            self.report.parent.mkdir(parents=True, exist_ok=True)
            draft = self.report.with_name(self.report.name + ".part")
            draft.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
            draft.replace(self.report)
        if self.strict and not found.ok:
            raise AssertionError(f"{when}: {found}")


def examine_first(
    step: Callable[..., Any], model: Any, **options: Any
) -> Callable[..., Any]:
    """Return `step`, which is examined at its first call, on the batch that it gets.

    Put it in place of a step of your own that takes `(x, y)`, or one batch. The
    diagnosis is printed and kept as the `diagnosis` of what is returned; the call then
    goes on. Options are those of `diagnose`.
    """

    @functools.wraps(step)
    def first(*given: Any) -> Any:
        if first.diagnosis is None:  # type: ignore[attr-defined]
            x, y = (*given, None)[:2]
            options.setdefault("progress", False)
            found = diagnose(model, x, y, train_step=step, **options)
            first.diagnosis = found  # type: ignore[attr-defined]
            print(found)
        return step(*given)

    first.diagnosis = None  # type: ignore[attr-defined]
    return first
