"""Who is examined: the model, its batch, and what its class defines."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from .batches import model_input, size_of
from .evidence import Failure
from .layers import has_call, library_of, phase_parameter


class Subject:
    """The model as the reader handed it in, with one batch; and what raised so far."""

    def __init__(self, model: Any, batch: tuple[Any, Any], step: Any, loss: Any):
        self.model, self.step, self.loss = model, step, loss
        self.given, self.y = batch
        self.x = model_input(self.given)
        self.size = size_of(self.x)
        self.package = library_of(model)
        old = hasattr(self.package, "__internal__")
        self.keras3 = self.package.__name__ == "keras" and not old
        known = ("keras", "tf_keras")
        self.packages = [sys.modules[name] for name in known if name in sys.modules]
        self.remarks: list[str] = []
        self.failures: list[Failure] = []

    @property
    def compiled(self) -> bool:
        model = self.model
        return bool(getattr(model, "compiled", getattr(model, "_is_compiled", False)))

    @property
    def forgets_to_tell(self) -> bool:
        """Whether `fit` and `predict` cannot hand this model the phase."""
        return self.keras3 and phase_parameter(self.model) is None

    def phase(self, training: bool | None) -> Callable[[Any], Any]:
        """`model(x, training=...)`, or `model(x)` for a model that cannot be told."""
        model = self.model
        if training is None:
            return lambda x: model(x)

        def call(x: Any) -> Any:
            try:
                return model(x, training=training)
            except TypeError as error:
                if "training" not in str(error) or phase_parameter(model) is not None:
                    raise
                return model(x)

        return call

    def _own(self, name: str) -> bool:
        """Whether a class of the reader's defines that method."""
        owner = next((c for c in type(self.model).__mro__ if name in c.__dict__), None)
        return owner is not None and not owner.__module__.startswith(
            ("keras.", "tf_keras.")
        )

    def own_step(self) -> Callable[..., Any] | None:
        """The `train_step` that the reader's own class defines, once compiled."""
        model = self.model
        if not self._own("train_step") or not self.compiled:
            return None
        if self.y is None:  # as `fit` packs it
            return lambda x: model.train_step(
                (x,) if isinstance(x, (list, tuple)) else x
            )
        return lambda x, y: model.train_step((x, y))

    def own_predict(self) -> Callable[[Any], Any] | None:
        """The reader's own `predict_step`, or None."""
        if not self._own("predict_step"):
            return None
        step = self.model.predict_step

        def call(x: Any) -> Any:
            """As `predict` calls it: with an array itself, or with what a data set
            yields."""
            try:
                return step((x,) if isinstance(x, (list, tuple)) else x)
            except Exception:
                return step((x,) if self.y is None else (x, self.y))

        return call

    def everything(self) -> list[Any]:
        """Variables of the model, its optimizer and its metrics."""
        found = variables_of(self.model)
        slots = getattr(getattr(self.model, "optimizer", None), "variables", None)
        found += list((slots() if callable(slots) else slots) or [])
        return found + [v for m in metrics_of(self.model) for v in m.variables]

    def attempt(self, action: Callable[[], Any], what: str, stage: str = "call") -> Any:
        """Does one part of the examination; what it raises is kept as evidence."""
        try:
            return action()
        except NotImplementedError as error:
            if not what.startswith("model(x") or has_call(self.model):
                self.failed(what, error, stage)
            else:
                self.remarks.append(NO_CALL)
        except Exception as error:
            self.failed(what, error, stage)
        return None

    def failed(self, what: str, error: Exception, stage: str = "call") -> None:
        failure = Failure(what, type(error).__name__, last_words(error), stage)
        if failure not in self.failures:
            self.failures.append(failure)


NO_CALL = "The model has no `call`; only its layers and the step were examined."

# TensorFlow puts a stack trace before what went wrong.
DULL = re.compile(
    r'^\s*(Graph execution error|Detected at node|File "'
    r"|Exception encountered when calling|$)"
)


def last_words(error: Exception) -> str:
    """The line of a message that says what went wrong."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras writes in bold
    lines = [line.strip() for line in plain.splitlines() if not DULL.match(line)]
    # AutoGraph quotes the code first and names the error last.
    return (lines or [""])[-1 if "in user code:" in plain else 0]


def variables_of(layer: Any) -> list[Any]:
    try:
        return list(layer.variables)
    except Exception:  # an unbuilt model
        return []


def metrics_of(layer: Any) -> list[Any]:
    try:
        return list(layer.metrics)
    except Exception:
        return []
