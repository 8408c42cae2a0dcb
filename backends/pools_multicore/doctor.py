"""What ``pools doctor`` tells of this backend: how workers start here, and whether the machine has room."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping

from pools_core import blas
from pools_core.config import settings
from pools_core.config_files import Config
from pools_core.cpus import cpu_count
from pools_core.doctor_report import Finding
from pools_core.errors import PoolsError
from pools_multicore.process import Starter
from pools_multicore.settings import START_METHODS, MulticoreSettings

__all__ = ["examine"]

DESCRIPTORS_PER_WORKER = 8
"""What one worker takes in its parent, with segments for large buffers; six, and a little more."""

DESCRIPTORS_BESIDES = 64
"""What a program, and a pool without workers, may have open."""


def examine(config: Config) -> Iterator[Finding]:
    """Yield what there is to know; of options that make no sense others tell."""
    here = multiprocessing.get_all_start_methods()
    yield Finding("start methods", "possible", [method for method in START_METHODS if method in here])
    try:
        chosen = settings(MulticoreSettings, "multicore", config, {})
    except (PoolsError, TypeError, ValueError):
        return
    yield _start_method(chosen)
    yield workers(chosen.n_jobs, cpu_count())
    yield descriptors(chosen.n_jobs, _most_descriptors())
    yield threads(chosen, cpu_count(), os.environ)


def _start_method(chosen: MulticoreSettings) -> Finding:
    method = Starter(chosen.start_method).method
    if chosen.start_method is not None:
        source = "start_method"
    elif method == "fork":
        source = "forkserver, if the program has other threads when its first worker starts"
    else:
        source = "fork is not safe here"
    return Finding("start methods", "default here", method, source)


def workers(n_jobs: int, cpus: int) -> Finding:
    """Return how many workers a pool has, and whether there are CPUs for them."""
    if n_jobs <= cpus:
        return Finding("cpus", "workers", n_jobs, "n_jobs of multicore")
    advice = f"{n_jobs} workers share {cpus} CPUs: good for tasks that wait, too many for those that compute"
    return Finding("cpus", "workers", n_jobs, "n_jobs of multicore", "note", advice)


def descriptors(n_jobs: int, most: int | None) -> Finding:
    """Return how many descriptors a pool needs, and whether it may have them.

    Args:
        n_jobs: how many workers it has.
        most: how many the process may have open; None for no limit.
    """
    need, source = DESCRIPTORS_BESIDES + DESCRIPTORS_PER_WORKER * n_jobs, f"{n_jobs} workers of multicore"
    if most is None or need <= most:
        return Finding("limits", "descriptors needed", need, source)
    advice = (
        f"{n_jobs} workers need about {need} descriptors, and a process may have {most} here: run "
        f"ulimit -n {need}, or set n_jobs lower in [multicore]"
    )
    return Finding("limits", "descriptors needed", need, source, "fault", advice)


def threads(chosen: MulticoreSettings, cpus: int, environ: Mapping[str, str]) -> Finding:
    """Return how many threads numerical libraries may use in a worker.

    Args:
        chosen: the pool's options.
        cpus: that the pool may use.
        environ: this process's environment; what it says to a library stands, if the options say nothing.
    """
    share = chosen.threads_per_worker()
    if share is None:
        return Finding("blas", "in a worker", "as many as they choose", "blas_threads")
    number, explicit = share
    if explicit:
        return Finding("blas", "in a worker", {"each library": number}, "blas_threads")
    ours = blas.environment(number, environ)
    told = {
        name: environ[name] for name in blas.environment(number, {}) if name not in ours and environ.get(name)
    }
    value = {**told, "the others": number} if told else {"each library": number}
    source = f"{cpus} CPUs shared out among {chosen.n_jobs} workers"
    most = max((int(threads) for threads in told.values() if threads.isdecimal()), default=0)
    if most * chosen.n_jobs <= max(cpus, chosen.n_jobs):
        return Finding("blas", "in a worker", value, source)
    advice = (
        f"{chosen.n_jobs} workers of up to {most} threads share {cpus} CPUs, since the environment says so: "
        f"unset {', '.join(told)}, or set blas_threads"
    )
    return Finding("blas", "in a worker", value, source, "note", advice)


def _most_descriptors() -> int | None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
