"""A program that interrupts a scenario with a pool at one place after the other, and sees what is left of it.

    python interrupting.py BACKEND SCENARIO START_METHOD PLACES

Python looks at signals at the start of a function, after a call of C code and at a jump back, and there
alone; a tracer counts these places in the main thread's way through our code.  One pass without an interrupt
says how many there are.  Then SIGINT is raised at so many of them, evenly spread, with a fresh pool each
time.  Whatever had been submitted before must come to its end, the pool must work, and it must end.

Not interrupted are ``threading`` and ``concurrent.futures`` themselves: there an interrupt can leave a lock
taken for ever, whoever uses them.
"""

from __future__ import annotations

import dis
import faulthandler
import functools
import gc
import itertools
import os
import signal
import sys
import time

import pools_core
import pools_multicore
import pools_threads
from pools_core import MakePool
from pools_core.testing import tasks

HANGS = 60
"""Seconds after which a pass counts as hung: all stacks are printed, and the program ends."""

CHECKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"}
OURS = tuple(os.path.dirname(module.__file__) for module in (pools_core, pools_multicore, pools_threads))
SQUARES = [number * number for number in range(30)]


class Interrupter:
    """Raises SIGINT at one of the places where Python looks at signals.

    Args:
        at: which, counted from 1; 0 for none.
    """

    def __init__(self, at):
        self.at = at
        self.places = 0
        self.where = None
        self._last = None

    def __enter__(self):
        # Garbage would be collected at a place of its own each time, and CPython does not stand an error that
        # a tracer raises in the callback of a weak reference: the next call fails with a strange TypeError.
        gc.collect()
        gc.disable()
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)
        gc.enable()

    def _call(self, frame, _event, _argument):
        self._last = None
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame, event, _argument):
        last, self._last = self._last, None
        if event == "opcode":
            self._last = frame, _opcodes(frame.f_code).get(frame.f_lasti)
            if last is not None and last[0] is frame and last[1] in CHECKS:
                self.places += 1
                if self.places == self.at:
                    self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
                    sys.settrace(None)
                    self._last = None  # else this would keep what a frame holds
                    signal.raise_signal(signal.SIGINT)
        return self._step


@functools.cache
def _opcodes(code):
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


# Each scenario takes a pool, and a list for the futures that it gets.


def apply(pool, futures):
    """A call that this thread waits for beside one that another does."""
    futures.append((pool.submit(tasks.square, 3), 9))
    assert pool.apply(tasks.square, (7,)) == 49


def burst(pool, futures):
    """Single tasks that go together, once it is known how short they are."""
    for number, square in enumerate(SQUARES):
        futures.append((pool.submit(tasks.square, number), square))
    assert [future.result() for future, _ in futures] == SQUARES


def results(pool, _futures):
    """Results of the background thread."""
    waiting = [pool.apply_async(tasks.square, (number,), callback=abs) for number in range(4)]
    waiting.append(pool.map_async(tasks.square, range(30)))
    assert [one.get() for one in waiting] == [0, 1, 4, 9, SQUARES]


def waits(pool, futures):
    """Single tasks that this thread waits for, one by one, and so brings to their end itself."""
    for number in range(3):
        futures.append((pool.submit(tasks.square, number), number * number))
        assert futures[-1][0].result() == number * number
        assert pool.apply_async(tasks.square, (number,)).get() == number * number


def maps(pool, _futures):
    """Chunks by themselves and together, results all at once and by turns."""
    assert pool.map(tasks.square, range(30), 1) == SQUARES
    assert list(pool.imap(tasks.square, range(30), 3)) == SQUARES


def session(pool, _futures):
    """Workers that are set up and take down what they set up."""
    assert pool.map(tasks.square, range(4), 1, worker_init=os.getpid, worker_exit=os.getpid) == SQUARES[:4]


def close(pool, _futures):
    """The end in order, with work under way."""
    for number in range(8):
        pool.apply_async(tasks.square, (number,))
    pool.close()
    pool.join()


def terminate(pool, _futures):
    """The end at once, with tasks that hang."""
    for _ in range(2):
        pool.submit(time.sleep, 1000)
    pool.apply_async(tasks.square, (2,))
    pool.terminate()
    pool.join()


SCENARIOS = {each.__name__: each for each in (apply, burst, results, waits, maps, session, close, terminate)}
ENDS = (close, terminate)


def one_pass(make_pool, scenario, interrupter):
    """Interrupt the scenario once; raise what is wrong with what is left."""
    pool = make_pool()
    futures = []
    if scenario not in ENDS:
        for _ in range(3):
            assert pool.apply(tasks.square, (2,)) == 4  # so that it is known how short they are
    try:
        with interrupter:
            scenario(pool, futures)
    except KeyboardInterrupt:
        assert interrupter.where, "it was no interrupt of ours"
    if scenario in ENDS:
        pool.terminate()
        pool.join()
        return
    for future, value in futures:
        assert future.result() == value
    assert pool.map(tasks.square, range(30)) == SQUARES
    assert pool.apply(tasks.square, (5,)) == 25
    pool.close()
    pool.join()


def main():
    backend, name, start_method, places = sys.argv[1:]
    options = {"start_method": start_method} if backend == "multicore" else {}
    make_pool = functools.partial(MakePool, backend, n_jobs=4 if name == "terminate" else 2, **options)
    scenario = SCENARIOS[name]
    # CPython drops an interrupt that lands in a finalizer, and says so; those do not count.
    sys.unraisablehook = lambda it: it.exc_type is KeyboardInterrupt or sys.__unraisablehook__(it)
    # A worker that is forked in the middle would interrupt itself.
    os.register_at_fork(after_in_child=functools.partial(sys.settrace, None))
    counter = Interrupter(0)
    one_pass(make_pool, scenario, counter)
    step = max(1, counter.places // int(places))
    landed = 0
    for at in itertools.chain(range(1, min(10, step)), range(step, counter.places, step)):
        faulthandler.dump_traceback_later(HANGS, exit=True)
        interrupter = Interrupter(at)
        try:
            one_pass(make_pool, scenario, interrupter)
        except BaseException as error:
            where = f"place {at} of {counter.places}: {interrupter.where}"
            raise AssertionError(f"interrupted at {where}") from error
        finally:
            print(f"{at}: {interrupter.where}", file=sys.stderr, flush=True)
        landed += interrupter.where is not None
    faulthandler.cancel_dump_traceback_later()
    print("landed", landed)


if __name__ == "__main__":
    main()
