"""The gearman backend: tasks run on a cluster, through Gearman job servers.

    from pools_gearman import GearmanPool

    with GearmanPool(["head1:4730", "head2:4730"], secret_file="cluster.key") as pool:
        pool.map(crunch, items)

Importing this package loads nothing else; each name loads its module when it is first used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pools_core.config import Config, ConfigSource
    from pools_core.doctor_report import Finding
    from pools_gearman.pool import GearmanPool as GearmanPool
    from pools_gearman.settings import GearmanSettings as GearmanSettings

__all__ = [
    "Examine",
    "GearmanPool",
    "GearmanSettings",
    "MakePool",
    "RunMain",
    "capabilities",
    "package",
]

capabilities: Final = frozenset({"task_timeout"})
"""Options that this backend can honour beyond the basics."""

package: Final = sys.modules[__name__]
"""This package, for its entry point, which has to name an object in order to name an extra."""


def MakePool(config: ConfigSource = None, **options: Any) -> GearmanPool:
    """Return a new pool over a cluster.

    Args:
        config: a path, a mapping of sections, or None; its section ``[gearman]`` is read, or a
            ``[client]`` as Glimpse had it.
        options: those of ``GearmanPool``; they win over the config.

    Raises:
        ConfigError, UnsupportedOptionError, TypeError, ValueError: see ``pools_core.MakePool``.
        SecurityError, TransportError: see ``GearmanPool``.
    """
    from pools_core.config import as_options
    from pools_gearman.pool import GearmanPool
    from pools_gearman.settings import read_settings

    return GearmanPool(**as_options(read_settings(config, options)))


def RunMain(argv: Sequence[str] | None = None) -> int:
    """Run the command ``pools gearman`` and return its exit status.

    Args:
        argv: what follows the backend's name; default the arguments of the process.
    """
    from pools_gearman.cli import main

    return main(argv)


def Examine(config: Config) -> Iterable[Finding]:
    """Return what ``pools doctor`` shows of a cluster; asks its servers and nodes if there is a config of it.

    Args:
        config: what was read.
    """
    from pools_gearman.doctor import examine

    return examine(config)


def __getattr__(name: str) -> Any:
    if name == "GearmanPool":
        from pools_gearman.pool import GearmanPool

        return GearmanPool
    if name in ("GearmanSettings", "config_sections"):
        from pools_gearman.settings import BrokerSettings, GearmanSettings, NodeSettings

        sections = {
            "gearman": GearmanSettings,
            "gearman.server": BrokerSettings,
            "gearman.worker": NodeSettings,
        }
        return GearmanSettings if name == "GearmanSettings" else sections
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
