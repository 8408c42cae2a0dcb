"""The options of the multicore backend."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from pools_core.blas import default_threads
from pools_core.config import whole_number
from pools_core.cpus import affinity, available_cpus, cpu_count
from pools_core.pool_options import PoolSettings
from pools_core.spinning import SPIN

__all__ = ["MulticoreSettings", "StartMethod", "parse_cpu_ids", "parse_memory"]

StartMethod = Literal["fork", "forkserver", "spawn"]
START_METHODS: Final = get_args(StartMethod)


def parse_cpu_ids(text: str) -> list[Any] | None:
    """Parse ``cpu_ids`` as a config file has it.

    ``0, 1`` is one id per worker; ``0, 1 | 2, 3`` a list per worker; JSON does as well, and is the way
    to give one list for all: ``[[0, 1]]``.  Not a semicolon: it may start a comment.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if text.lower() in ("", "none"):
        return None
    try:
        if text.startswith("["):
            import json

            found: list[Any] = json.loads(text)
            return found
        groups = [[int(part) for part in group.split(",")] for group in text.split("|")]
    except ValueError:
        raise ValueError(
            "is like 0, 1 (one per worker), 0, 1 | 2, 3 (a list each), or a list in JSON"
        ) from None
    return groups if "|" in text else groups[0]


def parse_threads(text: str) -> int | str | None:
    """Parse ``blas_threads`` as a config file has it: ``auto``, ``none`` or a number."""
    text = text.strip().lower()
    return None if text == "none" else text if text == "auto" else int(text)


UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_memory(text: str | int) -> int:
    """Return a size in bytes; text is like ``2GB``, ``500 MiB`` or ``1.5g`` (units are powers of 1024).

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise ValueError(f"max_worker_memory is a number of bytes or text such as 2GB, not {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


@dataclass(frozen=True, slots=True, kw_only=True)
class MulticoreSettings(PoolSettings):
    """What a pool of processes can be told; and what any pool can.

    Attributes:
        n_jobs: how many workers, at least 1; default the CPUs that this process may use.
        start_method: how workers are started; None: fork where that is safe (Linux, and no other
            thread in the caller), else forkserver.
        daemon: whether workers are forbidden to have children; False allows nested pools.
        cpu_ids: the CPUs that each worker is pinned to, or None.  May be given as one id per worker,
            as a list with one list for all, or as a list per worker; held as one tuple per worker.
        max_worker_memory: bytes of resident memory, or text such as ``"2GB"``; a worker that has more
            after a task is replaced.
        blas_threads: threads that numerical libraries may use in each worker; ``"auto"``: the CPUs that
            this process may use, shared out among the workers, unless the environment says otherwise;
            None: whatever they choose themselves.
    """

    n_jobs: int = field(default_factory=cpu_count)
    start_method: StartMethod | None = None
    daemon: bool = True
    cpu_ids: tuple[tuple[int, ...], ...] | None = field(default=None, metadata={"parse": parse_cpu_ids})
    max_worker_memory: int | None = field(default=None, metadata={"parse": parse_memory})
    blas_threads: int | str | None = field(default="auto", metadata={"parse": parse_threads, "none": True})

    def threads_per_worker(self) -> tuple[int, bool] | None:
        """Return how many threads libraries may use in a worker, and whether the user said so."""
        if self.blas_threads is None:
            return None
        if isinstance(self.blas_threads, int):
            return self.blas_threads, True
        allowed = available_cpus()
        if allowed is not None and default_threads(self.n_jobs, len(allowed)) == 1:
            return 1, False  # control groups can only take away from that, and need not be read
        return default_threads(self.n_jobs, cpu_count()), False

    def spin(self) -> float:
        """Return how many seconds a worker may look before it sleeps: 0 unless each has a CPU."""
        cpus = affinity() if self.cpu_ids is None else len({one for group in self.cpu_ids for one in group})
        return SPIN if cpus >= max(2, self.n_jobs) else 0.0

    def __post_init__(self) -> None:
        """Check the values, and hold them in one form."""
        self.check_common()
        if isinstance(self.blas_threads, str):
            if self.blas_threads != "auto":
                raise ValueError(f'blas_threads is a number, "auto" or None, not {self.blas_threads!r}')
        elif self.blas_threads is not None:
            object.__setattr__(self, "blas_threads", whole_number("blas_threads", self.blas_threads, 1))
        if self.max_worker_memory is not None:
            least = parse_memory(self.max_worker_memory)
            object.__setattr__(self, "max_worker_memory", whole_number("max_worker_memory", least, 1))
        n_jobs = whole_number("n_jobs", self.n_jobs, 1)
        object.__setattr__(self, "n_jobs", n_jobs)
        if self.start_method is not None and self.start_method not in START_METHODS:
            raise ValueError(f"start_method is one of {', '.join(START_METHODS)}, not {self.start_method!r}")
        if not isinstance(self.daemon, bool):
            raise TypeError(f"daemon is True or False, not {self.daemon!r}")
        if self.cpu_ids is not None:
            object.__setattr__(self, "cpu_ids", per_worker(self.cpu_ids, n_jobs))


def per_worker(cpu_ids: Any, n_jobs: int) -> tuple[tuple[int, ...], ...]:
    """Return one tuple of CPU ids per worker.

    Args:
        cpu_ids: one id per worker, or a single one for all; a list per worker, or a single one for all.
        n_jobs: how many workers.

    Raises:
        TypeError: it is not a list of whole numbers or of lists of them.
        ValueError: the wrong number of them, or ids that this process may not use.
    """
    members = _members(cpu_ids)
    groups = tuple(_members(member) if _is_list(member) else (member,) for member in members)
    if len({_is_list(member) for member in members}) > 1:
        raise TypeError(f"cpu_ids has either ids or lists of ids, not both: {cpu_ids!r}")
    if len(groups) not in (1, n_jobs) or not all(groups):
        raise ValueError(
            f"cpu_ids is one id for each of the {n_jobs} workers, a list of ids for each, or [[...]], one "
            f"list for all; not {cpu_ids!r}"
        )
    found = tuple(tuple(_cpu_id(member) for member in group) for group in groups)
    _check_available({number for group in found for number in group})
    return found * n_jobs if len(found) == 1 else found


def _members(value: Any) -> tuple[Any, ...]:
    if not _is_list(value):
        raise TypeError(
            f"cpu_ids is a list of CPU ids, or of lists of them, not {value!r} ({type(value).__name__})"
        )
    return tuple(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | dict)


def _cpu_id(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"cpu_ids has whole numbers, not {value!r} ({type(value).__name__})")
    return operator.index(value)


def _check_available(wanted: set[int]) -> None:
    available = available_cpus()
    if available is None:
        available = frozenset(range(os.cpu_count() or 1))
    refused = sorted(wanted - available)
    if refused:
        raise ValueError(f"cpu_ids may be {_ranges(available)} in this process, not {_listed(refused)}")


def _ranges(numbers: Iterable[int]) -> str:
    """Return ids as people write them: ``0-3, 8``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)
