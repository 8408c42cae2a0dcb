"""The functions that everybody types, in a module that costs nothing to import.

A script imports them at its top, and a spawned worker imports the script: it shall not have to load the
registry, and all that this needs, for a name that it never calls.
"""

from __future__ import annotations

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pools_core.config import ConfigSource
    from pools_core.pool import Pool
    from pools_core.registry import BackendInfo, BackendPackage

__all__ = ["GetClusterPackage", "MakePool", "backends"]


def MakePool(backend: str | None = None, config: ConfigSource = None, **options: Any) -> Pool:
    """Return a new pool of the backend that is named, or configured.

    Args:
        backend: its name; default ``$POOLS_BACKEND``, else ``[pool] backend`` in the config, else
            ``"multicore"``.  ``"distribution:name"`` chooses between two that share a name.
        config: a path (``.ini`` or ``.toml``), a mapping of sections, or None for ``$POOLS_CONFIG``,
            else ``pools.ini`` or ``pools.toml`` in the user's config directory.
        options: the backend's own, such as ``n_jobs``; they win over the config.

    Raises:
        BackendNotFoundError: no such backend is installed.
        BackendConflictError: two distributions offer that name.
        BackendLoadError: it is installed but does not load.
        BackendContractError: it lacks what every backend must export.
        ConfigError: the config cannot be read or says something impossible.
        UnsupportedOptionError: an option that this backend cannot honour.
        TypeError, ValueError: an option that no backend has, or that has a bad value.
    """
    from pools_core import registry

    return registry.MakePool(backend, config, **options)


def GetClusterPackage(name: str | None = None) -> BackendPackage:
    """Return a backend's package, which has ``MakePool`` and ``RunMain``; the same object every time.

    Args:
        name: as ``backend`` of ``MakePool``.

    Raises:
        BackendNotFoundError: no such backend is installed.
        BackendConflictError: two distributions offer that name.
        BackendLoadError: it is installed but does not load; the cause is chained.
        BackendContractError: it lacks what every backend must export.
        ConfigError: no name was given and the config cannot be read.
    """
    from pools_core import registry

    return registry.GetClusterPackage(name)


def backends() -> Mapping[str, BackendInfo]:
    """Return what is known of each installed backend, by the name that ``MakePool`` takes.

    Each is loaded to see whether it is usable; one that is broken is listed with the reason.  Where
    two distributions offer one name, both are listed as ``"distribution:name"``.
    """
    from pools_core import registry

    return registry.backends()
