"""Try the doctor on keras.applications and on other Keras releases; writes docs/reference/doctor/examined.json.

    python tests/doctor/lane_doctor.py                           # all of it, about forty minutes of CPU
    python tests/doctor/lane_doctor.py corpus@2.19.1+keras3.9.2 applications@2.21.0
    python tests/doctor/lane_doctor.py applications@2.21.0 --only ResNet50

Each part runs on the real wheels of its column (tests/versions/runner.py) and replaces its entry when it is complete.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests/versions"))

import runner  # noqa: E402

EXAMINED = ROOT / "docs/reference/doctor/examined.json"
CORPUS = (
    "2.16.2+keras3.0.5",
    "2.16.2+keras3.3.3",
    "2.19.1+keras3.5.0",
    "2.19.1+keras3.9.2",
    "2.19.1+keras3.12.4",
    "2.21.0",
    "2.22.0rc0",
)
APPLICATIONS = ("2.21.0",)
PARTS = (*(f"corpus@{column}" for column in CORPUS), *(f"applications@{column}" for column in APPLICATIONS))


def read() -> dict:
    return json.loads(EXAMINED.read_text(encoding="utf-8")) if EXAMINED.is_file() else {}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"any of {', '.join(PARTS)}; none: all")
    parser.add_argument("--only", nargs="+", default=[], help="these cases; the entry keeps its other verdicts")
    parser.add_argument("--keep", help="a folder for environments that stay and are used again")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    failed = 0
    for number, part in enumerate(options.parts, 1):
        print(f"[{number}/{len(options.parts)}] {part}", flush=True)
        what, column = part.split("@")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out.json")
            only = ["--only", *options.only] if options.only else []
            extra = ["scikit-learn"] if what == "corpus" else []
            try:
                arguments = [what, str(out), *only]
                runner.run_in_column(column, HERE / "examine.py", arguments, extra=extra, keep=options.keep)
            except runner.ColumnError as error:
                print(f"{part} FAILED. {error}", file=sys.stderr)
                failed += 1
                continue
            entry = json.loads(out.read_text(encoding="utf-8"))
        everything = read()
        if only:
            entry["verdicts"] = {**everything.get(part, {}).get("verdicts", {}), **entry["verdicts"]}
        everything[part] = entry
        ordered = {name: everything[name] for name in PARTS if name in everything}
        runner.write(EXAMINED, json.dumps(ordered, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
