"""How many threads numerical libraries use in a worker, so that all workers together use the CPUs once.

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

    not yet imported   an environment variable, set before the import, tells the library
    imported already   (as in a forked worker) threadpoolctl tells it, where that is installed

Whatever the user's environment says to a library stands.  Most libraries ask several variables in turn;
one that was told by any of them is left alone.  Variables that an outer pool set are not the user's: a
pool within a worker divides anew what that worker was given.

Sources: the names are those of joblib (``MAX_NUM_THREADS_VARS``); who asks whom is in OpenBLAS
``driver/others/openblas_env.c``, BLIS ``docs/Multithreading.md``, PyTorch's and numexpr's documentation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["default_threads", "environment", "limit", "limit_loaded", "prepare_parent"]

_ASKED: Final[dict[str, tuple[str, ...]]] = {
    "OMP_NUM_THREADS": (),
    "OPENBLAS_NUM_THREADS": ("GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "MKL_NUM_THREADS": ("MKL_DOMAIN_NUM_THREADS", "OMP_NUM_THREADS"),
    "BLIS_NUM_THREADS": ("BLIS_JC_NT", "BLIS_IC_NT", "BLIS_JR_NT", "BLIS_IR_NT", "OMP_NUM_THREADS"),
    "VECLIB_MAXIMUM_THREADS": (),
    "NUMEXPR_NUM_THREADS": ("NUMEXPR_MAX_THREADS", "OMP_NUM_THREADS"),
    "NUMBA_NUM_THREADS": (),
}
"""Each library's own variable, and what else it asks if that is not set."""

_HEEDED: Final = frozenset(name for own, others in _ASKED.items() for name in (own, *others))
"""All variables that a library asks."""

_VARIABLE_OF: Final = {
    "openmp": "OMP_NUM_THREADS",
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
}
"""By threadpoolctl's name of a library.  FlexiBLAS passes on to one of these, which is listed, too."""

MARK: Final = "POOLS_THREADS"
"""Variable that names the number of threads this worker was given, and the variables that we set to it."""

_CARRIERS: Final = (
    "numpy",
    "torch",
    "tensorflow",
    "mkl",
    "cv2",
    "faiss",
    "xgboost",
    "lightgbm",
    "numexpr",
    "threadpoolctl",
)
"""Modules that bring a library with a thread pool.  Nearly all others that do import numpy."""


def default_threads(workers: int, cpus: int, environ: Mapping[str, str] | None = None) -> int:
    """Return how many threads each worker may use: CPUs of the pool ÷ workers, at least 1.

    Args:
        workers: of the pool.
        cpus: that the pool may use.
        environ: this process's environment, if not ``os.environ``.  In a worker of another pool it says
            how many threads that worker was given, and more are not there to be divided.
    """
    granted, _ = _granted(os.environ if environ is None else environ)
    return max(1, (min(cpus, granted) if granted else cpus) // max(1, workers))


def environment(threads: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add to a worker's environment.

    Args:
        threads: how many each library may use.
        environ: what the worker's environment would be; libraries that it tells already are left out.
            An empty mapping leaves out none.
    """
    told = _told(environ)
    ours = [name for name in _ASKED if name not in told]
    if not ours:
        return {}
    return {**dict.fromkeys(ours, str(threads)), MARK: f"{threads}:{','.join(ours)}"}


def limit_loaded(threads: int, environ: Mapping[str, str], exactly: bool = False) -> None:
    """Limit the libraries that this process has loaded, unless the environment told them otherwise.

    For the thread that runs the tasks: OpenMP and MKL keep their number per thread.  Without
    threadpoolctl, or without such a library, it does nothing, and takes microseconds.

    Args:
        threads: how many each library may use.
        environ: as in ``environment``.
        exactly: raise a lower number, too.
    """
    if not _of_use(environ):
        return
    told = _told(environ)
    for library in _loaded_libraries():
        variable = _VARIABLE_OF.get(library.internal_api)
        if variable is None or variable in told:
            continue
        try:
            if exactly or (library.num_threads or 0) > threads:
                library.set_num_threads(threads)
                _let_go(library)
        except Exception:  # noqa: S112  a library that cannot be limited is slow, no reason for a worker to end
            continue


def limit(threads: int, explicit: bool = False) -> None:
    """In a worker, before it imports anything of the user's: hold all libraries to this many threads.

    Args:
        threads: how many each library may use.
        explicit: the user said so for this pool: it goes before what the environment says.
    """
    environ: dict[str, str] = {} if explicit else dict(os.environ)
    added = environment(threads, environ)
    if "numba" in sys.modules:
        # At its next compilation it would see the change, and raises if its threads are running.
        added.pop("NUMBA_NUM_THREADS", None)
    os.environ.update(added)
    limit_loaded(threads, environ, exactly=explicit)


def prepare_parent(environ: Mapping[str, str] | None = None) -> None:
    """Before a fork: import what the worker's ``limit_loaded`` needs, once for all of them.

    Does nothing unless it will be of use.  (Importing threadpoolctl sets ``KMP_DUPLICATE_LIB_OK`` in the
    environment.  That is left so: what imports it later relies on it.)

    Args:
        environ: this process's environment, if not ``os.environ``.
    """
    if _of_use(os.environ if environ is None else environ):
        _loaded_libraries()


def _told(environ: Mapping[str, str]) -> set[str]:
    """Return the own variables of the libraries that the user's environment tells how many threads to use."""
    threads, ours = _granted(environ)
    said = {name for name in _HEEDED if environ.get(name)}
    said.difference_update([name for name in ours if environ.get(name) == str(threads)])
    return {name for name, others in _ASKED.items() if name in said or not said.isdisjoint(others)}


def _granted(environ: Mapping[str, str]) -> tuple[int | None, list[str]]:
    """Return what an outer pool gave this process, and by which variables."""
    threads, _, names = environ.get(MARK, "").partition(":")
    return (int(threads), names.split(",")) if threads.isdecimal() else (None, [])


def _of_use(environ: Mapping[str, str]) -> bool:
    """Whether there may be a library to limit; a few lookups, no import."""
    return any(map(sys.modules.__contains__, _CARRIERS)) and not _told(environ).issuperset(
        _VARIABLE_OF.values()
    )


_missing = False


def _loaded_libraries() -> list[Any]:
    """Return threadpoolctl's handles of the libraries in this process; none where it is not installed."""
    global _missing  # noqa: PLW0603  one for the process, and for those forked from it
    if _missing:
        return []
    try:
        import threadpoolctl  # type: ignore[import-untyped]
    except ImportError:
        _missing = True  # looking for it takes longer than all the rest
        return []
    # Since 3.8 it can keep what it found until a module is imported; forked workers then have it as well.
    find = getattr(threadpoolctl, "get_cached_controller", threadpoolctl.ThreadpoolController)
    return list(find().lib_controllers)


def _let_go(library: Any) -> None:
    """Leave it to the task from which of its threads it controls OpenBLAS (threadpoolctl 3.8 keeps track)."""
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear()
