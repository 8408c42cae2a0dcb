"""The multicore backend: tasks run in worker processes on this machine.

    from pools_multicore import MulticorePool

    with MulticorePool(4) as pool:
        pool.map(crunch, items)

Importing this package loads nothing else; each name loads its module when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in ``hints``

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Final

    from pools_core.config import Config, ConfigSource
    from pools_core.cpus import cpu_count as cpu_count
    from pools_core.doctor_report import Finding
    from pools_multicore.mpire_arguments import chunk_tasks as chunk_tasks
    from pools_multicore.mpire_arguments import make_single_arguments as make_single_arguments
    from pools_multicore.pool import MulticorePool as MulticorePool
    from pools_multicore.process import stop_forkserver as stop_forkserver
    from pools_multicore.settings import MulticoreSettings as MulticoreSettings
    from pools_multicore.workerpool import WorkerPool as WorkerPool

__all__ = [
    "Examine",
    "MakePool",
    "MulticorePool",
    "MulticoreSettings",
    "RunMain",
    "WorkerPool",
    "capabilities",
    "chunk_tasks",
    "cpu_count",
    "make_single_arguments",
    "stop_forkserver",
]

capabilities: Final = frozenset(
    {
        "blas_threads",
        "cpu_ids",
        "daemon",
        "max_worker_memory",
        "n_jobs",
        "order_tasks",
        "start_method",
        "task_timeout",
    }
)
"""Options that this backend can honour beyond the basics."""


def MakePool(config: ConfigSource = None, **options: Any) -> MulticorePool:
    """Return a new pool of worker processes.

    Args:
        config: a path, a mapping of sections, or None; its section ``[multicore]`` is read.
        options: those of ``MulticorePool``; they win over the config.

    Raises:
        ConfigError, UnsupportedOptionError, TypeError, ValueError: see ``pools_core.MakePool``.
    """
    from pools_core.config import settings
    from pools_multicore.pool import pool_with
    from pools_multicore.settings import MulticoreSettings

    return pool_with(settings(MulticoreSettings, "multicore", config, options))


def RunMain(argv: Sequence[str] | None = None) -> int:
    """Run the command ``pools multicore`` and return its exit status.

    Args:
        argv: what follows the backend's name; default the arguments of the process.
    """
    from pools_multicore.cli import main

    return main(argv)


def Examine(config: Config) -> Iterable[Finding]:
    """Return what ``pools doctor`` shows of this backend.

    Args:
        config: what was read.
    """
    from pools_multicore.doctor import examine

    return examine(config)


def __getattr__(name: str) -> Any:
    # A child process imports this package first; what it does not need, it does not load.
    if name == "MulticorePool":
        from pools_multicore.pool import MulticorePool

        return MulticorePool
    if name == "WorkerPool":
        from pools_multicore.workerpool import WorkerPool

        return WorkerPool
    if name in ("chunk_tasks", "make_single_arguments"):
        from pools_multicore import mpire_arguments

        return getattr(mpire_arguments, name)
    if name == "stop_forkserver":
        from pools_multicore.process import stop_forkserver

        return stop_forkserver
    if name == "cpu_count":
        from pools_core.cpus import cpu_count

        return cpu_count
    if name in ("MulticoreSettings", "config_sections"):
        from pools_multicore.settings import MulticoreSettings

        return MulticoreSettings if name == "MulticoreSettings" else {"multicore": MulticoreSettings}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
