"""What can be said of one call, written once.

``CallOptions`` is the signature (``**options: Unpack[CallOptions]``), ``CallSettings`` what comes of
it after checking: frozen, complete, and the only form in which options travel further in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypedDict, cast

from pools_core.errors import UnsupportedOptionError

__all__ = ["CallOptions", "CallSettings", "RaisingOptions", "nearest", "read_call_options"]

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]

SHORTEST_TIMEOUT: Final = 1e-8
"""Seconds; anything smaller is a mistake rather than a limit."""


class _ButOnError(TypedDict, total=False):
    """``CallOptions`` but ``on_error``, which decides of the type of the results."""

    chunk_size: float | None
    n_splits: int | None
    iterable_len: int | None
    max_tasks_active: int | None
    task_timeout: float | None
    worker_init: Callable[..., Any] | None
    worker_exit: Callable[..., Any] | None
    worker_init_timeout: float | None
    worker_exit_timeout: float | None
    worker_lifespan: int | None
    max_retries: int
    retry_on: ExceptionTypes
    seed: int | None
    progress_bar: bool
    progress_bar_style: Any
    progress_bar_options: Mapping[str, Any] | None
    concatenate_numpy_output: bool


class RaisingOptions(_ButOnError, total=False):
    """``CallOptions`` of a call whose results are free of ``Failure``; for type checkers."""

    on_error: Literal["raise"]


class CallOptions(_ButOnError, total=False):
    """The keyword arguments that every call of a pool takes.

    Attributes:
        chunk_size: tasks sent to a worker at a time, at least 1; a fraction is carried forward, so
            2.5 gives chunks of 3 and 2 in turn.  Default: adapted to the measured time per task.
        n_splits: number of chunks wanted, for input of known length; ``chunk_size`` wins.
        iterable_len: number of tasks, for input without ``len()``; shorter than the input cuts it.
        max_tasks_active: the most items that are pulled from the input and not yet delivered.
        task_timeout: seconds that one task may run before it is killed.
        worker_init: called once in each worker before its first task of the call (of the pool, with
            ``keep_alive``), with what the pool's options give to functions: number, shared object, state.
        worker_exit: likewise after its last one; what it returns is in ``Pool.get_exit_results``.
        worker_init_timeout: seconds that ``worker_init`` may run before its worker is killed.
        worker_exit_timeout: seconds that ``worker_exit`` may run before its worker is killed.
        worker_lifespan: a worker is replaced after that many tasks.
        max_retries: how often a failed task is run again before its failure counts.
        retry_on: exception type or types that are retried; default every failure of the task.
        on_error: ``"raise"`` the first failure, or ``"return"`` failures among the results.
        seed: gives each task its own random stream, see ``task_rng``.
        progress_bar: show how far the call is; not for single tasks.
        progress_bar_style: ``"std"`` (tqdm), ``"rich"``, ``"notebook"``, or a function that gets a
            ``ProgressEvent`` now and then.
        progress_bar_options: keyword arguments for tqdm.
        concatenate_numpy_output: return results that are arrays as one array, joined along the first axis.
    """

    on_error: Literal["raise", "return"]


@dataclass(frozen=True, slots=True)
class CallSettings:
    """The checked options of one call; attributes as in ``CallOptions``."""

    chunk_size: float | None = None
    n_splits: int | None = None
    iterable_len: int | None = None
    max_tasks_active: int | None = None
    task_timeout: float | None = None
    worker_init: Callable[..., Any] | None = None
    worker_exit: Callable[..., Any] | None = None
    worker_init_timeout: float | None = None
    worker_exit_timeout: float | None = None
    worker_lifespan: int | None = None
    max_retries: int = 0
    retry_on: ExceptionTypes = BaseException
    on_error: Literal["raise", "return"] = "raise"
    seed: int | None = None
    progress_bar: bool = False
    progress_bar_style: Any = None
    progress_bar_options: Mapping[str, Any] | None = None
    concatenate_numpy_output: bool = False


DEFAULTS: Final = CallSettings()
NAMES: Final = tuple(field.name for field in fields(CallSettings))
NEEDS_ENGINE: Final = {
    "task_timeout": "task_timeout",
    "worker_init_timeout": "task_timeout",
    "worker_exit_timeout": "task_timeout",
}
"""Options that only some engines can honour, and what such an engine lists in ``capabilities``."""


def read_call_options(
    options: CallOptions | Mapping[str, Any],
    chunksize: float | None,
    backend: str,
    capabilities: frozenset[str],
) -> CallSettings:
    """Check the options of a call and return them as one frozen object.

    Args:
        options: what the user gave, by name.
        chunksize: the positional ``chunksize``, another name of ``chunk_size``.
        backend: name of the pool's backend, for messages.
        capabilities: what its engine can honour beyond the basics.

    Raises:
        TypeError: an unknown name (the nearest known one is told), or a value of the wrong type.
        ValueError: a value out of range.
        UnsupportedOptionError: an option that this backend cannot honour.
    """
    if not options and chunksize is None:
        return DEFAULTS
    given: dict[str, Any] = dict(options)
    if chunksize is not None:
        if given.get("chunk_size") is not None:
            raise TypeError("chunksize and chunk_size are one option under two names; give one of them")
        given["chunk_size"] = chunksize
    for name in given:
        if name not in NAMES:
            raise TypeError(f"unknown call option {name!r}{nearest(name, NAMES)}")
    for name, needed in NEEDS_ENGINE.items():
        if given.get(name) is not None and needed not in capabilities:
            raise UnsupportedOptionError(name, backend, capable(needed))
    _number(given, "chunk_size", (int, float), 1)
    _number(given, "n_splits", (int,), 1)
    _number(given, "iterable_len", (int,), 0)
    _number(given, "max_tasks_active", (int,), 1)
    for name in NEEDS_ENGINE:
        _number(given, name, (int, float), SHORTEST_TIMEOUT)
    _number(given, "worker_lifespan", (int,), 1)
    _number(given, "max_retries", (int,), 0, optional=False)
    _number(given, "seed", (int,), -math.inf)
    if given.get("on_error", "raise") not in ("raise", "return"):
        raise ValueError(f'on_error is "raise" or "return", not {given["on_error"]!r}')
    retry_on = given.get("retry_on", BaseException)
    kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise TypeError(f"retry_on is an exception type or a tuple of them, not {retry_on!r}")
    for name in ("worker_init", "worker_exit"):
        if given.get(name) is not None and not callable(given[name]):
            raise TypeError(f"{name} is a function, not {given[name]!r}")
    for name in ("progress_bar", "concatenate_numpy_output"):
        if not isinstance(given.get(name, False), bool):
            raise TypeError(f"{name} is True or False, not {given[name]!r}")
    return CallSettings(**cast("CallOptions", given))


def nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """Return the end of a sentence that names the nearest known word, or all of them."""
    import difflib  # for an error only, as json in ``config_values``: each pool that is made imports this

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(known)}"


def _number(
    given: dict[str, Any], name: str, kinds: tuple[type, ...], least: float, optional: bool = True
) -> None:
    if name not in given or (optional and given[name] is None):
        return
    value: Any = given[name]
    if hasattr(value, "__index__") and not isinstance(value, bool):
        value = given[name] = value.__index__()  # numpy integers
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} is {wanted}, not {type(value).__name__} ({value!r})")
    number: float = given[name]
    if not number >= least or number == math.inf:
        raise ValueError(f"{name} is a finite number of at least {least:g}, not {value!r}")
    given[name] = int(number) if isinstance(value, int) else float(number)  # no subclass travels


def capable(option: str) -> list[str]:
    """Return the names of the installed backends that honour an option."""
    from pools_core import registry  # lazily: it loads every backend to answer

    return registry.capable(option)
