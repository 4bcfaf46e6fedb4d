"""The command: files, notebooks, releases, formats, exit codes, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from phase_doctor import cli
from phase_doctor.scan import checks, files, settings
from phase_doctor.scan.check import CHECKS
from phase_doctor.scan.source import Source, findings

assert checks
ROOT = Path(__file__).resolve().parents[2]
BROKEN = CHECKS["PS403"].broken


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "net.py").write_text(BROKEN)
    return tmp_path


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["scan", *map(str, arguments)])
    return status, *capsys.readouterr()


# -- exit codes and options ----------------------------------------------------------------


def test_it_says_where_what_and_instead(project: Path, capsys: pytest.CaptureFixture) -> None:
    status, out, _ = run(capsys, project)
    assert status == 1
    head, finding, instead, total = out.splitlines()
    assert head == "Keras 3.15 is assumed (current). 1 file read, 0 skipped: nothing about phases in them."
    assert finding.startswith(f"{project / 'net.py'}:3:8: PS403 warning: `momentum=0.1`")
    assert instead.strip().startswith("instead: ") and total == "1 warning."


@pytest.mark.parametrize("options", [["--ignore", "PS4"], ["--ignore", "PS1,PS403"], ["--select", "PS1"]])
def test_nothing_left_is_0(options: list[str], project: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(capsys, project, *options)[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["nowhere"], "there is no nowhere"),
        ([".", "--select", "PX"], "No code begins with 'PX'"),
        ([".", "--keras", "new"], "'new' is no release"),
        (["--explain", "PS000"], "There is no 'PS000'"),
    ],
)
def test_what_it_cannot_do_is_2(options: list[str], says: str, capsys: pytest.CaptureFixture) -> None:
    status, out, err = run(capsys, *options)
    assert (status, out) == (2, "") and says in err


def test_notes_are_counted_shown_where_selected_and_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "old.py").write_text(CHECKS["PS911"].broken)
    status, out, _ = run(capsys, tmp_path)
    assert status == 0 and "1 notes are not shown" in out
    status, out, _ = run(capsys, tmp_path, "--select", "PS9")
    assert status == 0 and "PS911 note" in out


def test_it_never_changes_a_file(project: Path, capsys: pytest.CaptureFixture) -> None:
    run(capsys, project)
    assert (project / "net.py").read_text() == BROKEN
    assert sorted(p.name for p in project.iterdir()) == ["net.py", "pyproject.toml"]


@pytest.mark.parametrize("code", CHECKS)
def test_every_code_is_explained(code: str, capsys: pytest.CaptureFixture) -> None:
    status, out, _ = run(capsys, "--explain", code)
    assert status == 0 and out.startswith(f"{code} (")
    assert CHECKS[code].broken.splitlines()[-1].strip() in out


def test_configuration(project: Path, capsys: pytest.CaptureFixture) -> None:
    config = project / "pyproject.toml"
    config.write_text('[tool.phase-doctor]\nkeras = "3.9"\nignore = ["PS403"]\n')
    status, out, _ = run(capsys, project)
    assert status == 0 and "Keras 3.9 is assumed ([tool.phase-doctor])" in out
    config.write_text('[tool.phase-doctor]\nexclude = ["net.py"]\n')
    assert run(capsys, project)[0] == 0
    for wrong in ('kears = "3.9"', "keras = 3.9", 'select = "PS1"'):
        config.write_text(f"[tool.phase-doctor]\n{wrong}\n")
        assert run(capsys, project)[0] == 2


# -- files ---------------------------------------------------------------------------------


def test_files_without_keras_are_not_parsed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "other.py").write_text("this is no Python")
    status, out, _ = run(capsys, tmp_path)
    assert status == 0 and "0 files read, 1 skipped" in out


def test_what_python_3_cannot_parse_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "two.py").write_text("import keras\nprint 'Dropout'\n")
    (tmp_path / "latin.py").write_bytes(b"import keras\nDropout = '\xe9'\n")
    (tmp_path / "torn.ipynb").write_text('{"cells": [keras Dropout')
    status, out, _ = run(capsys, tmp_path)
    assert status == 0 and out.count(": not read. ") == 3
    assert "two.py: not read. Python 3 cannot parse it: Missing parentheses" in out


def test_hidden_and_built_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("a.py", ".venv/b.py", "build/c.py", "node_modules/d.py", "pkg/e.ipynb", "f.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    assert [p.name for p in files.walk([str(tmp_path)])] == ["a.py", "e.ipynb"]


def notebook(*cells: str) -> str:
    code = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "# keras"}, *code]})


@pytest.mark.parametrize(
    "cell",
    [
        'print(\n    "%.2f"\n    % (0.5,)\n)\n%matplotlib inline',
        "if (\n    x\n    != 0.5\n):\n    pass\n!ls",
        "  x = 1\n  y = 2",
        "files, rest = !ls",
        "\n%%bash\nls",
    ],
)
def test_a_cell_is_read_as_ipython_reads_it(cell: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "n.ipynb").write_text(notebook(cell, BROKEN))
    status, out, _ = run(capsys, str(tmp_path))
    assert status == 1 and "not read" not in out


@pytest.mark.parametrize("text", ['["keras", "phase"]', '{"cells": ["keras phase"]}', '{"cells": {"keras": "phase"}}'])
def test_what_is_no_notebook_is_counted_and_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "n.ipynb").write_text(text)
    (tmp_path / "a.py").write_text(BROKEN)
    status, out, _ = run(capsys, str(tmp_path))
    assert status == 1 and "n.ipynb: not read. ValueError: a notebook without cells" in out


@pytest.mark.parametrize("code", CHECKS)
def test_no_file_is_skipped_in_which_a_check_would_find_something(code: str) -> None:
    assert files.WORDS.search(CHECKS[code].broken)


@pytest.mark.parametrize(
    "line", ["LSTM(8, dropout=0.2)", "keras.applications.ResNet50()", "from keras.layers.core import Dense"]
)
def test_words_in_which_phases_hide(line: str) -> None:
    assert files.WORDS.search(line)


def test_a_notebook_is_placed_by_cell_and_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cells = [
        "%matplotlib inline\n!pip install keras \\\n  tensorflow\nfrom keras import layers",
        "%%bash\nls -l | grep x",
        "%%time\nif True:\n    !ls\nfiles = !ls\nlayers?\nnorm = layers.BatchNormalization(momentum=0.1)",
    ]
    (tmp_path / "n.ipynb").write_text(notebook(*cells))
    status, out, _ = run(capsys, tmp_path)
    assert status == 1 and "n.ipynb:4:6:8: PS403" in out and "not read" not in out


# -- the assumed release -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "release"),
    [
        ("requirements.txt", "numpy\nkeras==2.3.1\n", "2.3.1"),
        ("requirements.txt", "tensorflow==2.10.0 ; python_version < '3.11'\n", "2.10.0"),
        ("requirements.txt", "tensorflow-gpu~=2.8.0\n", "2.8.0"),
        ("requirements-dev.txt", "tensorflow<2.16\n", "2.15"),
        ("requirements.txt", "keras<3\n", "2.15"),
        ("requirements.txt", "tensorflow[and-cuda]>=2.4\n", "3.15"),
        ("requirements.txt", "tensorflow==2.17.0\n", "3.15"),
        ("requirements.txt", "tensorflow==2.17.0\nkeras==3.5.0\n", "3.5.0"),
        ("requirements.txt", "keras>=3,<4\n", "3.15"),
        ("requirements.txt", "# keras==2.3.1\nkeras-tuner==1.0\n", "3.15"),
        ("pyproject.toml", '[project]\ndependencies = ["tensorflow>=2.5,<=2.12"]\n', "2.12"),
        ("pyproject.toml", '[project.optional-dependencies]\ntf = ["keras==3.9.2"]\n', "3.9.2"),
        ("pyproject.toml", '[tool.poetry.dependencies]\ntensorflow = "^2.12"\n', "3.15"),
    ],
)
def test_the_release_comes_from_the_pins(name: str, text: str, release: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "src").mkdir()
    folder = settings.project_of(str(tmp_path / "src"))
    project = settings.table(folder)
    found, because = settings.assumed(None, settings.settings(project), folder, project)
    assert found == release and (because == "current") == (release == "3.15" and "<4" not in text)


@pytest.mark.parametrize(
    ("pin", "release"),
    [
        ("keras==3.*", "3.15"),
        ("keras==3", "3.0"),
        ("keras^3.5.1", "3.15"),
        ("tensorflow==2.*", None),
        ("tensorflow==2.4.*", "2.4"),
        ("tensorflow==1.15", "2.2"),
    ],
)
def test_a_pin_with_a_star_or_one_number(pin: str, release: str | None, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(pin)
    found = settings.pinned(tmp_path, {})
    assert (found and found[0]) == release


def test_an_option_goes_before_the_configuration_and_that_before_pins(tmp_path: Path) -> None:
    given, project = settings.Settings(keras="3.5"), {"project": {"dependencies": ["keras==2.3"]}}
    assert settings.assumed("3.9", given, tmp_path, project) == ("3.9", "--keras")
    assert settings.assumed(None, given, tmp_path, project) == ("3.5", "[tool.phase-doctor]")
    assert settings.assumed(None, settings.Settings(), tmp_path, project)[0] == "2.3"


# -- formats -------------------------------------------------------------------------------


def test_json(project: Path, capsys: pytest.CaptureFixture) -> None:
    told = json.loads(run(capsys, project, "--json")[1])
    assert (told["schema"], told["keras"], told["read"]) == (1, "3.15", 1)
    (finding,) = told["findings"]
    assert (finding["code"], finding["line"], finding["column"]) == ("PS403", 3, 8)
    assert finding["instead"] and finding["why"]


# The standard's own schema, unchanged, as OASIS publishes it with errata 01 (Copyright © OASIS Open 2023).
SARIF = json.loads((Path(__file__).parent / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))


def test_sarif_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for code, check in CHECKS.items():
        (tmp_path / f"{code}.py").write_text(check.broken)
    (tmp_path / "two words.py").write_text("import keras\nprint 'Dropout'\n")
    (tmp_path / "zoo.ipynb").write_text(notebook("%pip install keras", BROKEN))
    told = json.loads(run(capsys, tmp_path, "--sarif")[1])
    standard = jsonschema.Draft4Validator(SARIF)
    standard.check_schema(SARIF)
    standard.validate(told)
    (one,) = told["runs"]
    first, *_, last = one["results"]
    assert len(one["results"]) >= 20 and first["locations"][0]["physicalLocation"]["region"]
    # A line of a cell is no line of the notebook's file: the message says where.
    assert last["message"]["text"].startswith("Cell 3, line 3: ")
    assert "region" not in last["locations"][0]["physicalLocation"]
    (notice,) = one["invocations"][0]["toolExecutionNotifications"]
    assert notice["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith("two%20words.py")
    first["level"] = "fatal"
    assert not standard.is_valid(told)


# -- cost ----------------------------------------------------------------------------------


def test_it_loads_the_standard_library_alone() -> None:
    code = (
        "import sys, phase_doctor.scan.command; top = {n.split('.')[0] for n in sys.modules};"
        "print(sorted(top - set(sys.stdlib_module_names) - {'phase_doctor', '__main__', 'sitecustomize'}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'recipes')!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[]\n", done.stderr


def test_work_grows_with_the_source_and_no_faster() -> None:
    """Counted in visits of expressions: twice the source is about twice the work."""

    def visits(copies: int) -> int:
        count = 0
        block = "\n".join(check.cured.replace("Net", "Net{0}") for check in CHECKS.values() if "{" not in check.cured)
        text = "\n".join(block.replace("{0}", str(n)) for n in range(copies))
        source = Source(files.Text("x.py", text), (3, 15))
        of = source.values.of

        def counted(*arguments: object) -> object:
            nonlocal count
            count += 1
            return of(*arguments)

        source.values.of = counted  # type: ignore[method-assign]
        list(findings(source))
        return count

    few, many = visits(4), visits(16)
    assert many < 4 * 2 * few
