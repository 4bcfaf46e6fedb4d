"""The article's claims, and how each verdict follows from what a release measured."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from casedata import RELEASES, label, results, smooth
from drawing import table_html, tiny

HOLDS, FAILS, OTHERWISE = "holds", "does not hold", "held for another reason"
SIGNS = {HOLDS: "✔", FAILS: "✘", OTHERWISE: "↷"}
LN2 = float(np.log(2))
WORKS = 0.85  # "trains well" and "predicts well", where chance is 0.5 or less


@dataclass(frozen=True)
class Claim:
    """One row of the case file. `judge` derives verdict and evidence from the results of one release."""

    id: str
    text: str
    lab: str
    judge: Callable[[dict[str, Any]], tuple[str, str]]

    @property
    def row(self) -> str:
        """The claim's number in the article's register: C11 for C11a."""
        return self.id.rstrip("abc")


def still(moves: list[list[float]]) -> bool:
    """No layer's moving statistics changed at all."""
    return max(max(pair) for pair in moves) == 0


def all_moved(moves: list[list[float]]) -> bool:
    return min(max(pair) for pair in moves) > 0


def worst(values: list[float], width: int = 20) -> float:
    """The mean over `width` steps that lies farthest from ln 2."""
    return max(smooth(values, width), key=lambda mean: abs(mean - LN2))


def verdict(good: bool, evidence: str) -> tuple[str, str]:
    return (HOLDS if good else FAILS), evidence


def judge_c1(r: dict) -> tuple[str, str]:
    value = r["pretrained"]["fit"]["val_accuracy"][-1]
    return verdict(value > WORKS, f"validation {value:.2f}")


def judge_c2(r: dict) -> tuple[str, str]:
    run = r["pretrained"]
    value, frozen = run["loop_val_accuracy"], still(run["loop_moved"])
    moves = "none moves" if frozen else "they move"
    return verdict(value > WORKS and frozen, f"validation {value:.2f}; of the statistics {moves}")


def judge_c3(r: dict) -> tuple[str, str]:
    run = r["stuck_loop"]
    loss, gap = abs(worst(run["stuck"]["loss"]) - LN2), run["stuck_spread"]
    return verdict(loss < 0.01 and gap < 1e-4, f"loss within {loss:.3f} of ln 2, rows differ by {tiny(gap)}")


def judge_c4(r: dict) -> tuple[str, str]:
    run = r["stuck_loop"]
    finals = [float(np.mean(c["accuracy"][-40:])) for c in (*run["learning_rates"].values(), run["stuck"])]
    return verdict(max(finals) < 0.6, f"best {max(finals):.2f} of {len(finals)} settings")


def normal(rows: list[list[Any]]) -> bool:
    """Kernels drawn as Glorot's formula says: means and deviations within five standard errors."""
    # A uniform distribution's sample deviation has a standard error of sqrt(0.2 / n), its mean one of 1 / sqrt(n).
    return all(abs(mean) < 5 / size**0.5 and abs(std - 1) < 5 * (0.2 / size) ** 0.5 for _, size, mean, std in rows)


def judge_c5(r: dict) -> tuple[str, str]:
    rows = r["stuck_loop"]["initial"]
    return verdict(
        normal(rows),
        f"{len(rows)} kernels, deviation {min(x[3] for x in rows):.2f}–{max(x[3] for x in rows):.2f} of Glorot's",
    )


def judge_c6(r: dict) -> tuple[str, str]:
    run = r["scratch_fit"]
    same_symptom = run["lost"]["spread"] < 1e-4 and abs(run["lost"]["accuracy"] - 0.5) < 0.05
    if isinstance(run["saved"], dict):
        return FAILS, run["saved"]["error"]
    lost_by_saving = run["saved"] > 0
    evidence = f"statistics lost: {run['lost']['accuracy']:.2f}; saving changes them by {run['saved']:.0f}"
    if same_symptom and not lost_by_saving:
        return OTHERWISE, evidence
    return verdict(same_symptom, evidence)


def judge_c7(r: dict) -> tuple[str, str]:
    run = r["scratch_fit"]["fit"]
    train, val = run["accuracy"][-1], run["val_accuracy"][-1]
    return verdict(train > WORKS and abs(val - 0.5) < 0.05, f"training {train:.2f}, validation {val:.2f}")


def judge_c8(r: dict) -> tuple[str, str]:
    by_fit, by_loop = r["scratch_fit"]["moved"], r["stuck_loop"]["stuck_moved"]
    counts = [sum(max(pair) > 0 for pair in moves) for moves in (by_fit, by_loop)]
    return verdict(
        all_moved(by_fit) and still(by_loop), f"fit moves {counts[0]} of {len(by_fit)} layers, the loop {counts[1]}"
    )


def moves_or_not(moves: list[list[float]]) -> str:
    return "the statistics stand still" if still(moves) else "the statistics move"


def judge_c9(r: dict) -> tuple[str, str]:
    run = r["subclass"]
    value = run["c9_loop_val_accuracy"]
    evidence = (
        f"accuracy {value:.2f}; {moves_or_not(run['c9_loop_moved'])}; under fit {moves_or_not(run['c9_fit_moved'])}"
    )
    return verdict(value > WORKS and still(run["c9_loop_moved"]), evidence)


def judge_c10(r: dict) -> tuple[str, str]:
    run = r["subclass"]
    value, route = run["c10_test_accuracy"], run["c10_default_true"]
    served = route["served"].get("phase", "error")
    evidence = f"test {value:.2f}; {moves_or_not(run['c10_loop_moved'])}; its default exports the {served} phase"
    # The root cause: the phase alone takes the stuck loop from chance to learning.
    cured = float(np.mean(r["stuck_loop"]["cure"]["accuracy"][280:300])) > WORKS
    return verdict(value > WORKS and all_moved(run["c10_loop_moved"]) and cured, evidence)


NO_SETTER = "no set_learning_phase"


def judge_c11a(r: dict) -> tuple[str, str]:
    run = r["learning_phase"]
    if run["setter"] != "exists":
        return FAILS, NO_SETTER
    train = float(np.mean(run["loop"]["accuracy"][-20:]))
    return verdict(
        train > WORKS and all_moved(run["loop_moved"]), f"training {train:.2f}; {moves_or_not(run['loop_moved'])}"
    )


def judge_c11b(r: dict) -> tuple[str, str]:
    run = r["learning_phase"]
    if run["setter"] != "exists":
        return FAILS, NO_SETTER
    # The 20 steps of the loop up to step 200 against the epoch of `fit` that holds them: the fifth.
    loop, fit = float(np.mean(run["loop"]["accuracy"][180:200])), r["scratch_fit"]["fit"]["accuracy"][4]
    return verdict(loop - fit > 0.1, f"after 200 steps the loop trains at {loop:.2f}, fit at {fit:.2f}")


def judge_c11c(r: dict) -> tuple[str, str]:
    run = r["learning_phase"]
    if run["setter"] != "exists":
        return FAILS, NO_SETTER
    shown, real = run["fit"]["val_accuracy"][-1], run["fit_val_accuracy_inference"]
    steps = 45 * len(run["fit"]["val_accuracy"])
    evidence = f"after {steps} steps validation shows {shown:.2f}; in the inference phase {real:.2f}"
    faster = shown > r["scratch_fit"]["fit"]["val_accuracy"][-1] + 0.2
    if faster and real < 0.6:
        return OTHERWISE, evidence
    return verdict(faster, evidence)


def judge_c12(r: dict) -> tuple[str, str]:
    run = r["learning_phase"]["updates"]
    if "error" in run:
        return FAILS, run["error"]
    if not run["count"]:
        return FAILS, "the list is empty"
    ran = [way for way in ("read", "called", "session") if run[way] == "ran"]
    evidence = f"{run['count']} updates; " + (f"{', '.join(ran)} runs" if ran else "none can be run")
    return verdict(not ran and not run["moved"], evidence)


def judge_c13a(r: dict) -> tuple[str, str]:
    run = r["learning_phase"]
    if run["setter"] != "exists":
        return FAILS, NO_SETTER
    with_it, without = (float(np.mean(curve["accuracy"])) for curve in (run["fit"], r["scratch_fit"]["fit"]))
    # The article's "one epoch instead of eighteen" would be far above 0.1.
    return verdict(with_it - without > 0.1, f"mean training accuracy {with_it:.2f} with it, {without:.2f} without")


def judge_c13b(r: dict) -> tuple[str, str]:
    run = r["subclass"]
    return verdict(
        judge_c10(r)[0] == HOLDS, f"test {run['c10_test_accuracy']:.2f}; {moves_or_not(run['c10_loop_moved'])}"
    )


def judge_c13c(r: dict) -> tuple[str, str]:
    run = r["learning_phase"]
    if run["setter"] != "exists":
        return FAILS, NO_SETTER
    evidence = f"switched off, a test runs in the {run['switched_off_phase']} phase; left on, in {run['left_on_phase']}"
    right = run["switched_off_phase"] == "inference" and not run["switched_off_moves_statistics"]
    return verdict(judge_c11a(r)[0] == HOLDS and right, evidence)


def judge_c14(r: dict) -> tuple[str, str]:
    says = r["documentation"]["BatchNormalization"]["what a call without the argument does"]
    return verdict(not says, f"the layer's own {'says' if says else 'does not say'} what a call without training does")


CLAIMS = (
    Claim(
        "C1", "Transfer learning from a pretrained base with <code>fit</code> works.", "c01-c02-pretrained", judge_c1
    ),
    Claim(
        "C2",
        "So does an own loop that calls <code>model(x)</code> and never says <code>training</code>.",
        "c01-c02-pretrained",
        judge_c2,
    ),
    Claim(
        "C3",
        "With <code>weights=None</code> that loop stays at chance; every row of a batch is the same.",
        "c03-stuck-at-chance",
        judge_c3,
    ),
    Claim("C4", "No learning rate and no longer training changes it.", "c04-c05-not-the-cause", judge_c4),
    Claim("C5", "The initial weights are normal.", "c04-c05-not-the-cause", judge_c5),
    Claim("C6", "It looks like moving statistics lost by saving.", "c06-c07-fit-lag", judge_c6),
    Claim(
        "C7",
        "<code>fit</code> from scratch learns while its validation stays at chance for epochs.",
        "c06-c07-fit-lag",
        judge_c7,
    ),
    Claim("C8", "<code>fit</code> updates the moving statistics, the loop never does.", "c08-statistics", judge_c8),
    Claim(
        "C9",
        "In a loop a subclass without <code>training</code> trains, but its statistics never move.",
        "c09-c10-subclass",
        judge_c9,
    ),
    Claim(
        "C10",
        "A subclass told <code>training=True</code> and <code>False</code> is right: this is the root cause.",
        "c09-c10-subclass",
        judge_c10,
    ),
    Claim("C11a", "<code>set_learning_phase(True)</code> cures the loop.", "c11-c12-learning-phase", judge_c11a),
    Claim(
        "C11b", "Cured so, the loop converges much faster than <code>fit</code>.", "c11-c12-learning-phase", judge_c11b
    ),
    Claim(
        "C11c",
        "<code>set_learning_phase(True)</code> makes <code>fit</code> converge in an epoch (of 581 steps) too.",
        "c11-c12-learning-phase",
        judge_c11c,
    ),
    Claim(
        "C12",
        "<code>model.updates</code> holds the assign ops, which cannot be run eagerly.",
        "c11-c12-learning-phase",
        judge_c12,
    ),
    Claim(
        "C13a",
        "Advice: set the learning phase by hand with <code>fit</code> too, it speeds up training.",
        "c11-c12-learning-phase",
        judge_c13a,
    ),
    Claim("C13b", "Advice: in a loop, a subclass with <code>training</code>.", "c11-c12-learning-phase", judge_c13b),
    Claim(
        "C13c",
        "Advice: or the learning phase, switched off for tests.",
        "c11-c12-learning-phase",
        judge_c13c,
    ),
    Claim("C14", "The documentation does not tell you.", "c01-c02-pretrained", judge_c14),
)


def verdict_rows(*ids: str, link: bool = False) -> str:
    """Return the table claims x releases as HTML: all claims, or those whose register number is named."""
    unknown = set(ids) - {claim.row for claim in CLAIMS}
    if unknown:
        raise KeyError(f"no claim {', '.join(sorted(unknown))}")
    rows = []
    for claim in CLAIMS:
        if ids and claim.row not in ids:
            continue
        cells = [
            f'<strong id="{claim.id.lower()}">{claim.id}</strong> {claim.text}'
            if link
            else f"<strong>{claim.id}</strong> {claim.text}"
        ]
        for release in RELEASES:
            word, evidence = claim.judge(results(release))
            name = f"{SIGNS[word]} {word}"
            if link:
                name = f'<a href="../labs/{claim.lab}/#verdict">{name}</a>'
            kind = word.replace(" ", "-")
            cells.append(f'<span class="verdict {kind}">{name}</span><br><small>{html.escape(evidence)}</small>')
        rows.append(cells)
    return table_html(["claim", *map(label, RELEASES)], rows)
