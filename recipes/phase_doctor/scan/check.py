"""What a check is made of: its code, words, examples, releases, and how it is found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .source import Source

Release = tuple[int, ...]
FIRST: Release = (0,)
NEVER: Release = (99,)


@dataclass(frozen=True)
class Finding:
    """One place in one file. `line` counts in the text that was read, from 1."""

    code: str
    severity: str
    path: str
    line: int
    column: int
    message: str
    instead: str
    place: str = ""

    @property
    def where(self) -> str:
        return f"{self.path}:{self.place or self.line}:{self.column}"


@dataclass(frozen=True)
class Check:
    """One check, one place: the function's docstring is its page.

    Attributes:
        code: Stable, never used for anything else.
        severity: error, warning or note; notes are shown where selected only.
        title: What it finds, in a few words.
        instead: What to write.
        broken: The smallest source that it names, once.
        cured: The same source, silent.
        since, until: The Keras releases for which it is true, the last one excluded.
        keras: A release on which `broken` shows it, where current does not.
    """

    code: str
    severity: str
    title: str
    instead: str
    broken: str
    cured: str
    find: Callable[[Source], Iterator[tuple[Any, str]]] = field(repr=False)
    since: Release = FIRST
    until: Release = NEVER
    keras: str = ""

    @property
    def why(self) -> str:
        return inspect.getdoc(self.find) or ""

    def holds_on(self, release: Release) -> bool:
        return self.since <= release < self.until

    @property
    def releases(self) -> str:
        """The releases for which it is true, in words."""
        since, until = (".".join(map(str, r)) for r in (self.since, self.until))
        if self.until != NEVER:
            return f"Keras {since} and newer, before {until}"
        return "every Keras" if self.since == FIRST else f"Keras {since} and newer"

    def text(self, printed: str) -> str:
        """What `--explain` prints; `printed` is what the scan says of `broken`."""
        return (
            f"{self.code} ({self.severity}): {self.title}\n\n{self.why}\n\n"
            f"Instead: {self.instead}\n\nTrue on {self.releases}.\n\n"
            f"Broken:\n\n{indented(self.broken)}\n\n"
            f"Printed:\n\n{indented(printed)}\n\n"
            f"Cured, and silent:\n\n{indented(self.cured)}\n"
        )


def indented(code: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in code.strip().splitlines())


CHECKS: dict[str, Check] = {}


def check(
    code: str,
    severity: str,
    title: str,
    *,
    instead: str,
    broken: str,
    cured: str,
    **more: Any,
) -> Callable:
    """Registers the decorated function, which yields nodes and messages, as a check."""

    def register(find: Callable) -> Callable:
        if code in CHECKS:
            raise ValueError(f"{code} is taken")
        CHECKS[code] = Check(
            code, severity, title, instead, broken.strip(), cured.strip(), find, **more
        )
        return find

    return register
