"""How many CPUs this process may use.

A machine's count says too much where it matters most: in a container, under a batch system, after
``taskset``.  What counts is the smaller of two limits:

    affinity   the CPUs that the scheduler may put this process on
    quota      the CPU time per second that its control groups grant, version 1 or 2; a group's
               ancestors limit it too, so the smallest on the way up counts

Nothing else is honoured, neither an environment variable nor a load average.

Each new pool asks, so paths are plain text here and files are read by descriptor: that takes a tenth of a
millisecond, with ``pathlib`` three times that.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[str], float | None]

__all__ = ["Cpus", "affinity", "available_cpus", "cpu_count", "describe_cpus"]

CGROUP_MOUNT: Final = Path("/sys/fs/cgroup")
OWN_CGROUPS: Final = Path("/proc/self/cgroup")
LONGEST: Final = 1 << 16
"""Bytes to read of one file; the longest has a line of some dozen bytes for each control group."""


@dataclass(frozen=True, slots=True)
class Cpus:
    """The CPUs of this machine, as this process sees them.

    Attributes:
        seen: how many the machine has.
        affinity: how many this process may be scheduled on.
        quota: CPU seconds per second that its control groups grant; None for no limit.
        usable: how many workers make sense: affinity or quota (rounded up), whichever is less.
    """

    seen: int
    affinity: int
    quota: float | None
    usable: int


def cpu_count() -> int:
    """Return how many CPUs this process may use, at least 1.

    Affinity and control groups are read anew at each call; a few small files, never blocking.
    """
    return describe_cpus().usable


def describe_cpus(mount: Path = CGROUP_MOUNT, own: Path = OWN_CGROUPS) -> Cpus:
    """Return what limits the CPUs of this process.

    Args:
        mount: where control groups are mounted; tests give a directory of their own.
        own: the file that names this process's control groups.
    """
    seen = os.cpu_count() or 1
    allowed = affinity()
    quota = cgroup_quota(str(mount), str(own))
    usable = allowed if quota is None else min(allowed, math.ceil(quota))
    return Cpus(seen, allowed, quota, max(usable, 1))


def affinity() -> int:
    """Return how many CPUs the scheduler may put this process on; takes a microsecond, as quotas do not."""
    available = available_cpus()
    return len(available) if available else os.cpu_count() or 1


def available_cpus() -> frozenset[int] | None:
    """Return the ids of the CPUs that this process may run on; None where the system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return None


def cgroup_quota(mount: str, own: str) -> float | None:
    """Return the smallest CPU quota on the way from this process's control groups to the root."""
    quotas = [
        quota
        for read, group, root in _own_groups(mount, own)
        for folder in _upwards(group, root)
        if (quota := read(folder)) is not None
    ]
    return min(quotas, default=None)


def _own_groups(mount: str, own: str) -> Iterator[tuple[Read, str, str]]:
    """Yield how to read, the group's path, and where its hierarchy is mounted."""
    for line in (_text(own) or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield _quota_v2, group, mount
            yield _quota_v2, group, f"{mount}/unified"  # systemd's hybrid: version 2 beside version 1
        elif "cpu" in controllers.split(","):
            yield _quota_v1, group, f"{mount}/{controllers}"
            if controllers != "cpu":
                yield _quota_v1, group, f"{mount}/cpu"


def _upwards(group: str, root: str) -> Iterator[str]:
    """Yield the group's folder and those above it, up to the root of the hierarchy.

    In a container the path may be the host's, of which only the root exists here; folders that do
    not exist simply have no quota to read.
    """
    parts = [part for part in group.split("/") if part]
    if ".." in parts:  # outside of this cgroup namespace: only the root can be seen
        parts = []
    for length in range(len(parts), -1, -1):
        yield "/".join([root, *parts[:length]])


def _quota_v2(folder: str) -> float | None:
    words = (_text(f"{folder}/cpu.max") or "").split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(folder: str) -> float | None:
    return _ratio(_text(f"{folder}/cpu.cfs_quota_us"), _text(f"{folder}/cpu.cfs_period_us"))


def _ratio(quota: str | None, period: str | None) -> float | None:
    """Return quota over period; None for "max", -1, or what is no number at all."""
    try:
        share = int(quota or "") / int(period or "")
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _text(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # not there, or not for us: then it limits nothing that we can know
        return None
    try:
        return os.read(fd, LONGEST).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(fd)
