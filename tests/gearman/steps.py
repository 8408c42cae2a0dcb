"""Counts the steps of the interpreter that a chunk takes on the caller's side; see ``test_scale``.

steps.py one-by-one|at-once CONFIG MANY     prints the steps for a chunk of a hundred, and of so many
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Self

from pools_core import MakePool
from pools_core.calls import Call, Chunk, Outcomes, Returned
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch
from pools_core.testing import tasks
from pools_gearman.engine import GearmanEngine
from pools_gearman.settings import read_settings

FEW = 100


class Steps:
    """Steps of this thread, and of threads that start while this is on."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]  # as sys.settrace

    def _enter(self, frame: Any, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: Any, event: str, argument: object) -> Any:
        self.count += event == "opcode"
        return self._step


def sleep_at_once(engine: Any) -> None:
    """Have an engine not look before it sleeps: how often it would is a matter of time."""
    engine._reading._spinner.most = 0.0


def one_by_one(config: str, measure: Callable[[Callable[[int], object]], None]) -> None:
    """Let a pool map with chunks of one task."""
    with MakePool("gearman", config=config) as pool:
        sleep_at_once(pool._pump.engine)
        measure(lambda count: pool.map(tasks.identity, range(count), n_splits=count))


def at_once(config: str, measure: Callable[[Callable[[int], object]], None]) -> None:
    """Give all chunks to an engine before any comes back."""
    engine = GearmanEngine(read_settings(config, {}))
    sleep_at_once(engine)
    call = Call(1, pack_function(tasks.identity))
    engine.open(call)
    numbers = iter(range(1, sys.maxsize))

    def submit(number: int) -> None:
        engine.submit(Chunk(number, call, number, 1, pack_batch([number], "argument")))

    def run(count: int) -> None:
        for _ in range(count):
            submit(next(numbers))
        left = count
        while left:
            for event in engine.wait(30):
                left -= isinstance(event, Outcomes) and event.last
                if isinstance(event, Returned):
                    submit(event.chunk)

    measure(run)
    engine.shutdown(wait=True, kill=True)


def main(how: str, config: str, many: str) -> None:
    """Print the two numbers."""
    with Steps() as steps:

        def measure(run: Callable[[int], object]) -> None:
            run(FEW)
            found = []
            for count in (FEW, int(many)):
                before = steps.count
                run(count)
                found.append((steps.count - before) / count)
            print(*found)

        {"one-by-one": one_by_one, "at-once": at_once}[how](config, measure)


if __name__ == "__main__":
    main(*sys.argv[1:])
