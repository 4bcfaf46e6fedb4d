"""The search index: which pages come first, the words that users have for a page, and what stays out.

docs/assets/search.js ranks by what is written here. A page's front matter may say

    search:
      words: [loss stuck at 2.303, "AttributeError: …"]

which the page shows at its end ("People also write"), and `boost`, a factor that stands before its folder's.
"""

from __future__ import annotations

import html
import re
from typing import Any

import matrix

# First what cures, then what explains, then what measures.
BOOSTS = {
    "symptoms/": 1.3,
    "recipes/index.md": 0.6,
    "recipes/phase_doctor.md": 0.8,
    "recipes/": 1.2,
    "how-to/": 1.0,
    "reference/probes.md": 0.2,
    "reference/version-matrix.md": 0.4,
    "reference/doctor/": 0.8,
    "reference/": 1.0,
    "case-file/": 0.5,
    "labs/": 0.3,
    "contributing.md": 0.3,
    "index.md": 0.5,
}
LONGEST_INDEXED = 40  # lines of one code block: a longer one is a file, and a file has every word
CODE = re.compile(r"<pre>(?=(?P<code>.*?)</pre>)", re.DOTALL)


def settings(page: Any) -> dict[str, Any]:
    """Return what the page's front matter says of its search, with its folder's boost."""
    path = page.file.src_uri
    boost = next((boost for start, boost in BOOSTS.items() if path.startswith(start)), 1.0)
    return {"boost": boost, **page.meta.get("search", {})}


def other_words(page: Any) -> str:
    """Return the line of a page that shows its other words."""
    phrases = settings(page).get("words", [])
    if not phrases:
        return ""
    shown = " · ".join(f"<em>{html.escape(phrase, quote=False)}</em>" for phrase in phrases)
    return f'\n\n<p class="other-words" data-search-exclude="yes">People also write: {shown}</p>\n'


def leave_out(content: str) -> str:
    """Mark figures and every code block that shows a whole file; the search plugin skips them, and the mark goes."""

    def mark(block: re.Match[str]) -> str:
        return '<pre data-search-exclude="yes">' if block["code"].count("\n") > LONGEST_INDEXED else "<pre>"

    return CODE.sub(mark, content).replace("<svg ", '<svg data-search-exclude="yes" ')


def complete(entries: list[dict[str, Any]], page: Any) -> None:
    """Add to the index what the page's text does not hold: its other words, and a row's own address in the matrix."""
    own = [entry for entry in entries if entry["location"].split("#")[0] == page.url]
    if own and (phrases := settings(page).get("words")):
        own[0]["words"] = phrases
    if page.file.src_uri == "reference/version-matrix.md":
        seen = set()
        for fact in matrix.load()["facts"]:
            # Of a family the first alone: hundreds that read alike would stand before the page that tells of them.
            if fact["group"] in seen & set(matrix.FOLDED):
                continue
            seen.add(fact["group"])
            location = f"{page.url}#{matrix.anchor(fact['id'])}"
            boost = settings(page)["boost"]
            entries.append(
                {"location": location, "title": matrix.inline(fact["statement"]), "text": "", "boost": boost}
            )
