"""The workers that an engine has: begins them, sends them what is for them, and lets go of them.

A worker begins in two steps.  First come its descriptors and its line, and what is for it goes into the line.
Then comes the process, which finds it there.  So several processes can be started with nothing between them:
after a fork the parent, too, pays for each page that it writes, and a second fork is then all it has to do.

All of this is under the engine's lock.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
from typing import TYPE_CHECKING, Final

from pools_core import blas
from pools_core.errors import PoolsError, TransportError
from pools_core.log_levels import LogLevelsSent
from pools_core.protocol import Broken
from pools_multicore.arena import Arena
from pools_multicore.handle import WorkerHandle
from pools_multicore.inherit import no_interrupt, starting
from pools_multicore.process import Starter, check_not_importing_main
from pools_multicore.schedule import Schedule
from pools_multicore.settings import MulticoreSettings

if TYPE_CHECKING:
    from pools_multicore.engine import MulticoreEngine

__all__ = ["STARTS", "Crew"]

STARTS: Final = 3
"""Workers that may die one after another before they are ready; then there is no point in starting more."""


class Crew:
    """The workers of one engine.

    Args:
        engine: is told when no worker can be started, and is woken to send.
        settings: the pool's options.
        schedule: learns which workers there are.
        arena: the large buffers that workers look at.
        log: what workers are to log.
        selector: waits on the workers' descriptors.
    """

    def __init__(
        self,
        engine: MulticoreEngine,
        settings: MulticoreSettings,
        schedule: Schedule,
        arena: Arena,
        log: LogLevelsSent,
        selector: selectors.BaseSelector,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._schedule = schedule
        self._arena = arena
        self._log = log
        self._selector = selector
        self._threads = settings.threads_per_worker()
        self._numbers = itertools.count()
        self._deferred: set[WorkerHandle] = set()
        self.starter = Starter(settings.start_method)
        self.workers: dict[int, WorkerHandle] = {}
        """The workers by their slots."""
        self.has_unborn = False
        """Whether there may be workers whose processes have not been started."""
        self.failed_starts = 0
        """Workers that died one after another before they were ready, or could not be started."""

    # --- their beginning ----------------------------------------------------------------------------

    def add(self, slot: int | None = None) -> bool:
        """Make a worker, in a slot that may be given; ``start`` starts its process.  False: gave up."""
        check_not_importing_main()
        try:
            self._add_one(self._free_slot() if slot is None else slot)
        except OSError as error:  # no descriptor to be had
            return not self._has_failed(error)
        return True

    def start(self) -> tuple[list[WorkerHandle], bool]:
        """Start the processes of all workers that have none yet.

        Returns:
            Those that could not be started, or not as was expected: they have no process, and still what was
            to go to them; ``discard`` them.  And whether to give up.
        """
        gave_up = False
        with no_interrupt(), starting():  # a process that was started must be known
            unborn = [worker for worker in self.workers.values() if worker.process is None]
            for worker in unborn:
                try:
                    worker.start(self.starter)
                except OSError as error:  # no process to be had, or the fork server died
                    gave_up = self._has_failed(error) or gave_up
            for worker in self.workers.values():
                if worker.process is not None and worker.pidfd is None:
                    pidfd = worker.watch()
                    if pidfd is not None:
                        self._selector.register(pidfd, selectors.EVENT_READ, worker)
            failed = [worker for worker in unborn if worker.process is None]
            self.has_unborn = bool(failed)  # last: after an interrupt this is to be done once more
        return failed, gave_up

    def _add_one(self, slot: int) -> None:
        number = next(self._numbers)
        with no_interrupt(), starting():
            if self._settings.blas_threads is not None:
                blas.prepare_parent()
            self.starter.ready()
            worker = WorkerHandle(
                slot, f"pools worker {number}", self._settings, self._arena, self._threads, self._log.levels
            )
            try:
                worker.configure(self.starter)
            except BaseException:
                worker.close()
                raise
            self.workers[slot] = worker
            self.has_unborn = True
            self._schedule.add_worker(slot)
            self._selector.register(worker.sock, selectors.EVENT_READ, worker)

    def _free_slot(self) -> int:
        return next(slot for slot in range(self._settings.n_jobs) if slot not in self.workers)

    def _has_failed(self, error: OSError) -> bool:
        """A worker could not be started: count it; return whether to give up."""
        self.failed_starts += 1
        if self.failed_starts < STARTS or any(one.process is not None for one in self.workers.values()):
            return False
        self.give_up(TransportError(f"no worker process can be started: {error}"))
        return True

    def give_up(self, error: PoolsError) -> None:
        """Workers cannot start, or die before they are ready: give up, so that nobody waits for ever."""
        self.failed_starts = 0
        if self.starter.method != "fork":
            error.add_note(
                f"{STARTS} in a row; with start_method={self.starter.method!r} each imports the "
                'main script: is what it runs under `if __name__ == "__main__":`?'
            )
        self._engine.events.append(Broken(error))

    # --- what is for them -----------------------------------------------------------------------------

    @property
    def has_to_send(self) -> bool:
        """Whether something was left for whoever waits to send, or to start."""
        return bool(self._deferred) or self.has_unborn

    def flush_soon(self, worker: WorkerHandle) -> None:
        """Send what waits for a busy worker together, by whoever waits, before it sleeps.

        A thread that sleeps already is woken for it, once: then all that comes until it is awake goes in
        one system call, where each by itself would wake the worker, too.
        """
        self._deferred.add(worker)
        engine = self._engine
        if engine.waiting and not engine.roused:
            engine.roused = True
            engine.wake()

    def flush(self, worker: WorkerHandle) -> None:
        """Send what waits for a worker, as far as its line takes it."""
        try:
            done = worker.outbox.flush()
        except OSError:  # it died; end-of-file says so in a moment, with all that it had sent before
            done = True
        if done is worker.watching_for_room and worker.number in self.workers:
            worker.watching_for_room = not done
            mask = selectors.EVENT_READ if done else selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(worker.sock, mask, worker)

    def send_deferred(self) -> None:
        """Send what was left for whoever waits."""
        while self._deferred:
            worker = self._deferred.pop()
            if worker.number in self.workers:
                self.flush(worker)

    # --- their end ----------------------------------------------------------------------------------

    def discard(self, worker: WorkerHandle) -> None:
        """Let go of a worker."""
        self._unregister(worker)
        self._arena.gone(worker.number)
        worker.close()
        del self.workers[worker.number]
        self._schedule.forget_worker(worker.number)
        self._deferred.discard(worker)

    def _unregister(self, worker: WorkerHandle) -> None:
        self._selector.unregister(worker.sock)
        if worker.pidfd is not None:
            self._selector.unregister(worker.pidfd)

    def kill_all(self) -> None:
        """End all at once.  The books may be torn by an interrupt, so no part of them is relied upon."""
        doomed = [(worker, worker.process) for worker in self.workers.values() if worker.process is not None]
        unborn = [worker for worker in self.workers.values() if worker.process is None]
        self.workers.clear()
        self.has_unborn = False
        for worker in unborn:
            with contextlib.suppress(OSError):
                worker.close()
        for worker, process in doomed:
            process.kill(tree=bool(worker.seats))
        for worker, process in doomed:
            with contextlib.suppress(KeyError, ValueError):
                self._unregister(worker)
            with contextlib.suppress(OSError):
                worker.close()
            process.forget()
