"""Insights as text for people: a table of the workers, the rest in a line each, and what to do about it.

Plain text, without colour codes: it goes to terminals, log files and pipes alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pools_core.insights import PARTS, Insights, SlowTask

__all__ = ["counted", "human", "report"]

GOOD: Final = 0.8
"""Share of working time under which there is something to gain."""

UNEVEN: Final = 1.5
"""How many times the average a worker must have worked for the work to count as badly shared out."""

WORKERS_SHOWN: Final = 64
"""Rows of the table; a cluster has more workers than anybody reads about."""

ARGUMENTS_SHOWN: Final = 60
"""Characters of a slow task's arguments."""

COLUMNS: Final = ("worker", "tasks", "chunks", "start-up", "init", "waiting", "working", "exit", "total")

ADVICE: Final = {
    "start_up": "make one pool and use it for all calls; start methods fork and forkserver are faster",
    "init": "keep_alive=True runs worker_init once per worker, not once per call",
    "waiting": "give workers more at a time (a larger chunk_size), use fewer, or make the input come faster",
    "exit": "keep_alive=True runs worker_exit once per worker, not once per call",
}
"""What shortens each part that is not work."""

ADVICE_UNEVEN: Final = (
    "some had far more to do than others; try a smaller chunk_size, or the longest tasks first"
)
"""For waiting, when workers waited for the last ones to end rather than for work to come."""


def report(insights: Insights) -> str:
    """Return the table and what belongs to it, without a newline at the end."""
    if not insights.workers:
        return "Insights: nothing has run yet"
    blocks = [_headline(insights), _table(insights), _traffic(insights)]
    if insights.slowest:
        blocks.append("Longest tasks\n" + "\n".join(map(_slow_task, insights.slowest)))
    hint = _hint(insights)
    if hint:
        blocks.append(hint)
    return "\n\n".join(blocks)


def _headline(insights: Insights) -> str:
    parts = [
        counted(len(insights.workers), "worker"),
        counted(insights.tasks, "task"),
        counted(insights.chunks, "chunk"),
        f"{insights.seconds:.3f} s",
    ]
    return f"Insights: {', '.join(parts)}; times in seconds"


def _table(insights: Insights) -> str:
    shown = insights.workers[:WORKERS_SHOWN]
    rows = [
        _row(str(one.worker), one.tasks, one.chunks, [*(getattr(one, part) for part in PARTS), one.total])
        for one in shown
    ]
    hidden = len(insights.workers) - len(shown)
    if hidden:
        rows.append([f"+{hidden:,}", *[""] * (len(COLUMNS) - 1)])
    times = [*(getattr(insights, part) for part in PARTS), insights.total]
    rows.append(_row("all", insights.tasks, insights.chunks, times))
    rows.append(["share", "", "", *(f"{share:.1%}" for share in insights.ratios.values()), ""])
    return _aligned([COLUMNS, *rows], rule_after=(0, len(rows) - 2))


def _row(name: str, tasks: int, chunks: int, times: Sequence[float]) -> list[str]:
    return [name, f"{tasks:,}", f"{chunks:,}", *(f"{seconds:,.3f}" for seconds in times)]


def _aligned(rows: Sequence[Sequence[str]], rule_after: Sequence[int]) -> str:
    """Return rows as lines with columns aligned to the right.

    Args:
        rows: the cells, equally many in each row.
        rule_after: numbers of the rows under which a line is drawn.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        if number in rule_after:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def _traffic(insights: Insights) -> str:
    sizes = insights.chunk_sizes
    lines = []
    if sizes.count:
        spread = counted(sizes.largest, "task")
        if sizes.smallest < sizes.largest:
            spread = f"{sizes.smallest:,} to {spread}, median {sizes.median:,}"
        lines.append(f"Chunks sent: {sizes.count:,} of {spread}")
    lines.append(f"Data: {human(insights.bytes_sent)} sent, {human(insights.bytes_received)} received")
    lines.append(
        f"Failures: {insights.failures:,}, retries: {insights.retries:,}, deaths: {insights.deaths:,}"
    )
    return "\n".join(lines)


def _slow_task(task: SlowTask) -> str:
    return f"  {task.seconds:.3f} s  task {task.index} on worker {task.worker}: {_one_line(task.arguments)}"


def _one_line(text: str) -> str:
    """Return text cut short, with nothing in it that moves a cursor or changes a colour."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return plain if len(plain) <= ARGUMENTS_SHOWN else plain[: ARGUMENTS_SHOWN - 3] + "..."


def _hint(insights: Insights) -> str:
    """Return what to do when workers did little work; empty when there is little to gain."""
    ratios = insights.ratios
    working = ratios.pop("working")
    if working >= GOOD or not insights.total:
        return ""
    worst = max(ratios, key=lambda part: ratios[part])
    average = insights.working / len(insights.workers)
    uneven = average and max(one.working for one in insights.workers) > UNEVEN * average
    advice = ADVICE_UNEVEN if worst == "waiting" and uneven else ADVICE[worst]
    name = COLUMNS[COLUMNS.index("start-up") + PARTS.index(worst)]
    return f"Hint: {working:.1%} of the time was spent working, {ratios[worst]:.1%} on {name}: {advice}"


def human(nbytes: int) -> str:
    """Return a number of bytes in the unit in which it is easiest to read, powers of 1000."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.95:  # what would be shown as 1000.0 is 1.0 of the next unit
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} PB"


def counted(number: int, thing: str) -> str:
    """Return a number with its noun, such as ``1 task`` or ``1,200 tasks``."""
    return f"{number:,} {thing if number == 1 else thing + 's'}"
