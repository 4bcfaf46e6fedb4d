"""A file as checks see it: its text, scopes, values, and what is often asked."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from typing import Any

from . import known
from .check import CHECKS, Check, Finding, Release
from .files import Text
from .holds import BASE, Holdings
from .things import Class, Dotted
from .tree import Indexer, Scope, Site
from .values import Values

LEGACY: Release = (2, 15)
IGNORE = re.compile(r"#\s*phase:\s*ignore\b\s*(?:\[(?P<codes>[\w\s,]*)\])?")
KERAS_2 = re.compile(
    r"^\s*(?:import|from)\s+(?:tf_keras|tensorflow\.python\.keras)\b"
    r"|^[^#\n]*TF_USE_LEGACY_KERAS[\"']?\]?\s*[:,=]\s*[\"']?(?:1|True)",
    re.MULTILINE,
)
FREEZES = re.compile(r"freeze|set_trainable|setattr\([^)]*trainable", re.IGNORECASE)
TF1 = re.compile(
    r"\b(?:tf|tensorflow)\.(?:compat\.v1\.)?(?:Session|placeholder|placeholder_with_default|InteractiveSession|contrib)\b"
)


class Source:
    """One parsed file on one assumed release. Raises SyntaxError."""

    def __init__(self, text: Text, release: Release) -> None:
        self.text = text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tree = ast.parse(text.text)
        self.release = (
            LEGACY if release >= (3,) and KERAS_2.search(text.text) else release
        )
        self.indexer = Indexer()
        self.module = self.indexer.module(self.tree)
        self.values = Values(self.module)
        for site in self.calls:  # in their order: no chain of names is too long then
            self.callee(site)
        self.holds = Holdings(self.values)
        self.holds.frozen = self.frozen()

    @functools.cached_property
    def scopes(self) -> list[Scope]:
        return list(self.module.all())

    @functools.cached_property
    def calls(self) -> list[Site]:
        """Every call of the file in the order of its text."""
        return sorted(
            (site for scope in self.scopes for site in scope.calls), key=lambda s: s.at
        )

    def frozen(self) -> set[int]:
        """What is set to another `trainable` than True, and never to True."""
        found: dict[bool, set[int]] = {True: set(), False: set()}
        for scope in self.scopes:
            for target, given, site in scope.assigned:
                if target.attr == "trainable":
                    held = self.values.at(target.value, site)
                    held = held or of_layers(self.values, target.value, site)
                    free = isinstance(given, ast.Constant) and given.value is True
                    for part in self.holds.layers(held):
                        found[free] |= {id(part.node), id(part.node.func)}
                    found[free] |= {id(BASE)} if held is None and not free else set()
        if FREEZES.search(self.text.text):
            found[False].add(id(BASE))
        return found[False] - (found[True] - {id(BASE)})

    @functools.cached_property
    def is_tf1(self) -> bool:
        return TF1.search(self.text.text) is not None

    @functools.cached_property
    def classes(self) -> list[Class]:
        return [self.values.class_of(s.node) for s in self.scopes if s.kind == "class"]

    def named(self) -> Iterator[tuple[ast.AST, str]]:
        """Every name of a library that the file reads or imports, with its node."""
        for name, site in self.indexer.imports:
            if not name.startswith("."):
                yield site.node, known.canonical(name)
        for site in self.indexer.attributes:
            value = self.values.at(site.node, site)
            if isinstance(value, Dotted):
                yield site.node, value.name

    def func(self, site: Site) -> str:
        """The library's name that a call calls, or ''."""
        value = self.values.at(site.node.func, site)  # type: ignore[attr-defined]
        return value.name if isinstance(value, Dotted) else ""

    def callee(self, site: Site) -> Any:
        """The layer, model or class that a call calls."""
        return self.values.at(site.node.func, site)  # type: ignore[attr-defined]

    def methods(self, *names: str) -> Iterator[tuple[Site, ast.expr]]:
        """Calls `receiver.name(…)`, with the receiver."""
        for site in self.calls:
            func = site.node.func  # type: ignore[attr-defined]
            if isinstance(func, ast.Attribute) and func.attr in names:
                yield site, func.value

    def ignored(self) -> dict[int, set[str]]:
        """Codes by line that a comment silences; an empty set silences all."""
        found: dict[int, set[str]] = {}
        if "phase:" not in self.text.text:
            return found
        tokens = tokenize.generate_tokens(io.StringIO(self.text.text).readline)
        for token in tokens:
            comment = token.type == tokenize.COMMENT and IGNORE.search(token.string)
            if comment:
                codes = (comment["codes"] or "").upper()
                found[token.start[0]] = set(re.split(r"[\s,]+", codes.strip())) - {""}
        return found


def of_layers(values: Values, node: ast.expr, site: Site) -> Any:
    """The model whose `layers` a loop's variable, or a subscript, is one of."""
    if isinstance(node, ast.Name):
        bound = values.before(site.scope.names.get(node.id, []), site.at, site.arms)
        if (
            bound is None
            or bound.how != "item"
            or not isinstance(bound.value, ast.expr)
        ):
            return None
        node = bound.value
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute) and node.attr == "layers":
        return values.at(node.value, site)
    return None


def findings(source: Source, checks: list[Check] | None = None) -> Iterator[Finding]:
    """What the checks find in a file, in the order of its lines."""
    ignored = source.ignored()
    found = []
    for check in CHECKS.values() if checks is None else checks:
        if not check.holds_on(source.release):
            continue
        for node, message in check.find(source):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                lines = range(node.lineno, max(node.lineno + 1, node.body[0].lineno))
            silenced = any(
                not ignored[line] or check.code.startswith(tuple(ignored[line]))
                for line in lines
                if line in ignored
            )
            if not silenced:
                place = source.text.place(node.lineno)
                found.append(
                    Finding(
                        check.code,
                        check.severity,
                        source.text.path,
                        node.lineno,
                        node.col_offset + 1,
                        message,
                        check.instead,
                        place,
                    )
                )
    yield from sorted(set(found), key=lambda f: (f.line, f.column, f.code))
