"""Convert a proved SavedModel to LiteRT and ONNX, and compare both with it.

Symptom: the SavedModel is right; its `.tflite` or `.onnx` answers otherwise, or NaN, or
    fails: "Required inputs are missing from input feed", "No Op registered for Erfc".
Cause: the converters drop assignments without a word, lose the weights of a Keras 3
    model, keep constants as inputs, and know neither Erfc (GELU) nor XLA's calls.
Fix: convert a SavedModel that says `training=False`, its constants written into the
    graph, and compare the files with it on real rows.
Holds on: Keras 3.0 to 3.16.dev, with tf2onnx 1.17 and onnxruntime 1.22.
More: docs/recipes/export_litert_and_onnx.md, Phasebook 0.2.0
"""

import re
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def export_litert_and_onnx(
    saved_model,
    samples,
    directory,
    formats=("model.tflite", "model.onnx"),
    tolerance=1e-3,
):
    """Write `directory`/model.tflite and model.onnx; return {name: difference}.

    `saved_model`: a folder, as `export_inference_model` writes it.
    `samples`: 16 to 64 rows of real input, (rows, ...), in its dtypes: an array, or a
    dict of arrays named as its inputs.
    A difference is the largest from the SavedModel's answers, asked with 1, 3 and all
    rows, as a share of their spread over the rows: a file that ignores its input is off
    by about 1, another order of adding in float32 by some 1e-6.
    Raises FileExistsError if `directory` exists; ValueError if an answer of the
    SavedModel tells no rows apart or depends on its batch, a format lacks an
    operation, or a file differs by more than `tolerance`. Whatever is raised, nothing
    is left on disk.
    """
    if Path(directory).exists():
        raise FileExistsError(f"{directory} exists, and nothing is overwritten.")
    loaded = tf.saved_model.load(str(saved_model))
    serve = loaded.signatures["serving_default"]
    if not isinstance(samples, dict):
        samples = {next(iter(serve.structured_input_signature[1])): samples}

    def reference(samples):
        return serve(**{name: tf.constant(array) for name, array in samples.items()})

    def difference(call, advice):
        shares = []
        for rows in (slice(1), slice(1, 2), slice(3), slice(None)):
            got = call({name: array[rows] for name, array in samples.items()})
            for name, output in wanted.items():
                away = np.abs(np.subtract(got[name], output[rows], dtype="float64"))
                shares.append(away.max() / np.ptp(output, 0).max())
        if not np.max(shares) <= tolerance:  # `not <=`: NaN must fail
            by = f"{np.max(shares):.1e} of the spread, {tolerance:.0e} is allowed"
            raise ValueError(f"An answer is off by {by}: {advice}")
        return float(np.max(shares))

    wanted = {name: np.asarray(output) for name, output in reference(samples).items()}
    for name, output in wanted.items():
        if not np.ptp(output, 0).max() > 1e-5 * np.abs(output).max():  # NaN, too
            raise ValueError(
                f"'{name}' does not tell `samples` apart: rounding would be its whole "
                "spread. Hand in rows whose answers differ."
            )
    difference(reference, f"{saved_model} mixes rows; see export_inference_model.")
    differences = {}
    with tempfile.TemporaryDirectory(dir=Path(directory).parent) as work:
        out = Path(work, "out")
        out.mkdir()
        for name in formats:
            if name.endswith(".onnx"):
                call = write_onnx(serve, out / name)
            else:
                call = write_litert(saved_model, out / name)
            differences[name] = difference(call, f"{name} is not {saved_model}.")
        out.rename(directory)  # one step: all of it or nothing
    return differences


def write_litert(saved_model, path):
    """Convert to LiteRT with its built-in operations; return the file's call."""
    # from_concrete_functions([...], model) can lose the weights of a Keras 3 model.
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=["serving_default"]
    )
    try:
        content = converter.convert()
    except Exception as error:  # pages long, and of a private class
        lacks = sorted(set(re.findall(r"'?tf\.(\w+)'? op", str(error)))) or [error]
        raise ValueError(
            f"LiteRT cannot hold {', '.join(map(str, lacks))}. Recurrent layers need "
            "unroll=True, half precision a model built in float32."
        ) from error
    path.write_bytes(content)
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    return lambda samples: runner(**samples)


def write_onnx(serve, path):
    """Convert a loaded signature to ONNX, opset 17; return the file's call."""
    import onnx
    import onnxruntime
    import tf2onnx

    function = with_constants(serve)
    proto, _ = tf2onnx.convert.from_function(
        function,
        input_signature=function.input_signature,
        opset=17,
        custom_op_handlers={"Erfc": (one_minus_erf, [])},
    )
    nodes = proto.graph.node
    lacks = sorted({n.op_type for n in nodes if not onnx.defs.has(n.op_type, n.domain)})
    if lacks:
        raise ValueError(f"ONNX has no {', '.join(lacks)}.")
    path.write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda samples: dict(zip(names, session.run(None, samples), strict=True))


def with_constants(serve):
    """Return `serve` as a tf.function that captures nothing and calls no XLA function.

    tf2onnx takes captured constants (Normalization) for inputs, and leaves calls that
    XLA must compile (grouped convolutions) as they are.
    """
    # No public function freezes a TensorFlow 2 function; tf2onnx uses this one, too.
    from tensorflow.python.framework import convert_to_constants

    frozen = convert_to_constants.convert_variables_to_constants_v2(serve, False)
    graph = frozen.graph.as_graph_def()
    functions = graph.library.function
    nodes = [*graph.node, *(node for f in functions for node in f.node_def)]
    for item in (*nodes, *functions):
        item.attr.pop("_XlaMustCompile", None)
    specs = [tf.TensorSpec(t.shape, t.dtype, name=t.op.name) for t in frozen.inputs]

    @tf.function(input_signature=specs, autograph=False)
    def constant(*inputs):
        feed = {t.name: x for t, x in zip(frozen.inputs, inputs, strict=True)}
        results = [tensor.name for tensor in frozen.outputs]
        outputs = tf.graph_util.import_graph_def(graph, feed, results, name="")
        return dict(zip(sorted(serve.structured_outputs), outputs, strict=True))

    return constant


def one_minus_erf(graph, node, name, args):
    """Write TensorFlow's Erfc(x), which GELU is made of, as 1 - Erf(x)."""
    node.type = "Erf"
    one = graph.make_const(f"{name}/one", np.ones((), "float32")).output[0]
    minus = graph.insert_new_node_on_output("Neg", node.output[0], f"{name}/minus")
    (minus,) = minus.output
    graph.insert_new_node_on_output("Add", minus, f"{name}/erfc", inputs=[minus, one])


def main():
    """Convert a net for digits by tf2onnx alone, and by this file."""
    import onnxruntime
    import tf2onnx
    from sklearn.datasets import load_digits  # real scans that come with the package

    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = x.astype("float32")
    scale = keras.layers.Normalization()
    scale.adapt(x)
    model = keras.Sequential([keras.Input((64,)), scale])
    model.add(keras.layers.Dense(64, activation="gelu"))
    model.add(keras.layers.BatchNormalization(momentum=0.9))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=6, verbose=0)
    spec = tf.TensorSpec((None, 64), name="x")
    plain = tf.function(lambda x: model(x), input_signature=[spec])
    try:
        proto, _ = tf2onnx.convert.from_function(plain, [spec])
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        print("tf2onnx alone:", session.run(None, {"x": x[:1]}))
    except Exception as error:
        print("tf2onnx alone:", error)
    with tempfile.TemporaryDirectory() as folder:
        model.export(f"{folder}/saved_model")  # right: no layer here asks for training
        out = f"{folder}/out"
        differences = export_litert_and_onnx(f"{folder}/saved_model", x[:32], out)
    print("the recipe, differences from the SavedModel:", differences)


if __name__ == "__main__":
    main()
