"""SARIF 2.1.0, as code review reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from .check import CHECKS, Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def log(
    findings: Iterable[Finding], version: str, unread: dict[str, str]
) -> dict[str, Any]:
    """A SARIF log with one run. What could not be read is a notification of it."""
    codes = list(CHECKS)
    rules = [
        {
            "id": code,
            "name": check.find.__name__,
            "shortDescription": {"text": check.title},
            "fullDescription": {"text": check.why},
            "help": {"text": f"Instead: {check.instead}"},
            "defaultConfiguration": {"level": check.severity},
        }
        for code, check in CHECKS.items()
    ]
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": codes.index(finding.code),
            "level": finding.severity,
            "message": {"text": told(finding)},
            "locations": [located(finding)],
        }
        for finding in findings
    ]
    notices = [
        {"level": "warning", "message": {"text": why}, "locations": [location(path)]}
        for path, why in unread.items()
    ]
    driver = {"name": "phase-doctor scan", "version": version, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {"executionSuccessful": True, "toolExecutionNotifications": notices}
        ],
        "results": results,
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def told(finding: Finding) -> str:
    text = f"{finding.message} Instead: {finding.instead}"
    cell, _, line = finding.place.rpartition(":")
    return f"Cell {cell}, line {line}: {text}" if cell else text


def located(finding: Finding) -> dict[str, Any]:
    """A line of a notebook's cell is no line of its file: there the file is named."""
    if ":" in finding.place:
        return location(finding.path)
    return location(finding.path, finding.line, finding.column)


def location(path: str, line: int = 0, column: int = 1) -> dict[str, Any]:
    place: dict[str, Any] = {
        "artifactLocation": {"uri": quote(PurePath(path).as_posix())}
    }
    if line:
        place["region"] = {"startLine": line, "startColumn": column}
    return {"physicalLocation": place}
