"""The reference backend: tasks run in the caller's own thread, one after the other.

No thread, no process, nothing pickled; ``imap`` runs a task when its result is asked for.  For
debugging, for tests, and to know what the others must return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pools_core.config import ConfigSource
    from pools_singlecore.pool import SinglecorePool as SinglecorePool
    from pools_singlecore.settings import SinglecoreSettings as SinglecoreSettings

__all__ = ["MakePool", "RunMain", "SinglecorePool", "SinglecoreSettings", "capabilities"]

capabilities: Final = frozenset({"order_tasks"})
"""Options that this backend can honour beyond the basics."""


def MakePool(config: ConfigSource = None, **options: Any) -> SinglecorePool:
    """Return a new pool that runs tasks in the caller's thread.

    Args:
        config: a path, a mapping of sections, or None; its section ``[singlecore]`` is read.
        options: those of ``SinglecorePool``; they win over the config.

    Raises:
        ConfigError, UnsupportedOptionError, TypeError, ValueError: see ``pools_core.MakePool``.
    """
    from pools_core.config import as_options, settings
    from pools_singlecore.pool import SinglecorePool
    from pools_singlecore.settings import SinglecoreSettings

    return SinglecorePool(**as_options(settings(SinglecoreSettings, "singlecore", config, options)))


def RunMain(argv: Sequence[str] | None = None) -> int:
    """Run the command ``pools singlecore`` and return its exit status.

    Args:
        argv: what follows the backend's name; default the arguments of the process.
    """
    from pools_singlecore.cli import main

    return main(argv)


def __getattr__(name: str) -> Any:
    # A child process imports this package first; what it does not need, it does not load.
    if name == "SinglecorePool":
        from pools_singlecore.pool import SinglecorePool

        return SinglecorePool
    if name in ("SinglecoreSettings", "config_sections"):
        from pools_singlecore.settings import SinglecoreSettings

        return SinglecoreSettings if name == "SinglecoreSettings" else {"singlecore": SinglecoreSettings}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
