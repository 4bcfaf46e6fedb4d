"""Time spent, and signs of life."""

from __future__ import annotations

import sys
import time


class Clock:
    """Counts tracing apart from running; speaks up once two seconds have passed."""

    def __init__(self, show: bool) -> None:
        self.start, self.tracing = time.perf_counter(), 0.0
        self.show, self.shown = show, False

    def stage(self, text: str) -> None:
        spent = time.perf_counter() - self.start
        if self.show and (spent > 2 or self.shown):
            self.shown = True
            print(f"phase doctor, {spent:.0f} s: {text}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        print(f"phase doctor: {text}", file=sys.stderr, flush=True)

    def timing(self) -> dict[str, float]:
        total = time.perf_counter() - self.start
        return {
            "tracing": self.tracing,
            "running": total - self.tracing,
            "total": total,
        }
