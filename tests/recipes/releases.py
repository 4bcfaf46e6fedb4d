"""What the version matrix says of the Keras that runs: on which releases a pitfall bites."""

import json
from pathlib import Path

import keras

MATRIX = Path(__file__).parents[2] / "docs/reference/version-matrix.json"


def number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:3] if part.isdigit()]


def answer_on_this_release(fact: str) -> object:
    """Return the fact's cell for the running Keras, or for the newest release that is not newer."""
    data = json.loads(MATRIX.read_text(encoding="utf-8"))
    columns = [c for c in data["columns"] if not c["id"].endswith("+tf_keras") and c["keras"].startswith("3.")]
    column = max(
        (c for c in columns if number(c["keras"]) <= number(keras.__version__)), key=lambda c: number(c["keras"])
    )
    return data["cells"][fact][column["id"]]


def on_this_release(fact: str) -> bool:
    """Return such a cell of a fact that is true or false."""
    answer = answer_on_this_release(fact)
    assert isinstance(answer, bool), f"{fact}: {answer}"
    return answer
