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

import importlib
import inspect
import logging
import math
import numbers
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from pools_core.errors import PoolClosedError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

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

LINE_INTERVAL: Final = 10.0
"""Seconds between two plain lines, at least: a log is read later, and each line in it stays."""

LONGEST_ERROR: Final = 40
"""Characters of an error's text in a bar; the error itself reaches the caller in full."""

STYLES: Final = ("std", "rich", "notebook")
NEEDS: Final = {"std": "tqdm", "rich": "rich", "notebook": "ipywidgets"}
"""The distribution that each style needs, by the name for pip."""

MODULES: Final = {
    "tqdm": ("tqdm.std",),
    "rich": ("rich.progress",),
    "ipywidgets": ("ipywidgets", "tqdm.notebook"),
}
OVERRIDDEN: Final = ("total", "leave")
"""Options that the call itself decides."""

COLOURS: Final = frozenset({"BLACK", "RED", "GREEN", "YELLOW", "BLUE", "MAGENTA", "CYAN", "WHITE"})

KINDS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "ascii": ((bool, str), "a bool or a str"),
    "bar_format": ((str,), "a str"),
    "colour": ((str,), "a str"),
    "delay": ((numbers.Real,), "a number"),
    "desc": ((str,), "a str"),
    "disable": ((bool,), "a bool"),
    "dynamic_ncols": ((bool,), "a bool"),
    "gui": ((bool,), "a bool"),
    "initial": ((numbers.Real,), "a number"),
    "lock_args": ((tuple,), "a tuple"),
    "maxinterval": ((numbers.Real,), "a number"),
    "mininterval": ((numbers.Real,), "a number"),
    "miniters": ((numbers.Real,), "a number"),
    "ncols": ((numbers.Integral,), "an int"),
    "nrows": ((numbers.Integral,), "an int"),
    "position": ((numbers.Integral,), "an int"),
    "smoothing": ((numbers.Real,), "a number"),
    "unit": ((str,), "a str"),
    "unit_divisor": ((numbers.Real,), "a number"),
    "unit_scale": ((numbers.Real,), "a bool or a number"),
    "write_bytes": ((bool,), "a bool"),
}
"""What tqdm documents for its options.  tqdm itself checks none, and fails in the midst of drawing."""


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
        NotImplementedError: a position for style "rich", whose bars find their places themselves.
        tqdm.TqdmKeyError: an option that tqdm does not have; when a bar is wanted.
        KeyError: a ``bar_format`` with a field that tqdm does not have; when a bar is wanted.
        ImportError: the style needs a package that is not installed; when a bar is wanted.

    Warns:
        RuntimeWarning: ``total`` and ``leave`` are the call's business and are overridden; so is a colour
            that does not exist.
    """
    chosen = _read_style(style)
    given = _read_options(options, chosen)
    if not progress_bar:
        return None
    if not callable(chosen):
        _need(NEEDS[chosen], f'progress_bar_style "{chosen}"')
    if given:
        _need("tqdm", "progress_bar_options")
        _check_with_tqdm(given)
    return ProgressSettings(chosen, _without_what_does_not_count(given, chosen))


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


def _read_options(options: object, style: ProgressStyle) -> Mapping[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"progress_bar_options is a dict, not {type(options).__name__} ({options!r})")
    for name, value in options.items():
        _check_value(name, value)
    if style == "rich" and options.get("position") is not None:
        raise NotImplementedError(
            'progress_bar_style "rich" takes no position: its bars find their own places'
        )
    return options


def _check_value(name: str, value: object) -> None:
    kinds, words = KINDS.get(name, ((object,), "anything"))
    if name == "file":
        fits, words = hasattr(value, "write"), "an open file"
    else:
        fits = isinstance(value, kinds)
    if value is not None and not fits:
        raise TypeError(f"progress bar option {name!r} is {words}, not {type(value).__name__} ({value!r})")


def _need(distribution: str, what: str) -> None:
    try:
        for module in MODULES[distribution]:
            importlib.import_module(module)
    except ImportError as error:
        # tqdm may be what a notebook lacks; the sentence names what is really missing.
        missing = "tqdm" if (error.name or "").startswith("tqdm") else distribution
        raise ImportError(f"{what} needs {missing}: pip install {missing}", name=missing) from error


def _check_with_tqdm(options: Mapping[str, Any]) -> None:
    """Let tqdm judge names and format: its signature and its formatter, which build and draw nothing."""
    from tqdm.std import TqdmKeyError, tqdm

    known = set(inspect.signature(tqdm.__init__).parameters) - {"self", "iterable", "kwargs"}
    unknown = {name: value for name, value in options.items() if name not in known}
    if unknown:
        raise TqdmKeyError(f"Unknown argument(s): {unknown}")
    if options.get("bar_format"):
        tqdm.format_meter(0, 10, 0.0, ncols=80, bar_format=options["bar_format"])


def _without_what_does_not_count(options: Mapping[str, Any], style: ProgressStyle) -> dict[str, Any]:
    kept = dict(options)
    for name in OVERRIDDEN:
        if name in kept:
            del kept[name]
            _warn(f"progress bar option {name!r} is set by the call itself; what you gave is not used")
    colour = kept.get("colour")
    if colour and style in ("std", "rich") and not _is_colour(colour):
        del kept["colour"]
        known = ", ".join(sorted(COLOURS))
        _warn(f"unknown colour {colour!r} of a progress bar is not used; known are #00ff00 and {known}")
    return kept


def _is_colour(text: str) -> bool:
    return text.upper() in COLOURS or re.fullmatch("#[0-9a-fA-F]{6}", text) is not None


def _warn(text: str) -> None:
    """Warn about the line of the user's program that called a pool."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("pools_"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)


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
    if style == "notebook":
        return _TqdmWidget(_tqdm_bar(style, file, options, total, description))
    if style == "rich":
        return _rich_display(file, options, total, description)
    if _can_redraw(file):
        return _TqdmBar(_tqdm_bar(style, file, options, total, description))
    return _Lines(file, options)


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


# --- tqdm: a bar or a widget --------------------------------------------------------------------------

PATIENCE: Final = 0.5
"""Seconds that a bar waits for tqdm's own lock; see ``_TqdmLock``."""

_locks: Final[dict[int, threading.RLock]] = {}
_tqdm_locks: Final[dict[int, _TqdmLock]] = {}


def _own_lock() -> threading.RLock:
    """Return this process's lock; a forked child gets its own, for it may inherit a locked one."""
    return _locks.setdefault(os.getpid(), threading.RLock())


class _TqdmLock:
    """The lock under which bars are placed and drawn: ours, and tqdm's while that can be had.

    tqdm's own is two, one for threads and one for processes.  We never take the latter: a worker that is
    killed while it draws holds it for ever, and making it fixes the start method of processes.  The former
    keeps users' own bars apart from ours.  But it stays locked when a user's bar was interrupted while it
    drew, or a fork came just then; so we wait for it a moment, once, and then do without.
    """

    def __init__(self) -> None:
        import tqdm.std

        self._own = _own_lock()
        self._tqdms = cast("threading.RLock", cast("Any", tqdm.std).TqdmDefaultWriteLock.th_lock)
        self._given_up = False
        self._taken: list[bool] = []  # whether tqdm's was had, for each time that ours is held

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._own.acquire(blocking, timeout):
            return False
        try:
            taken = not self._given_up and self._tqdms.acquire(timeout=PATIENCE)
        except BaseException:  # Ctrl-C ends the wait
            self._own.release()
            raise
        self._given_up = not taken
        self._taken.append(taken)
        return True

    def release(self) -> None:
        if self._taken.pop():
            self._tqdms.release()
        self._own.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _tqdm_lock() -> _TqdmLock:
    return _tqdm_locks.get(os.getpid()) or _tqdm_locks.setdefault(os.getpid(), _TqdmLock())


def _tqdm_class(style: str) -> Any:
    """Return tqdm's class with what is global in it replaced, so that tqdm itself stays as it was.

    Shared is only the set of open bars.  By it each bar gets a free position, users' own bars counted,
    and ``tqdm.write`` knows what to draw anew.
    """
    if style == "notebook":
        from tqdm.notebook import tqdm_notebook as base
    else:
        from tqdm.std import tqdm as base  # type: ignore[assignment]  # the base of the other

    class Bar(cast("Any", base)):  # type: ignore[misc]  # one of two classes
        monitor_interval = 0  # no helper thread
        _lock = _tqdm_lock()

        def refresh(self, nolock: bool = False, lock_args: tuple[Any, ...] | None = None) -> Any:
            """As in tqdm, but an interrupt while it draws does not leave the lock locked."""
            if nolock:
                return super().refresh(nolock=True)
            if not self._lock.acquire(*lock_args or ()):
                return False
            try:
                return super().refresh(nolock=True)
            finally:
                self._lock.release()

        def __del__(self) -> None:
            """Draw nothing: only ``Progress.close`` ends a bar, not a forked child that lets it go."""

    return Bar


def _tqdm_bar(style: str, file: Any, options: Mapping[str, Any], total: int | None, description: str) -> Any:
    ours = {
        "file": file,
        "desc": description,
        "total": total,
        "leave": True,
        "mininterval": 0,  # Progress waits for both; tqdm would wait a second time, by the wall clock
        "miniters": options.get("miniters") or 0,
    }
    defaults = {"dynamic_ncols": "ncols" not in options}  # in tqdm it would win over a given width
    return _tqdm_class(style)(**{**defaults, **options, **ours})


class _TqdmBar:
    """tqdm's bar on a terminal."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._postfix = bar.postfix

    def __call__(self, event: ProgressEvent) -> None:
        bar = self._bar
        if event.total != bar.total:
            self._set_total(event.total)
        if event.failed:
            parts = [str(self._postfix)] if self._postfix else []
            bar.set_postfix_str(", ".join([*parts, f"{event.failed:,} failed"]), refresh=False)
        if event.error is not None:
            bar.set_description(" ".join(filter(None, (event.description, _ending(event)))), refresh=False)
        bar.update(event.done - bar.n)
        if event.finished:
            self._close(event)

    def _set_total(self, total: int | None) -> None:
        self._bar.total = total

    def _close(self, event: ProgressEvent) -> None:
        bar = self._bar
        # The last state is a line above all others, which move down.  tqdm alone would draw over them.
        with bar.get_lock(), bar.external_write_mode(file=bar.fp, nolock=True):
            bar.close()


class _TqdmWidget(_TqdmBar):
    """tqdm's widget in a notebook, which keeps the total and the mood in widgets of its own."""

    def _set_total(self, total: int | None) -> None:
        bar = self._bar
        done, began = bar.n, bar.start_t
        bar.reset(total)  # the only way that tells the widget
        bar.n, bar.start_t = done, began

    def _close(self, event: ProgressEvent) -> None:
        if event.error is not None:
            self._bar.disp(bar_style="danger", check_delay=False)  # with no total, tqdm would call it success
        self._bar.close()


# --- rich: a table of bars ----------------------------------------------------------------------------

_tables: Final[dict[tuple[int, int], _RichTable]] = {}
"""By process and stream.  The process counts: a forked child must not draw its parent's bars."""


def _rich_display(file: Any, options: Mapping[str, Any], total: int | None, description: str) -> Display:
    from rich.console import Console

    console = Console(file=file)
    if (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter:
        return _RichBar(file, console, options, total, description)
    return _Lines(file, options)


class _RichTable:
    """All bars on one stream: rich has one live area there, which they share."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, Task, TextColumn
        from rich.table import Column

        class Coloured(BarColumn):
            def render(self, task: Task) -> Any:
                bar = super().render(task)
                if task.fields["colour"]:
                    bar.complete_style = bar.finished_style = task.fields["colour"].lower()
                return bar

        self.progress: RichProgress = Progress(
            TextColumn("{task.description}", markup=False),
            Coloured(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.fields[words]}", markup=False, style="progress.remaining"),
            console=console,
            expand=True,
            auto_refresh=False,  # would be a thread
            transient=True,  # each bar prints its own last state
            redirect_stdout=False,  # would move what the program prints to stderr
            redirect_stderr=False,
        )


class _RichBar:
    """One bar in the table of its stream."""

    def __init__(
        self, file: Any, console: Console, options: Mapping[str, Any], total: int | None, description: str
    ) -> None:
        self._wording = _Wording(options)
        self._key = (os.getpid(), id(file))
        with _own_lock():
            table = _tables.get(self._key)
            if table is None:
                table = _tables[self._key] = _RichTable(console)
                table.progress.start()
            self._progress = table.progress
            self._task = self._progress.add_task(
                description, total=total, colour=options.get("colour"), words=self._wording.count(0, total)
            )
        self._progress.refresh()

    def __call__(self, event: ProgressEvent) -> None:
        self._progress.update(
            self._task,
            description=" ".join(filter(None, (event.description, _ending(event)))),
            completed=event.done,
            total=event.total,
            words=self._wording.numbers(event),
            refresh=not event.finished,
        )
        if event.finished:
            self._close()

    def _close(self) -> None:
        """Leave the last state above those that still run; the last one takes the live area away."""
        progress = self._progress
        with _own_lock():
            task = next(task for task in progress.tasks if task.id == self._task)
            row = progress.make_tasks_table([task])
            progress.remove_task(self._task)
            if progress.tasks:
                progress.console.print(row)
                return
            del _tables[self._key]
            progress.stop()
            progress.console.print(row)


# --- plain lines, and words ---------------------------------------------------------------------------


class _Lines:
    """A line now and then, for a file or a pipe, where nothing can be drawn over."""

    def __init__(self, file: Any, options: Mapping[str, Any]) -> None:
        self._file = file
        self._bytes = bool(options.get("write_bytes"))
        self._delay = options.get("delay") or 0.0
        self._interval = max(LINE_INTERVAL, options.get("mininterval") or 0.0)
        self._next = self._interval
        self._wording = _Wording(options)

    def __call__(self, event: ProgressEvent) -> None:
        if event.seconds < (self._delay if event.finished else max(self._next, self._delay)):
            return
        self._next = event.seconds + self._interval
        line = self._wording.line(event) + "\n"
        self._file.write(line.encode() if self._bytes else line)
        getattr(self._file, "flush", lambda: None)()


class _Wording:
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
        words = ", ".join(filter(None, (self.numbers(event), _ending(event))))
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


def _ending(event: ProgressEvent) -> str:
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
