"""From evidence to findings: what is excused and why, what causes what, what is first.

Three tables that can be read; adding a rule means adding a row where one is due.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from . import facts, gap, told
from .evidence import Evidence, Layer, Statistic
from .report import Finding
from .rules import MODULES

# A finding is a consequence of the first of these codes that is found too, at a layer
# that bears on it.
CAUSES: dict[str, tuple[str, ...]] = {
    "PD301": ("PD103", "PD101", "PD102", "PD105"),
    "PD302": ("PD104",),
    "PD303": ("PD105",),
    "PD306": ("PD304",),
    "PD309": ("PD106", "PD102", "PD101", "PD305"),
    "PD310": ("PD103", "PD101", "PD301"),
    "PD201": ("PD103", "PD101", "PD301", "PD105"),
    "PD202": ("PD101", "PD301", "PD203", "PD204", "PD102", "PD302", "PD104"),
    "PD307": ("PD203", "PD204", "PD103", "PD101", "PD301", "PD201", "PD202"),
    "PD308": (
        *("PD203", "PD204", "PD103", "PD101", "PD301", "PD201", "PD202", "PD104"),
        *("PD302", "PD310"),
    ),
    "PD401": ("PD402", "PD106", "PD309"),
    "PD402": ("PD106", "PD305", "PD306", "PD304"),
}
# What whole models do: a fault in any layer explains it.
GLOBAL = ("PD307", "PD308", "PD309", "PD401", "PD402")
# Root causes first.
ORDER = (
    *("PD001", "PD101", "PD103", "PD107", "PD106", "PD105", "PD102", "PD104"),
    *("PD203", "PD301", "PD310", "PD311", "PD303", "PD302", "PD304", "PD305", "PD306"),
    *("PD204", "PD201", "PD202", "PD309", "PD307", "PD308"),
    *("PD402", "PD403", "PD401", "PD108", "PD002"),
)
SEVERITIES = ("error", "warning", "note")


# -- excuses: predicates over the evidence and the place of a finding ----------------


def values_are_broken(seen: Evidence, where: str | None) -> bool:
    """Numbers that are not finite compare with nothing."""
    return facts.values_broken(seen)


def never_moved(seen: Evidence, where: str | None) -> bool:
    """Statistics at their start are no statistics that lag."""
    return any(facts.never_moved(seen, s) for s in statistics_at(seen, where))


def batch_is_unlike_the_data(seen: Evidence, where: str | None) -> bool:
    return gap.serves_better(seen)


def layer_is_fresh(seen: Evidence, where: str | None) -> bool:
    at = statistics_at(seen, where)
    return not facts.was_trained(seen) and not set(at) & set(told.forgotten(seen))


def statistics_are_fresh(seen: Evidence, where: str | None) -> bool:
    return bool(seen.statistics) and not gap.signs_of_training(seen)


def network_is_fresh(seen: Evidence, where: str | None) -> bool:
    """No excuse for a layer that changes its output by itself."""
    return not gap.signs_of_training(seen) and not gap.by_itself(seen)


def step_keeps_them_on_purpose(seen: Evidence, where: str | None) -> bool:
    return any(told.means_inference(seen, s) for s in statistics_at(seen, where))


def step_says_the_phase(seen: Evidence, where: str | None) -> bool:
    return told.step_tells(seen)


def step_goes_by_flags_of_now(seen: Evidence, where: str | None) -> bool:
    layer = layer_at(seen, where)
    return layer is not None and facts.goes_by_flags_of_now(seen, layer)


def keras_2_keeps_flags(seen: Evidence, where: str | None) -> bool:
    """It trains with the flags that `compile` saw, and GAN code counts on it."""
    frozen = facts.changed_flags(seen).get(seen.model, False)
    return not seen.keras3 and where == seen.model.path and frozen


@dataclass(frozen=True)
class Excuse:
    """Where `holds` is true of its place, a finding is a note, or is dropped."""

    codes: tuple[str, ...]
    holds: Callable[[Evidence, str | None], bool]
    words: str = ""  # added to the message
    drop: bool = False


FRESH = "Every freshly initialised network is here."
UNLIKE = (
    "They give it a lower loss than its own statistics: "
    "the batch is unlike the data they describe."
)
# The first that holds counts.
EXCUSES = (
    Excuse(("PD202", "PD307", "PD308"), values_are_broken, drop=True),
    Excuse(("PD202",), never_moved, drop=True),
    Excuse(("PD202", "PD307", "PD308"), batch_is_unlike_the_data, UNLIKE),
    Excuse(("PD202",), layer_is_fresh, FRESH),
    Excuse(("PD307",), statistics_are_fresh, FRESH),
    Excuse(("PD308",), network_is_fresh, FRESH),
    Excuse(
        ("PD301",), step_keeps_them_on_purpose, "The step says `training=False` itself."
    ),
    Excuse(
        ("PD101",),
        step_says_the_phase,
        "The step handed in says the phase itself, "
        "so only `fit`, `evaluate` and `predict` are affected.",
    ),
    Excuse(("PD105",), keras_2_keeps_flags),
    Excuse(
        ("PD105",),
        step_goes_by_flags_of_now,
        "The step handed in goes by the flags of now.",
    ),
)


def layer_at(seen: Evidence, where: str | None) -> Layer | None:
    return next((layer for layer in seen.layers if layer.path == where), None)


def statistics_at(seen: Evidence, where: str | None) -> list[Statistic]:
    return [s for s in seen.statistics if s.layer.path == where]


# -- the verdict ---------------------------------------------------------------------


def judge(seen: Evidence, allow: Collection[str]) -> list[Finding]:
    """What every rule finds, less what is excused, root causes first."""
    found: dict[tuple, Finding] = {}
    for module in MODULES.values():
        for finding in module.judge(seen):
            kept = excused(seen, finding)
            if kept is not None:
                key = (finding.code, finding.where, finding.message)
                found.setdefault(key, kept)
    findings = list(found.values())
    for finding in findings:
        if finding.code in allow:
            finding.severity = "note"
    roots = [f for f in findings if f.severity != "note"]
    for finding in findings:
        explain = {r.code for r in roots if bears_on(r, finding, seen.model.path)}
        causes = CAUSES.get(finding.code, ())
        finding.caused_by = next((code for code in causes if code in explain), None)
    return sorted(findings, key=place)


def excused(seen: Evidence, finding: Finding) -> Finding | None:
    """The finding as it stands, as a note, or not at all."""
    for excuse in EXCUSES:
        if finding.code in excuse.codes and excuse.holds(seen, finding.where):
            if excuse.drop:
                return None
            finding.severity = "note"
            finding.message = f"{finding.message} {excuse.words}".rstrip()
            return finding
    return finding


def place(finding: Finding) -> tuple[bool, int, int]:
    note, order = finding.severity == "note", ORDER.index(finding.code)
    return note, order, SEVERITIES.index(finding.severity)


def bears_on(root: Finding, finding: Finding, model: str) -> bool:
    """Whether the layer of `root`, or one that it names, holds that of `finding`, or
    lies in it."""
    whole = (None, model)
    if finding.code in GLOBAL or root.where in whole or finding.where in whole:
        return True
    here = f"{finding.where}/"
    named = [f"{path}/" for path in (root.where, *root.evidence.get("layers", ()))]
    return any(here.startswith(path) or path.startswith(here) for path in named)
