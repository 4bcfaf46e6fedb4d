"""The small figures of recipe and symptom pages: measured data in (docs/figures/*.json), inline SVG out."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import drawing
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs/figures"
# Every role has a colour and a style of its own, so that no colour is needed to tell two apart.
COLOURS = {"training": drawing.BLUE, "inference": drawing.ORANGE, "good": drawing.GREEN, "bad": drawing.RED}
LINES = {"training": "-", "inference": "--", "good": "-", "bad": "--"}
MARKERS = {"training": "o", "inference": "s", "good": "o", "bad": "x"}
HATCHES = {"training": "", "inference": "//", "good": "", "bad": "//"}


def draw_lines(ax: Any, panel: dict[str, Any]) -> None:
    for series in panel["series"]:
        role = series["role"]
        ax.plot(panel["x"]["values"], series["values"], LINES[role], color=COLOURS[role], label=series["name"])
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    ax.set(xlabel=panel["x"]["label"])
    ax.legend(fontsize=9)


def draw_dots(ax: Any, panel: dict[str, Any]) -> None:
    for series in panel["series"]:
        role = series["role"]
        look = {"marker": MARKERS[role], "color": COLOURS[role], "markersize": 4, "linestyle": "none"}
        ax.plot(series["x"], series["y"], label=series["name"], **look)
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    ax.set(xlabel=panel["x"]["label"])
    ax.legend(fontsize=9)


def draw_bars(ax: Any, panel: dict[str, Any]) -> None:
    bars = panel["bars"]
    for place, bar in enumerate(bars):
        role = bar["role"]
        ax.bar(place, bar["value"], 0.6, color=COLOURS[role], hatch=HATCHES[role], edgecolor=drawing.INK, linewidth=0)
        ax.text(place, bar["value"], f"{bar['value']:.3g}", ha="center", va="bottom", fontsize=10)
    ax.set_xticks(range(len(bars)), [bar["name"] for bar in bars])
    ax.grid(visible=False, axis="x")


def draw_strip(ax: Any, panel: dict[str, Any]) -> None:
    for place, cell in enumerate(panel["cells"]):
        colour = COLOURS[cell["role"]]
        look = {"boxstyle": "round,pad=0.35", "facecolor": "none", "edgecolor": colour, "linewidth": 2}
        look["linestyle"] = (0, (2, 1)) if cell["role"] == "bad" else "-"
        ax.text(place, 0, cell["text"], ha="center", va="center", bbox=look)
    ax.set(xlim=(-0.7, len(panel["cells"]) - 0.3), ylim=(-0.5, 0.5))
    ax.axis("off")


KINDS = {"lines": draw_lines, "dots": draw_dots, "bars": draw_bars, "strip": draw_strip}


def drawn(panel: dict[str, Any], key: str) -> str:
    """Return one panel as SVG: panels stand side by side, or one below the other on a narrow screen."""
    strip = panel["kind"] == "strip"
    wide = 5.0 if any(len(cell["text"]) > 2 for cell in panel.get("cells", ())) else 3.6
    with plt.rc_context({**drawing.STYLE, "svg.fonttype": "none"}):
        figure, ax = plt.subplots(figsize=(wide, 0.8 if strip else 2.7))
        KINDS[panel["kind"]](ax, panel)
        ax.set_title(panel["title"], fontsize=11)
        if not strip:
            ax.set(ylim=panel["y"]["range"], ylabel=panel["y"]["label"])
        return drawing.svg(figure, panel["title"], key)


def figure(name: str) -> str:
    """Return the figure `name` as HTML on one line; its caption says what it shows and what it was measured on."""
    path = FIGURES / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path.relative_to(ROOT)} is missing; measure it: nox -s figures -- {name}")
    data = json.loads(path.read_text(encoding="utf-8"))
    panels = "".join(f'<div class="{panel["kind"]}">{drawn(panel, name)}</div>' for panel in data["panels"])
    where = data["measured"]
    caption = f"{html.escape(data['says'])} <small>TensorFlow {where['tensorflow']}, Keras {where['keras']}.</small>"
    return f'<figure class="before-after"><div>{panels}</div><figcaption>{caption}</figcaption></figure>'
