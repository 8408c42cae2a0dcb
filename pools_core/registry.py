"""Backends by name.

A backend is a package that some installed distribution lists in the entry-point group
``pools.backends``.  Our own backends come through the same door; this module knows none of them.

    name ──▶ metadata ──▶ one entry point ──▶ import of that one package ──▶ its MakePool, called directly

Names are read from metadata without importing anything, and a backend that is broken hurts only
those who ask for it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from pools_core.config import ALIASES, ConfigSource, load
from pools_core.errors import (
    BackendConflictError,
    BackendContractError,
    BackendLoadError,
    BackendNotFoundError,
    PoolsError,
)
from pools_core.metadata import distribution_name, entry_points, missing_requirements, normalized
from pools_core.options import nearest
from pools_core.plugins import hooks, load_plugins, plugins, register, unregister

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.metadata import EntryPoint

    from pools_core.pool import Pool

__all__ = [
    "BackendInfo",
    "BackendPackage",
    "GetClusterPackage",
    "MakePool",
    "backend_name",
    "backends",
    "capable",
    "hooks",
    "load_plugins",
    "names",
    "register",
    "unregister",
]

GROUP: Final = "pools.backends"
DEFAULT: Final = "multicore"
EXPORTS: Final = ("MakePool", "RunMain")


class BackendPackage(Protocol):
    """What every backend package exports."""

    def MakePool(self, config: ConfigSource = None, **options: Any) -> Pool:
        """See ``pools_core.MakePool``."""

    def RunMain(self, argv: Sequence[str] | None = None) -> int:
        """Run the backend's own command and return its exit status."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What is known of a backend.

    Attributes:
        name: what it is called.
        module: the package that it is.
        distribution: the distribution that offers it.
        version: that distribution's version.
        usable: whether it loads and keeps to the contract.
        why: empty when it is usable; else the reason.
    """

    name: str
    module: str
    distribution: str
    version: str
    usable: bool
    why: str


def MakePool(backend: str | None = None, config: ConfigSource = None, **options: Any) -> Pool:
    """See ``pools_core.MakePool``."""
    entry = _find(backend_name(backend, config))
    package = _load(entry)
    try:
        return package.MakePool(config, **options)
    except ModuleNotFoundError as error:  # a package loads what is heavy only when a pool is made
        raise BackendLoadError(_load_failure(entry, error)) from error


def GetClusterPackage(name: str | None = None) -> BackendPackage:
    """See ``pools_core.GetClusterPackage``."""
    return _load(_find(backend_name(name)))


def backend_name(name: str | None = None, config: ConfigSource = None) -> str:
    """Return the name of the backend to use: as given, from the environment, or from the config.

    Raises:
        ConfigError: the config is needed and cannot be read.
        TypeError: the name is not text.
    """
    if name is not None:
        if not isinstance(name, str):
            raise TypeError(f"a backend is named by a str, not {type(name).__name__} ({name!r})")
        return name
    return os.environ.get("POOLS_BACKEND") or load(config).backend() or DEFAULT


def names() -> list[str]:
    """Return the names of all installed backends, sorted; imports none of them."""
    return sorted({entry.name for entry in entry_points(GROUP)})


def backends() -> Mapping[str, BackendInfo]:
    """See ``pools_core.backends``."""
    entries = entry_points(GROUP, fresh=True)
    plain = [entry.name for entry in entries]
    return {
        entry.name if plain.count(entry.name) == 1 else _full_name(entry): _describe(entry)
        for entry in entries
    }


def capable(option: str) -> list[str]:
    """Return the names of the usable backends whose package lists the option in its ``capabilities``.

    Args:
        option: a pool or call option, such as ``"cpu_ids"``.
    """
    option = ALIASES.get(option, option)
    able = []
    for name in names():
        try:
            package = _load(_find(name))
            if option in getattr(package, "capabilities", ()):
                able.append(name)
        except (PoolsError, TypeError):  # one that cannot be loaded, or says nonsense, is not able
            continue
    return able


def _find(name: str) -> EntryPoint:
    """Return the one entry point of that name."""
    offers = _offers(name) or _offers(name, fresh=True)  # it may have been installed since we looked
    if not offers:
        raise BackendNotFoundError(_not_found(name))
    if len(offers) > 1:
        whose = " and ".join(f"{distribution_name(entry)} ({entry.value})" for entry in offers)
        choices = " or ".join(repr(choice) for choice in dict.fromkeys(_full_name(entry) for entry in offers))
        raise BackendConflictError(f"backend {name!r} is offered by {whose}; choose one as {choices}")
    return offers[0]


def _offers(name: str, fresh: bool = False) -> list[EntryPoint]:
    distribution, _, plain = name.rpartition(":")
    return [
        entry
        for entry in entry_points(GROUP, fresh)
        if entry.name == plain
        and (not distribution or normalized(distribution_name(entry)) == normalized(distribution))
    ]


def _not_found(name: str) -> str:
    installed = names()
    if ":" in name:
        installed += [_full_name(entry) for entry in entry_points(GROUP)]
    if not installed:
        return f"no backend named {name!r}: none is installed at all; run: pip install pools-core"
    near = nearest(name, installed)
    if near.endswith("?"):
        near += f" Installed are: {', '.join(installed)}"
    return f"no backend named {name!r} is installed{near}. If another distribution has it, pip install that"


def _full_name(entry: EntryPoint) -> str:
    return f"{distribution_name(entry)}:{entry.name}"


def _describe(entry: EntryPoint) -> BackendInfo:
    why = ""
    try:
        _load(entry)
    except PoolsError as error:
        why = str(error)
    version = entry.dist.version if entry.dist is not None else ""
    return BackendInfo(entry.name, entry.module, distribution_name(entry), version, not why, why)


def _load(entry: EntryPoint) -> BackendPackage:
    """Return the package of an entry point: imported, and found to export what it must."""
    key = _full_name(entry), entry.value
    if key not in _packages or sys.modules.get(entry.module) is not _packages[key]:
        _packages[key] = _load_anew(entry)
    return _packages[key]


_packages: Final[dict[tuple[str, str], BackendPackage]] = {}
"""To look at a package's requirements and to import it again takes a quarter of what making a pool takes."""


def _load_anew(entry: EntryPoint) -> BackendPackage:
    """Import the package of an entry point, and check what it exports."""
    try:
        missing = missing_requirements(entry)
        if missing:
            raise ModuleNotFoundError(f"{', '.join(missing)} not installed")
        package = entry.load()
        lacking = [export for export in EXPORTS if not callable(getattr(package, export, None))]
    except (Exception, SystemExit) as error:  # whatever a stranger's import raises is told as one thing
        raise BackendLoadError(_load_failure(entry, error)) from error
    if lacking:
        what = f"does not export {' and '.join(lacking)}, which every backend must, to be called"
        raise BackendContractError(f"{_whose(entry)} {what}; its author can mend that")
    try:
        plugins.register(package, f"backend {_full_name(entry)}")
    except TypeError as error:
        raise BackendContractError(f"{_whose(entry)} has a bad hook: {error}") from error
    return cast("BackendPackage", package)


def _load_failure(entry: EntryPoint, error: BaseException) -> str:
    distribution = distribution_name(entry)
    text = f"{_whose(entry)} does not load: {type(error).__name__}: {error}"
    if not isinstance(error, ModuleNotFoundError):
        return text
    if entry.extras:
        return f"{text}; run: pip install '{distribution}[{','.join(entry.extras)}]'"
    if (error.name or "").partition(".")[0] == entry.module.partition(".")[0]:
        return f"{text}; its installation is damaged, run: pip install --force-reinstall {distribution}"
    return f"{text}; install what has that module, or look up what {distribution} requires"


def _whose(entry: EntryPoint) -> str:
    version = f" {entry.dist.version}" if entry.dist is not None else ""
    return f"backend {entry.name!r} (module {entry.module}, distribution {distribution_name(entry)}{version})"
