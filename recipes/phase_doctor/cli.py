"""The command line: a model file in, a table or JSON and an exit status out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .interface import diagnose
from .report import CannotExamine

# Without --data noise stands in, which is unlike any data of a good model's.
NOISE_IS_NO_DATA = ("PD202", "PD307", "PD308")
NOISE = (
    "No --data: random numbers were used, "
    "so what compares statistics with data is a note."
)


@contextlib.contextmanager
def start_up_lines_hidden() -> Iterator[None]:
    """Sends stderr nowhere: TensorFlow writes there before it can be told not to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def load_model(path: str) -> Any:
    """The Keras model at `path`, or CannotExamine."""
    import keras

    if not Path(path).exists():
        raise CannotExamine(f"There is no model at {path}.")
    if Path(path).suffix.lower() not in (".keras", ".h5", ".hdf5"):
        raise CannotExamine(
            f"{path} is no .keras or .h5 file; "
            "hand other formats in with --artifact beside the model."
        )
    try:
        return keras.models.load_model(path)
    except Exception as error:
        raise CannotExamine(
            f"{path} could not be loaded: {type(error).__name__}: {error}"
        ) from error


def load_batch(path: str) -> Any:
    """A batch from .npy, or a dict of arrays from .npz."""
    import numpy as np

    if not Path(path).exists():
        raise CannotExamine(f"There is no data at {path}.")
    try:
        loaded = np.load(path, allow_pickle=False)
        if hasattr(loaded, "files"):
            return {name: loaded[name] for name in loaded.files}
        return loaded
    except (ValueError, OSError) as error:
        raise CannotExamine(
            f"{path} is no .npy or .npz file of plain arrays: {error}"
        ) from error


def random_batch(model: Any, samples: int = 16) -> Any:
    """A batch of noise in the shape of the model's inputs, for want of data."""
    import numpy as np

    from .batches import inputs_of

    inputs = inputs_of(model)
    if not inputs:
        raise CannotExamine(
            "The model does not say what it takes: hand in a batch with --data X.npy."
        )
    generator = np.random.default_rng(0)
    leaves = []
    for tensor in inputs:
        sizes = (8 if d is None else int(d) for d in tuple(tensor.shape)[1:])
        shape = (samples, *sizes)
        if "int" in str(tensor.dtype):
            leaves.append(generator.integers(0, 2, size=shape).astype("int32"))
        else:
            leaves.append(generator.normal(size=shape).astype("float32"))
    return leaves if len(leaves) > 1 else leaves[0]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="phase_doctor",
        description="Find phase bugs in a Keras model: layers that run in the wrong "
        "phase, stale moving statistics, inference that depends on batch mates. "
        "Exit status: 0 healthy, 1 findings, 2 could not examine.",
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a .keras or .h5 file; without one, a demo on digits",
    )
    add(
        "--data",
        metavar="X.npy",
        help="a batch of real inputs (.npy, or .npz for named inputs); "
        "without it, noise",
    )
    add(
        "--artifact",
        metavar="PATH",
        help="what was exported: SavedModel, .keras, .tflite or .onnx",
    )
    add("--allow", metavar="CODE", nargs="*", default=(), help="codes to make notes")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--seed", type=int, default=0, help="seed of the demo")
    add("--explain", metavar="CODE", help="print what a code means, and an example")
    add("--version", action="version", version=f"phase_doctor {__version__}")
    options = parser.parse_args(argv)
    if options.model is None and (options.data or options.artifact):
        parser.error("name the MODEL to examine")
    return options


def explain(code: str) -> int:
    from .explain import explanations

    known = explanations()
    if code not in known:
        print(f"There is no {code}; codes are {', '.join(known)}.", file=sys.stderr)
        return 2
    print(known[code])
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when healthy, 1 with findings, 2 when the model was not examined."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["scan"]:
        from .scan import command

        return command.main(given[1:], __version__)
    options = parse(given)
    if options.explain:
        return explain(options.explain.upper())
    with start_up_lines_hidden():
        import tensorflow  # noqa: F401
    if options.model is None:
        from .demo import demo

        demo(options.seed)
        return 0
    try:
        model = load_model(options.model)
        x = load_batch(options.data) if options.data else random_batch(model)
        lenient = () if options.data else NOISE_IS_NO_DATA
        allow = (*options.allow, *lenient)
        diagnosis = diagnose(model, x, artifact=options.artifact, allow=allow)
    except CannotExamine as error:
        print(f"could not examine: {error}", file=sys.stderr)
        return 2
    if lenient:
        from .rules import RULES

        diagnosis.findings.append(RULES["PD002"].finding(None, NOISE))
    print(diagnosis.to_json() if options.json else diagnosis)
    if any(f.code == "PD001" for f in diagnosis.findings):
        return 2
    return 0 if diagnosis.ok else 1
