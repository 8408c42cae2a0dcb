"""Jobs: what one task of a test is to do, told as data.

    Job, work         leave a line in a log, perhaps wait at a gate, then do a deed
    cell              likewise, in a crash matrix: what the task returns or raises goes wrong on its way

Like ``tasks``, this module imports nothing but the standard library and modules of its kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pools_core.testing.gate import Address, pass_gate
from pools_core.testing.misbehaving import (
    BadlyPickled,
    BadlyPickledError,
    BadlyUnpickled,
    BadlyUnpickledError,
    go_wrong,
)
from pools_core.testing.task_log import first, note

__all__ = ["AFTER_THE_WORK", "Job", "cell", "work"]


@dataclass(frozen=True)
class Job:
    """What one task is to do, in this order; the defaults only return ``index``.

    Attributes:
        index: what it returns, and what its line in the log says.
        log: file that gets one line per execution, so that executions can be counted.
        gate: where to wait until the test lets it go on.
        seconds: how long it takes: a task may sleep to be long.
        deed: ``"return"``; a way to go wrong; or ``"first:"`` and a way, to go wrong only the first time.
    """

    index: int
    log: str | None = None
    gate: Address | None = None
    seconds: float = 0.0
    deed: str = "return"


def work(job: Job) -> int:
    """Do the job and return its index."""
    if job.log is not None:
        note(job.log, str(job.index))
    way = job.deed
    if way.startswith("first:"):
        assert job.log is not None, "a job that fails only the first time leaves a mark beside its log"
        way = way.removeprefix("first:") if first(job.log, str(job.index)) else "return"
    if job.gate is not None:
        pass_gate(job.gate, str(job.index))
    if job.seconds:
        time.sleep(job.seconds)  # simulates work that takes its time; no test waits for it by the clock
    if way != "return":
        go_wrong(way)
    return job.index


AFTER_THE_WORK: Final[dict[str, Callable[[str], Any]]] = {
    "pickling the result": BadlyPickled,
    "unpickling the result": BadlyUnpickled,
}


def cell(job: Job, cargo: Any, stage: str, way: str) -> Any:
    """Do a job of a crash matrix, whose argument, result or exception goes wrong on its way.

    Args:
        job: done first; its index is returned unless ``stage`` says otherwise.
        cargo: comes along.
        stage: when things go wrong: while pickling or unpickling the result or the exception.
        way: in which way.
    """
    index = work(job)
    if stage == "pickling the exception":
        raise BadlyPickledError(way)
    if stage == "unpickling the exception":
        raise BadlyUnpickledError(way)
    return AFTER_THE_WORK[stage](way) if stage in AFTER_THE_WORK else index
