"""Values to bytes and back, for whatever has to leave the process.

The items of a chunk, and the values that tasks returned, are packed as a batch, in one of three forms (for
functions see ``packed_functions``):

    m  plain    nothing but numbers, strings, bytes and None: one ``marshal`` of the list.  No code of
                the user can run in it, neither packing nor opening it, so it cannot fail half-way.
    r  range    consecutive items of a ``range``: its three numbers.
    e  each     anything else: one pickle per element, opened one by one.  So an element that fails,
                or kills its process, while it is pickled or unpickled is known by its position.

``pickle`` first, ``cloudpickle`` when that cannot (lambdas, closures, notebook code).  Buffers of
32 KiB and more stay out of the pickle (protocol 5), so they can be carried without a copy.
"""

from __future__ import annotations

# What ``pickle`` runs on.  The rest of it is the same once more in Python, which needs ``re``; together a
# twentieth of a spawned worker's start.
import _pickle as pickle
import marshal
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import NoneType

from pools_core.calls import Hold, Packed, type_buffer, type_part
from pools_core.errors import SerializationError, unpicklable
from pools_core.hints import TYPE_CHECKING
from pools_core.memory import copied

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "MARSHAL_VERSION",
    "PLAIN",
    "PROTOCOL",
    "TRY_BY_VALUE",
    "Sealed",
    "are_plain_arguments",
    "batch_of",
    "dumps_here",
    "main_is_interactive",
    "pack",
    "pack_batch",
    "pack_plain",
    "seal",
    "types_of",
    "unpack",
    "unpack_batch",
]

PLAIN: Final = frozenset({int, float, bool, NoneType, str, bytes, complex})
"""Types, exactly these and no subclass, that ``marshal`` carries faithfully."""

MARSHAL_VERSION: Final = 2
"""The last format without back references: the fastest, and read by every Python 3."""

OUT_OF_BAND: Final = 32 * 1024
"""Bytes from which a buffer is worth a part of its own: about where a copy costs more than a header."""

MOST_APART: Final = 1024
"""Buffers of one value that stay out of its pickle; with more, each is no longer worth its part."""

PROTOCOL: Final = 5
_EACH: Final = struct.Struct("<cI")
_ENTRY: Final = struct.Struct("<QI")
_APART: Final = 1 << 63  # in an entry's length: the pickle itself is one of the buffers

# Errors with which pickle says that it cannot do what cloudpickle may; anything else is the user's own.
TRY_BY_VALUE: Final = (pickle.PicklingError, AttributeError, TypeError)


class Sealed(Packed):
    """One element of a batch, not opened yet."""

    __slots__ = ()


def pack(
    value: Any, what: str, *, keep: bool = False, by_value: bool = False, hold: Hold | None = None
) -> Sealed:
    """Pickle one value.

    Args:
        value: anything.
        what: what it is, to begin an error message with: ``"argument 3"``.
        keep: the value may change before the bytes are sent, so buffers are copied out of it now.
        by_value: it is a function, which is to travel with its code.
        hold: where buffers are copied, if it takes them; with ``keep`` only.

    Raises:
        SerializationError: it cannot be pickled; also an instance of the user's own error, if one was
            raised.
    """
    buffers: list[type_part] = []
    try:
        if by_value:
            from pools_core import by_value as functions  # and cloudpickle: 10 ms, see below

            data = functions.dumps(value, PROTOCOL, _apart(buffers, keep, hold))
        elif main_is_interactive():
            data = _dumps_with_code(value, buffers, keep, hold)
        else:
            try:
                data = dumps_here(value, buffers, keep, hold)
            except TRY_BY_VALUE:
                buffers.clear()
                data = _dumps_with_code(value, buffers, keep, hold)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's __reduce__ may raise anything; the caller hears of it
        raise unpicklable(
            f"{what} ({_kind(value)}) cannot be pickled: {type(error).__name__}: {error}; "
            "send something that can be, or make it inside the task",
            error,
        ) from error
    return Sealed(data, buffers)


def unpack(packed: Packed) -> Any:
    """Open what ``pack`` made.  Raises whatever unpickling raises."""
    return pickle.loads(packed.data, buffers=packed.buffers)


def pack_batch(values: Sequence[Any], what: str, start: int = 0, hold: Hold | None = None) -> Packed:
    """Pack the elements of a chunk.

    Args:
        values: the elements.
        what: what one is, for messages: ``"argument"``.
        start: the number of the first, for messages.
        hold: where large buffers are copied; None: into memory of their own.

    Raises:
        SerializationError: one cannot be pickled; the message gives its number.
    """
    if type(values) is range:
        return Packed(b"r" + marshal.dumps((values.start, values.stop, values.step), MARSHAL_VERSION))
    numbers = _pack_numbers(values)
    if numbers is not None:
        return numbers
    types = types_of(values)
    plain_tuples = types == {tuple} and types_of(chain.from_iterable(values)) <= PLAIN
    if types <= PLAIN or plain_tuples or (len(values) == 1 and are_plain_arguments(values[0])):
        return pack_plain(list(values))
    return batch_of(
        [pack(value, f"{what} {number}", keep=True, hold=hold) for number, value in enumerate(values, start)]
    )


_OF_NUMBERS: Final = {int: (b"i", 5), float: (b"g", 9)}
"""How ``marshal`` (format 2) begins an integer of 32 bits, or a float, and how many bytes it takes in all."""

_LIST_HEAD: Final = 5
"""Bytes of a list before its elements: what it is, and how many there are."""


def _pack_numbers(values: Sequence[Any]) -> Packed | None:
    """Pack values if all of them are small integers, or all floats; else return None.

    That they are is seen by the bytes, which takes a thirtieth of looking at the type of each: where an
    element begins as such a number does, the next one begins right behind it.
    """
    kind = type(values[0]) if len(values) else None
    if kind is None or kind not in _OF_NUMBERS or type(values[-1]) is not kind:
        return None
    mark, size = _OF_NUMBERS[kind]
    try:
        data = marshal.dumps(list(values), MARSHAL_VERSION)
    except ValueError:  # something else is among them
        return None
    if data[_LIST_HEAD::size] != mark * len(values):
        return None
    return Packed(b"m" + data)


def types_of(values: Iterable[Any]) -> set[type]:
    """Return the types of the values; whether all have the same one, as is usual, is quicker to be seen."""
    types = list(map(type, values))
    if types and types.count(types[0]) == len(types):
        return {types[0]}
    return set(types)


def pack_plain(values: list[Any]) -> Packed:
    """Pack a chunk's elements that are known to be plain, or tuples and dictionaries of what is."""
    return Packed(b"m" + marshal.dumps(values, MARSHAL_VERSION))


def are_plain_arguments(item: Any) -> bool:
    """Whether this is an item of ``apply``, arguments and keywords, with nothing but plain values."""
    if type(item) is not tuple or len(item) != 2:
        return False
    args, kwds = item
    if type(args) is not tuple or type(kwds) is not dict:
        return False
    for arg in args:  # a loop, since there are few, and this is asked for each single task
        if type(arg) not in PLAIN:
            return False
    return not kwds or (set(map(type, kwds)) <= PLAIN and set(map(type, kwds.values())) <= PLAIN)


def seal(values: Sequence[Any], all_plain: bool = False) -> Packed:
    """Make a batch of results, of which those that are not plain have been packed already.

    Args:
        values: the results.
        all_plain: it is known that none has been.
    """
    if not all_plain and Sealed in types_of(values):
        return batch_of(
            [value if type(value) is Sealed else Sealed(pickle.dumps(value, PROTOCOL)) for value in values]
        )
    plain: Any = values
    return Packed(b"m" + marshal.dumps(plain, MARSHAL_VERSION))


def unpack_batch(packed: Packed) -> tuple[Sequence[Any], bool]:
    """Return the elements of a batch, and whether each is ``Sealed`` and has still to be unpacked.

    Raises:
        SerializationError: these bytes are no batch.
    """
    view = memoryview(packed.data)
    form = bytes(view[:1])
    if form == b"m":
        plain: list[Any] = marshal.loads(view[1:])
        return plain, False
    if form == b"r":
        return range(*marshal.loads(view[1:])), False
    if form == b"e":
        return list(_entries(view, packed.buffers)), True
    raise SerializationError(f"not a batch of values: it begins with {form!r}")


def batch_of(elements: list[Sealed]) -> Packed:
    """Make a batch of elements that have been packed."""
    entries: list[bytes] = []
    joined: list[type_buffer] = []
    buffers: list[type_part] = []
    for element in elements:
        size = len(element.data)
        if size < OUT_OF_BAND:
            joined.append(element.data)
        else:
            size |= _APART
            buffers.append(element.data)
        entries.append(_ENTRY.pack(size, len(element.buffers)))
        buffers.extend(element.buffers)
    return Packed(b"".join((_EACH.pack(b"e", len(elements)), *entries, *joined)), buffers)


def _entries(view: memoryview, buffers: Sequence[Any]) -> Iterator[Sealed]:
    _, count = _EACH.unpack_from(view)
    position = _EACH.size + count * _ENTRY.size
    taken = 0
    for size, n_buffers in _ENTRY.iter_unpack(view[_EACH.size : position]):
        if size & _APART:
            data: type_buffer = buffers[taken]
            taken += 1
        else:
            data = view[position : position + size]
            position += size
        yield Sealed(data, buffers[taken : taken + n_buffers])
        taken += n_buffers


# --- pickles ----------------------------------------------------------------------------------------


def dumps_here(value: Any, buffers: list[type_part], keep: bool = True, hold: Hold | None = None) -> bytes:
    return pickle.dumps(value, PROTOCOL, buffer_callback=_apart(buffers, keep, hold))


def _dumps_with_code(
    value: Any, buffers: list[type_part], keep: bool = True, hold: Hold | None = None
) -> bytes:
    import cloudpickle  # 10 ms that a program of importable functions never pays

    data: bytes = cloudpickle.dumps(value, PROTOCOL, buffer_callback=_apart(buffers, keep, hold))
    return data


def _apart(buffers: list[type_part], keep: bool, hold: Hold | None) -> Callable[[pickle.PickleBuffer], bool]:
    """Return a callback for pickle that takes large buffers out of the stream."""

    def apart(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND or len(buffers) >= MOST_APART:
            return True
        if keep:
            buffers.append((hold is not None and hold(view)) or copied(view))
        else:
            buffers.append(view)
        return False

    return apart


_STDIN: Final = "<stdin>"
"""What Python takes for the file of a main script that it reads from its standard input."""


def main_is_interactive() -> bool:
    """Whether ``__main__`` is a prompt, a notebook or standard input, which no worker can import."""
    main = sys.modules.get("__main__")
    return getattr(main, "__file__", _STDIN) == _STDIN and getattr(main, "__spec__", None) is None


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
