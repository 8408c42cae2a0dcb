"""The life of a pool: what it is, how it is set up, and how it ends."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pools_core.errors import PoolClosedError, UnsupportedOptionError
from pools_core.options import CallOptions, CallSettings, capable, nearest, read_call_options
from pools_core.pool_options import COMMON, PLAIN_SETTINGS, PoolSettings
from pools_core.protocol import Engine
from pools_core.pump import Pump

if TYPE_CHECKING:
    from pools_core.insights import Insights

__all__ = ["PoolLife"]

_pool_ids: Final = itertools.count(1)


class PoolLife:
    """All of a pool but its calls.

    Args:
        make_engine: makes the engine that carries the work.
        backend: name of the backend, for people.
        settings: the options that mean the same on every backend.

    Raises:
        UnsupportedOptionError: the engine cannot honour one of them.
    """

    def __init__(
        self, make_engine: Callable[[], Engine], backend: str, settings: PoolSettings = PLAIN_SETTINGS
    ) -> None:
        from pools_core.registry import hooks

        self.backend = backend
        self._pid = os.getpid()
        self._id = next(_pool_ids)
        self._hooks = hooks(settings.plugins_off)
        self._pump = Pump(make_engine, self._id, self._hooks)
        self._joined = False
        self._options = PLAIN_SETTINGS
        try:
            self._apply(settings)
        except BaseException:
            self._pump.engine.shutdown(wait=True, kill=True)
            raise
        self._finalizer = weakref.finalize(self, _drop, self._pump, self._pid)
        if self._hooks is not None:
            self._hooks.pools_pool_opened(pool_id=self._id, backend=backend, size=self.size)

    # --- what it is ------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many tasks can run at once; on a cluster it may change while the pool is open."""
        return self._pump.engine.size

    @property
    def state(self) -> str:
        """``"open"``, ``"closed"`` (finishing what it has), ``"terminated"`` or ``"joined"``."""
        if self._joined:
            return "joined"
        if self._pump.closed is None:
            return "open"
        return "terminated" if self._pump.terminated else "closed"

    @property
    def capabilities(self) -> frozenset[str]:
        """Names of the options that this backend honours beyond the basics."""
        return self._pump.engine.capabilities

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.backend} {self.state} size={self.size} "
            f"calls={len(self._pump.flows)}>"
        )

    # --- workers that are set up ---------------------------------------------------------------------

    def configure(self, **options: Any) -> None:
        """Change options of the pool, from the next call on.

        Args:
            options: any of ``PoolSettings``, such as ``shared_objects`` or ``keep_alive``.

        Raises:
            TypeError: there is no such option, or it has a value of the wrong type.
            UnsupportedOptionError: this backend cannot honour it.
        """
        for name in options.keys() - set(COMMON):
            raise TypeError(f"{name!r} is no option that can be changed{nearest(name, COMMON)}")
        common = {name: getattr(self._options, name) for name in COMMON}
        self._apply(PoolSettings(**{**common, **options}))

    def get_exit_results(self) -> list[Any]:
        """Return what the ``worker_exit`` functions of the latest session returned, as workers ended.

        The latest session is that of the latest call that had a ``worker_init`` or ``worker_exit``; with
        ``keep_alive`` the pool's, which ends with ``stop_and_join``, ``close`` and ``join``, or the end of
        the ``with`` block.
        """
        return self._pump.sessions.results()

    def insights(self) -> Insights:
        """Return where time went, so far; for a pool with ``enable_insights``.

        Raises:
            ValueError: the pool was made without it.
        """
        if self._pump.insights is None:
            raise ValueError("nothing was recorded: make the pool with enable_insights=True")
        return self._pump.insights.snapshot()

    # --- the end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more work; what is under way goes on.  Harmless if called again."""
        if os.getpid() == self._pid:
            self._pump.ending.close("the pool is closed; make another one")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all work is finished and every worker has ended.

        Args:
            timeout: seconds to wait at the most; None for no limit.

        Returns:
            Whether all have ended; False only when the time was up first.

        Raises:
            ValueError: the pool is still open; call ``close`` or ``terminate`` first.
            BaseException: what a ``worker_exit`` raised that was due now (with ``keep_alive``).
        """
        if os.getpid() != self._pid or self._joined:
            return True
        if self._pump.closed is None:
            raise ValueError("the pool is still open: call close() or terminate() before join()")
        deadline = None if timeout is None else monotonic() + timeout
        if not self._pump.terminated:
            if not self._pump.ending.drain(timeout):
                return False
            if not self._pump.ending.end_kept_session(None if deadline is None else deadline - monotonic()):
                return False
        failure = self._pump.sessions.kept_failure()
        self._pump.ending.stop()
        if self._finalizer.detach() is not None and self._hooks is not None:
            self._hooks.pools_pool_closed(pool_id=self._id)
        self._joined = True
        if (
            failure is not None and not self._pump.terminated
        ):  # else it may be our own doing, from another thread
            raise failure
        return True

    def stop_and_join(self) -> None:
        """``close`` and ``join``."""
        self.close()
        self.join()

    def terminate(self) -> None:
        """Drop what has not finished and end the workers at once.  Harmless if called again.

        Calls that are under way, in other threads too, raise PoolClosedError.
        """
        if os.getpid() == self._pid and not self._joined:
            self._pump.ending.terminate("the pool was terminated; make another one")

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.stop_and_join()
            except BaseException:  # Ctrl-C while work was being finished: then it is dropped
                self.terminate()
                raise
        else:
            self.terminate()
            self.join()

    def detach_engine(self) -> Engine:
        """Hand this pool's engine over to the caller, who drives and ends it from now on.

        For gateways, which take chunks from elsewhere to whatever pool they were told to use (see
        ``protocol.Engine`` for the rules).  The pool takes no work any more.

        Raises:
            PoolClosedError: the pool was closed, or belongs to another process.
        """
        self._check()
        self._pump.ending.close("its engine was handed over")
        self._finalizer.detach()
        self._joined = True
        return self._pump.engine

    # --- for programs that take any pool ---------------------------------------------------------------

    rank: Final = 0
    """As in schwimmbad: the caller is always the master; workers never run the caller's script."""

    @staticmethod
    def enabled() -> bool:
        """Return whether a pool of this kind can be used here: it can.  As in schwimmbad."""
        return True

    def is_master(self) -> bool:
        """Return True: who has a pool directs it.  As in schwimmbad."""
        return True

    def is_worker(self) -> bool:
        """Return False: who has a pool directs it.  As in schwimmbad."""
        return False

    def wait(self) -> None:
        """Return at once: workers wait for work elsewhere.  As in schwimmbad."""

    @property
    def _processes(self) -> int:
        return self.size  # dynesty and nautilus look at it, as at that of multiprocessing.Pool

    @property
    def _max_workers(self) -> int:
        return self.size  # dask looks at it, as at that of concurrent.futures

    def __copy__(self) -> Self:
        return self  # a copy of what refers to a pool uses the same pool

    def __deepcopy__(self, memo: object) -> Self:
        return self

    # --- inside --------------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise PoolClosedError(
                f"this pool belongs to process {self._pid}, and a fork cannot share it; "
                "make a pool of its own in this process"
            )
        self._pump.check_open()

    def _settings(self, options: CallOptions, chunksize: float | None) -> CallSettings:
        return read_call_options(options, chunksize, self.backend, self.capabilities)

    def _apply(self, settings: PoolSettings) -> None:
        settings.check_common()
        if settings.order_tasks and "order_tasks" not in self.capabilities:
            raise UnsupportedOptionError("order_tasks", self.backend, capable("order_tasks"))
        self._options = settings
        self._pump.orders_tasks = settings.order_tasks
        if settings.enable_insights and self._pump.insights is None:
            from pools_core.insights_recorder import InsightsRecorder

            self._pump.insights = InsightsRecorder()
        elif not settings.enable_insights:
            self._pump.insights = None


def _drop(pump: Pump, pid: int) -> None:
    """End the workers of a pool that nobody refers to any more."""
    if os.getpid() == pid:
        pump.ending.terminate("the pool was dropped")
        pump.callbacks.stop(wait=False)
