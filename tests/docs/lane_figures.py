"""Measure what the pages' figures show; writes docs/figures/<name>.json.

    python tests/docs/lane_figures.py [NAME ...]     # all figures without a name: some minutes

A figure is tests/figures/<name>.py with one function, `measure`; docs/_site/figures.py draws it.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MEASURES = ROOT / "tests/figures"  # never on the path: its files have the names of recipes
FIGURES = ROOT / "docs/figures"
NAMES = sorted(path.stem for path in MEASURES.glob("*.py"))


def rounded(value: Any) -> Any:
    """Three digits of every float: what a figure can show."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def code_of(name: str) -> str:
    """What decides a figure, in sixteen letters: the text of its measurement and of the recipes that it names."""
    texts = [(MEASURES / f"{name}.py").read_text(encoding="utf-8")]
    for recipe in sorted((ROOT / "recipes").glob("*.py")):
        if re.search(rf"\b{recipe.stem}\b", texts[0]):
            texts.append(recipe.read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def measured(name: str) -> dict[str, Any]:
    """Run the measurement `name` from a fixed seed."""
    import keras

    keras.utils.set_random_seed(0)
    if str(ROOT / "recipes") not in sys.path:
        sys.path.insert(0, str(ROOT / "recipes"))
    spec = importlib.util.spec_from_file_location(f"figure_{name}", MEASURES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return rounded(module.measure())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help=f"any of {', '.join(NAMES)}; none: all")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no figure named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    import keras
    import tensorflow as tf

    for number, name in enumerate(options.names, 1):
        print(f"[{number}/{len(options.names)}] {name}", flush=True)
        where = {"tensorflow": tf.__version__, "keras": keras.__version__, "date": datetime.date.today().isoformat()}
        text = json.dumps({**measured(name), "measured": {**where, "code": code_of(name)}}, indent=1)
        (FIGURES / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
