"""How far a call is, shown while it runs.

A call counts what is done; now and then its numbers go, as one ``ProgressEvent``, to a display::

    update(done, failed)  →  Progress  ─ every mininterval, and at the end ─→  display(event)

A display is any callable that takes an event.  So a user's own function is one as it is, and the built-in
styles are four more: tqdm's bar, tqdm's widget, rich's table, and plain lines for what is no terminal.

No task waits for the display: an update that is not due costs an addition and a look at the clock, and a
display that raises is logged and dropped.  Nothing global is changed: not ``sys.stdout`` or ``sys.stderr``,
not tqdm's lock, and no helper thread is started.  tqdm and rich are imported when a bar is wanted.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal, cast

from pools_core.progress_lines import Lines
from pools_core.progress_options import check_with_tqdm, need, read_options, without_what_does_not_count
from pools_core.progress_rich import rich_display
from pools_core.progress_tqdm import tqdm_display

__all__ = [
    "DEFAULT_STYLE",
    "Progress",
    "ProgressEvent",
    "ProgressSettings",
    "ProgressStyle",
    "open_progress",
    "read_progress",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far a call is; what a display gets.

    Attributes:
        done: tasks that ended, the failed ones among them (counted from the option ``initial``).
        total: tasks in all; None while that is not known.
        failed: tasks that failed.
        seconds: since the call began.
        rate: tasks per second on average; None while nothing is done.
        eta: seconds that are left at that rate; None where total or rate is not known.
        finished: whether this is the last event.
        error: what ended the call early, in the last event only.
        description: what the call is about; may be empty.
    """

    done: int
    total: int | None
    failed: int
    seconds: float
    rate: float | None
    eta: float | None
    finished: bool
    error: BaseException | None
    description: str


Display = Callable[[ProgressEvent], object]
ProgressStyle = Literal["std", "rich", "notebook"] | Display

DEFAULT_STYLE: ProgressStyle = "std"
"""The style of calls that name none; users may assign another one here."""

STYLES: Final = {"std": "tqdm", "rich": "rich", "notebook": "ipywidgets"}
"""The built-in styles, each with the distribution that it needs, by the name for pip."""


@dataclass(frozen=True, slots=True)
class ProgressSettings:
    """A progress bar that is wanted, checked.

    Attributes:
        style: the name of a built-in style, or a callable that takes events.
        options: tqdm's keyword arguments, without those that the call decides.
    """

    style: ProgressStyle
    options: Mapping[str, Any]


# --- before the call: what the user asked for ---------------------------------------------------------


def read_progress(progress_bar: bool, style: object, options: object) -> ProgressSettings | None:
    """Check what a call says about its progress bar; return None where none is wanted.

    Nothing is drawn, and without a bar neither tqdm nor rich is imported.

    Args:
        progress_bar: whether a bar is wanted.
        style: "std", "rich", "notebook" or a callable that takes a ``ProgressEvent``; None for the
            ``DEFAULT_STYLE`` of this module.
        options: keyword arguments of tqdm; a mapping or None.  It is not changed.

    Raises:
        TypeError: style, options or one of the options' values is of the wrong type.
        ValueError: no such style.
        NotImplementedError: a position for style "rich", whose bars find their places themselves; programs
            that come from MPIRE catch just this error.
        tqdm.TqdmKeyError: an option that tqdm does not have; when a bar is wanted.
        KeyError: a ``bar_format`` with a field that tqdm does not have; when a bar is wanted.
        ImportError: the style needs a package that is not installed; when a bar is wanted.

    Warns:
        RuntimeWarning: ``total`` and ``leave`` are the call's business and are overridden; so is a colour
            that does not exist.
    """
    chosen = _read_style(style)
    given = read_options(options, chosen)
    if not progress_bar:
        return None
    if not callable(chosen):
        need(STYLES[chosen], f'progress_bar_style "{chosen}"')
    if given:
        need("tqdm", "progress_bar_options")
        check_with_tqdm(given)
    return ProgressSettings(chosen, without_what_does_not_count(given, chosen))


def _read_style(style: object) -> ProgressStyle:
    chosen = DEFAULT_STYLE if style is None else style
    if callable(chosen):
        return chosen
    if not isinstance(chosen, str):
        raise TypeError(
            f"progress_bar_style is a name or a callable, not {type(chosen).__name__} ({chosen!r})"
        )
    if chosen not in STYLES:
        known = ", ".join(f'"{name}"' for name in STYLES)
        raise ValueError(f"unknown progress_bar_style {chosen!r}; known are {known}, or any callable")
    return cast("ProgressStyle", chosen)


# --- during the call: counting ------------------------------------------------------------------------


class Progress:
    """The count of one call.  Methods are for one thread at a time, whichever it is.

    Args:
        display: gets the events; None shows nothing.
        total: tasks in all; None where that is not known yet.
        description: what the call is about.
        interval: seconds between two events, at least.
        initial: where the count begins.
        clock: tells seconds; never goes back.
    """

    def __init__(
        self,
        display: Display | None,
        total: int | None,
        description: str = "",
        *,
        interval: float = 0.1,
        initial: int = 0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._display = display
        self._total = total
        self._description = description
        self._interval = interval
        self._initial = initial
        self._clock = clock
        self._done = initial
        self._failed = 0
        self._closed = False
        self._began = clock()
        self._next = math.inf if display is None else self._began + interval

    def __repr__(self) -> str:
        total = "?" if self._total is None else self._total
        return f"<Progress {self._description!r} {self._done}/{total}{' closed' if self._closed else ''}>"

    def update(self, done: int, failed: int = 0) -> None:
        """Count tasks that ended.  Blocks only to draw, and that at most once per interval.

        ``update(0)`` counts nothing and shows what has been counted since; a call that waits long for its
        next task may do that.

        Args:
            done: how many ended since the last update, the failed ones among them.
            failed: how many of them failed.
        """
        self._done += done
        self._failed += failed
        if self._clock() >= self._next:
            self._show()

    def set_total(self, total: int) -> None:
        """Say how many tasks there are in all, now that it is known."""
        self._total = total
        if not self._closed:
            self._show()

    def close(self, error: BaseException | None = None) -> None:
        """Show the end and give up the place on the screen.  A second time does nothing.

        Args:
            error: what ended the call early, ``KeyboardInterrupt`` included; the display says so.
        """
        if self._closed:
            return
        self._closed = True
        self._show(finished=True, error=error)
        self._display, self._next = None, math.inf

    def _show(self, finished: bool = False, error: BaseException | None = None) -> None:
        if self._display is None:
            return
        try:
            self._display(self._event(finished, error))
        except Exception:
            # A display is for people; the call has work to do.  Whoever reads logs gets the error.
            logger.exception("the progress display failed; the call goes on without it")
            self._display, self._next = None, math.inf
        else:
            # Counted from now: a terminal slower than the interval shall not eat all the time there is.
            self._next = self._clock() + self._interval

    def _event(self, finished: bool, error: BaseException | None) -> ProgressEvent:
        seconds = self._clock() - self._began
        here = self._done - self._initial
        rate = here / seconds if here > 0 and seconds > 0 else None
        eta = None
        if self._total is not None:
            left = self._total - self._done
            eta = 0.0 if left <= 0 else left / rate if rate else None
        return ProgressEvent(
            done=self._done,
            total=self._total,
            failed=self._failed,
            seconds=seconds,
            rate=rate,
            eta=eta,
            finished=finished,
            error=error,
            description=self._description,
        )


def open_progress(
    settings: ProgressSettings,
    total: int | None,
    description: str,
    *,
    clock: Callable[[], float] = monotonic,
) -> Progress:
    """Begin to show a call, and return where it counts.

    Args:
        settings: from ``read_progress``.
        total: tasks in all; None where that is not known yet.
        description: what the call is about; the option ``desc`` wins over it.
        clock: tells seconds; never goes back.
    """
    options = settings.options
    description = options.get("desc") or description
    interval = options.get("mininterval", 0.1) or 0.0
    initial = options.get("initial") or 0
    try:
        display = _make_display(settings.style, options, total, description)
    except Exception:  # likewise: a display is for people, whoever reads logs gets the error
        logger.exception("the progress display failed to open; the call goes on without it")
        display = None
    return Progress(display, total, description, interval=interval, initial=initial, clock=clock)


def _make_display(
    style: ProgressStyle, options: Mapping[str, Any], total: int | None, description: str
) -> Display | None:
    file = sys.stderr if options.get("file") is None else options["file"]
    if file is None or _is_disabled(options, file):
        return None
    if callable(style):
        return style
    if style == "rich":
        return rich_display(file, options, total, description)
    if style == "notebook" or _can_redraw(file):
        return tqdm_display(style, file, options, total, description)
    return Lines(file, options)


def _is_disabled(options: Mapping[str, Any], file: Any) -> bool:
    disable = options.get("disable", False)
    return not _is_terminal(file) if disable is None else bool(disable)


def _is_terminal(file: Any) -> bool:
    return bool(getattr(file, "isatty", lambda: False)())


def _can_redraw(file: Any) -> bool:
    """Return whether a line can be drawn over: a terminal, and not one of 0 columns as some CI has."""
    if not _is_terminal(file):
        return False
    try:
        return os.get_terminal_size(file.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):
        return True  # says that it is a terminal, and has no descriptor to ask for its size
