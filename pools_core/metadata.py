"""What installed distributions offer, read from their metadata; nothing of theirs is imported."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["distribution_name", "entry_points", "missing_requirements", "normalized"]

EXTRA_REQUIREMENT: Final = re.compile(
    r"""\s*(?P<name>[\w.-]+)[^;]*;\s*extra\s*==\s*["'](?P<extra>[^"']+)["']\s*""", re.ASCII
)
"""A requirement whose only condition is an extra, as core metadata writes it."""


def entry_points(group: str, fresh: bool = False) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, sorted by name and distribution.

    Args:
        group: the group's name.
        fresh: look again, for what was installed since; else the answer is kept while ``sys.path``
            stays as it is, because looking reads a file of every installed distribution.
    """
    if fresh:
        _scan.cache_clear()
        _group.cache_clear()
        _names.clear()
    return _group(group, tuple(sys.path))


@lru_cache(maxsize=4)
def _scan(_path: tuple[str, ...]) -> Any:
    """Read them all: every group is in the same files."""
    return metadata.entry_points()


@lru_cache(maxsize=8)
def _group(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    found = set(_scan(path).select(group=group))
    return tuple(sorted(found, key=lambda entry: (entry.name, distribution_name(entry), entry.value)))


def distribution_name(entry: EntryPoint) -> str:
    """Return the name of the distribution that offers the entry point."""
    # Keyed by identity: entry points compare without their distribution.  Those of ``_group`` stay alive.
    found = _names.get(id(entry))
    if found is None or found[0] is not entry:
        name = entry.dist.name if entry.dist is not None else "(unknown distribution)"
        found = _names[id(entry)] = entry, name
    return found[1]


_names: Final[dict[int, tuple[EntryPoint, str]]] = {}
"""Reading a distribution's metadata parses its whole file, and every ``MakePool`` asks."""


def normalized(name: str) -> str:
    """Return a distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing_requirements(entry: EntryPoint) -> list[str]:
    """Return the distributions that the entry point's own extras need and that are not installed.

    Requirements with further conditions, such as a Python version, are not judged here.
    """
    extras = {normalized(extra) for extra in entry.extras}
    requires = entry.dist.requires if entry.dist is not None and extras else None
    missing = []
    for line in requires or ():
        match = EXTRA_REQUIREMENT.fullmatch(line)
        if match and normalized(match["extra"]) in extras and not _is_installed(match["name"]):
            missing.append(match["name"])
    return missing


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
