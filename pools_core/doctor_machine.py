"""What ``pools doctor`` tells of this machine: versions, CPUs, limits, numerical libraries."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from pools_core import blas
from pools_core.cpus import Cpus, describe_cpus
from pools_core.doctor_report import Finding

__all__ = ["examine_blas", "examine_cpus", "examine_limits", "examine_versions"]

DISTRIBUTION: Final = "pools-core"
DEVELOPMENT: Final = re.compile(r"test|docs|dev")
"""Extras that only who develops this needs."""

REQUIREMENT: Final = re.compile(
    r"\s*(?P<name>[\w.-]+)[^;]*(?:;.*extra\s*==\s*[\"'](?P<extra>[^\"']+))?", re.ASCII
)

SHM: Final = Path("/dev/shm")  # noqa: S108  it is only looked at
SMALL_SHM: Final = 64 << 20
"""Bytes that Docker gives a container if it is not told otherwise."""


# ── versions ──


def examine_versions() -> Iterator[Finding]:
    """Yield the versions of this distribution, of Python, and of what we depend on."""
    own = metadata.distribution(DISTRIBUTION)
    yield Finding("versions", DISTRIBUTION, own.version, str(Path(__file__).parent))
    yield Finding(
        "versions", "Python", f"{platform.python_version()} on {platform.platform()}", sys.executable
    )
    needed, optional = _requirements(own.requires or [])
    found = {name: _version(name) for name in needed}
    missing = sorted(name for name, version in found.items() if version is None)
    if missing:
        advice = f"{', '.join(missing)} not installed; run: pip install {DISTRIBUTION}"
        yield Finding("versions", "dependencies", found, "", "fault", advice)
    else:
        yield Finding("versions", "dependencies", found)
    there = {name: version for name in optional if (version := _version(name)) is not None}
    yield Finding("versions", "optional", there)


def _requirements(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of what is needed always, and of what an extra for users needs."""
    needed, optional = set(), set()
    for line in lines:
        match = REQUIREMENT.match(line)
        if match and match["extra"] is None:
            needed.add(match["name"])
        elif match and not DEVELOPMENT.search(match["extra"]):
            optional.add(match["name"])
    return sorted(needed), sorted(optional - needed)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ── CPUs ──


def examine_cpus(cpus: Cpus | None = None) -> Iterator[Finding]:
    """Yield how many CPUs there are and may be used, and which limit decides.

    Args:
        cpus: what was found, if not here and now.
    """
    cpus = cpus or describe_cpus()
    yield Finding("cpus", "of the machine", cpus.seen, "")
    yield Finding("cpus", "affinity", cpus.affinity, "the scheduler: taskset, a batch system")
    yield Finding("cpus", "quota", cpus.quota, "control groups")
    yield Finding("cpus", "usable", cpus.usable, _deciding(cpus))


def _deciding(cpus: Cpus) -> str:
    if cpus.quota is not None and cpus.usable < cpus.affinity:
        return "the quota, rounded up"
    return "the affinity" if cpus.affinity < cpus.seen else "all of the machine"


# ── limits ──


def examine_limits() -> Iterator[Finding]:
    """Yield what the system allows this process."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    for name, number in (("descriptors", resource.RLIMIT_NOFILE), ("processes", resource.RLIMIT_NPROC)):
        limits = ["no limit" if one == resource.RLIM_INFINITY else one for one in resource.getrlimit(number)]
        yield Finding("limits", name, dict(zip(("soft", "hard"), limits, strict=True)), "ulimit")
    yield _shared_memory(SHM)
    yield _memfd()


def _shared_memory(folder: Path) -> Finding:
    name = str(folder)
    try:
        stat = os.statvfs(folder)
    except OSError:
        return Finding("limits", name, None)
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    value = {"size": _mib(size), "free": _mib(free)}
    if size > SMALL_SHM:
        return Finding("limits", name, value)
    advice = "pools do without it, but others share memory there; docker run --shm-size=1g makes it larger"
    return Finding("limits", name, value, "", "note", advice)


def _mib(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB"


def _memfd() -> Finding:
    try:
        os.close(os.memfd_create("pools-doctor"))
    except (AttributeError, OSError) as error:  # another system, or one that forbids it
        advice = (
            f"not available ({error}): arrays and other large buffers go through sockets, which takes longer"
        )
        return Finding("limits", "memfd", False, "", "note", advice)
    return Finding("limits", "memfd", True)


# ── numerical libraries ──


def examine_blas(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Yield which numerical libraries numpy brings, and which variables tell them how many threads to use.

    Args:
        environ: the environment, if not this process's.
    """
    environ = os.environ if environ is None else environ
    told = {name: environ[name] for name in sorted(blas.environment(1, {})) if environ.get(name)}
    yield Finding("blas", "environment", told)
    if importlib.util.find_spec("numpy") is None:
        yield Finding("blas", "libraries", [], "numpy is not installed")
    elif importlib.util.find_spec("threadpoolctl") is None:
        advice = (
            "libraries that a program loads before its pool cannot be held to their share of the CPUs; "
            "run: pip install 'pools-core[blas]'"
        )
        yield Finding("blas", "libraries", None, "threadpoolctl is not installed", "note", advice)
    else:
        yield _libraries()


def _libraries() -> Finding:
    try:
        importlib.import_module("numpy")
        threadpoolctl: Any = importlib.import_module("threadpoolctl")  # so: it has no types
        found = threadpoolctl.threadpool_info()
    except Exception as error:  # of a damaged installation, which is the user's to know
        return Finding(
            "blas", "libraries", None, "", "note", f"numpy does not load: {type(error).__name__}: {error}"
        )
    names = [
        f"{one['internal_api']} {one['version'] or ''}".strip() + f" ({one['num_threads']} threads)"
        for one in found
    ]
    return Finding("blas", "libraries", names, "loaded along with numpy")
