"""Export a trained model for inference, and prove the files before they are kept.

Symptom: right in memory, wrong once exported: an answer changes with the rest of the
    batch or from call to call; asked one row at a time, every answer is the same.
Cause: `model.export()` traces a call that names no phase. `Random...` layers, on Keras
    3.6 to 3.15 also Resizing and CenterCrop, then choose training.
Fix: export a function that says `training=False`, compare what was written with
    `model(x, training=False)`, and keep nothing that differs.
Holds on: Keras 3.0 to 3.16.dev.
More: docs/recipes/export_inference_model.md, Phasebook 0.2.0
"""

import contextlib
import functools
import io
import re
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

# Largest difference allowed, as a share of the largest output. Another order of adding
# costs roundings: about a thousand of float32's 1.2e-7, four of a half precision's.
TOLERANCE = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 3e-2}
# Operations that change state or draw at random.
FORBIDDEN = re.compile(
    "Assign|^(Resource)?Scatter(?!Nd$)|^ResourceApply|LookupTable(Insert|Import)"
    "|Random|^Rng|Multinomial|TruncatedNormal|^Stateful(?!Partitioned)|Shuffle|PyFunc"
    "|Distorted"
)


def export_inference_model(
    model,
    samples,
    directory,
    formats=("saved_model", "model.keras"),
    custom_objects=None,
):
    """Write `directory`/saved_model and `directory`/model.keras, each proved.

    `samples`: 16 to 64 rows of real input, (rows, ...), as the model takes them: an
    array, or a list or dict of arrays. Their dtypes, and all axes but the first, become
    the endpoint's signature.
    Returns {name: figures of `prove`}. Raises FileExistsError if `directory` exists,
    TypeError for an output that is no tensor or a class that the .keras file lacks,
    ValueError as `prove` does. Whatever is raised, nothing is left on disk.
    """
    if Path(directory).exists():
        raise FileExistsError(f"{directory} exists, and nothing is overwritten.")
    for output in tf.nest.flatten(model(samples, training=False)):
        if not isinstance(output, tf.Tensor):
            raise TypeError(
                f"{type(model).__name__} returns {type(output).__name__}, files return "
                "tensors: export a keras.Model whose call takes them out of it."
            )
    figures = {}
    with tempfile.TemporaryDirectory(dir=Path(directory).parent) as work:
        out = Path(work, "out")
        out.mkdir()
        for name in formats:
            if name == "saved_model":
                write_saved_model(model, samples, out / name)
                loaded = tf.saved_model.load(str(out / name))
                figures[name] = prove(loaded.serve, model, samples, name)
                refuse_operations(loaded.signatures["serving_default"].graph)
            else:
                loaded = saved_and_loaded(model, out / name, custom_objects)
                # Such a file holds layers, not a phase: each call must name it.
                call = functools.partial(loaded, training=False)
                figures[name] = prove(call, model, samples, name)
        out.rename(directory)  # one step: all of it or nothing
    return figures


def write_saved_model(model, samples, path):
    """Write a SavedModel that serves `model(x, training=False)` at any batch size."""

    def spec(array, name=None):
        return tf.TensorSpec((None, *array.shape[1:]), array.dtype, name)

    def serve(inputs):
        return model(inputs, training=False)  # no layer is left to choose for itself

    if isinstance(samples, dict):  # the endpoint's inputs are named as the model's
        signature = {name: spec(array, name) for name, array in samples.items()}
    else:
        signature = tf.nest.map_structure(spec, samples)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[signature])
    with contextlib.redirect_stdout(io.StringIO()):  # `verbose` came with Keras 3.6
        archive.write_out(str(path))


def saved_and_loaded(model, path, custom_objects=None):
    """Write `model` to a .keras file; return the model in it. Raises TypeError."""
    try:
        model.save(path)
        return keras.saving.load_model(path, custom_objects, compile=False)
    except Exception as error:  # which one depends on the class and the release
        raise TypeError(
            f"{path.name} cannot be opened again. Give each class that is not Keras's: "
            f"custom_objects={{'Name': Name}}. Or export saved_model alone. {error}"
        ) from error


def prove(call, model, samples, name="it"):
    """Raise ValueError unless `call` is `model(x, training=False)` over `samples`.

    Returns shares of the largest output. error: the difference with all rows in one
    batch; alone: with the first three, and with up to 32 rows each alone; repeat: of
    the same call again; spread: how far apart the answers themselves lie.
    """
    allowed = TOLERANCE.get(model.compute_dtype, 1e-4)

    def ask(function, rows):
        outputs = function(tf.nest.map_structure(lambda a: a[rows], samples))
        return [o.numpy().astype("float64") for o in tf.nest.flatten(outputs)]

    def off(outputs, rows=slice(None)):
        pairs = zip(ask(call, rows), outputs, scales, strict=True)
        return np.max(
            [np.max(np.abs(got - o[rows])) / scale for got, o, scale in pairs]
        )

    with tf.device("CPU:0"):  # a GPU may multiply in TensorFloat-32, to three digits
        wanted = ask(functools.partial(model, training=False), slice(None))
        scales = [np.max(np.abs(output)) or 1.0 for output in wanted]
        ones = [slice(i, i + 1) for i in range(min(len(wanted[0]), 32))]
        figures = {
            "error": off(wanted),
            "alone": np.max([off(wanted, rows) for rows in (slice(3), *ones)]),
            "repeat": off(ask(call, slice(None))),
            "spread": np.min([np.ptp(o, 0).max() for o in wanted] / np.array(scales)),
        }
    for key, fault in {
        "error": "differs from model(x, training=False)",
        "alone": "lets an answer depend on the rest of the batch",
        "repeat": "answers differently when asked again",
    }.items():
        if not figures[key] <= allowed:  # `not <=`: NaN must fail
            by = f"by {figures[key]:.1e} of the largest output"
            raise ValueError(f"{name} {fault}, {by}; {allowed:.0e} is allowed.")
    if not figures["spread"] >= 20 * allowed:
        raise ValueError(
            f"The answers lie {figures['spread']:.1e} of the largest apart: files that "
            "ignore their input would agree. Give samples that the model tells apart."
        )
    return {key: float(value) for key, value in figures.items()}


def refuse_operations(graph):
    """Raise ValueError if an endpoint assigns or draws, in its functions too."""
    graph = graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    if found := sorted({node.op for node in nodes if FORBIDDEN.search(node.op)}):
        raise ValueError(
            f"A call runs {', '.join(found)}. Recurrent layers with dropout do in any "
            "phase: set `layer.cell.dropout = 0` for the export."
        )


def main():
    """Export a net for digits in the plain way and in this one; compare the answers."""
    from sklearn.datasets import load_digits  # real scans that come with the package

    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32")
    x, y = images[1437:], labels[1437:]
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16)])
    model.add(keras.layers.RandomTranslation(0.1, 0.1))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(64))
    model.add(keras.layers.BatchNormalization(momentum=0.9))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images[:1437], labels[:1437], batch_size=32, epochs=6, verbose=0)

    def accuracy(serve, batch):
        got = [np.argmax(serve(x[i : i + batch]), -1) for i in range(0, len(x), batch)]
        return np.mean(np.concatenate(got) == y)

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            model.export(f"{folder}/before")
        export_inference_model(model, x[:32], f"{folder}/after")
        print(f"{'accuracy on 360 scans':<24}{'30 at a time':<14}one at a time")
        for name in ("before", "after/saved_model"):
            loaded = tf.saved_model.load(f"{folder}/{name}")
            at_30, at_1 = accuracy(loaded.serve, 30), accuracy(loaded.serve, 1)
            print(f"{name:<24}{at_30:<14.2f}{at_1:.2f}")


if __name__ == "__main__":
    main()
