"""The case file's face: what labs show and the verdict page prints, from measured data. No TensorFlow here."""

from __future__ import annotations

import ast
import html
from typing import Any

import numpy as np
from casedata import EXPERIMENTS, RELEASES, ROOT, TODAY, article, label, record, results, runs, smooth
from claims import CLAIMS, all_moved, still, verdict_rows
from drawing import BLUE, COLOURS, GREEN, GREY, INK, ORANGE, PURPLE, RED, Figure, axes, figure_html, table_html, tiny

# The one name that labs import brings the data and the drawing along.
__all__ = [
    "BLUE", "COLOURS", "GREEN", "GREY", "INK", "ORANGE", "PURPLE", "RED", "RELEASES", "ROOT", "TODAY", "all_moved",
    "article", "axes", "label", "results", "runs", "say", "show", "show_source", "show_table", "show_verdicts",
    "smooth", "still", "tiny",
]  # fmt: skip


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


def show(figure: Figure, alt: str, caption: str = "") -> Any:
    from IPython.display import HTML

    return HTML(figure_html(figure, alt, caption))


def show_table(columns: list[str], rows: list[list[Any]]) -> Any:
    from IPython.display import HTML

    return HTML(table_html(columns, rows))


def say(text: str) -> Any:
    """Show a sentence whose figures come from data."""
    from IPython.display import Markdown

    return Markdown(text)


def show_verdicts(*ids: str) -> Any:
    from IPython.display import HTML

    return HTML(verdict_rows(*ids))


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
    value: Any = results(release)
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return format(value, form)


def define_macros(env: Any) -> None:
    """Give the verdict page its table, figures and numbers."""
    env.macro(verdict_rows, "case_verdicts")
    for function in (versions_table, case_figure, case_value, count_verdicts):
        env.macro(function)
