"""How it is measured: each library in a process of its own, one after the other, several rounds.

    parent   for each round, for each case: every library once, in an order that rotates
    child    ``python -m benchmarks.runner CASE LIBRARY SIZE WORKERS`` prints one JSON object

Only one child runs at a time.  A child times only the operation; a pool that starts warm has run one
task per worker before.  What a library prints goes to standard error, so the JSON stands alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.cases import CASES
from benchmarks.libraries import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.cases import Case
    from benchmarks.libraries import Library

__all__ = ["Sample", "Samples", "measure"]

SAMPLES_PER_CHILD = 3
"""A quick operation is timed so often in each child..."""
SECONDS_PER_CHILD = 2.0
"""...but no repetition begins after so many seconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one child found.

    Attributes:
        seconds: one entry per repetition; empty when it failed.
        problem: why it failed, else None.
    """

    seconds: list[float]
    problem: str | None = None


@dataclass(slots=True)
class Samples:
    """All that was found for one library in one case."""

    case: Case
    library: str
    size: int
    seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def measure(
    cases: Iterable[Case], libraries: Iterable[str], *, rounds: int, workers: int, quick: bool, limit: float
) -> Iterator[Samples]:
    """Run every library in every case; yield each row after its last round, case by case.

    Args:
        cases: what to measure.
        libraries: names of installed libraries.
        rounds: how many children for each library and case.
        workers: how many workers each pool has.
        quick: use the small sizes.
        limit: seconds after which a child is killed and its library left out of the case.
    """
    cases, names = list(cases), list(libraries)
    rows: dict[tuple[str, str], Samples] = {}
    for number in range(rounds):
        turn = number % max(1, len(names))
        for case in cases:
            for name in names[turn:] + names[:turn]:
                if not LIBRARIES[name].can(case.operation, case.start_method):
                    continue
                size = case.quick_size if quick else case.size
                row = rows.setdefault((case.name, name), Samples(case, name, size))
                if row.problems:
                    continue
                print(f"round {number + 1}/{rounds}: {case.name}, {name}", file=sys.stderr, flush=True)
                sample = run_child(case, name, size, workers, limit)
                row.seconds += sample.seconds
                if sample.problem is not None:
                    row.problems.append(sample.problem)
    for case in cases:
        for name in names:
            if (case.name, name) in rows:
                yield rows[case.name, name]


def run_child(case: Case, library: str, size: int, workers: int, limit: float) -> Sample:
    """Time one library in one case, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.runner", case.name, library, str(size), str(workers)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Sample([], f"not ready after {limit:g} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # its workers too, whatever they are doing
        process.communicate()
    if process.returncode != 0:
        last = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return Sample([], last)
    return Sample(json.loads(out)["seconds"])


def time_here(case: Case, library: Library, size: int) -> list[float]:
    """Time the operation in this process, as often as ``SAMPLES_PER_CHILD`` and the clock allow."""
    operation = getattr(library, case.operation)
    seconds: list[float] = []
    began = time.perf_counter()
    if not case.starts:
        library.start(case.start_method)
        operation(2 * library.workers)  # so that all workers have started, and imported the task
    while len(seconds) < SAMPLES_PER_CHILD and (
        not seconds or time.perf_counter() - began < SECONDS_PER_CHILD
    ):
        start = time.perf_counter()
        if case.starts:
            library.start(case.start_method)
        checksum = operation(size)
        if case.starts:
            library.stop()
        seconds.append(time.perf_counter() - start)
        if checksum != case.expected(size):
            raise AssertionError(f"{library.name} returned {checksum}, not {case.expected(size)}")
    if not case.starts:
        library.stop()
    return seconds


def main(argv: list[str]) -> None:
    """Be the child."""
    name, library, size, workers = argv
    case = next(case for case in CASES if case.name == name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found: dict[str, Any] = {"seconds": time_here(case, LIBRARIES[library](int(workers)), int(size))}
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
