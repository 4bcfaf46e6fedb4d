"""Run the article's experiments (experiments.py) on the releases that decide the case file's verdicts.

    python tests/versions/case_file.py                  # every release, about six minutes of CPU each
    python tests/versions/case_file.py 2.21.0           # one release
    python tests/versions/case_file.py 2.0.0 --only subclass --keep /tmp/environments

Each release gets the real wheels in an environment of its own (runner.py) and writes docs/labs/data/<release>.json.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import runner

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "docs/labs/data"
RELEASES = ("1.14.0", "2.0.0", "2.15.1", "2.21.0")


def export_digits(path: Path) -> None:
    """Write scikit-learn's digits for environments that have no scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez_compressed(path, images=digits.images.astype("uint8"), labels=digits.target.astype("uint8"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("releases", nargs="*", help=f"any of {', '.join(RELEASES)}; none: all")
    parser.add_argument("--only", nargs="+", default=[], help="names of experiments; the file keeps its other results")
    parser.add_argument("--keep", help="a folder for environments that stay and are used again")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.releases) - set(RELEASES))
    if unknown:
        parser.error(f"no verdict rests on {', '.join(unknown)}; there are {', '.join(RELEASES)}")
    with tempfile.TemporaryDirectory() as folder:
        # A copy: AutoGraph reads the source while an experiment runs, and an edit meanwhile would change what it does.
        script, digits = shutil.copy(HERE / "experiments.py", folder), Path(folder, "digits.npz")
        export_digits(digits)
        for number, release in enumerate(options.releases or RELEASES, 1):
            print(f"[{number}/{len(options.releases or RELEASES)}] TensorFlow {release}", flush=True)
            # All or nothing: the labs never read half a release.
            measured, draft = DATA / f"{release}.json", Path(folder, f"{release}.json")
            only = ["--only", *options.only] if options.only else []
            if only and measured.is_file():
                shutil.copy(measured, draft)
            arguments = [str(draft), "--data", str(digits), *only]
            runner.run_in_column(release, script, arguments, keep=options.keep)
            shutil.move(draft, measured)


if __name__ == "__main__":
    sys.exit(main())
