"""The scan on public files: `python tests/scan/lane_public.py FOLDER [--keep]`.

FOLDER holds a `manifest.json`, a list of {"repo", "commit", "path", "local"}: files that were fetched before. Prints
what is found, and a sample that is drawn with a seed. A finding that was judged before keeps its verdict; the others
are to be read, and "true" or "false: why" to be written into docs/reference/doctor/scan.json, which `--keep` writes.
True means: on the assumed release, this line does what the message says.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

from phase_doctor.scan import command, settings  # noqa: E402

DATA = ROOT / "docs/reference/doctor/scan.json"
SEED, SAMPLE = 15, 150


def measured(folder: Path) -> dict[str, Any]:
    """The counts of a scan of the folder's files, and the sample with the verdicts that are known."""
    files = {entry["local"]: entry for entry in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))}
    report = command.scan(sorted(files), settings.CURRENT, "", command.chosen((), ()))
    found = [
        {
            **{key: files[f.path][key] for key in ("repo", "commit", "path")},
            "line": f.place or str(f.line),
            "code": f.code,
        }
        for f in report.found
    ]
    found.sort(key=lambda f: (f["repo"], f["path"], f["line"], f["code"]))
    drawn = found.copy()
    random.Random(SEED).shuffle(drawn)
    known = json.loads(DATA.read_text(encoding="utf-8"))["judged"] if DATA.exists() else []
    verdicts = {key(entry): entry["verdict"] for entry in known}
    judged = [{**f, "verdict": verdicts.get(key(f), "")} for f in drawn[:SAMPLE]]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "keras": settings.CURRENT,
        "files": len(files),
        "notebooks": sum(name.endswith(".ipynb") for name in files),
        "repositories": len({entry["repo"] for entry in files.values()}),
        "unread": len(report.unread),
        "found": dict(sorted(Counter(f["code"] for f in found).items())),
        "judged": sorted(judged, key=key),
    }


def key(entry: dict[str, str]) -> tuple[str, ...]:
    return tuple(entry[name] for name in ("code", "repo", "path", "line"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", action="store_true", help=f"write {DATA.relative_to(ROOT)}")
    options = parser.parse_args()
    data = measured(options.folder)
    for entry in data["judged"]:
        print(*key(entry), entry["verdict"] or "TO BE JUDGED")
    print({name: value for name, value in data.items() if name != "judged"})
    if options.keep:
        lines = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in data.pop("judged"))
        head = json.dumps(data, indent=2)[:-2]
        DATA.write_text(f'{head},\n  "judged": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
