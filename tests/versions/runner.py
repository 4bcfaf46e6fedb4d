"""Run a script on the real wheels of a TensorFlow release, and fill the version matrix from such runs.

    python tests/versions/runner.py list
    python tests/versions/runner.py                      # fill: every column that lacks an answer
    python tests/versions/runner.py 2.15.1 --fresh       # one column, all its answers anew
    python tests/versions/runner.py run --column 2.0.0 script.py -- its arguments
    python tests/versions/runner.py diff nightly --out diff.md

A column is one pair of TensorFlow and Keras, and its id says which: `2.15.1` is that TensorFlow with the Keras it
resolves to, `2.19.1+keras3.5.0` names another Keras, `2.21.0+tf_keras` is Keras 2 beside a newer TensorFlow. The id of
a release that COLUMNS does not list works too. `rc` and `nightly` are the newest release candidate and nightly,
`keras-nightly` is the newest Keras alone on the newest released TensorFlow.

Each environment is made by uv in a temporary folder, with a download cache of its own, and removed after use, so that
the disk never holds more than one TensorFlow a job. Nothing here imports TensorFlow; Python 3.11 or newer runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
MATRIX = HERE.parent.parent / "docs" / "reference" / "version-matrix.json"
PROBES = HERE / "probes.py"

# What each TensorFlow from 2.16 on resolved to when its column was made. Named, so that a column can be made again.
RESOLVED_KERAS = {
    "2.16.2": "3.15.1",
    "2.17.1": "3.15.1",
    "2.18.1": "3.15.1",
    "2.19.1": "3.15.1",
    "2.20.0": "3.15.1",
    "2.21.0": "3.15.1",
    "2.22.0rc0": "3.16.0.dev2026102704",
}

# Oldest first: Keras 2 by TensorFlow, then Keras 3 by Keras and TensorFlow. The change list compares neighbours.
COLUMNS = (
    "1.14.0",
    "1.15.5",
    "2.0.0",
    "2.0.4",
    "2.1.4",
    "2.2.3",
    "2.3.4",
    "2.4.4",
    "2.5.3",
    "2.6.5",
    "2.7.4",
    "2.8.4",
    "2.9.3",
    "2.10.1",
    "2.11.1",
    "2.12.1",
    "2.13.1",
    "2.14.1",
    "2.15.1",
    "2.16.2+keras3.0.5",
    "2.16.2+keras3.1.1",
    "2.16.2+keras3.2.1",
    "2.16.2+keras3.3.3",
    "2.16.2+keras3.4.1",
    "2.19.1+keras3.5.0",
    "2.19.1+keras3.6.0",
    "2.19.1+keras3.7.0",
    "2.19.1+keras3.8.0",
    "2.19.1+keras3.9.2",
    "2.19.1+keras3.10.0",
    "2.19.1+keras3.11.3",
    "2.19.1+keras3.12.4",
    "2.19.1+keras3.13.2",
    "2.19.1+keras3.14.1",
    "2.16.2",
    "2.17.1",
    "2.18.1",
    "2.19.1",
    "2.20.0",
    "2.21.0",
    "2.22.0rc0",
    "2.21.0+tf_keras",
)

TF_KERAS = {"2.21.0": "2.21.0"}
COLUMN_ID = re.compile(r"(\d+\.\d+\.\d+(?:rc\d+)?)(?:\+keras(\d+\.\d+\.\d+\S*)|\+(tf_keras))?")


class ColumnError(Exception):
    """An environment could not be made, or the script in it failed. The message says which and why."""


def parse(column: str) -> tuple[str, str | None, bool]:
    """Split a column id into TensorFlow release, the Keras it names (None: see RESOLVED_KERAS), and tf_keras or not."""
    match = COLUMN_ID.fullmatch(column)
    if not match:
        raise ColumnError(
            f"{column!r} is not a column id. Write a TensorFlow release (2.15.1), one with a Keras release "
            "(2.19.1+keras3.5.0) or with tf_keras (2.21.0+tf_keras), or rc, nightly or keras-nightly."
        )
    return match[1], match[2], bool(match[3])


def requirements(column: str) -> tuple[str, list[str]]:
    """Return the Python version and the pinned requirements of a column.

    Old releases did not bound their dependencies from above; the bounds here are those they still work with.
    """
    # The cpu wheels are a tenth of the size; they exist for Linux from 2.1 on.
    cpu = "-cpu" if platform.system() == "Linux" and platform.machine() == "x86_64" else ""
    if column == "nightly":
        return "3.13", ["tf-nightly"]
    if column == "rc":
        return "3.13", [f"tensorflow{cpu}>=0.0.dev0"]
    if column == "keras-nightly":
        return "3.13", [f"tensorflow{cpu}>=2.16", "keras-nightly"]
    tensorflow, keras, tf_keras = parse(column)
    minor = tuple(int(part) for part in tensorflow.split(".")[:2])
    name = f"tensorflow{cpu}" if minor >= (2, 1) else "tensorflow"
    wanted = [f"{name}=={tensorflow}"]
    if minor < (2, 12):
        wanted += ["setuptools<66"]
    if minor < (1, 15):
        wanted += ["gast<0.3"]
    if minor <= (2, 2):
        wanted += ["numpy<1.20", "h5py<3"]
    elif minor <= (2, 11):
        wanted += ["numpy<2"]
    if minor <= (2, 8):
        wanted += ["protobuf<3.21"]
    if tf_keras:
        wanted += [f"tf_keras=={TF_KERAS.get(tensorflow, tensorflow)}"]
    keras = keras or RESOLVED_KERAS.get(tensorflow)
    if keras:
        wanted += [f"{'keras-nightly' if 'dev' in keras else 'keras'}=={keras}"]
    python = "3.7" if minor < (2, 11) else "3.10" if minor < (2, 12) else "3.11"
    return python, wanted


def uv() -> list[str]:
    """Return the command that starts uv: from PATH, or as a module of this Python."""
    found = shutil.which("uv")
    if found:
        return [found]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    raise ColumnError("uv was not found on PATH nor as a module. Install it (pip install uv) and try again.")


def interpreter(version: str) -> str:
    """Return a Python of `version`: pyenv's if it has one, else the version, for uv to find or download."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(root.glob(f"versions/{version}.*/bin/python"))
    return str(found[-1]) if found else version


def call(command: Sequence[str], **kwargs: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)  # type: ignore[call-overload]
    if done.returncode:
        raise ColumnError(f"{' '.join(command[:4])} … ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return str(done.stdout)


@contextlib.contextmanager
def environment(column: str, extra: Sequence[str] = (), keep: Path | None = None) -> Iterator[Path]:
    """Make the environment of a column and yield its Python; remove it afterwards.

    Args:
        column: a column id, `rc`, `nightly` or `keras-nightly`.
        extra: further requirements, such as "scikit-learn".
        keep: a folder for environments that stay, and are used again when they are there.
    """
    version, wanted = requirements(column)
    wanted = [*wanted, *extra]
    # keras-nightly has no release, so it needs no leave; TensorFlow beside it is to be one.
    unreleased = re.search(r"rc|nightly|dev", column + "".join(wanted)) and column != "keras-nightly"
    prerelease = ["--prerelease", "allow"] if unreleased else []
    with tempfile.TemporaryDirectory(prefix="phasebook-") as folder:
        place = Path(folder) / "env"
        cache = ["--cache-dir", str(Path(folder) / "cache")]
        if keep:
            place = keep / re.sub(r"\W+", "_", column + " ".join(extra))
            cache = []
        python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        # The marker is written last: an environment whose making was interrupted is made again.
        done = place / "phasebook-complete"
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            call([*uv(), "venv", "--quiet", "--python", interpreter(version), str(place), *cache])
            # What lies in the folder of another package that is asked for, too: the other is not installed then.
            stands_in = {"keras-nightly": "keras", "tensorflow-cpu": "tensorflow"}
            replaced = [other for name, other in stands_in.items() if any(w.startswith(name) for w in wanted)]
            if replaced:
                overrides = Path(folder) / "overrides.txt"
                overrides.write_text("".join(f"{name}; python_version < '0'\n" for name in replaced))
                wanted = [*wanted, "--overrides", str(overrides)]
            call([*uv(), "pip", "install", "--quiet", "--python", str(python), *cache, *prerelease, *wanted])
            # The environment links or copies what it needs, so the downloads can go before the script runs.
            shutil.rmtree(Path(folder) / "cache", ignore_errors=True)
            done.write_text("\n".join(wanted))
        yield python


def clean_environ(folder: str) -> dict[str, str]:
    """The caller's environment without what would change Keras or Python underneath a measurement."""
    leave = {
        "PYTHONPATH",
        "PYTHONHOME",
        "KERAS_BACKEND",
        "TF_USE_LEGACY_KERAS",
        "TF_XLA_FLAGS",
        "TF_ENABLE_ONEDNN_OPTS",
    }
    kept = {name: value for name, value in os.environ.items() if name not in leave}
    return {**kept, "KERAS_HOME": folder, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def run_in_column(
    column: str,
    script: str | Path,
    args: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    extra: Sequence[str] = (),
    keep: str | Path | None = None,
    timeout: float | None = None,
    quiet: bool = False,
) -> None:
    """Run a script with the Python of a column. It must run on that column's Python (3.7 up to TensorFlow 2.11).

    Args:
        column: a column id, `rc`, `nightly` or `keras-nightly`.
        script: path of the script; its folder is the first entry of its `sys.path`, as always.
        args: its command line arguments. The working folder is the caller's.
        out: a file that receives the script's standard output, only when it ends well. None: printed.
        extra: further requirements, such as "scikit-learn".
        keep: a folder for environments that stay and are used again.
        timeout: seconds until the script is ended.
        quiet: keep its standard error, where TensorFlow writes its start-up lines, for the message of a failure.

    Raises:
        ColumnError: when the environment cannot be made or the script fails; `out` is untouched then.
    """
    if not Path(script).is_file():
        raise ColumnError(f"There is no script at {script}.")
    with (
        environment(column, extra, Path(keep).resolve() if keep else None) as python,
        tempfile.TemporaryDirectory(prefix="phasebook-home-") as home,
    ):
        try:
            done = subprocess.run(
                [str(python), str(script), *args],
                # An old converter starts a program that was installed beside it.
                env={**clean_environ(home), "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]])},
                timeout=timeout,
                text=True,
                stdout=subprocess.PIPE if out else None,
                stderr=subprocess.PIPE if quiet else None,
            )
        except subprocess.TimeoutExpired as error:
            raise ColumnError(f"{script} on {column} did not end within {timeout:.0f} s.") from error
    if done.returncode:
        raise ColumnError(f"{script} on {column} ended with {done.returncode}.\n{(done.stderr or '')[-3000:]}".rstrip())
    if out:
        write(Path(out), done.stdout)


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def released(column: str) -> str:
    """Return the day on which the package that a column is about was uploaded, as the package index tells it."""
    tensorflow, keras, tf_keras = parse(column)
    wanted = f"keras=={keras}" if keras else f"tf_keras=={tensorflow}" if tf_keras else requirements(column)[1][0]
    version = requirements(column)[0]
    with tempfile.TemporaryDirectory(prefix="phasebook-") as folder:
        Path(folder, "requirements.in").write_text(wanted)
        command = [*uv(), "pip", "compile", "--no-deps", "--format", "pylock.toml", "--python-version", version]
        lock = call([*command, "--cache-dir", str(Path(folder, "cache")), "requirements.in"], cwd=folder)
    days = re.findall(r"upload-time = (\d{4}-\d\d-\d\d)", lock)
    if not days:
        raise ColumnError(f"The index gives no upload time for {wanted}.")
    return min(days)


def canonical(version: str) -> str:
    """TensorFlow calls itself 2.22.0-rc0 where its package is 2.22.0rc0."""
    return version.replace("-", "")


def load_probes() -> ModuleType:
    """Import probes.py, which imports no TensorFlow until it is asked something."""
    spec = importlib.util.spec_from_file_location("phasebook_probes", PROBES)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def probe(column: str, facts: Sequence[str], keep: Path | None = None) -> dict:
    """Ask facts of a column on its real wheels, and return what probes.py writes."""
    with tempfile.TemporaryDirectory(prefix="phasebook-answers-") as folder:
        answers = Path(folder) / "answers.json"
        # A copy: AutoGraph reads the source while probes run, and an edit meanwhile would change what they ask.
        script = Path(shutil.copy(PROBES, folder))
        flavour = "tf_keras" if column.endswith("+tf_keras") else "keras"
        args = ["--out", str(answers), "--keras", flavour, "--facts", *facts]
        run_in_column(column, script, args, Path(folder) / "stdout", keep=keep, quiet=True)
        result: dict = json.loads(answers.read_text())
    result["tensorflow"] = canonical(result["tensorflow"])
    if COLUMN_ID.fullmatch(column):
        tensorflow, keras, _ = parse(column)
        if result["tensorflow"] != tensorflow or (keras and result["keras"] != keras):
            raise ColumnError(f"{column} turned out to be TensorFlow {result['tensorflow']}, Keras {result['keras']}.")
    return result


def read_matrix(path: Path = MATRIX) -> dict:
    if not path.exists():
        return {"generated": "", "columns": [], "facts": [], "cells": {}}
    matrix: dict = json.loads(path.read_text(encoding="utf-8"))
    return matrix


def dumps(matrix: dict) -> str:
    """The matrix as JSON with one fact a line, so that a refresh reads well as a diff."""
    columns = ",\n".join(f"  {json.dumps(column)}" for column in matrix["columns"])
    facts = ",\n".join(f"  {json.dumps(fact, ensure_ascii=False)}" for fact in matrix["facts"])
    cells = ",\n".join(
        f"  {json.dumps(fact)}: {json.dumps(row, ensure_ascii=False)}" for fact, row in matrix["cells"].items()
    )
    return (
        f'{{\n "generated": {json.dumps(matrix["generated"])},\n "columns": [\n{columns}\n ],\n'
        f' "facts": [\n{facts}\n ],\n "cells": {{\n{cells}\n }}\n}}\n'
    )


def place(column: dict) -> tuple:
    """Where a column stands: Keras 2 by TensorFlow, then Keras 3 by Keras and TensorFlow, then tf_keras."""

    def numbers(version: str) -> list[float]:
        # A release candidate or development build stands just before its release.
        release = re.split(r"\.?(?:rc|dev)", version)
        return [float(part) for part in re.findall(r"\d+", release[0])] + [-0.5 if len(release) > 1 else 0.0]

    tensorflow, keras = numbers(column["tensorflow"]), numbers(re.sub(r"-tf$", "", column["keras"]))
    if column["id"].endswith("+tf_keras"):
        return (2, tensorflow, keras)
    return (1, keras, tensorflow) if keras[0] >= 3 else (0, tensorflow, keras)


def with_register(matrix: dict, register: dict) -> dict:
    """Return the matrix with its columns in order and its facts those of the register; others are dropped."""
    columns = sorted(matrix["columns"], key=place)
    ids = [column["id"] for column in columns]
    rows = {fact: matrix["cells"].get(fact, {}) for fact in register}
    return {
        "generated": matrix["generated"],
        "columns": columns,
        "facts": [{"id": name, "statement": f["statement"], "group": f["group"]} for name, f in register.items()],
        "cells": {fact: {name: row[name] for name in ids if name in row} for fact, row in rows.items()},
    }


def merge(matrix: dict, column: dict, cells: dict, register: dict) -> dict:
    """Return the matrix with one column's answers in it."""
    rows = {fact: dict(row) for fact, row in matrix["cells"].items()}
    for fact, value in cells.items():
        rows.setdefault(fact, {})[column["id"]] = value
    others = [entry for entry in matrix["columns"] if entry["id"] != column["id"]]
    merged = {"generated": datetime.date.today().isoformat(), "columns": [*others, column], "cells": rows}
    return with_register(merged, register)


def fill(columns: Sequence[str], fresh: bool, jobs: int, keep: Path | None, facts: Sequence[str], path: Path) -> int:
    """Ask every column what it has not answered yet and merge the answers as they come. Returns the number of failures.

    Interrupted, it goes on where it stopped: a column is written when it is complete, in one step.
    """
    register = load_probes().FACTS
    unknown = sorted(set(facts) - set(register))
    if unknown:
        raise ColumnError(f"There is no fact {', '.join(unknown)}. probes.py lists them.")
    for column in columns:
        parse(column)
    lock = threading.Lock()
    began = time.time()
    finished: list[str] = []
    failed: list[str] = []

    def say(text: str) -> None:
        print(f"[{len(finished) + len(failed)}/{len(columns)}] {time.time() - began:6.0f} s  {text}", flush=True)

    def one(column: str) -> None:
        cells = read_matrix(path)["cells"]
        wanted = [f for f in (facts or register) if fresh or column not in cells.get(f, {})]
        if not wanted:
            finished.append(column)
            say(f"{column}: all {len(facts or register)} answers are there")
            return
        say(f"{column}: installing, then asking {len(wanted)} facts")
        try:
            result = probe(column, wanted, keep)
            day = released(column)
        except ColumnError as error:
            failed.append(column)
            say(f"{column}: FAILED. {error}")
            return
        entry = {"id": column, **{name: result[name] for name in ("tensorflow", "keras", "python")}, "released": day}
        with lock:
            write(path, dumps(merge(read_matrix(path), entry, result["cells"], register)))
            finished.append(column)
        say(f"{column}: {len(wanted)} answers in {result['seconds']:.0f} s")

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(one, columns))
        except BaseException:
            # Interrupted: leave the columns that have not begun to the next run.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    # Statements and groups come from probes.py even when no column had to be asked.
    matrix = read_matrix(path)
    if matrix["columns"]:
        write(path, dumps(with_register(matrix, register)))
    if failed:
        print(f"{len(failed)} columns failed: {', '.join(failed)}. Run the same command again to ask only those.")
    return len(failed)


def column_for(matrix: dict, tensorflow: str, keras: str) -> str | None:
    """The id of the column with these releases, or None. One development build of Keras stands for the others."""

    def short(version: str) -> str:
        return re.sub(r"dev\d+", "dev", version)

    for column in matrix["columns"]:
        same = column["tensorflow"] == canonical(tensorflow) and short(column["keras"]) == short(keras)
        if same and not column["id"].endswith("+tf_keras"):
            return str(column["id"])
    return None


def newest(matrix: dict) -> str:
    """The last column of the timeline: what a release candidate or nightly is compared with."""
    ids = [column["id"] for column in matrix["columns"] if not column["id"].endswith("+tf_keras")]
    if not ids:
        raise ColumnError("The matrix has no column to compare with. Fill it first.")
    return str(ids[-1])


def differences(matrix: dict, column: str, answers: dict) -> list[tuple[str, object, object]]:
    """The facts that are answered differently now, as (fact id, the column's answer, the answer now).

    Of an error only the type counts: its wording is not behaviour, and differs between Pythons.
    """

    def essence(value: object) -> object:
        return value["error"].split(":")[0] if isinstance(value, dict) else (type(value), value)

    return [
        (fact, matrix["cells"][fact][column], now)
        for fact, now in answers.items()
        if essence(matrix["cells"][fact][column]) != essence(now)
    ]


def words(value: object) -> str:
    """An answer for a message: yes, no, the value, or the error."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value["error"]) if isinstance(value, dict) else str(value)


def diff(column: str, base: str | None, out: Path, keep: Path | None) -> None:
    """Probe a release and write as Markdown how it differs from a column; an empty file when it does not."""
    matrix = read_matrix()
    base = base or newest(matrix)
    if base not in [entry["id"] for entry in matrix["columns"]]:
        raise ColumnError(f"The matrix has no column {base}.")
    statements = {fact["id"]: fact["statement"] for fact in matrix["facts"]}
    result = probe(column, list(statements), keep)
    release = f"TensorFlow {result['tensorflow']} with Keras {result['keras']}"
    rows = differences(matrix, base, result["cells"])
    text = ""
    if rows:
        lines = []
        for fact, was, now in rows:
            cells = [f"`{fact}`", statements[fact], words(was), words(now)]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        table = "\n".join([f"| fact | statement | {base} | {column} |", "|---|---|---|---|", *lines])
        text = f"{release} answers {len(rows)} facts differently from {base}.\n\n{table}\n"
    write(out, text)
    print(text or f"{release} answers as {base} does.")


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in ("list", "fill", "run", "diff", "-h", "--help"):
        argv = ["fill", *argv]
    rest: list[str] = []
    if "--" in argv:
        rest = argv[argv.index("--") + 1 :]
        argv = argv[: argv.index("--")]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print the columns")
    one = commands.add_parser("run", help="run a script in a column; its arguments follow --")
    one.add_argument("--column", required=True)
    one.add_argument("--with", dest="extra", action="append", default=[], help="a further requirement; may be repeated")
    one.add_argument("--out", type=Path, help="write the script's standard output here")
    one.add_argument("--keep", type=Path, help="keep environments in this folder and use them again")
    one.add_argument("--timeout", type=float)
    one.add_argument("script", type=Path)
    many = commands.add_parser("fill", help="ask columns what they have not answered yet; the default command")
    many.add_argument("columns", nargs="*", default=list(COLUMNS), help="column ids; default: all")
    many.add_argument("--fresh", action="store_true", help="ask again what is answered already")
    many.add_argument("--facts", nargs="+", default=[], help="ask these facts only")
    many.add_argument("--jobs", type=int, default=1, help="columns at a time")
    many.add_argument("--keep", type=Path, help="keep environments in this folder and use them again")
    many.add_argument("--matrix", type=Path, default=MATRIX, help="the file to fill")
    other = commands.add_parser("diff", help="probe a release, rc or nightly, and say how it differs from a column")
    other.add_argument("column")
    other.add_argument("--base", help="the column to compare with; default: the newest")
    other.add_argument("--out", type=Path, required=True, help="a Markdown file; empty when nothing differs")
    other.add_argument("--keep", type=Path, help="keep environments in this folder and use them again")
    options = parser.parse_args(argv)
    # A terminated run removes its environments as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.command == "list":
            print("\n".join(COLUMNS))
        if options.command == "fill":
            return fill(options.columns, options.fresh, options.jobs, options.keep, options.facts, options.matrix)
        if options.command == "diff":
            diff(options.column, options.base, options.out, options.keep)
        if options.command == "run":
            run_in_column(
                options.column,
                options.script,
                rest,
                options.out,
                extra=options.extra,
                keep=options.keep,
                timeout=options.timeout,
            )
    except ColumnError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
