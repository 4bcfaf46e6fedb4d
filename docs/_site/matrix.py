"""The version matrix as tables and lists: pure functions from docs/reference/version-matrix.json to Markdown and HTML.

Standard library only, no TensorFlow. docs/_site/macros.py hands five of them to pages: `matrix`, `matrix_cell`,
`matrix_changes`, `matrix_size` and `matrix_page`. Each takes the data as an optional last argument, for tests.

A *run* is a stretch of neighbouring columns with the same answer. Of an error only the type counts in a comparison: its
wording differs between releases and Pythons without any change of behaviour.
"""

from __future__ import annotations

import functools
import html
import importlib.util
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MATRIX = ROOT / "docs" / "reference" / "version-matrix.json"
PROBES = ROOT / "tests" / "versions" / "probes.py"
SOURCE = "../probes/"  # the page that shows the file, as seen from the matrix

# Families of facts: on the matrix page those of them that answer alike everywhere share a row.
FOLDED = ("Behind a stated phase",)
# Columns of answers that a page shows without scrolling, at 1280 px.
FITS = 6

Answer = Any  # True, False, a number, a word, or {"error": text}


class Run(NamedTuple):
    """Neighbouring columns, named by position, that answer alike. `texts` are the error messages among them."""

    first: int
    last: int
    answer: Answer
    texts: tuple[str, ...] = ()


@functools.cache
def _read(path: Path, changed: int) -> dict:
    data: dict = json.loads(path.read_text(encoding="utf-8"))
    return data


def load(path: Path = MATRIX) -> dict:
    """Read the data; a live-reloading server sees a refreshed file."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. `nox -s versions` makes it.")
    return _read(path, path.stat().st_mtime_ns)


# --- asking the data ------------------------------------------------------------------------------------------------


def fact_of(name: str, data: dict) -> dict:
    """Return a fact's entry; an unknown id is an error that names the nearest ones."""
    facts = {fact["id"]: fact for fact in data["facts"]}
    if name not in facts:
        words = set(re.split(r"[/_]", name))
        near = sorted(facts, key=lambda other: -len(words & set(re.split(r"[/_]", other))))[:3]
        raise KeyError(f"the version matrix has no fact {name!r}; nearest: {', '.join(near)}")
    return dict(facts[name])


def column_of(name: str, data: dict) -> dict:
    columns = {column["id"]: column for column in data["columns"]}
    if name not in columns:
        raise KeyError(f"the version matrix has no column {name!r}; it has {', '.join(columns)}")
    return dict(columns[name])


def essence(answer: Answer) -> Answer:
    """What counts when answers are compared: of an error its type."""
    return ("error", answer["error"].split(":")[0]) if isinstance(answer, dict) else answer


def same(one: Answer, other: Answer) -> bool:
    one, other = essence(one), essence(other)
    # True == 1 in Python; an answer of yes is not the number one.
    return type(one) is type(other) and one == other


def apart(column: dict) -> bool:
    """tf_keras is no point on the way from Keras 2 to Keras 3: it stands beside the timeline."""
    return str(column["id"]).endswith("+tf_keras")


def timeline(data: dict) -> list[dict]:
    return [column for column in data["columns"] if not apart(column)]


def segments(rows: Sequence[Sequence[Answer]], columns: Sequence[dict]) -> list[tuple[int, int]]:
    """Return the longest stretches (first, last) over which every row keeps its answer."""
    found: list[tuple[int, int]] = []
    for place, column in enumerate(columns):
        joins = found and not apart(column) and all(same(row[place], row[place - 1]) for row in rows)
        if joins:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return found


def runs(name: str, data: dict, columns: Sequence[dict] | None = None) -> list[Run]:
    """Return the runs of a fact over the columns, all of them by default."""
    columns = data["columns"] if columns is None else columns
    fact_of(name, data)
    row = [data["cells"][name][column["id"]] for column in columns]
    result = []
    for first, last in segments([row], columns):
        texts = tuple(dict.fromkeys(a["error"] for a in row[first : last + 1] if isinstance(a, dict)))
        result.append(Run(first, last, row[first], texts))
    return result


# --- words ----------------------------------------------------------------------------------------------------------


def is_keras_3(column: dict) -> bool:
    return str(column["keras"]).startswith("3.") and not apart(column)


def short_keras(column: dict) -> str:
    """A nightly's date says little: 3.16.0.dev2026102704 is 3.16.0.dev."""
    return re.sub(r"dev\d+", "dev", column["keras"])


def label(column: dict) -> str:
    if apart(column):
        return f"tf_keras {column['keras']}"
    return f"Keras {short_keras(column)}" if is_keras_3(column) else f"TF {column['tensorflow']}"


def full_label(column: dict) -> str:
    """What the column's environment held, for titles: TensorFlow, Keras, Python and the day of release."""
    name = "tf_keras" if apart(column) else "Keras"
    return (
        f"TensorFlow {column['tensorflow']}, {name} {column['keras']}, Python {column['python']}; "
        f"released {column['released']}"
    )


def span(first: int, last: int, columns: Sequence[dict]) -> str:
    """Name a stretch of columns: 'TF 1.15.5 – 2.15.1', 'Keras 3.0.5 – 3.9.2', 'TF 2.0.0 – Keras 3.9.2'."""
    start, end = columns[first], columns[last]

    def cut(place: int, step: int) -> str:
        """' on TF 2.19.1', when the stretch ends between two TensorFlows of one Keras."""
        neighbour = place + step
        if not (is_keras_3(columns[place]) and 0 <= neighbour < len(columns)):
            return ""
        other = columns[neighbour]
        return f" on TF {columns[place]['tensorflow']}" if other["keras"] == columns[place]["keras"] else ""

    if first == last:
        return label(start) + (cut(first, -1) or cut(last, 1))
    left, right = label(start) + cut(first, -1), label(end) + cut(last, 1)
    if left.split()[0] == right.split()[0]:
        right = right.split(" ", 1)[1]
    return left if left.split(" ", 1)[1] == right else f"{left} – {right}"


def word(answer: Answer) -> str:
    if answer is True:
        return "yes"
    if answer is False:
        return "no"
    if isinstance(answer, dict):
        return str(answer["error"]).split(":")[0]
    return str(answer)


def sign(answer: Answer) -> str:
    return {True: "✓", False: "✗"}[answer] if isinstance(answer, bool) else "!" if isinstance(answer, dict) else "="


def tone(answer: Answer) -> str:
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return "error" if isinstance(answer, dict) else "value"


def said(answer: Answer) -> str:
    """An answer as inline HTML: colour, sign and word; a value needs no sign."""
    mark = "" if tone(answer) == "value" else f"{sign(answer)}\u00a0"
    return f'<span class="mx-answer mx-{tone(answer)}">{mark}{html.escape(word(answer))}</span>'


def inline(text: str) -> str:
    """A statement as HTML: its backticks become code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def anchor(name: str) -> str:
    return "fact-" + name.replace("/", "-")


@functools.cache
def _lines(changed: int) -> dict[str, int]:
    spec = importlib.util.spec_from_file_location("phasebook_probes", PROBES)
    assert spec and spec.loader
    probes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probes)
    return {name: probes.line_of(name) for name in probes.FACTS}


def probe_link(name: str) -> str:
    """The address of the probe behind a fact, at its line in the source."""
    return f"{SOURCE}#__codelineno-0-{_lines(PROBES.stat().st_mtime_ns)[name]}"


# --- for pages ------------------------------------------------------------------------------------------------------


def matrix(*fact_ids: str, columns: Iterable[str] | None = None, data: dict | None = None) -> str:
    """Return a Markdown table of facts (rows) by releases (columns, those that answer alike merged).

    Args:
        fact_ids: ids as in docs/reference/version-matrix.json.
        columns: column ids to show. All by default.

    Raises:
        KeyError: an id is unknown; the message names the nearest.
        ValueError: no fact was named.
    """
    data = data or load()
    if not fact_ids:
        raise ValueError("matrix() needs at least one fact id")
    wanted = data["columns"] if columns is None else [column_of(name, data) for name in columns]
    facts = [fact_of(name, data) for name in fact_ids]
    return "\n\n".join(
        [
            *(_table(facts, part, data) for part in _parts(facts, wanted, data)),
            f"<small>Measured on the released packages, {data['generated']}.</small>\n",
        ]
    )


def _rows(facts: Sequence[dict], columns: Sequence[dict], data: dict) -> list[list[Answer]]:
    return [[data["cells"][fact["id"]][column["id"]] for column in columns] for fact in facts]


def _parts(facts: Sequence[dict], columns: Sequence[dict], data: dict) -> list[Sequence[dict]]:
    """One table where it fits a page's width, else Keras 3 above what was before it."""
    if len(segments(_rows(facts, columns, data), columns)) <= FITS:
        return [columns]
    today = [column for column in columns if is_keras_3(column)]
    return [part for part in (today, [column for column in columns if column not in today]) if part]


def _table(facts: Sequence[dict], columns: Sequence[dict], data: dict) -> str:
    rows = _rows(facts, columns, data)
    stretches = segments(rows, columns)
    head = ["", *[span(first, last, columns) for first, last in stretches]]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for fact, row in zip(facts, rows, strict=True):
        statement = fact["statement"].replace("|", "\\|")
        lines.append("| " + " | ".join([statement, *[said(row[first]) for first, _ in stretches]]) + " |")
    return "\n".join(lines)


def matrix_cell(fact: str, column: str, data: dict | None = None) -> str:
    """Return one answer in words: yes, no, a number, a word, or the type of the error."""
    data = data or load()
    fact_of(fact, data)
    column_of(column, data)
    answer = data["cells"][fact][column]
    return f"`{word(answer)}`" if isinstance(answer, dict) else word(answer)


def changes(data: dict) -> list[tuple[dict, dict, list[tuple[str, Answer, Answer]]]]:
    """Return (release before, release, [(fact id, answer before, answer)]) for every step that changes an answer.

    The steps are those of the timeline; tf_keras comes last, compared with the last release of Keras 2 in TensorFlow.
    """
    steps = []
    columns = timeline(data)
    pairs = list(itertools.pairwise(columns))
    keras_2 = [column for column in columns if not is_keras_3(column)]
    pairs += [(keras_2[-1], column) for column in data["columns"] if apart(column) and keras_2]
    for before, after in pairs:
        found = []
        for fact in data["facts"]:
            row = data["cells"][fact["id"]]
            if not same(row[before["id"]], row[after["id"]]):
                found.append((fact["id"], row[before["id"]], row[after["id"]]))
        if found:
            steps.append((before, after, found))
    return steps


def step_title(before: dict, after: dict) -> str:
    if apart(after):
        return f"tf_keras {after['keras']}, compared with Keras {before['keras']} in TensorFlow {before['tensorflow']}"
    if is_keras_3(after) and is_keras_3(before):
        if before["keras"] == after["keras"]:
            return f"TensorFlow {after['tensorflow']} (from {before['tensorflow']}, both with Keras {after['keras']})"
        return f"Keras {short_keras(after)} (from {short_keras(before)})"
    if is_keras_3(after):
        return f"Keras {after['keras']} with TensorFlow {after['tensorflow']} (from TensorFlow {before['tensorflow']})"
    return f"TensorFlow {after['tensorflow']} (from {before['tensorflow']})"


def heaps(data: dict) -> list[list[dict]]:
    """Return the facts in order, each alone; those of a folded group in heaps that answer alike in every column."""
    found: dict[tuple, list[dict]] = {}
    for fact in data["facts"]:
        answers = tuple((type(a), essence(a)) for a in data["cells"][fact["id"]].values())
        key = (fact["group"], answers) if fact["group"] in FOLDED else (fact["id"],)
        found.setdefault(key, []).append(fact)
    return list(found.values())


def family(facts: Sequence[dict]) -> str:
    """A heap in words: its first statement, and how many more there are."""
    first = inline(facts[0]["statement"])
    return first if len(facts) == 1 else f"{first.removesuffix('.')}, and {len(facts) - 1} more that answer alike."


def matrix_changes(data: dict | None = None) -> str:
    """Return the list of what changed in which release, newest first, as Markdown headings with HTML lists.

    Facts of one group that change alike stand together; more than six lines of them fold away.
    """
    data = data or load()
    heap_of = {heap[0]["id"]: heap for heap in heaps(data)}
    facts = {fact["id"]: fact for fact in data["facts"]}
    parts = []
    steps = changes(data)
    ordered = [s for s in reversed(steps) if not apart(s[1])] + [s for s in steps if apart(s[1])]
    for before, after, found in ordered:
        alike: dict[tuple, list[str]] = {}
        answers: dict[tuple, tuple[Answer, Answer]] = {}
        for name, was, now in found:
            if name not in heap_of:
                continue
            key = (facts[name]["group"], word(was), word(now))
            alike.setdefault(key, []).append(name)
            answers[key] = (was, now)
        items = []
        for key, names in alike.items():
            arrow = f"{said(answers[key][0])} → {said(answers[key][1])}"
            lines = [f'<a href="#{anchor(name)}">{family(heap_of[name])}</a>' for name in names]
            if len(names) <= 6:
                items += [f"<li>{line} {arrow}</li>" for line in lines]
            else:
                inner = "".join(f"<li>{line}</li>" for line in lines)
                count = sum(len(heap_of[name]) for name in names)
                summary = f"{html.escape(key[0])}: {count} facts {arrow}"
                items.append(f"<li><details><summary>{summary}</summary><ul>{inner}</ul></details></li>")
        parts.append(
            f"### {step_title(before, after)} {{ #to-{slug(after['id'])} }}\n\n"
            f'<div class="mx-changes" data-search-exclude="yes"><ul>{"".join(items)}</ul></div>\n'
        )
    return "\n".join(parts)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def error_list(names: Sequence[str], data: dict) -> str:
    """Every error text of a group once, with the releases and the number of facts it stands for."""
    where: dict[str, tuple[set[int], set[str]]] = {}
    for name in names:
        for place, column in enumerate(data["columns"]):
            answer = data["cells"][name][column["id"]]
            if isinstance(answer, dict):
                places, facts = where.setdefault(answer["error"], (set(), set()))
                places.add(place)
                facts.add(name)
    items = []
    for text, (places, facts) in where.items():
        stretches: list[list[int]] = []
        for place in sorted(places):
            if stretches and place == stretches[-1][1] + 1 and not apart(data["columns"][place]):
                stretches[-1][1] = place
            else:
                stretches.append([place, place])
        when = ", ".join(span(first, last, data["columns"]) for first, last in stretches)
        count = "1 fact" if len(facts) == 1 else f"{len(facts)} facts"
        items.append(f"<li><code>{html.escape(text)}</code> <small>{when}; {count}</small></li>")
    return f"<details><summary>Error texts</summary><ul>{''.join(items)}</ul></details>" if items else ""


def matrix_size(data: dict | None = None) -> str:
    """Return the size of the matrix in words."""
    data = data or load()
    return f"{len(data['facts'])} facts about {len(data['columns'])} pairs of TensorFlow and Keras"


def row_head(facts: Sequence[dict]) -> str:
    """The statements of a row, each with its anchor, and a link to the probe that they share."""
    first = facts[0]
    link = f'<a href="#{anchor(first["id"])}">#</a> <a href="{probe_link(first["id"])}">probe</a>'
    if len(facts) == 1:
        return f"{inline(first['statement'])} {link}"
    items = "".join(f'<li id="{anchor(fact["id"])}">{inline(fact["statement"])}</li>' for fact in facts)
    return f"<details><summary>{family(facts)}</summary><ul>{items}</ul></details> {link}"


def matrix_page(data: dict | None = None) -> str:
    """Return the whole matrix as one HTML table with its filter (shown by matrix.js where JavaScript runs)."""
    data = data or load()
    columns = data["columns"]
    groups: dict[str, list[list[dict]]] = {}
    for heap in heaps(data):
        groups.setdefault(heap[0]["group"], []).append(heap)

    heads = []
    for column in columns:
        both = f"TF {column['tensorflow']}"
        if is_keras_3(column) or apart(column):
            both = f"{label(column)} · TF {column['tensorflow']}"
        heads.append(f'<th scope="col" title="{html.escape(full_label(column))}"><span>{both}</span></th>')

    bodies = []
    for number, (group, members) in enumerate(groups.items()):
        rows = []
        for heap in members:
            found = runs(heap[0]["id"], data)
            starts = " ".join(str(run.first) for run in found[1:] if not apart(columns[run.first]))
            cells = []
            for run in found:
                # Wide screens show the title on hover; narrow ones, where a run is a line, show it in front.
                width = "" if run.first == run.last else f" colspan={run.last - run.first + 1}"
                cells.append(
                    f'<td{width} class=mx-{tone(run.answer)} title="{span(run.first, run.last, columns)}">'
                    f"<b>{sign(run.answer)}</b> <i>{html.escape(word(run.answer))}</i></td>"
                )
            name = f' id="{anchor(heap[0]["id"])}"' if len(heap) == 1 else ""
            rows.append(f'<tr{name} data-changes="{starts}"><th scope="row">{row_head(heap)}</th>{"".join(cells)}</tr>')
        errors = error_list([fact["id"] for heap in members for fact in heap], data)
        rows.append(f'<tr class="mx-errors"><td colspan="{len(columns) + 1}">{errors}</td></tr>' if errors else "")
        bodies.append(
            f'<tbody data-group="{number}"><tr class="mx-group"><th scope="rowgroup" colspan="{len(columns) + 1}">'
            f"<span>{html.escape(group)}</span></th></tr>{''.join(rows)}</tbody>"
        )

    choices = "".join(f'<option value="{n}">{html.escape(group)}</option>' for n, group in enumerate(groups))
    since = "".join(
        f'<option value="{place}">{span(place, place, columns)}</option>'
        for place, column in enumerate(columns)
        if place and not apart(column)
    )
    controls = (
        '<form class="mx-filter" hidden>'
        f'<label>Group <select name="group"><option value="">all</option>{choices}</select></label>'
        f'<label>Changed since <select name="since"><option value="">any time</option>{since}</select></label>'
        '<output aria-live="polite"></output></form>'
    )
    return (
        f'{controls}<div class="mx-scroll" tabindex="0" role="region" aria-label="Version matrix"'
        ' data-search-exclude="yes">'
        f'<table class="mx"><thead><tr><th scope="col">Fact</th>{"".join(heads)}</tr></thead>'
        f"{''.join(bodies)}</table></div>\n"
    )
