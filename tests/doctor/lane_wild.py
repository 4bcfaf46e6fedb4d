"""Try the doctor on models of published packages; writes docs/reference/doctor/wild.json.

    python tests/doctor/lane_wild.py                             # all of it, about twenty minutes of CPU
    python tests/doctor/lane_wild.py tfts keras-cv --keep DIR
    python tests/doctor/lane_wild.py keras-hub --only RetinaNetBackbone

Each package has its own environment, on the real wheels of a column (tests/versions/runner.py), and replaces its entry
when it is complete. tests/doctor/wild.py builds the models. What the doctor finds is judged by hand, in
docs/reference/doctor/wild-faults.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/versions"))

import runner  # noqa: E402

WILD = ROOT / "docs/reference/doctor/wild.json"
COLUMN = "2.21.0"
# The package first, then what it imports without asking for it.
PINS: dict[str, tuple[str, ...]] = {
    "aeon": ("aeon==1.6.0",),
    "autokeras": ("autokeras==3.0.0",),
    "deepctr": ("deepctr==0.9.4",),
    "keras-cv": ("keras-cv==0.9.0",),
    "keras-hub": ("keras-hub==0.32.0",),
    "keras-lmu": ("keras-lmu==0.9.0",),
    "keras-tuner": ("keras-tuner==1.4.8",),
    "kerasfactory": ("kerasfactory==0.1.1", "plotly"),
    "medicai": ("medicai==0.0.4",),
    "ncps": ("ncps==1.0.1",),
    "tabtransformertf": ("tabtransformertf==0.0.8", "matplotlib", "pandas", "scikit-learn", "tqdm"),
    "tfts": ("tfts==0.0.23",),
    "vit-keras": ("vit-keras==0.2.0", "opencv-python-headless", "scipy"),
}


def read() -> dict:
    return json.loads(WILD.read_text(encoding="utf-8")) if WILD.is_file() else {}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", nargs="*", default=list(PINS), help=f"any of {', '.join(PINS)}; none: all")
    parser.add_argument("--only", nargs="+", default=[], help="these models; the entry keeps its others")
    parser.add_argument("--keep", help="a folder for environments that stay and are used again")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.packages) - set(PINS))
    if unknown:
        parser.error(f"there is no package {', '.join(unknown)}; there are {', '.join(PINS)}")
    failed = 0
    for number, package in enumerate(options.packages, 1):
        print(f"[{number}/{len(options.packages)}] {PINS[package][0]}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out.json")
            arguments = [package, str(out), *(["--only", *options.only] if options.only else [])]
            try:
                runner.run_in_column(COLUMN, HERE / "wild.py", arguments, extra=PINS[package], keep=options.keep)
            except runner.ColumnError as error:
                print(f"{package} FAILED. {error}", file=sys.stderr)
                failed += 1
                continue
            entry = json.loads(out.read_text(encoding="utf-8"))
        everything = read()
        if options.only:
            entry["models"] = {**everything.get(package, {}).get("models", {}), **entry["models"]}
        everything[package] = {**entry, "date": datetime.date.today().isoformat()}
        ordered = {name: everything[name] for name in PINS if name in everything}
        runner.write(WILD, json.dumps(ordered, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
