"""A progress bar that rich draws: one row in a table that all bars on a stream share.

rich is imported when a bar is opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pools_core.progress_lines import Lines, Wording, ending
from pools_core.progress_locks import own_lock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from pools_core.progress import Display, ProgressEvent

__all__ = ["rich_display"]

_tables: Final[dict[tuple[int, int], _RichTable]] = {}
"""By process and stream.  The process counts: a forked child must not draw its parent's bars."""


def rich_display(file: Any, options: Mapping[str, Any], total: int | None, description: str) -> Display:
    """Open a row in the stream's table, or plain lines where rich could not draw."""
    from rich.console import Console

    console = Console(file=file)
    if (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter:
        return _RichBar(file, console, options, total, description)
    return Lines(file, options)


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
        self._wording = Wording(options)
        self._key = (os.getpid(), id(file))
        with own_lock():
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
            description=" ".join(filter(None, (event.description, ending(event)))),
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
        with own_lock():
            task = next(task for task in progress.tasks if task.id == self._task)
            row = progress.make_tasks_table([task])
            progress.remove_task(self._task)
            if progress.tasks:
                progress.console.print(row)
                return
            del _tables[self._key]
            progress.stop()
            progress.console.print(row)
