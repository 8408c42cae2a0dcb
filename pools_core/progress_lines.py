"""Progress in words: plain lines where nothing can be drawn over, and the texts beside a bar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final

from pools_core.errors import PoolClosedError

if TYPE_CHECKING:
    from pools_core.progress import ProgressEvent

__all__ = ["Lines", "Wording", "ending"]

LINE_INTERVAL: Final = 10.0
"""Seconds between two plain lines, at least: a log is read later, and each line in it stays."""

LONGEST_ERROR: Final = 40
"""Characters of an error's text in a bar; the error itself reaches the caller in full."""


class Lines:
    """A line now and then, for a file or a pipe, where nothing can be drawn over."""

    def __init__(self, file: Any, options: Mapping[str, Any]) -> None:
        self._file = file
        self._bytes = bool(options.get("write_bytes"))
        self._delay = options.get("delay") or 0.0
        self._interval = max(LINE_INTERVAL, options.get("mininterval") or 0.0)
        self._next = self._interval
        self._wording = Wording(options)

    def __call__(self, event: ProgressEvent) -> None:
        if event.seconds < (self._delay if event.finished else max(self._next, self._delay)):
            return
        self._next = event.seconds + self._interval
        line = self._wording.line(event) + "\n"
        self._file.write(line.encode() if self._bytes else line)
        getattr(self._file, "flush", lambda: None)()


class Wording:
    """An event in words, with the user's unit and scale."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        unit = options.get("unit") or "it"
        self._unit = "" if unit == "it" else f" {unit.strip()}"  # tqdm's default says nothing in a sentence
        self._scale = options.get("unit_scale") or 0
        self._divisor = options.get("unit_divisor") or 1000
        postfix = options.get("postfix") or ""
        if isinstance(postfix, Mapping):
            postfix = ", ".join(f"{name}={value}" for name, value in postfix.items())
        self._postfix = str(postfix)

    def line(self, event: ProgressEvent) -> str:
        """Return all there is to say: ``description: 1,200/5,000 (24%), 410/s, about 9 s left``."""
        words = ", ".join(filter(None, (self.numbers(event), ending(event))))
        return f"{event.description}: {words}" if event.description else words

    def numbers(self, event: ProgressEvent) -> str:
        """Return what can be counted: ``1,200/5,000 (24%), 410/s, about 9 s left, 2 failed``."""
        if event.finished:
            time = f"in {_duration(event.seconds)}"
        else:
            time = f"about {_duration(event.eta)} left" if event.eta else ""
        failed = f"{event.failed:,} failed" if event.failed else ""
        parts = (self.count(event.done, event.total), self._rate(event.rate), time, failed, self._postfix)
        return ", ".join(filter(None, parts))

    def count(self, done: int, total: int | None) -> str:
        """Return ``1,200/5,000 (24%)``, or ``1,200`` where the total is not known."""
        if total is None:
            return f"{self._number(done)}{self._unit}"
        share = f" ({math.floor(100 * done / total)}%)" if total else ""  # 100 % is when all are done
        return f"{self._number(done)}/{self._number(total)}{self._unit}{share}"

    def _rate(self, rate: float | None) -> str:
        if rate is None:
            return ""
        if rate < 1 and not self._scale:
            return f"{_duration(1 / rate)} each"
        number = self._number(rate) if self._scale else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        return f"{number}{self._unit}/s"

    def _number(self, number: float) -> str:
        if not self._scale:
            return f"{number:,}"
        from tqdm.std import tqdm  # there, for options are checked by it

        scaled = number if self._scale is True else number * self._scale
        return tqdm.format_sizeof(scaled, divisor=self._divisor)


def _duration(seconds: float) -> str:
    """Return a length of time in two figures: ``0.43 s``, ``9 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 59.5:
        return f"{round(seconds, 2):.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next(index for index, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def ending(event: ProgressEvent) -> str:
    """Return how a call ended early: ``interrupted``, ``stopped``, ``stopped by ValueError: text``."""
    error = event.error
    if error is None:
        return ""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, CancelledError | PoolClosedError):  # the program gave it up: no error to it
        return "stopped"
    try:
        text = str(error)
    except Exception:  # a user's __str__; its failure is no news beside the error itself
        text = ""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if len(text) > LONGEST_ERROR:
        text = text[: LONGEST_ERROR - 1] + "…"
    return f"stopped by {type(error).__name__}" + (f": {text}" if text else "")
