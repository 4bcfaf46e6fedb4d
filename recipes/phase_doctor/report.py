"""What is found and how it is told: findings, a diagnosis, its table and its JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

# Number of the JSON's layout; it grows when a key changes its meaning or goes.
SCHEMA = 1


class CannotExamine(ValueError):
    """The doctor was handed what it cannot examine; the message says what it can."""


# --8<-- [start:diagnosis]
@dataclasses.dataclass
class Finding:
    """One fault, or one remark.

    Attributes:
        code: Stable rule code, such as `"PD301"`.
        severity: `"error"`, `"warning"` or `"note"`.
        where: Path of the layer (`"backbone/bn1"`), or None for the whole model.
        message: One sentence about this model.
        evidence: The measured numbers behind the message.
        cure: What to do.
        recipe: Slug of the Phasebook recipe that shows the cure, or None.
        cure_id: Stable name of the cure, such as `"compile-again"`.
        caused_by: Code of the root finding that explains this one, or None.
    """

    code: str
    severity: str
    where: str | None
    message: str
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    cure: str = ""
    recipe: str | None = None
    cure_id: str = ""
    caused_by: str | None = None


@dataclasses.dataclass
class Diagnosis:
    """What `diagnose` found, root causes first.

    Attributes:
        findings: Every `Finding`, errors, warnings and notes.
        timing: Seconds. `"tracing"` is making graphs, the first run of each included:
            TensorFlow optimises it then. `"running"` is running them again.
        versions: TensorFlow and Keras release examined.
        model: Name of the examined model.
    """

    findings: list[Finding]
    timing: dict[str, float]
    versions: dict[str, str]
    model: str

    @property
    def ok(self) -> bool:
        """True when no finding is an error or a warning."""
        return not self.codes

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of errors and warnings, each once, root causes first."""
        return tuple(
            dict.fromkeys(f.code for f in self.findings if f.severity != "note")
        )

    def to_json(self, indent: int | None = 2) -> str:
        """The diagnosis as a JSON object; numbers that are not finite are strings."""
        body = {
            "schema": SCHEMA,
            "ok": self.ok,
            "codes": self.codes,
            "model": self.model,
            "versions": self.versions,
        }
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        return json.dumps(
            plain({**body, "timing": self.timing, "findings": findings}), indent=indent
        )

    def __str__(self) -> str:
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for finding in self.findings:
            # Fifty layers with one fault are one row.
            kind = finding.message.replace(repr(finding.where), "@")
            kind = re.sub(r"[\d.]+(e[+-]?\d+)?", "#", kind)
            row = (finding.code, finding.severity, kind, finding.cure_id)
            groups.setdefault(row, []).append(finding)
        faults = sum(f.severity != "note" for f in self.findings)
        unseen = any(finding.evidence.get("unseen") for finding in self.findings)
        clean = "nothing found, not all was seen" if unseen else "healthy"
        found = "1 finding" if faults == 1 else f"{faults} findings"
        state = clean if self.ok else found
        releases = ", ".join(
            f"{name} {number}" for name, number in self.versions.items()
        )
        lines = [f"{self.model}: {state} ({releases})"]
        for first, *others in groups.values():
            where = first.where or "whole model"
            more = f" and {len(others)} more" if others else ""
            cause = f"  (caused by {first.caused_by})" if first.caused_by else ""
            lines.append(f"{first.code}  {first.severity:<7}  {where}{more}{cause}")
            lines.append(f"       {first.message}")
            if first.severity != "note":
                recipe = f" [{first.recipe}]" if first.recipe else ""
                lines.append(f"       cure: {first.cure}{recipe}")
        return "\n".join(lines)


# --8<-- [end:diagnosis]


def plain(value: Any) -> Any:
    """JSON-ready copy: NumPy numbers become Python ones, NaN and infinity strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if getattr(value, "ndim", None) == 0:  # a NumPy number
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
