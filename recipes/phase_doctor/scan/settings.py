"""What a project says: `[tool.phase-doctor]`, and the release that its pins give."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .check import Release

CURRENT = "3.15"
KEYS = {"keras", "select", "ignore", "exclude"}
REQUIREMENT = re.compile(r"^\s*([A-Za-z][\w.-]*)\s*(?:\[[\w,\s-]*\])?\s*([^;#]*)")
BOUND = re.compile(r"(===|==|~=|<=|<|>=|>|!=|\^)\s*(\d+(?:\.\d+)*)(\.\*)?")
TENSORFLOW = {
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-gpu",
    "tensorflow-macos",
    "tensorflow-intel",
}
KERAS_3_FROM: Release = (2, 16)  # of TensorFlow


class Unusable(Exception):
    """Options or a configuration that cannot be followed."""


@dataclass
class Settings:
    keras: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def numbers(text: str) -> Release:
    """(3, 9, 2) for "3.9.2" or "3.9.2.dev1", (3, 0) for "3". Raises Unusable."""
    found = re.match(r"\d+(?:\.\d+)*", text.strip())
    if not found:
        raise Unusable(f"{text!r} is no release of Keras.")
    release = tuple(int(part) for part in found[0].split("."))
    return release if len(release) > 1 else (*release, 0)


def project_of(path: str) -> Path | None:
    """The nearest folder above that has a pyproject.toml, requirements or a .git."""
    start = Path(path).resolve()
    for folder in [start, *start.parents] if start.is_dir() else list(start.parents):
        if (folder / "pyproject.toml").is_file() or (folder / ".git").exists():
            return folder
        if any(folder.glob("requirements*.txt")):
            return folder
    return None


def table(folder: Path | None) -> dict[str, Any]:
    if folder is None or not (folder / "pyproject.toml").is_file():
        return {}
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"{folder / 'pyproject.toml'}: {error}") from error


def settings(project: dict[str, Any]) -> Settings:
    """`[tool.phase-doctor]`. Raises Unusable for what it does not know."""
    given = project.get("tool", {}).get("phase-doctor", {})
    for key, value in given.items():
        if key not in KEYS:
            raise Unusable(
                f"[tool.phase-doctor] has no {key!r}; it has {', '.join(sorted(KEYS))}."
            )
        right = isinstance(value, str) if key == "keras" else isinstance(value, list)
        if not right:
            raise Unusable(
                f"[tool.phase-doctor] {key} is a "
                f"{'string' if key == 'keras' else 'list'}."
            )
    lists = {key: tuple(value) for key, value in given.items() if key != "keras"}
    return Settings(keras=given.get("keras"), **lists)


def requirements(
    folder: Path, project: dict[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """(name, bounds, where) of every requirement that the project states."""
    stated = project.get("project", {})
    lines = [(line, "pyproject.toml") for line in stated.get("dependencies", [])]
    for group in stated.get("optional-dependencies", {}).values():
        lines += [(line, "pyproject.toml") for line in group]
    for group in project.get("dependency-groups", {}).values():
        lines += [(line, "pyproject.toml") for line in group if isinstance(line, str)]
    for path in sorted(folder.glob("requirements*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        lines += [(line, path.name) for line in text.splitlines()]
    poetry = project.get("tool", {}).get("poetry", {}).get("dependencies", {})
    lines += [
        (f"{name} {bound}", "pyproject.toml")
        for name, given in poetry.items()
        if isinstance(bound := version_of(given), str)
    ]
    for line, where in lines:
        found = REQUIREMENT.match(line)
        if found:
            yield found[1].lower().replace("_", "-"), found[2], where


def version_of(given: Any) -> Any:
    """Poetry writes `"^3.5"` or `{version = "^3.5", …}`."""
    return given.get("version") if isinstance(given, dict) else given


def newest(bounds: str) -> Release | None:
    """The newest release that these bounds let in; None where nothing holds it back."""
    found: list[Release] = []
    for how, version, any_below in BOUND.findall(bounds):
        number = numbers(version)
        if how == "^" or (any_below and len(number) == 2 and "." not in version):
            found.append((number[0], 99))
        elif how in ("==", "===", "<="):
            found.append(number)
        elif how == "~=":
            found.append(number if len(number) > 2 else (number[0], 99))
        elif how == "<":
            found.append(below(number))
    return min(found) if found else None


def below(number: Release) -> Release:
    """A release just before: (2, 99) for `<3`, (2, 15) for `<2.16`."""
    while len(number) > 1 and number[-1] == 0:
        number = number[:-1]
    if len(number) == 1:
        return (number[0] - 1, 99)
    return (*number[:-1], number[-1] - 1)


def pinned(folder: Path | None, project: dict[str, Any]) -> tuple[str, str] | None:
    """(release of Keras, where it is pinned) by the project's own pins."""
    if folder is None:
        return None
    by_tensorflow = None
    for name, bounds, where in requirements(folder, project):
        top = newest(bounds) if name == "keras" or name in TENSORFLOW else None
        if top is None:
            continue
        line = f"{name} {bounds.strip()} in {where}"
        if name == "keras":
            release = (
                min(top, numbers(CURRENT))
                if top[:2] in ((3, 99), (2, 99)) and top[0] == 3
                else top
            )
            return shown(release), line
        if top < KERAS_3_FROM and by_tensorflow is None:
            by_tensorflow = shown(top), line
    return by_tensorflow


def shown(release: Release) -> str:
    """ "2.15" for whatever comes last before Keras 3, "2.2" for TensorFlow 1's own."""
    if release[0] < 3 and release[1:2] == (99,):
        release = (2, 15)
    release = max(release, (2, 2))
    return ".".join(map(str, release))


def assumed(
    option: str | None, given: Settings, folder: Path | None, project: dict[str, Any]
) -> tuple[str, str]:
    """The release that the scan assumes, and why it does. Raises Unusable."""
    if option:
        choice = option, "--keras"
    elif given.keras:
        choice = given.keras, "[tool.phase-doctor]"
    else:
        choice = pinned(folder, project) or (CURRENT, "current")
    numbers(choice[0])
    return choice
