"""joblib on a pool, and with it scikit-learn and all others that use joblib.

    import joblib
    import pools_core.adapters.joblib          # registers the backend "pools"

    with joblib.parallel_config("pools", pool="multicore"):
        search.fit(X, y)

Importing this module needs joblib.
"""

from __future__ import annotations

import pickle
import sys
import sysconfig
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from pools_core.errors import SerializationError
from pools_core.pool import Pool

if TYPE_CHECKING:
    from pools_core.config import ConfigSource
    from pools_core.results import AsyncResult

__all__ = ["PoolsBackend", "register"]

JOBLIBS_OWN: Final = frozenset({"context", "max_nbytes", "mmap_mode", "temp_folder", "verbose"})
"""Options with which joblib configures every backend; they are about processes that it makes itself."""

OPENING_ERRORS: Final = (AttributeError, ImportError, SerializationError)
NOT_OPENED: Final = "not opened"
"""What an error's note has instead of a task's arguments, where they could not be unpickled."""

_registering: Final = threading.Lock()  # cloudpickle keeps one list for the process

LIBRARIES: Final = tuple({sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")})
"""Where modules lie that workers elsewhere have, too."""


class PoolsBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib ships no types
    """A joblib backend over a pool.

    ``n_jobs`` is joblib's: a pool that is made here gets as many workers, where it can choose; of a live
    pool, or one that cannot choose, no more are used.  Without it all workers are.

    A pool that is made here is used for one ``Parallel`` call after the other, and ends with the backend:
    at the end of the ``with`` block of ``parallel_config``, or by ``close``.

    Args:
        pool: a live pool, which stays open; or a backend's name.
        config: for a pool that is made here: as for ``pools_core.MakePool``.
        backend: the name, if not given by ``pool``.  ``parallel_config`` has a parameter of this name of
            its own, so there it must be ``pool``.
        nesting_level: joblib's.
        inner_max_num_threads: joblib's: threads of numerical libraries in each worker.
        options: of the pool that is made here, as for ``pools_core.MakePool``.

    Raises:
        TypeError: both a live pool and options for one that is to be made.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        pool: Pool | str | None = None,
        config: ConfigSource = None,
        *,
        backend: str | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if pool is not None and backend is not None:
            raise TypeError("pool and backend are two names of one parameter; give one of them")
        self._live = None if pool is None or isinstance(pool, str) else pool
        self._name = pool if isinstance(pool, str) else backend
        self._config = config
        self._options: Mapping[str, Any] = options
        if self._live is not None and (config is not None or options):
            raise TypeError("a live pool has its options already; give a backend's name instead")
        self._own: Pool | None = None
        self._own_for: object = None
        self._limit = 1
        self._lock = threading.RLock()
        self._running: set[_Job] = set()
        self._waiting: deque[_Job] = deque()
        self._with_code = False
        self.parallel: Any = None

    # --- what joblib asks ------------------------------------------------------------------------------

    @property
    def supports_inner_max_num_threads(self) -> bool:
        """Whether the number of threads in workers can be chosen: not for a live pool."""
        return self._live is None

    @property
    def supports_sharedmem(self) -> bool:
        """Whether tasks run in this process; not known before the pool is made."""
        pool = self._live or self._own
        return pool is not None and pool._pump.engine.same_process  # noqa: SLF001  the same house

    uses_threads = supports_sharedmem

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks run at once if ``n_jobs`` are asked for.

        Raises:
            ValueError: none are asked for.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or n_jobs == 1:
            return 1
        size = max(1, self._use_pool(n_jobs).size)
        return min(n_jobs, size) if n_jobs > 0 else max(size + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **options: Any,
    ) -> int:
        """Prepare for a ``Parallel`` call and return how many of its tasks will run at once.

        Args:
            n_jobs: as many as are wanted.
            parallel: the call.
            prefer: a hint that joblib has dealt with.
            require: likewise.
            options: those of ``Parallel``: ``pool``, ``config``, and the pool's own.
        """
        own = {name: value for name, value in options.items() if name not in JOBLIBS_OWN}
        if own:
            self._reconfigure(**own)
        # joblib's batching looks at it; a cycle would keep the workers until garbage is collected.
        self.parallel = None if parallel is None else weakref.proxy(parallel)
        self._limit = self.effective_n_jobs(n_jobs)
        return self._limit

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> _Job:
        """Have a batch run, and the callback called with what became of it.

        Args:
            func: runs the batch.
            callback: takes its results, or the exception.
        """
        job = _Job(func, callback)
        with self._lock:
            self._waiting.append(job)
        self._start_waiting()
        return job

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return ``out``, what a callback was given; raise it if it is a failure."""
        # The result of a batch is a list: an exception that a task returned is in it.
        if isinstance(out, BaseException):
            raise out
        return out

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the batches of the calls that joblib aborts: those that run are killed, where the pool can.

        Several calls may share this backend, as generators do; the others go on.

        Args:
            ensure_ready: joblib's; the pool is ready in either case.
        """
        with self._lock:
            doomed = [job for job in (*self._waiting, *self._running) if job.is_aborted()]
            self._waiting = deque(job for job in self._waiting if job not in doomed)
            self._running.difference_update(doomed)
        for job in doomed:
            job.cancel()
        self._start_waiting()

    def terminate(self) -> None:
        """End a ``Parallel`` call; the pool is kept for the next one."""
        self.reset_batch_stats()

    def close(self) -> None:
        """End the pool, if it was made here."""
        with self._lock:
            pool, self._own = self._own, None
        if pool is not None:
            pool.terminate()
            pool.join()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._live or self._own or self._name or 'the configured pool'}>"

    def __reduce__(self) -> Any:
        arguments = (self._live or self._name, self._config, dict(self._options), self.nesting_level)
        return _remade, arguments

    # --- inside ----------------------------------------------------------------------------------------

    def _use_pool(self, n_jobs: int) -> Pool:
        """Return the pool to use; make it if need be."""
        from pools_core.registry import MakePool

        if self._live is not None:
            return self._live
        wanted = n_jobs if n_jobs > 0 else None
        with self._lock:
            own = self._own
            if own is not None and own.state != "open":
                self._own = own = None
            if own is not None and wanted != self._own_for and not self._running and self._chooses():
                self.close()
                own = None
            if own is None:
                self._own = own = MakePool(self._name, self._config, **self._pool_options(wanted))
                self._own_for = wanted
            return own

    def _capabilities(self) -> frozenset[str]:
        from pools_core.registry import GetClusterPackage, backend_name

        package = GetClusterPackage(backend_name(self._name, self._config))
        return getattr(package, "capabilities", frozenset())

    def _chooses(self) -> bool:
        """Whether a pool can be made with as many workers as joblib wants."""
        return not {"n_jobs", "processes"} & self._options.keys() and "n_jobs" in self._capabilities()

    def _pool_options(self, wanted: int | None) -> dict[str, Any]:
        """Return the options of the pool to make, for as many workers as joblib wants."""
        options = dict(self._options)
        if wanted is not None and self._chooses():
            options["n_jobs"] = wanted
        if self.inner_max_num_threads is not None:
            options.setdefault("blas_threads", self.inner_max_num_threads)
        return options

    def _reconfigure(
        self, pool: Pool | str | None = None, config: ConfigSource = None, **options: Any
    ) -> None:
        """Take note of what ``Parallel`` itself was told of the pool."""
        if self._live is not None or isinstance(pool, Pool):
            if options or config is not None or pool not in (None, self._live or pool):
                raise TypeError("a live pool has its options already; give a backend's name instead")
            self._live = self._live or pool  # type: ignore[assignment]  # one of them is a pool
            return
        changed = (pool or self._name, config or self._config, {**self._options, **options})
        if changed != (self._name, self._config, self._options):
            self.close()
            self._name, self._config, self._options = changed

    def _start_waiting(self) -> None:
        """Send batches to the pool, no more at a time than joblib wants."""
        while True:
            with self._lock:
                pool = self._live or self._own
                if not self._waiting or pool is None:
                    return
                # All workers are for joblib: then the pool itself keeps the next batch ready for each.
                if self._limit < pool.size and len(self._running) >= self._limit:
                    return
                job = self._waiting.popleft()
                if job.is_aborted(without_call=False):
                    continue  # submitted while joblib gave the call up
                self._running.add(job)
            job.start(pool, self._job_ended, self._with_code)

    def _job_ended(self, job: _Job) -> None:
        with self._lock:
            self._running.discard(job)
            self._with_code = self._with_code or job.with_code
        self._start_waiting()


class _Job:
    """A batch of tasks, as joblib keeps hold of it.

    Args:
        func: runs the batch.
        callback: told what became of it.
    """

    def __init__(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None) -> None:
        self._func: Callable[[], Any] | None = func
        self._callback = callback
        self._pool: Pool | None = None
        self._ended: Callable[[_Job], object] | None = None
        self._result: AsyncResult[Any] | None = None
        self._cancelled = False
        self.with_code = False
        """Whether it took what it needs of the caller's script along."""

    def start(self, pool: Pool, ended: Callable[[_Job], object], with_code: bool) -> None:
        """Send it to the pool."""
        self._pool, self._ended, self.with_code = pool, ended, with_code
        self._send()
        if self._cancelled:
            self.cancel()

    def _send(self) -> None:
        pool, func = self._pool, self._func
        if pool is None or func is None:
            return  # cancelled meanwhile
        try:
            # Whatever the batch is, the function is one that workers know.
            run: Callable[..., Any] = _run_pickled if self.with_code else _run
            batch = _pickled_with_code(func) if self.with_code else func
            self._result = pool.apply_async(run, (batch,), callback=self._end, error_callback=self._end)
        except Exception as error:  # it cannot be sent; joblib raises it from where it waits
            self._end(error)

    def is_aborted(self, without_call: bool = True) -> bool:
        """Whether it belongs to a call that joblib has given up.

        Args:
            without_call: the answer for one that belongs to no call.
        """
        parallel = getattr(self._callback, "parallel", None)
        return bool(getattr(parallel, "_aborting", without_call))

    def cancel(self) -> None:
        """Stop it; its callback is not called any more."""
        self._cancelled = True
        result = self._result
        self._let_go()
        if result is not None:
            result.cancel()

    def _let_go(self) -> None:
        # The pool may hold on to this for a while, and must not hold on to joblib, nor to itself, by it.
        self._callback = self._ended = self._func = self._pool = None

    def _end(self, outcome: Any) -> None:
        if not self.with_code and _was_not_opened(outcome):
            self.with_code = True
            self._send()
            return
        ended, callback = self._ended, self._callback
        self._let_go()
        if ended is not None:
            ended(self)
        if callback is not None:
            callback(outcome)

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, waiting for it if need be."""
        assert self._result is not None  # joblib asks for what it has been told of
        return self._result.get(timeout)


def _run(batch: Callable[[], Any]) -> Any:
    return batch()


def _run_pickled(batch: bytes) -> Any:
    return pickle.loads(batch)()


def _was_not_opened(outcome: Any) -> bool:
    """Whether a worker elsewhere does not know what the caller's script defines."""
    notes = getattr(outcome, "__notes__", ()) if isinstance(outcome, OPENING_ERRORS) else ()
    return any(f" with {NOT_OPENED} in " in str(note) for note in notes)


def _pickled_with_code(batch: Any) -> bytes:
    """Pickle a batch with the code of the functions in it, unless they are of an installed library."""
    import cloudpickle

    names = {str(getattr(task[0], "__module__", "")) for task in getattr(batch, "items", ())}
    with _registering:
        known = cloudpickle.list_registry_pickle_by_value()
        modules = [sys.modules[name] for name in names if _is_the_users(name) and name not in known]
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            return bytes(cloudpickle.dumps(batch))
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


def _is_the_users(name: str) -> bool:
    """Whether a module is of the program rather than of a library; cloudpickle knows what ``__main__`` is."""
    path = getattr(sys.modules.get(name), "__file__", None)
    return name != "__main__" and path is not None and not path.startswith(LIBRARIES)


def _remade(
    pool: Any, config: ConfigSource, options: Mapping[str, Any], nesting_level: int | None
) -> PoolsBackend:
    return PoolsBackend(pool, config, nesting_level=nesting_level, **options)


def register() -> None:
    """Tell joblib of the backend ``"pools"``; done when this module is imported."""
    register_parallel_backend("pools", PoolsBackend)


register()
