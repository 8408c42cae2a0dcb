"""The options of ``WorkerPool``'s calls: names, order, and whether their numbers make sense; its CPU ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from pools_core.options import nearest

__all__ = [
    "APPLY",
    "IMAP",
    "MAP",
    "ApplyOptions",
    "MapOptions",
    "RaisingMapOptions",
    "check_numbers",
    "name_options",
]


class _ButOnError(TypedDict, total=False):
    """``MapOptions`` but ``on_error``, which decides of the type of the results."""

    iterable_len: int | None
    max_tasks_active: int | None
    chunk_size: float | None
    n_splits: int | None
    worker_lifespan: int | None
    progress_bar: bool
    concatenate_numpy_output: bool
    worker_init: Callable[..., Any] | None
    worker_exit: Callable[..., Any] | None
    task_timeout: float | None
    worker_init_timeout: float | None
    worker_exit_timeout: float | None
    progress_bar_options: Mapping[str, Any] | None
    progress_bar_style: Any
    max_retries: int
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    seed: int | None


class RaisingMapOptions(_ButOnError, total=False):
    """``MapOptions`` of a call whose results are free of ``Failure``; for type checkers."""

    on_error: Literal["raise"]


class MapOptions(_ButOnError, total=False):
    """What the four maps take beside function and input, by name or, down to the bar's style, in this order.

    Attributes:
        iterable_len: number of tasks, for input without ``len()``; shorter than the input cuts it.
        max_tasks_active: the most tasks that are taken from the input and not yet delivered; default two
            chunks for each worker.
        chunk_size: tasks sent at a time; a fraction is carried forward.
        n_splits: number of chunks wanted; ``chunk_size`` wins.
        worker_lifespan: a worker is replaced after that many tasks, rounded up to whole chunks.
        progress_bar: show how far the call is.
        concatenate_numpy_output: of ``map`` only: join arrays into one.
        worker_init: called in each worker before its first task.
        worker_exit: called in each worker after its last one.
        task_timeout: seconds that one task may run.
        worker_init_timeout: seconds that ``worker_init`` may run.
        worker_exit_timeout: seconds that ``worker_exit`` may run.
        progress_bar_options: keyword arguments for tqdm.
        progress_bar_style: "std", "rich", "notebook", or a function.
        max_retries: how often a failed task is run again (not in MPIRE).
        retry_on: exception types that are retried (not in MPIRE).
        on_error: "raise", or "return" failures among the results (not in MPIRE).
        seed: gives each task a random stream of its own (not in MPIRE).
    """

    on_error: Literal["raise", "return"]


class ApplyOptions(TypedDict, total=False):
    """What ``apply`` and ``apply_async`` take beside function and arguments, by name or in this order.

    Attributes:
        callback: called with the result.
        error_callback: called with the exception instead, if there was one.
        worker_init: called in each worker before its first task; that of the first call counts.
        worker_exit: called in each worker when the pool is joined; that of the first call counts.
        task_timeout: seconds that the task may run.
        worker_init_timeout: seconds that ``worker_init`` may run.
        worker_exit_timeout: seconds that ``worker_exit`` may run.
        max_retries: as for the maps.
        retry_on: as for the maps.
        seed: as for the maps.
    """

    callback: Callable[[Any], object] | None
    error_callback: Callable[[BaseException], object] | None
    worker_init: Callable[..., Any] | None
    worker_exit: Callable[..., Any] | None
    task_timeout: float | None
    worker_init_timeout: float | None
    worker_exit_timeout: float | None
    max_retries: int
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    seed: int | None


@dataclass(frozen=True, slots=True)
class Parameters:
    """The options of one kind of call.

    Attributes:
        names: all of them, in the order in which they may be given without a name.
        positional: how many may be: those that MPIRE has.
    """

    names: tuple[str, ...]
    positional: int


OURS: Final = frozenset({"max_retries", "retry_on", "on_error", "seed"})


def _parameters(options: type, without: str = "") -> Parameters:
    names = tuple(name for name in options.__annotations__ if name != without)
    return Parameters(names, sum(name not in OURS for name in names))


MAP: Final = _parameters(MapOptions)
IMAP: Final = _parameters(MapOptions, without="concatenate_numpy_output")
APPLY: Final = _parameters(ApplyOptions)


def name_options(
    method: str, parameters: Parameters, positional: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all options that were given, by name.

    Args:
        method: for messages.
        parameters: what there is.
        positional: those given without a name.
        named: those given with one.

    Raises:
        TypeError: too many, unknown or double ones.
    """
    if len(positional) > parameters.positional:
        raise TypeError(f"{method}() takes {parameters.positional} options without a name at the most")
    given = dict(zip(parameters.names, positional, strict=False))
    for name, value in named.items():
        if name not in parameters.names:
            raise TypeError(f"{method}() has no option {name!r}{nearest(name, parameters.names)}")
        if name in given:
            raise TypeError(f"{method}() got two values for {name!r}")
        given[name] = value
    return given


def check_numbers(options: dict[str, Any]) -> None:
    """Check those options that are reckoned with here; all others the pool beneath checks.

    Raises:
        TypeError: one is of the wrong type.
        ValueError: one is out of range.
    """
    checks: tuple[tuple[str, bool, int], ...] = (
        ("iterable_len", False, 0),
        ("max_tasks_active", False, 1),
        ("chunk_size", True, 1),
        ("n_splits", False, 1),
        ("worker_lifespan", False, 1),
    )
    for name, fraction, least in checks:
        value = options.get(name)
        if value is None:
            continue
        if hasattr(value, "__index__") and not isinstance(value, bool):
            value = options[name] = value.__index__()  # numpy's integers
        if isinstance(value, bool) or not isinstance(value, (int, float) if fraction else int):
            kinds = "an int or a float" if fraction else "an int"
            raise TypeError(f"{name} is {kinds}, not {type(value).__name__} ({value!r})")
        if not least <= value < math.inf:
            raise ValueError(f"{name} is a finite number of at least {least}, not {value!r}")


def pins_in_one_form(cpu_ids: Any) -> Any:
    """Return CPU ids as the pool takes them: ids or lists of ids, not both; None for nothing."""
    if not cpu_ids:
        return None
    if isinstance(cpu_ids, list) and any(isinstance(one, list) for one in cpu_ids):
        return [one if isinstance(one, list) else [one] for one in cpu_ids]
    return cpu_ids
