"""Insights in the form of MPIRE's ``WorkerPool.get_insights()``: same keys, same formats.

Its times are text, ``H:MM:SS`` with three digits of milliseconds unless they are exactly whole, cut and
not rounded; counts and ratios are numbers.  Lists have one entry per worker, by number.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from pools_core.insights import PARTS, Insights, WorkerInsights

__all__ = ["mpire_insights"]

NEVER_ZERO: Final = 1e-8
"""Seconds that MPIRE adds to the total before it divides by it, so that ratios add up to a hair under 1."""


def mpire_insights(insights: Insights, n_jobs: int = 0) -> dict[str, Any]:
    """Return MPIRE's dict of insights; empty when no worker has reported anything.

    Args:
        insights: what to tell.  The arguments of its slowest tasks are taken over as they are.
        n_jobs: size of the pool; workers that have not reported anything count with zeros, as in MPIRE.
    """
    if not insights.workers:
        return {}
    workers = _without_gaps(insights.workers, n_jobs)
    times = {part: [getattr(one, part) for one in workers] for part in PARTS}
    totals = {part: sum(seconds) for part, seconds in times.items()}
    total = sum(totals.values())
    # MPIRE leaves out what took no time, and whose arguments it does not know yet.
    slowest = [task for task in insights.slowest if task.seconds > 0 and task.arguments]
    made: dict[str, Any] = {"n_completed_tasks": [one.tasks for one in workers]}
    made |= {f"{part}_time": [_clock(one) for one in seconds] for part, seconds in times.items()}
    made |= {f"total_{part}_time": _clock(seconds) for part, seconds in totals.items()}
    made["top_5_max_task_durations"] = [_clock(task.seconds) for task in slowest]
    made["top_5_max_task_args"] = [task.arguments for task in slowest]
    made["total_time"] = _clock(total)
    for part, seconds in times.items():
        made[f"{part}_ratio"] = totals[part] / (total + NEVER_ZERO)
        made[f"{part}_time_mean"] = _clock(statistics.fmean(seconds))
        made[f"{part}_time_std"] = _clock(statistics.pstdev(seconds))
    return made


def _without_gaps(workers: Sequence[WorkerInsights], n_jobs: int) -> list[WorkerInsights]:
    """Return one entry for each number, zeros for those that there are not."""
    known = {one.worker: one for one in workers}
    count = max(n_jobs, max(known) + 1)
    return [known.get(number, WorkerInsights(number, 0, 0, 0, 0, 0, 0, 0)) for number in range(count)]


def _clock(seconds: float) -> str:
    """Return seconds as MPIRE writes them, such as ``0:01:02.345`` or ``1 day, 0:00:00``."""
    whole, _, fraction = str(timedelta(seconds=seconds)).partition(".")
    return f"{whole}.{fraction[:3]}" if fraction else whole
