"""The scan's examples do on the installed Keras what their messages say, and their cures do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from phase_doctor.scan import checks, known
from phase_doctor.scan.check import CHECKS
from phase_doctor.scan.settings import numbers

assert checks
RELEASE = numbers(keras.__version__)


def ran(code: str, side: str) -> dict[str, Any]:
    """What the names of an example hold after it ran, on ones, so that zeros are what was dropped."""
    keras.utils.set_random_seed(0)
    given = {
        "x": np.ones((32, 8), "float32"),
        "y": np.ones((32, 1), "float32"),
        "loss_fn": keras.losses.MeanSquaredError(),
        "optimizer": keras.optimizers.SGD(),
    }
    exec(compile(getattr(CHECKS[code], side), f"<{code} {side}>", "exec"), given)
    return given


def either(code: str, seen: Callable[[dict[str, Any]], bool]) -> None:
    """Is it seen in the broken example, and not in the cured one, on a release for which the check is true?"""
    if not CHECKS[code].holds_on(RELEASE):
        pytest.skip(f"not said of Keras {keras.__version__}")
    assert seen(ran(code, "broken"))
    assert not seen(ran(code, "cured"))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("PS101", AttributeError),
        ("PS102", AttributeError),
        ("PS103", AttributeError),
        ("PS104", ValueError),
        ("PS105", ImportError),
        ("PS106", ValueError),
    ],
)
def test_what_is_gone_raises(code: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ran(code, "broken")
    ran(code, "cured")


def drops(outputs: Any) -> bool:
    return bool(np.any(np.array(outputs) == 0))


def test_a_call_without_training_drops_nothing_in_fit() -> None:
    def undropped(seen: dict[str, Any]) -> bool:
        seen["model"].compile(keras.optimizers.SGD(0.0), "mse")
        one, two = seen["model"].fit(seen["x"], seen["y"], epochs=2, verbose=0).history["loss"]
        return one == two  # at a rate of 0 only what is dropped could make a difference

    either("PS201", undropped)


def test_a_neighbours_phase_is_taken_over() -> None:
    either("PS202", lambda seen: not drops(seen["Net"]()(seen["x"], training=True)))


def test_a_default_of_true_drops_in_a_bare_call() -> None:
    either("PS203", lambda seen: drops(seen["Net"]()(seen["x"])))


def raises(act: Callable[[], Any], error: str) -> bool:
    try:
        act()
    except Exception as raised:
        return error in type(raised).__name__
    return False


def test_a_layer_made_in_call_raises_in_fit() -> None:
    def fit(seen: dict[str, Any]) -> None:
        model = seen["Net"]()
        model.compile("sgd", "mse")
        model.fit(seen["x"], seen["x"], verbose=0)

    either("PS204", lambda seen: raises(lambda: fit(seen), "ValueError"))


def test_a_tensor_as_training_raises_in_a_graph() -> None:
    either("PS205", lambda seen: raises(lambda: seen["step"](seen["x"]), "OperatorNotAllowedInGraphError"))


def test_a_bare_call_in_a_step_moves_no_statistics() -> None:
    def unmoved(seen: dict[str, Any]) -> bool:
        seen["model"](seen["x"])
        seen["step"](seen["x"], seen["y"])
        return not np.any(np.array(seen["model"].layers[0].moving_mean))

    either("PS301", unmoved)


def test_a_recorded_dropout_drops_nothing_in_predict() -> None:
    def same(seen: dict[str, Any]) -> bool:
        one, two = (seen["model"].predict(np.ones((32, 8)), verbose=0) for _ in range(2))
        return np.array_equal(one, two)

    either("PS312", same)


def test_what_is_frozen_after_the_first_fit_goes_on_training() -> None:
    def trains(seen: dict[str, Any]) -> bool:
        frozen = seen["model"].layers[0]
        before = frozen.get_weights()
        seen["model"].fit(seen["x"], seen["y"], verbose=0)
        return not frozen.trainable and not all(map(np.array_equal, before, frozen.get_weights()))

    either("PS321", trains)


def test_a_discriminator_frozen_before_its_first_step_does_not_learn() -> None:
    def unchanged(seen: dict[str, Any]) -> bool:
        before = seen["discriminator"].get_weights()
        seen["discriminator"].train_on_batch(seen["x"], 3 * seen["y"])
        return all(map(np.array_equal, before, seen["discriminator"].get_weights()))

    either("PS322", unchanged)


def test_the_cured_combined_model_leaves_the_discriminator_alone() -> None:
    seen = ran("PS322", "cured")
    before = seen["discriminator"].get_weights()
    seen["gan"].train_on_batch(seen["x"][:, :4], 3 * seen["y"])
    assert all(map(np.array_equal, before, seen["discriminator"].get_weights()))


def test_a_phase_by_position_raises_in_fit_where_it_is_handed_on() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.drop = keras.layers.Dropout(0.5)

        def call(self, x: Any, training: Any = None) -> Any:
            return self.drop(x, training)

    net = Net()
    net.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Only input tensors may be passed as positional arguments"):
        net.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)


def test_an_export_behind_augmentation_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).normal(5, 1, (16, 8, 8, 3)).astype("float32")

    def normalised(seen: dict[str, Any]) -> bool:
        served = tf.saved_model.load("served")
        return abs(float(np.mean(served.serve(images)))) < 0.5  # the batch's own mean is taken off

    either("PS402", normalised)


def test_saved_model_save_behind_resizing_trains(tmp_path: Path) -> None:
    layers = [keras.Input((8, 8, 3)), keras.layers.Resizing(8, 8), keras.layers.BatchNormalization()]
    tf.saved_model.save(keras.Sequential(layers), tmp_path)
    serve = tf.saved_model.load(tmp_path).signatures["serving_default"]
    images = np.random.default_rng(0).normal(5, 1, (16, 8, 8, 3)).astype("float32")
    (answers,) = serve(tf.constant(images)).values()
    said = CHECKS["PS402"].holds_on(RELEASE) and known.leaks("Resizing", RELEASE)
    assert (abs(float(np.mean(answers))) < 0.5) == said  # the batch's own mean is taken off
