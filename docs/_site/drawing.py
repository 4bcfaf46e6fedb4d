"""How figures and tables look: one style for labs, the case file and the pages' figures, light and dark."""

from __future__ import annotations

import html
import io
import re
import zlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

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


def svg(figure: Figure, alt: str, key: str = "") -> str:
    """Return the figure as inline SVG in the page's own text colour; `key` tells it from one with equal `alt`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    # One page holds many figures: no two may share an id.
    text = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>f{zlib.crc32((key + alt).encode()):08x}-", text)
    # One line: a Markdown page takes it as it is.
    head, end, rest = " ".join(text.split()).partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    look = "width:100%;max-width:46rem;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    return f'{head} role="img" aria-label="{html.escape(alt)}" style="{look}"{end}{rest}'


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
