"""The case file's machinery: measured data in, figures, tables and verdicts out. Labs, macros and tests share it.

Nothing here imports TensorFlow: the data were measured by tests/versions/experiments.py, once for each release.
"""

from __future__ import annotations

import ast
import functools
import html
import io
import json
import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs/labs/data"
EXPERIMENTS = ROOT / "tests/versions/experiments.py"
DECIDING = ("1.14.0", "2.0.0", "2.15.1", "2.21.0")
RELEASES = tuple(release for release in DECIDING if (DATA / f"{release}.json").is_file())
TODAY = DECIDING[-1]

# --- data ---


@functools.cache
def record(release: str) -> dict[str, Any]:
    """Return what one release measured: `version`, `seed`, `date` and `results`."""
    path = DATA / f"{release}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; make it with: nox -s case_file -- {release}")
    return json.loads(path.read_text(encoding="utf-8"))


def results(release: str = TODAY) -> dict[str, Any]:
    return record(release)["results"]


def runs(experiment: str, live: bool = False) -> dict[str, Any]:
    """Return one experiment's measurements by release, of those that ran it; with `live`, measure it now as well."""
    measured = {release: results(release)[experiment] for release in RELEASES if experiment in results(release)}
    if live:
        sys.path.insert(0, str(EXPERIMENTS.parent))
        import experiments

        measured["live"] = experiments.rounded(experiments.experiments(experiments.load_digits(), seed=0)[experiment]())
    return measured


def label(release: str) -> str:
    if release == "live":
        return "your TensorFlow"
    return f"TF {release}" + (" (today)" if release == TODAY else "")


@functools.cache
def article() -> dict[str, Any]:
    """Return the figures that the article printed."""
    return json.loads((DATA / "article.json").read_text(encoding="utf-8"))


def smooth(values: list[float], width: int = 20) -> np.ndarray:
    """Means of `width` steps at a time."""
    whole = len(values) // width * width
    return np.array(values[:whole]).reshape(-1, width).mean(axis=1)


# --- code ---


def source(*names: str) -> str:
    """Return the code of functions and classes of experiments.py."""
    text = EXPERIMENTS.read_text(encoding="utf-8")
    found = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    missing = set(names) - set(found)
    if missing:
        raise KeyError(f"{EXPERIMENTS.name} has no {', '.join(sorted(missing))}")
    return "\n\n\n".join(ast.get_source_segment(text, found[name]) or "" for name in names)


def show_source(*names: str, what: str = "The code of this experiment") -> Any:
    """Show code of experiments.py, folded."""
    from IPython.display import HTML
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    code = highlight(source(*names), PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True))
    return HTML(
        f"<details class='abstract'><summary>{html.escape(what)}: <code>experiments.py</code></summary>{code}</details>"
    )


# --- figures and tables ---

# Readable on white and on near-black alike; every line also has a style or a label of its own.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#3a86c8", "#dd7a2b", "#2a9d76", "#d64b5f", "#9a6fd0", "#8b8f98"
COLOURS = {"1.14.0": PURPLE, "2.0.0": ORANGE, "2.15.1": GREEN, "2.21.0": BLUE, "live": RED}
INK = "#010203"  # stands for the page's own text colour
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.grid": True,
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE]),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "grid.alpha": 0.25,
    "grid.color": GREY,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2,
    "svg.fonttype": "path",
    "svg.hashsalt": "phasebook",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


plt.rcParams.update(STYLE)


def axes(columns: int = 1, height: float = 3.4, **kwargs: Any) -> tuple[Figure, Any]:
    """Return a figure in the house's style and its axes."""
    return plt.subplots(1, columns, figsize=(7.2, height), **kwargs)


def tiny(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def svg(figure: Figure, alt: str) -> str:
    """Return the figure as inline SVG that takes the page's text colour, light or dark."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    # One page holds many figures: no two may share an id.
    text = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>f{zlib.crc32(alt.encode()):08x}-", text)
    # One line: a Markdown page takes it as it is.
    head, end, rest = " ".join(text.split()).partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    look = "width:100%;max-width:46rem;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    return f'{head} role="img" aria-label="{html.escape(alt)}" style="{look}"{end}{rest}'


def show(figure: Figure, alt: str, caption: str = "") -> Any:
    from IPython.display import HTML

    return HTML(figure_html(figure, alt, caption))


def figure_html(figure: Figure, alt: str, caption: str = "") -> str:
    note = f'<figcaption style="max-width:40rem">{caption}</figcaption>' if caption else ""
    return f'<figure class="measured" style="width:100%">{svg(figure, alt)}{note}</figure>'


def table_html(columns: list[str], rows: list[list[Any]]) -> str:
    """Return a table; cells may hold HTML, and a float is shown with three digits."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return (
        '<div class="md-typeset__scrollwrap"><div class="md-typeset__table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def show_table(columns: list[str], rows: list[list[Any]]) -> Any:
    from IPython.display import HTML

    return HTML(table_html(columns, rows))


def say(text: str) -> Any:
    """Show a sentence whose figures come from data."""
    from IPython.display import Markdown

    return Markdown(text)


# --- the four figures that the labs and the verdict page share: (figure, alternative text, caption) ---

Drawn = tuple[Figure, str, str]


def figure_told(subclasses: dict[str, Any]) -> Drawn:
    """Open question 1: what `fit` reaches with and without the argument."""
    fig, ax = axes(height=2.9)
    places = np.arange(len(subclasses))
    for offset, (key, name, colour) in enumerate(
        (("c10_fit_moved", "call(self, x, training)", GREEN), ("c9_fit_moved", "call(self, x)", ORANGE))
    ):
        heights = [run[key][0][1] for run in subclasses.values()]
        ax.barh(places + (offset - 0.5) * 0.38, heights, 0.34, color=colour, label=name)
        for place, height in zip(places, heights, strict=True):
            if height == 0:
                ax.text(0.01, place + (offset - 0.5) * 0.38, "never moves", color=colour, va="center")
    ax.set_yticks(places, [label(release) for release in subclasses])
    ax.invert_yaxis()
    ax.set(xlabel="change of the moving variance under fit")
    ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
    return (
        fig,
        "Under fit, a model whose call takes training has its statistics moved on every release; one whose call does "
        "not take it only up to TensorFlow 2.15.",
        "The same network twice, three epochs each.",
    )


def figure_updates(anatomy: dict[str, Any]) -> Drawn:
    """Open question 2: `fit`'s updates against the formula, batch by batch."""
    fig, ax = axes(height=3.2)
    n = np.arange(1, len(anatomy["measured"]) + 1)
    ax.plot(n, anatomy["batch_mean"], ".", color=GREY, markersize=4)
    ax.plot(n, anatomy["expected"], color=ORANGE, linewidth=6, alpha=0.45, solid_capstyle="round")
    ax.plot(n, anatomy["measured"], color=BLUE, linewidth=1.5)
    ax.text(n[-1], anatomy["batch_mean"][-1] * 1.08, "mean of each batch", color=INK, ha="right", fontsize=10)
    ax.text(
        n[-1],
        anatomy["measured"][-1] * 0.3,
        "moving mean: formula (wide) and fit (thin)",
        color=INK,
        ha="right",
        fontsize=10,
    )
    ax.set(xlabel="batch", ylabel="one channel", ylim=(0, max(anatomy["batch_mean"]) * 1.2))
    return (
        fig,
        "The moving mean measured after every batch of fit lies on the curve of the formula.",
        f"momentum {anatomy['momentum']:.2f}. Largest difference in any channel after any batch: "
        f"{anatomy['largest_gap']:.0e}.",
    )


def figure_clock(fits: dict[str, Any]) -> Drawn:
    """Open question 3: validation accuracy against the share of the initial statistics that is left."""
    fig, ax = axes(height=3.8)
    for release, run in fits.items():
        values = run["fit_momentum_0.99"]["val_accuracy"]
        left_over = 0.99 ** (45 * np.arange(1, len(values) + 1))
        ax.semilogx(left_over, values, color=COLOURS[release], label=f"{label(release)}, momentum 0.99")
    printed, per_epoch = np.array(article()["scratch_fit"]["rows"]), article()["steps_per_epoch"]
    momentum = fits[TODAY]["momentum"][0]
    left_over = momentum ** (per_epoch * printed[:, 0])
    ax.semilogx(left_over, printed[:, 2], "s", color=GREY, markersize=7, label=f"the article, momentum {momentum}")
    ax.set(
        xlabel="share of the initial statistics left (time runs to the right)",
        ylabel="validation accuracy",
        ylim=(0.4, 1.02),
    )
    ax.invert_xaxis()
    ax.legend(fontsize=9, loc="upper left")
    return (
        fig,
        "Validation accuracy stays at one half until a small fraction of the initial statistics is left, then rises; "
        "the article's printed points agree with the same clock.",
        "Different data and momenta, one clock: momentum to the power of updates.",
    )


def figure_learning_phase(phases: dict[str, Any], plain: dict[str, Any]) -> Drawn:
    """Open question 4: what `fit` showed with the setter, and what the same weights answer in each phase by name."""
    having = [release for release, run in phases.items() if run["setter"] == "exists"]
    fig, panels = axes(max(len(having), 1), height=3.4, sharey=True, squeeze=False)
    for ax, release in zip(panels[0], having, strict=False):
        run = phases[release]
        epochs = np.arange(1, len(run["fit"]["val_accuracy"]) + 1)
        ax.plot(epochs, plain[release]["fit"]["val_accuracy"], "--", color=GREY, label="fit shows, without the setter")
        ax.plot(epochs, run["fit"]["val_accuracy"], "-", color=BLUE, label="fit shows, with the setter")
        ax.plot(
            epochs[-1],
            run["fit_val_accuracy_training"],
            "D",
            color=GREEN,
            markersize=9,
            fillstyle="none",
            label="training phase, by name",
        )
        ax.plot(
            epochs[-1],
            run["fit_val_accuracy_inference"],
            "o",
            color=RED,
            markersize=9,
            label="inference phase, by name",
        )
        ax.set(title=label(release), xlabel="epoch", ylim=(0.4, 1.02))
    panels[0][0].set_ylabel("validation accuracy")
    handles, names = panels[0][0].get_legend_handles_labels()
    fig.legend(handles, names, fontsize=9, loc="outside lower center", ncols=2)
    return (
        fig,
        "On TensorFlow 1.14 the validation accuracy that fit shows with the setter is near that of the training phase, "
        "while the inference phase is at chance; on 2.0 and 2.15 fit shows the inference phase.",
        "Keras 3 (today) has no setter, so no panel.",
    )


# --- claims and verdicts ---

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


def show_verdicts(*ids: str) -> Any:
    from IPython.display import HTML

    return HTML(verdict_rows(*ids))


# --- macros of the verdict page ---


def count_verdicts(word: str, release: str) -> str:
    number = sum(claim.judge(results(release))[0] == word for claim in CLAIMS)
    return f"{number} of {len(CLAIMS)}"


def versions_table() -> str:
    rows = []
    for release in RELEASES:
        data = record(release)
        version = data["version"]
        rows.append([label(release), version["keras"], version["python"], version["numpy"], data["seed"], data["date"]])
    return table_html(["release", "Keras", "Python", "NumPy", "seed", "measured on"], rows)


def case_figure(name: str) -> str:
    """Return one of the four shared figures by name."""
    measured = {
        "told": lambda: figure_told(runs("subclass")),
        "updates": lambda: figure_updates(results()["fit_anatomy"]),
        "clock": lambda: figure_clock(runs("scratch_fit")),
        "learning_phase": lambda: figure_learning_phase(runs("learning_phase"), runs("scratch_fit")),
    }
    return figure_html(*measured[name]())


def case_value(release: str, path: str, form: str = ".2f") -> str:
    """Return one measured number: case_value("1.14.0", "learning_phase/fit/val_accuracy/-1")."""
    if release not in RELEASES:
        return "(not measured yet)"
    value: Any = results(release)
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return format(value, form)


def define_macros(env: Any) -> None:
    """Give the verdict page its table, figures and numbers."""
    env.macro(verdict_rows, "case_verdicts")
    for function in (versions_table, case_figure, case_value, count_verdicts):
        env.macro(function)
