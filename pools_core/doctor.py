"""What ``pools doctor`` looks at, in order; each part returns findings, none prints.

    versions, backends, plugins, cpus, limits, blas, config     here and in ``doctor_*``
    one topic per config section                                by the backends' ``config_sections``
    whatever a backend knows of itself                          by the backends' ``Examine``

A backend's package may export ``Examine(config) -> Iterable[Finding]``.  What it says of an option takes the
place of what is said here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pools_core.config_files import Config
from pools_core.doctor_config import examine_files, examine_options, where
from pools_core.doctor_machine import examine_blas, examine_cpus, examine_limits, examine_versions
from pools_core.doctor_report import DEFAULT, Finding, Report, hide_secrets
from pools_core.errors import ConfigError, PoolsError
from pools_core.plugins import VARIABLE, plugins
from pools_core.registry import BackendInfo, GetClusterPackage, backend_name, backends

__all__ = ["examine"]

FIRST: Final = ("versions", "backends", "plugins", "cpus", "start methods", "limits", "blas", "config")
"""Topics in the order in which they are shown; others follow as they come."""

EXTENSION: Final = "Examine"
"""What a backend's package exports if it has something to say."""


def examine(config: str | None = None) -> Report:
    """Look at everything that decides whether pools work here.

    A cluster's servers and nodes are asked, so it may take as long as these are given to answer
    (``connect_timeout``).

    Args:
        config: a config file; default as for ``pools_core.MakePool``.
    """
    read, files = examine_files(config)
    chosen, choice = _chosen(read)
    found = [*examine_versions(), choice]
    known = backends()
    wanted = {chosen.rpartition(":")[2], *(section.partition(".")[0] for section in read.sections)}
    found += [_backend(name, info, wanted) for name, info in known.items()]
    found += _plugins(read)
    found += [*examine_cpus(), *examine_limits(), *examine_blas(), *files]
    usable = {name: GetClusterPackage(name) for name, info in known.items() if info.usable}
    for name, package in usable.items():
        if known[name].name in wanted:
            found += _options(package, read)
    for name, package in usable.items():
        found += _extension(name, package, read)
    latest = {(finding.topic, finding.name): finding for finding in found}
    return Report(tuple(hide_secrets(sorted(latest.values(), key=_place), read)))


def _place(finding: Finding) -> int:
    return FIRST.index(finding.topic) if finding.topic in FIRST else len(FIRST)


# ── backends ──


def _chosen(read: Config) -> tuple[str, Finding]:
    """Return the backend that is used when none is named, and whether it can be."""
    variable = "POOLS_BACKEND"
    source = f"${variable}" if os.environ.get(variable) else where(read, "pool", "backend") or DEFAULT
    name = ""
    try:
        name = backend_name(None, read)
        GetClusterPackage(name)
    except PoolsError as error:
        return name, Finding("backends", "chosen", name or None, source, "fault", str(error))
    return name, Finding("backends", "chosen", name, source)


def _backend(name: str, info: BackendInfo, wanted: Iterable[str]) -> Finding:
    source = f"{info.distribution} {info.version}"
    if info.usable:
        return Finding("backends", name, "usable", source)
    return Finding(
        "backends", name, "not usable", source, "fault" if info.name in wanted else "note", info.why
    )


def _options(package: object, read: Config) -> Iterator[Finding]:
    """Yield the options of a backend, section by section, if it tells what they are."""
    sections: Mapping[str, type] = getattr(package, "config_sections", {})
    for section, cls in sections.items():
        yield from examine_options(cls, section, read)


def _extension(name: str, package: object, read: Config) -> Iterator[Finding]:
    """Yield what a backend says itself."""
    extension = getattr(package, EXTENSION, None)
    if extension is not None:
        try:
            yield from extension(read)
        except Exception as error:  # of a guest, who must not keep the others' findings from the user
            what = f"its {EXTENSION} failed: {type(error).__name__}: {error}; its author can mend that"
            yield Finding("backends", f"{name} itself", None, "", "fault", what)


# ── plugins ──


def _plugins(read: Config) -> Iterator[Finding]:
    """Yield each installed plugin, whether it is on, and names to switch off that nothing has."""
    try:
        off = read.plugins_off()
    except ConfigError as error:
        off = ()
        yield Finding("plugins", "plugins_off", None, read.origin, "fault", str(error))
    found = plugins.describe(off)
    for plugin in found:
        source = f"{plugin.distribution} {plugin.version}"
        if plugin.state == "broken":
            yield Finding("plugins", plugin.name, "broken", source, "note", plugin.why)
        else:
            by = f", by {plugin.why}" if plugin.why else ""
            yield Finding("plugins", plugin.name, plugin.state + by, source)
    if not found:
        yield Finding("plugins", "installed", [])
    for name, what in plugins.unknown().items():
        place = f"${VARIABLE}" if VARIABLE in what else where(read, "pool", "plugins_off") or ""
        yield Finding("plugins", f"switched off: {name}", "not installed", place, "note", what)
