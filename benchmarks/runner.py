"""How it is measured: each library in a process of its own, one after the other, several rounds.

    parent   for each round, for each case: every library once, in an order that rotates
    child    ``python -m benchmarks.child CASE LIBRARY SIZE WORKERS ROUND`` prints one JSON object

Only one child runs at a time.  What a library prints goes to standard error, so the JSON stands alone.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import CASES, Case
from benchmarks.libraries import LIBRARIES, LIMIT
from benchmarks.limits import LIMITS
from benchmarks.meters import METERS

__all__ = ["Sample", "Samples", "Settings", "measure"]

ONE_THREAD: Final = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR")
}
"""Numerical libraries use one thread in each process, whoever starts it; a pool of this project sees to that
itself, and a peer's user has to."""

SOURCES: Final = (Path(__file__).parent.parent, Path(__file__).parent.parent / "backends")
"""Where our packages lie.  These are measured, whatever copy of them is installed beside the peers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: processes for each library and case.
        workers: workers of each pool.
        quick: the small sizes.
        limit: seconds after which a child is killed and its library left out of the case.
    """

    rounds: int
    workers: int
    quick: bool
    limit: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one child found.

    Attributes:
        values: one entry per repetition; empty when it failed.
        checksum: what the operation returned; None where there is none.
        problem: why it failed, else None.
    """

    values: list[float]
    checksum: float | None = None
    problem: str | None = None


@dataclass(slots=True)
class Samples:
    """All that was found for one library in one case."""

    case: str
    library: str
    size: int
    workers: int
    values: list[float] = field(default_factory=list)
    checksum: float | None = None
    problem: str | None = None

    def add(self, sample: Sample) -> None:
        """Add what one more child found."""
        self.values += sample.values
        self.problem = self.problem or sample.problem
        if sample.checksum is not None:
            self.checksum = sample.checksum


def measure(
    cases: Iterable[Case],
    libraries: Sequence[str],
    settings: Settings,
    after_round: Callable[[list[Samples]], object] = lambda _found: None,
) -> list[Samples]:
    """Run every library in every case.

    Args:
        cases: what to measure.
        libraries: names of installed libraries, and ``LIMIT``.
        settings: how much.
        after_round: called with what has been found so far.
    """
    compile_ours()
    cases = [case for case in cases if not missing(case) and size_of(case, settings)]
    found: dict[tuple[str, str], Samples] = {}
    for number in range(settings.rounds):
        turn = number % max(1, len(libraries))
        for case in cases:
            if case.rounds is not None and number >= case.rounds:
                continue
            for name in (*libraries[turn:], *libraries[:turn]):
                if not takes_part(case, name):
                    continue
                samples = found.setdefault((case.name, name), empty(case, name, settings))
                if samples.problem is None:
                    print(f"round {number + 1}/{settings.rounds}: {case.name}, {name}", file=sys.stderr)
                    samples.add(run_child(samples, number, settings.limit))
            compare([samples for (name, _), samples in found.items() if name == case.name])
        after_round(list(found.values()))
    return [found[case.name, name] for case in cases for name in libraries if (case.name, name) in found]


def missing(case: Case) -> list[str]:
    """Return the modules that a case needs and that are not installed."""
    return [name for name in case.needs if importlib.util.find_spec(name) is None]


def size_of(case: Case, settings: Settings) -> int:
    """Return how many tasks a case has; 0: it is left out."""
    return case.quick_size if settings.quick else case.size


def takes_part(case: Case, name: str) -> bool:
    """Whether a library, or the limit, has a row in the case."""
    if name == LIMIT:
        return case.name in LIMITS
    if case.only is not None and name not in case.only:
        return False
    return LIBRARIES[name].can(case.call, case.start_method)


def compile_ours() -> None:
    """Compile our packages, as pip does when it installs a wheel, and the tasks; peers came in that way.

    In a checkout there may be no bytecode, and none is written under ``PYTHONDONTWRITEBYTECODE``: then each
    spawned worker would compile what it imports, which takes longer than all the rest of its start.
    """
    for folder in SOURCES:
        for package in (*folder.glob("pools_*"), *folder.glob("benchmarks")):
            compileall.compile_dir(package, quiet=2)


def empty(case: Case, name: str, settings: Settings) -> Samples:
    """Return samples with nothing in them."""
    return Samples(case.name, name, size_of(case, settings), case.workers or settings.workers)


def compare(group: list[Samples]) -> None:
    """Call those wrong whose checksum is not that of the first one with a checksum."""
    known = [samples for samples in group if samples.checksum is not None]
    for samples in known[1:]:
        if not math.isclose(samples.checksum or 0, known[0].checksum or 0, rel_tol=1e-9):
            samples.problem = f"returned {samples.checksum}, {known[0].library} {known[0].checksum}"


def run_child(samples: Samples, turn: int, limit: float) -> Sample:
    """Measure one library in one case, in a process of its own."""
    what = [samples.case, samples.library, str(samples.size), str(samples.workers), str(turn)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.child", *what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": search_path()},
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Sample([], problem=f"not ready after {limit:g} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too, whatever they are doing
        process.communicate()
    if process.returncode != 0:
        last = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return Sample([], problem=last)
    return Sample(**json.loads(out))


def search_path() -> str:
    """Return what ``PYTHONPATH`` is in a child."""
    return os.pathsep.join([*map(str, SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])])


def run_case(argv: list[str]) -> None:
    """Be the child: measure what the arguments name, and print the sample."""
    name, library, size, workers, turn = argv
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=answers, flush=True)

    def give_up(problem: str) -> None:
        answer({"values": [], "problem": problem})
        os._exit(0)

    if library == LIMIT:
        answer({"values": LIMITS[name](int(size), int(workers))})
        return
    case = next(case for case in CASES if case.name == name)
    meter = METERS[case.metric]
    values, checksum = meter(case, LIBRARIES[library](int(workers), int(turn)), int(size), give_up)
    answer({"values": values, "checksum": float(checksum)})
