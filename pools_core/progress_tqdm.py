"""A progress bar that tqdm draws: on a terminal, or as a widget in a notebook.

tqdm is imported when a bar is opened.  Nothing in it is changed: neither its classes nor its lock, and its
helper thread is not started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pools_core.progress_lines import ending
from pools_core.progress_locks import tqdm_lock

if TYPE_CHECKING:
    from pools_core.progress import Display, ProgressEvent

__all__ = ["tqdm_display"]


def tqdm_display(
    style: str, file: Any, options: Mapping[str, Any], total: int | None, description: str
) -> Display:
    """Open tqdm's bar, or its widget for the style "notebook"."""
    bar = _tqdm_bar(style, file, options, total, description)
    return _TqdmWidget(bar) if style == "notebook" else _TqdmBar(bar)


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
        _lock = tqdm_lock()

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
            bar.set_description(" ".join(filter(None, (event.description, ending(event)))), refresh=False)
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
