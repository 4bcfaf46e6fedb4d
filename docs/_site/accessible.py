"""What the theme leaves out of the HTML for readers without a mouse and on narrow screens."""

from __future__ import annotations

import html
import re

COLUMNS = 36  # as many fit a code block at 360 px
CODE = re.compile(r"(?P<open><pre[^>]*>(?:<span></span>)?<code)(?P<rest>>(?P<code>.*?)</code>)", re.DOTALL)
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
CELL_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
JOINT = re.compile(r"(?<=[^\W_])([._(]+)(?=[^\W_])")


def focusable_code(page: str) -> str:
    """Let the keyboard reach every code block that can scroll."""

    def reach(block: re.Match[str]) -> str:
        text = html.unescape(re.sub(r"<[^>]+>", "", block["code"]))
        scrolls = max(map(len, text.splitlines()), default=0) > COLUMNS
        return block["open"] + (' tabindex="0"' if scrolls else "") + block["rest"]

    return CODE.sub(reach, page)


def breakable_names(page: str) -> str:
    """Let a long name in a table break after `_`, `.` and `(`, an answer before `Error`, and nothing elsewhere."""

    def cell(code: re.Match[str]) -> str:
        return JOINT.sub(r"\1<wbr>", code[0])

    def breakable(table: re.Match[str]) -> str:
        return CELL_CODE.sub(cell, table[0]).replace("Error</span>", "<wbr>Error</span>")

    return TABLE.sub(breakable, page)
