"""What a call of ``WorkerPool`` means, in values: arguments, chunks, limits.

Decisions only: nothing here starts or waits for anything.  The rules are MPIRE's documented ones, so that a
program that comes from there finds the chunks, the numpy blocks and the errors that it knows.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, cast

from pools_multicore.mpire_options import check_numbers

__all__ = [
    "Plan",
    "apply_arguments",
    "argument_form",
    "chunk_tasks",
    "insight_text",
    "make_single_arguments",
    "plan_map",
    "warn_user",
]

CHUNKS_PER_WORKER: Final = 64
"""Chunks that an input of known length is cut into, for each worker."""

BLOCKS_PER_WORKER: Final = 4
"""Blocks that a numpy array is cut into, for each worker; each is a task."""

UNKNOWN_LENGTH_CHUNK: Final = 4
"""Tasks in a chunk when nobody knows how many there are."""

ACTIVE_CHUNKS: Final = 2
"""Chunks per worker that may be under way: one that runs, one that waits."""


# --- from an element to arguments ---------------------------------------------------------------------

Form = Literal["keywords", "whole", "positions"]


@lru_cache(maxsize=256)
def _form_of(kind: Any) -> Form:
    if issubclass(kind, dict):
        return "keywords"
    if issubclass(kind, str | bytes) or is_array_type(kind) or not issubclass(kind, Iterable):
        return "whole"
    return "positions"


def argument_form(element: Any) -> Form:
    """Return how an element becomes the arguments of a map's function.

    A dict gives keyword arguments; text, bytes and arrays stay whole, as does what cannot be iterated over;
    any other iterable gives positional ones.
    """
    kind: Any = type(element)
    return _form_of(kind)


def apply_arguments(args: Any) -> Iterable[Any]:
    """Return positional arguments for ``apply``: of a dict it is the keys, as of any other iterable."""
    return (args,) if argument_form(args) == "whole" else cast("Iterable[Any]", args)


def is_array_type(kind: type) -> bool:
    """Whether this is numpy's array; numpy is not loaded for the question."""
    numpy = cast("Any", sys.modules.get("numpy"))
    return numpy is not None and issubclass(kind, numpy.ndarray)


def make_single_arguments(
    iterable_of_args: Iterable[Any], generator: bool = True
) -> Iterator[tuple[Any]] | list[tuple[Any]]:
    """Wrap each element in a tuple of one, so that it reaches the function whole.

    Args:
        iterable_of_args: the elements.
        generator: return a generator; False: a list.
    """
    wrapped = ((element,) for element in iterable_of_args)
    return wrapped if generator else list(wrapped)


# --- chunks -------------------------------------------------------------------------------------------


def chunk_tasks(
    iterable_of_args: Iterable[Any],
    iterable_len: int | None = None,
    chunk_size: float | None = None,
    n_splits: int | None = None,
) -> Generator[Any, None, None]:
    """Yield chunks of the input: tuples, or of a numpy array its slices.

    Args:
        iterable_of_args: the elements.
        iterable_len: how many there are; fewer than there are cuts the input.
        chunk_size: elements in a chunk; a fraction is carried forward, so 2.5 gives 3, 2, 3, 2.
        n_splits: number of chunks; ``chunk_size`` wins.

    Raises:
        ValueError: neither size is given, or only ``n_splits`` for input of unknown length.
    """
    size = _size_of_chunks(iterable_of_args, iterable_len, chunk_size, n_splits)
    if is_array_type(type(iterable_of_args)):
        array: Any = iterable_of_args
        length = len(array) if iterable_len is None else min(iterable_len, len(array))
        for start, stop in _spans(length, size):
            yield array[start:stop]
        return
    elements = islice(iterable_of_args, iterable_len)
    for count in _counts(size):
        chunk = tuple(islice(elements, count))
        if not chunk:
            return
        yield chunk


def _size_of_chunks(
    iterable: Iterable[Any], iterable_len: int | None, chunk_size: float | None, n_splits: int | None
) -> float:
    if chunk_size is not None:
        return chunk_size
    if n_splits is None:
        raise ValueError("give chunk_size or n_splits")
    length = iterable_len if iterable_len is not None else length_of(iterable)
    if length is None:
        raise ValueError("n_splits needs to know how many tasks there are: give iterable_len")
    return length / n_splits


def _counts(size: float) -> Iterator[int]:
    """Yield the numbers of elements of the chunks, endlessly."""
    wanted = size
    while True:
        count = math.ceil(wanted - 1e-9)
        yield max(1, count)
        wanted += size - count


def _spans(length: int, size: float) -> Iterator[tuple[int, int]]:
    start = 0
    for count in _counts(size):
        if start >= length:
            return
        yield start, min(start + count, length)
        start += count


def length_of(iterable: Any) -> int | None:
    """Return the number of elements, None if it does not say."""
    try:
        return len(iterable)
    except TypeError:
        return None


# --- one call -----------------------------------------------------------------------------------------


class ShortInput(Iterable[Any]):
    """Input that is said to have so many elements; ``check`` tells whether it had.

    Args:
        elements: the input.
        expected: how many elements it should have at least.
    """

    def __init__(self, elements: Iterable[Any], expected: int) -> None:
        self._elements = iter(elements)
        self._expected = expected
        self._missing = 0

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for element in islice(self._elements, self._expected):
            count += 1
            yield element
        self._missing = self._expected - count

    def check(self) -> None:
        """Raise ValueError if there were too few."""
        if self._missing:
            raise _too_few(self._expected, self._expected - self._missing)


def _too_few(expected: int, found: int) -> ValueError:
    return ValueError(f"iterable_len is {expected}, but the input had {found} elements")


@dataclass(frozen=True, slots=True)
class Plan:
    """A call of one of the maps, ready to be made.

    Attributes:
        elements: the tasks.
        options: call options of the pool beneath.
        declared: the input, if its length was only said.
    """

    elements: Iterable[Any]
    options: dict[str, Any]
    declared: ShortInput | None = None

    def check_length(self) -> None:
        """Raise ValueError if the input has proved to be shorter than was said."""
        if self.declared is not None:
            self.declared.check()


def plan_map(elements: Any, given: Mapping[str, Any], n_jobs: int) -> Plan:
    """Decide on chunks and limits.

    Args:
        elements: the input.
        given: the options, by name.
        n_jobs: number of workers.

    Raises:
        TypeError: the input cannot be iterated over, or an option is of the wrong type.
        ValueError: an option is out of range, or ``iterable_len`` is larger than the input.
    """
    options = dict(given)
    check_numbers(options)
    if is_array_type(type(elements)):
        elements = _blocks(elements, options, n_jobs)
    else:
        iter(elements)  # a TypeError for what is no iterable, before anything else
    declared = None
    expected, length = options.get("iterable_len"), length_of(elements)
    if expected is not None and length is not None and expected > length:
        raise _too_few(expected, length)
    if expected is not None and length is None:
        elements = declared = ShortInput(elements, expected)
    _set_chunks(options, expected if expected is not None else length, n_jobs)
    _read_bar(options)
    return Plan(elements, {name: value for name, value in options.items() if value is not None}, declared)


def _blocks(array: Any, options: dict[str, Any], n_jobs: int) -> list[Any]:
    """Cut an array into blocks of rows; each becomes a task."""
    expected = options.pop("iterable_len", None)
    if expected is not None and expected > len(array):
        raise _too_few(expected, len(array))
    chunk_size, n_splits = options.pop("chunk_size", None), options.pop("n_splits", None)
    if n_splits is None:
        n_splits = BLOCKS_PER_WORKER * n_jobs
    options["chunk_size"] = 1
    return list(chunk_tasks(array, expected, chunk_size, n_splits))


def _set_chunks(options: dict[str, Any], length: int | None, n_jobs: int) -> None:
    """Fill in the size of chunks, and what depends on it."""
    n_splits = options.pop("n_splits", None)
    size = options.get("chunk_size")
    if size is None:
        if length is None:
            size = UNKNOWN_LENGTH_CHUNK
            warn_user(
                f"the number of tasks is not known, so chunks are of {size}: give iterable_len or chunk_size"
            )
        else:
            size = length / (CHUNKS_PER_WORKER * n_jobs if n_splits is None else n_splits)
    options["chunk_size"] = size = max(1, size)
    if options.get("max_tasks_active") is None:
        options["max_tasks_active"] = n_jobs * math.ceil(size) * ACTIVE_CHUNKS
    lifespan = options.get("worker_lifespan")
    if lifespan is not None:
        whole = min(math.ceil(size), options["max_tasks_active"])
        options["worker_lifespan"] = math.ceil(lifespan / whole) * whole


def _read_bar(options: dict[str, Any]) -> None:
    """Check what is said of the bar, also when none is wanted, and put it in the core's words."""
    if options.get("progress_bar_style") == "dashboard":
        options["progress_bar_style"] = nothing_on_the_terminal
    wanted = options.get("progress_bar_options") or None
    options["progress_bar_options"] = wanted
    if wanted is not None and not options.get("progress_bar"):
        from pools_core.progress import read_progress

        read_progress(True, options.get("progress_bar_style"), wanted)
        # It warned of what it does not use; without a bar, nothing of it is used.
        options["progress_bar_options"] = None


def nothing_on_the_terminal(_event: object) -> None:
    """Be the display of MPIRE's style "dashboard", which shows a bar elsewhere only."""


# --- texts --------------------------------------------------------------------------------------------


def insight_text(shown: str) -> str:
    """Return an element's short ``repr`` as MPIRE lists arguments: ``Arg 0: 1 | Arg 1: 'b'``."""
    import ast

    try:
        value = ast.literal_eval(shown)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # no literal, or cut short
        return f"Arg 0: {shown}"
    form = argument_form(value)
    if form == "keywords":
        return " | ".join(f"Arg {name}: {one!r}" for name, one in value.items())
    if form == "positions":
        return " | ".join(f"Arg {number}: {one!r}" for number, one in enumerate(value))
    return f"Arg 0: {shown}"


def warn_user(text: str) -> None:
    """Warn about the line of the user's program that called a pool."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("pools_"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)
