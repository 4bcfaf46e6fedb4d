"""Time spent, and signs of life."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator


class Clock:
    """Counts making graphs apart from running them; speaks up after two seconds."""

    def __init__(self, show: bool) -> None:
        self.start = time.perf_counter()
        self.spent = {"tracing": 0.0, "running": 0.0}
        self.show, self.shown = show, False

    @contextlib.contextmanager
    def counting(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] += time.perf_counter() - began

    def stage(self, text: str) -> None:
        spent = time.perf_counter() - self.start
        if self.show and (spent > 2 or self.shown):
            self.shown = True
            print(f"phase doctor, {spent:.0f} s: {text}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        print(f"phase doctor: {text}", file=sys.stderr, flush=True)

    def timing(self) -> dict[str, float]:
        return {**self.spent, "total": time.perf_counter() - self.start}
