"""The threads backend: tasks run in threads of the caller's process; nothing is pickled.

For functions that release the interpreter lock (input and output, numpy), and for Python builds
without that lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pools_core.config import ConfigSource
    from pools_threads.pool import ThreadPool as ThreadPool
    from pools_threads.settings import ThreadsSettings as ThreadsSettings

__all__ = ["MakePool", "RunMain", "ThreadPool", "ThreadsSettings", "capabilities"]

capabilities: Final = frozenset({"n_jobs", "order_tasks"})
"""Options that this backend can honour beyond the basics."""


def MakePool(config: ConfigSource = None, **options: Any) -> ThreadPool:
    """Return a new pool of threads.

    Args:
        config: a path, a mapping of sections, or None; its section ``[threads]`` is read.
        options: those of ``ThreadPool``; they win over the config.

    Raises:
        ConfigError, UnsupportedOptionError, TypeError, ValueError: see ``pools_core.MakePool``.
    """
    from pools_core.config import as_options, settings
    from pools_threads.pool import ThreadPool
    from pools_threads.settings import ThreadsSettings

    return ThreadPool(**as_options(settings(ThreadsSettings, "threads", config, options)))


def RunMain(argv: Sequence[str] | None = None) -> int:
    """Run the command ``pools threads`` and return its exit status.

    Args:
        argv: what follows the backend's name; default the arguments of the process.
    """
    from pools_threads.cli import main

    return main(argv)


def __getattr__(name: str) -> Any:
    # A child process imports this package first; what it does not need, it does not load.
    if name == "ThreadPool":
        from pools_threads.pool import ThreadPool

        return ThreadPool
    if name in ("ThreadsSettings", "config_sections"):
        from pools_threads.settings import ThreadsSettings

        return ThreadsSettings if name == "ThreadsSettings" else {"threads": ThreadsSettings}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
