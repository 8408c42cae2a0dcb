"""Values and functions to bytes and back: nothing is changed, shared, run or lost on the way."""

from __future__ import annotations

import copyreg
import enum
import functools
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pools_core import payload
from pools_core.calls import Packed
from pools_core.errors import SerializationError
from pools_core.packed_functions import (
    FunctionUnknownError,
    is_by_value,
    pack_function,
    travels_by_name,
    unpack_function,
)
from pools_core.payload import OUT_OF_BAND, Sealed, pack, pack_batch, seal, unpack, unpack_batch
from pools_core.testing import tasks
from pools_core.testing.tasks import Misbehaved


def carried(packed: Packed) -> Packed:
    """Return what arrives at the other end: the same bytes in other memory, large buffers writable."""
    assert all(memoryview(buffer).nbytes >= OUT_OF_BAND for buffer in packed.buffers)
    return Packed(bytes(packed.data), [bytearray(buffer) for buffer in packed.buffers])


def opened(packed: Packed) -> list[Any]:
    """Return the elements of a batch."""
    values, sealed = unpack_batch(packed)
    return [unpack(value) for value in values] if sealed else list(values)


def sent(values) -> list[Any]:
    """Return what the elements of a chunk are in a worker."""
    return opened(carried(pack_batch(values, "argument")))


def answered(values) -> list[Any]:
    """Return what the results of a chunk are at the caller's, packed as a worker does it."""
    ready = [value if type(value) in payload.PLAIN else pack(value, "the result") for value in values]
    return opened(carried(seal(ready)))


def form(values) -> str:
    """Return the letter of the form that is chosen."""
    return chr(pack_batch(values, "argument").data[0])


def same(one: Any, other: Any) -> bool:
    """Whether two values are alike to the last bit and of the same types all through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, Node):
        return same([one.name, one.children], [other.name, other.children])
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()
    return bool(one == other)


@dataclass
class Node:
    """A value of the user's own class."""

    name: str
    children: list[Any] = field(default_factory=list)


class Colour(enum.IntEnum):
    """Equal to an int, and more than one."""

    RED = 1


class Text(str):
    """A str with an attribute."""

    __slots__ = ("language",)


class Count(int):
    """An int with a method."""


class Ratio(float):
    """A float by another name."""


class Blob(bytes):
    """Bytes by another name."""


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


# --- values there and back ------------------------------------------------------------------------

any_text = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=()))
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.complex_numbers(allow_nan=True)
    | any_text
    | st.binary()
)
nested = st.recursive(
    plain | st.builds(Node, any_text) | st.sampled_from(Colour) | st.builds(Count, st.integers()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Node, st.text(max_size=3), st.lists(inner, max_size=3))
    ),
    max_leaves=12,
)


@given(st.lists(plain))
def test_plain_values_round_trip(values):
    """Big ints, nan with its bits, minus zero, surrogates, NUL: as they were, and of exactly their type."""
    assert form(values) == "m"
    assert same(sent(values), values)
    assert same(answered(values), values)


@given(st.lists(st.lists(plain, max_size=4).map(tuple), min_size=1))
def test_tuples_of_plain_values_round_trip(values):
    """The arguments of a starmap are plain, too."""
    assert form(values) == "m"
    assert same(sent(values), values)


@given(st.lists(nested))
def test_nested_values_round_trip(values):
    """Anything else goes one by one, and arrives as well."""
    assert same(sent(values), values)
    assert same(answered(values), values)


@pytest.mark.parametrize(
    "value",
    [
        2**20_000,
        -(2**20_000),
        2**31,
        2**63,
        float("nan"),
        struct.unpack("d", struct.pack("Q", 0xFFF8_0000_DEAD_BEEF))[0],
        -0.0,
        float("-inf"),
        5e-324,
        complex(-0.0, float("nan")),
        "\ud800",
        "a\udcff\x00b",
        "x" * 100_000,
        b"\0" * 100_000,
        "",
        True,
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_extreme_plain_values_round_trip(value):
    """Alone, in a tuple, and beside something that is not plain."""
    for values in ([value], [(value, value)], [value, [value]], [value] * 1000):
        assert same(sent(values), values)
    assert same(answered([value, [value]]), [value, [value]])


@given(
    st.integers(-(10**30), 10**30),
    st.integers(0, 50),
    st.integers(-(10**20), 10**20).filter(bool),
)
def test_ranges_round_trip(start, count, step):
    """As three numbers, however long; what is opened gives the same items."""
    values = range(start, start + count * step, step)

    assert form(values) == "r"
    assert same(sent(values), list(values))
    assert pack_batch(range(10**15), "argument").nbytes < 100


@dataclass
class Bytes:
    """Gives its bytes to whoever asks, as from Python 3.12 on ``marshal`` does; or fails."""

    data: Any

    def __buffer__(self, flags):
        return memoryview(self.data)


class Number(enum.IntEnum):
    """An integer of another type."""

    ONE = 1


@pytest.mark.parametrize("number", [1, 1.5], ids=["integers", "floats"])
@pytest.mark.parametrize(
    "other",
    [
        None,
        True,
        2,
        2.5,
        2**31,
        -(2**31) - 1,
        2**400,
        b"i",
        b"iiii",
        b"i" * 40,
        b"g" * 40,
        "i",
        1j,
        Number.ONE,
        np.int32(1),
        np.int64(0x6969696969),
        np.float64(1.5),
        (1, 2),
        [1, 2, 3],
        [],
        bytearray(b"iiiii"),
        Bytes(b"i" * 40),
        Bytes(None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("size", [3, 4, 7, 100])
def test_one_among_numbers_stays_what_it_is(number, other, size):
    """Whether all are numbers is seen by their bytes, among which anything may look like a number."""
    for position in {1, size // 2, size - 2}:
        values = [number] * size
        values[position] = other
        found = sent(values)
        assert found == values
        assert list(map(type, found)) == list(map(type, values))


@given(st.lists(st.integers(-(2**33), 2**33) | st.booleans() | st.binary(max_size=12)))
def test_integers_and_what_may_look_like_one(values):
    """Nothing is taken for something else."""
    found = sent(values)
    assert list(map(type, found)) == list(map(type, values))
    assert found == values


@pytest.mark.parametrize("values", [[5] * 1000, [0.5] * 1000, [-(2**31), 2**31 - 1], [float("inf"), 0.0]])
def test_numbers_alone_are_looked_at_only_once(values, monkeypatch):
    """Their types are not asked for: that takes as long as to pack them."""
    monkeypatch.setattr(payload, "types_of", None)
    assert sent(values) == values
    assert sent(tuple(values)) == values


@pytest.mark.parametrize(
    ("values", "letter"),
    [
        ([], "m"),
        ([1, 2.5, True, None, "a", b"b", 1j], "m"),
        (("a", "b"), "m"),
        ([(1, 2), (3, None)], "m"),
        ([(), ()], "m"),
        (range(3), "r"),
        (range(0), "r"),
        ([range(3)], "e"),
        ([1, (1,)], "e"),
        ([((1,),)], "e"),
        ([[1]], "e"),
        ([{}], "e"),
        ([1, Colour.RED], "e"),
        ([(1, Colour.RED)], "e"),
        ([Text("a")], "e"),
        ([Count(1)], "e"),
        ([Point(1, 2)], "e"),
        ([np.float64(1)], "e"),
        ([np.str_("a")], "e"),
        ([bytearray(b"a")], "e"),
        ([int], "e"),
        ([...], "e"),
        (np.arange(3), "e"),
    ],
)
def test_which_form_is_chosen(values, letter):
    """marshal for what it carries faithfully and for nothing else."""
    assert form(values) == letter
    assert same(sent(values), list(values))


@pytest.mark.parametrize(
    "value",
    [
        Count(5),
        Text("abc"),
        Ratio(0.5),
        Blob(b"abc"),
        Colour.RED,
        Point(1, 2),
        True,
        np.float64(0.5),
        np.int64(5),
        np.bool_(True),
        np.str_("abc"),
        np.bytes_(b"abc"),
        OrderedDict(a=1),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("neighbours", [[], [1, "a", None], [(1, 2)]], ids=["alone", "plain", "tuple"])
def test_subclasses_keep_their_type(value, neighbours):
    """What looks like a number or a text, and is more, is not flattened; also inside a tuple."""
    for values in ([value, *neighbours], [*neighbours, (value, 1)]):
        assert same(sent(values), values)
        assert same(answered(values), values)


def test_attributes_of_a_subclass_travel():
    """A str with an attribute is not its characters alone."""
    text = Text("bonjour")
    text.language = "fr"

    assert [each.language for each in sent([text]) + answered([text])] == ["fr", "fr"]


def test_elements_do_not_share_memory():
    """Each is an element of its own, even where the caller gave one object twice."""
    shared = [1]
    first, second = sent([shared, shared])

    first.append(2)

    assert second == shared == [1]


# --- no code of the user --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [[1, "a", 1j, None], [(1, 1j)], range(5)], ids=["plain", "tuples", "range"]
)
def test_no_code_runs_for_plain_values(monkeypatch, values):
    """Neither pickle nor what somebody registered with it; so packing and opening cannot fail half-way."""

    def boom(*_args, **_kwds):
        raise Misbehaved

    monkeypatch.setitem(copyreg.dispatch_table, complex, boom)
    with pytest.raises(Misbehaved):
        pickle.dumps(1j)
    for name in ("dumps", "loads"):
        monkeypatch.setattr(payload.pickle, name, boom)

    assert same(sent(values), list(values))
    assert not unpack_batch(pack_batch(values, "argument"))[1]
    if type(values[0]) is not tuple:
        assert same(opened(seal(list(values))), list(values))


def test_looking_at_values_runs_no_code_of_theirs():
    """Which form is chosen is a matter of types; nothing is compared, hashed, or shown."""

    class Sly(int):
        def __eq__(self, other):
            raise Misbehaved

        def __hash__(self):
            raise Misbehaved

        __repr__ = __str__ = __bool__ = __len__ = __index__ = __int__ = __hash__

    (arrived,) = sent([Sly(5)])

    assert int.__add__(arrived, 0) == 5
    assert type(arrived).__name__ == "Sly"


def test_an_element_that_cannot_be_opened_spoils_no_other():
    """Elements are opened one by one, by whoever is about to use them."""
    batch = carried(pack_batch([[1], tasks.BadlyUnpickled("raise"), [3]], "argument"))

    values, sealed = unpack_batch(batch)

    assert sealed
    assert [type(value) for value in values] == [Sealed] * 3
    assert (unpack(values[0]), unpack(values[2])) == ([1], [3])
    with pytest.raises(Misbehaved):
        unpack(values[1])


# --- arrays and other large buffers ---------------------------------------------------------------

DTYPES = ["?", "u1", "<i4", ">i4", "f2", "<f8", ">f8", "c16", "U7", "S3", "M8[ns]", "m8[D]", "i4,f8"]
SHAPES = [(0,), (3, 0, 2), (), (1,), (7, 5), (40, 30, 20)]


def filled(dtype: str, shape: tuple[int, ...], order: str = "C") -> np.ndarray:
    """Return an array whose bytes all differ from their neighbours'."""
    array = np.zeros(shape, dtype, order)
    if array.dtype.kind in "?uifcmM":
        array[...] = (np.arange(array.size).reshape(shape) % 251).astype(array.dtype)
    elif array.dtype.kind in "US":
        array[...] = "xyz"
    return array


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_round_trip(dtype, shape, order):
    """Of any type, byte order, shape and layout; what arrives is writable and nobody else's."""
    array = filled(dtype, shape, order)

    for arrived in (*sent([array, array]), *answered([array, array])):
        assert same(arrived, array)
        assert arrived.flags.c_contiguous == array.flags.c_contiguous
        assert arrived.flags.f_contiguous == array.flags.f_contiguous
        assert arrived.flags.writeable
        assert not np.shares_memory(arrived, array)


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[::2],
        lambda array: array[:, ::-1],
        lambda array: array.T,
        lambda array: array[1:-1, 1:-1],
        lambda array: np.broadcast_to(array[0], (5, *array[0].shape)),
        lambda array: array.astype(object),
    ],
    ids=["step", "reversed", "transposed", "window", "broadcast", "objects"],
)
@pytest.mark.parametrize("side", [10, 200])
def test_views_round_trip(view, side):
    """Also such as are not one piece of memory; and no more of the base travels than the view shows."""
    array = view(np.arange(side * side, dtype="f8").reshape(side, side))

    for arrived in (*sent([array]), *answered([array])):
        assert arrived.dtype == array.dtype
        assert np.array_equal(arrived, array)
        assert arrived.flags.writeable
    if array.dtype != object:
        assert pack_batch([array], "argument").nbytes < array.nbytes + 1000


@pytest.mark.parametrize("nbytes", [8, OUT_OF_BAND - 8, OUT_OF_BAND, OUT_OF_BAND + 8, 2_000_000])
def test_arrived_arrays_are_private(nbytes):
    """Writing into one changes neither its neighbour nor the source, below and above the border."""
    array = np.zeros(nbytes // 8)
    values = {"a": array, "b": [array.copy(), np.ones(nbytes // 8)]}

    for first, second in (sent([values, values]), answered([values, values])):
        first["a"][:] = 5
        first["b"][0][:] = 6
        for untouched in (array, second["a"], second["b"][0]):
            assert not untouched.any()
        assert (first["b"][1] == 1).all()


@pytest.mark.parametrize("nbytes", [8, OUT_OF_BAND - 8, OUT_OF_BAND, 2_000_000])
def test_arguments_are_those_of_the_moment_they_were_packed(nbytes):
    """A generator may fill one array again and again: a chunk may leave later than it was made."""
    array = np.zeros(nbytes // 8)
    batch = pack_batch([[array]], "argument")

    array[:] = 9

    ((arrived,),) = opened(batch)
    assert not arrived.any()


@pytest.mark.parametrize("size", [OUT_OF_BAND - 500, OUT_OF_BAND, 1_000_000])
def test_large_buffers_stay_out_of_the_pickle(size):
    """From 32 KiB a buffer is a part of its own, in the order in which it comes."""
    batch = pack_batch([np.full(size, 1, "u1"), np.full(size, 2, "u1")], "argument")

    assert len(batch.buffers) == (2 if size >= OUT_OF_BAND else 0)
    assert [bytes(buffer[:1]) for buffer in batch.buffers] == [b"\1", b"\2"][: len(batch.buffers)]
    assert batch.nbytes >= 2 * size
    assert (len(batch.data) < 1000) is bool(batch.buffers)


piece = st.tuples(
    st.sampled_from(["array", "bytes", "bytearray", "text", "list", "two arrays", "int"]),
    st.sampled_from([0, 1, 100, OUT_OF_BAND - 200, OUT_OF_BAND - 1, OUT_OF_BAND, OUT_OF_BAND + 1, 100_000]),
)


@settings(deadline=None)
@given(st.lists(piece, max_size=8))
def test_large_and_small_elements_keep_their_places(pieces):
    """Pickles that are large travel apart as well, between buffers of other elements."""
    make = {
        "array": lambda size, salt: np.full(size, salt, "u1"),
        "bytes": lambda size, salt: bytes([salt]) * size,
        "bytearray": lambda size, salt: bytearray([salt]) * size,
        "text": lambda size, salt: chr(65 + salt) * size,
        "list": lambda size, salt: [salt, "x" * size],
        "two arrays": lambda size, salt: {"a": np.full(size, salt, "u1"), "b": [np.zeros(size + 5, "u1")]},
        "int": lambda size, salt: salt,
    }
    values = [make[kind](size, salt) for salt, (kind, size) in enumerate(pieces)]

    assert same(sent([*values, [0]]), [*values, [0]])
    assert same(answered([*values, [0]]), [*values, [0]])


# --- what cannot be packed ------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "position"), [(0, 0), (0, 2), (40, 1), (1000, 3)])
def test_the_error_names_the_number_of_the_argument(start, position):
    """Counted from the beginning of the input, not of the chunk; with its type and what to do."""
    values = [[0], [1], [2], [3]]
    values[position] = threading.Lock()

    with pytest.raises(SerializationError, match=rf"argument {start + position} \(_thread\.lock\)") as caught:
        pack_batch(values, "argument", start)

    assert "cannot be pickled: TypeError: " in str(caught.value)
    assert "send something that can be" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)


def test_the_error_is_also_the_users_own():
    """Who catches what his ``__reduce__`` raises still does."""
    with pytest.raises(Misbehaved, match="argument 0") as caught:
        pack_batch([tasks.BadlyPickled("raise")], "argument")

    assert isinstance(caught.value, SerializationError)
    assert isinstance(caught.value, TypeError)
    assert type(caught.value.__cause__) is Misbehaved


def test_exit_while_pickling_is_an_error_and_an_interrupt_is_not():
    """sys.exit() in some ``__reduce__`` must not end the program; Ctrl-C must."""

    class Stops:
        def __init__(self, kind):
            self.kind = kind

        def __reduce__(self):
            raise self.kind

    with pytest.raises(SerializationError, match="SystemExit"):
        pack(Stops(SystemExit), "argument 0")
    with pytest.raises(KeyboardInterrupt):
        pack(Stops(KeyboardInterrupt), "argument 0")


def test_what_pickle_cannot_and_cloudpickle_can_goes_by_value():
    """A lambda, a local class and its instance, as arguments and results."""

    class Local:
        value = 5

    for twice, local in ([*sent([lambda x: 2 * x, Local()])], [*answered([lambda x: 2 * x, Local()])]):
        assert twice(4) == 8
        assert local.value == 5


def test_by_value_large_buffers_travel_once():
    """What pickle had taken out before it gave up does not go along."""
    batch = pack_batch([[np.arange(10_000), lambda: 5, np.ones(10_000)]], "argument")
    packed = pack_function(functools.partial(lambda array: array[3], np.arange(10_000)))

    assert len(batch.buffers) == 2
    assert len(packed.buffers) == 1
    ((first, func, last),) = opened(carried(batch))
    assert (first[7], func(), last[7]) == (7, 5, 1)
    assert unpack_function(carried(packed))() == 3


@pytest.mark.parametrize("data", [b"", b"x", b"z123", pickle.dumps(1)])
def test_bytes_that_are_no_batch_are_refused(data):
    """With an error of ours, not a guess."""
    with pytest.raises(SerializationError, match="not a batch"):
        unpack_batch(Packed(data))


# --- functions ------------------------------------------------------------------------------------


def double(number):
    """Stand for a function that workers find by its name."""
    return 2 * number


def arrived(func, **options):
    """Return a function as a worker has it."""
    return unpack_function(carried(pack_function(func, **options)))


@pytest.mark.parametrize("func", [len, double, tasks.square, OrderedDict, str.upper, tasks.Multiplier])
def test_functions_by_name(func):
    """A reference, the same each time, and the very same function here."""
    packed = pack_function(func)

    assert travels_by_name(packed)
    assert not is_by_value(packed)
    assert packed.nbytes < 100
    assert unpack_function(carried(packed)) is func
    assert pack_function(func) == packed


def closure(number):
    """Return a function that knows a number."""

    def inner(other):
        return number + other

    return inner


@pytest.mark.parametrize(
    ("func", "argument", "result"),
    [
        (lambda x: x + 1, 1, 2),
        (closure(10), 1, 11),
        (functools.partial(lambda a, b: a - b, 10), 1, 9),
        (functools.partial(closure(5)), 1, 6),
        (lambda x, y=5: x * y, 3, 15),
        (tasks.Multiplier(3), 5, 15),
        (tasks.Multiplier(3).times, 5, 15),
        (functools.partial(double), 4, 8),
        (functools.partial(max, 3), 5, 5),
        ([1, 2, 3].index, 2, 1),
        (np.sqrt, 4.0, 2.0),
    ],
    ids=[
        "lambda",
        "closure",
        "partial of lambda",
        "partial of closure",
        "default",
        "object",
        "bound method",
        "partial",
        "partial of builtin",
        "method of a list",
        "ufunc",
    ],
)
def test_other_callables(func, argument, result):
    """They carry what they need along, and work."""
    assert arrived(func)(argument) == result


@pytest.mark.parametrize("func", [lambda x: x, closure(1), functools.partial(lambda x: x)])
def test_code_does_not_travel_by_name(func):
    """So it is shipped afresh each time: a closure's cells may have changed."""
    assert not travels_by_name(pack_function(func))


def test_a_closure_is_that_of_the_moment_it_was_packed():
    """Large arrays in it included."""
    array = np.zeros(100_000)
    packed = pack_function(lambda: array.sum() + 1)

    array[:] = 1

    assert packed.buffers
    assert unpack_function(packed)() == 1


def test_a_function_that_cannot_be_pickled_is_named():
    """At once, with the reason."""
    lock = threading.Lock()

    def hold():
        return lock

    with pytest.raises(SerializationError, match=r"the function '.*hold'.*cannot be pickled.*lock"):
        pack_function(hold)
    with pytest.raises(Misbehaved, match="the function") as caught:
        pack_function(tasks.BadlyPickledFunction("raise"))
    assert isinstance(caught.value, SerializationError)


@pytest.fixture
def strange_module():
    """A module that only this process knows, with a function that uses a global of it."""
    module = ModuleType("tp_strange")
    exec("factor = 3\ndef times(x):\n    return factor * x", vars(module))
    sys.modules["tp_strange"] = module
    yield module
    sys.modules.pop("tp_strange", None)


def test_a_function_whose_module_is_unknown_there_is_refused(strange_module):
    """The worker says so, instead of failing the tasks."""
    packed = pack_function(strange_module.times)
    del sys.modules["tp_strange"]

    with pytest.raises(FunctionUnknownError, match="tp_strange"):
        unpack_function(packed)


def test_a_function_whose_name_is_unknown_there_is_refused(strange_module):
    """A module of the same name may be an older one."""
    packed = pack_function(strange_module.times)
    del strange_module.times

    with pytest.raises(FunctionUnknownError, match="times"):
        unpack_function(packed)


def test_by_value_a_function_brings_what_it_uses_of_its_module(strange_module):
    """After a refusal: no worker can fail to know it now; and cloudpickle's own settings are as before."""
    import cloudpickle

    packed = pack_function(strange_module.times, by_value=True)
    del sys.modules["tp_strange"]

    assert is_by_value(packed)
    assert not travels_by_name(packed)
    assert unpack_function(carried(packed))(5) == 15
    assert cloudpickle.list_registry_pickle_by_value() == set()


# --- functions of the main script -----------------------------------------------------------------


@pytest.fixture
def script(monkeypatch):
    """Return a function that runs source in a main script which has a file, and returns what it called f."""
    main = ModuleType("__main__")
    main.__file__ = "/nowhere/script.py"
    monkeypatch.setitem(sys.modules, "__main__", main)

    def run(source: str) -> FunctionType:
        exec(compile(source, main.__file__, "exec"), vars(main))
        return main.f

    run.module = main
    return run


SOURCES = [
    pytest.param("def f(x): return x + 1", id="plain"),
    pytest.param("def f(x): return x in {'a', 'b', 'c'}", id="set"),
    pytest.param("def f(x): return [y for y in (lambda: x)()]", id="inner"),
    pytest.param("def f(x, y=2, *, z='3'): return x, y, z", id="defaults"),
]


@pytest.mark.parametrize("source", SOURCES)
def test_a_function_of_the_main_script_goes_by_name(script, source):
    """Where the script was imported again, from another place in the file, it is the same function."""
    packed = pack_function(script(source))
    again = script("\n\n\n# moved\n" + source)

    assert travels_by_name(packed)
    assert unpack_function(carried(packed)) is again


STALE = [
    pytest.param("def f(x): return x + 1", "def f(x): return x + 2", id="constant"),
    pytest.param("def f(x): return x + 1", "def f(x): return x + 1.0", id="type of a constant"),
    pytest.param("def f(x): return len(x)", "def f(x): return str(x)", id="name that it uses"),
    pytest.param("def f(x, y=0): return x", "def f(y, x=0): return x", id="names of arguments"),
    pytest.param("def f(x): return x in {1, 2}", "def f(x): return x in {1, 3}", id="set"),
    pytest.param(
        "def f(x): return (lambda: x + 1)()", "def f(x): return (lambda: x + 2)()", id="inner function"
    ),
    pytest.param("def f(x): return x", "f = len", id="not a function of the script any more"),
    pytest.param("def f(x): return x", "class f: pass", id="a class now"),
    pytest.param(
        "def f(x, k=1): return x, k",
        "def f(x, k=2): return x, k",
        id="default",
    ),
    pytest.param(
        "def f(x, *, k=1): return x, k",
        "def f(x, *, k=2): return x, k",
        id="default of a keyword",
    ),
    pytest.param(
        "def deco(g):\n    def f(x): return g(x)\n    f.__qualname__ = 'f'\n    return f\n"
        "@deco\ndef f(x): return x + 1",
        "@deco\ndef f(x): return x + 2",
        id="decorated",
    ),
]


def test_a_function_of_the_main_script_looks_the_same_in_every_process(tmp_path):
    """A worker that imported the script itself has other hashes, so its sets are in another order."""
    program = tmp_path / "script.py"
    program.write_text(
        "from pools_core.packed_functions import pack_function\n"
        "def f(x): return x in {'a', 'b', 'c', 'd', 'e'} or [y for y in 'ab' if y in {'x', 'y', 'z'}]\n"
        "print(pack_function(f).data.hex())\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    printed = {
        subprocess.run(
            [sys.executable, program], env={**env, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(printed) == 1


@pytest.mark.parametrize(("callers", "workers"), STALE)
def test_a_stale_function_of_the_main_script_is_refused(script, callers, workers):
    """A worker that was started before it was redefined says so, instead of running the wrong code."""
    packed = pack_function(script(callers))
    script(workers)

    with pytest.raises(FunctionUnknownError):
        unpack_function(carried(packed))


def test_a_function_of_the_main_script_that_came_later_is_refused(script):
    """A worker that was started before it was defined has none of that name."""
    packed = pack_function(script("def f(x): return x"))
    del script.module.f

    with pytest.raises(FunctionUnknownError, match="'f'"):
        unpack_function(carried(packed))


def test_after_a_refusal_the_function_of_the_main_script_goes_by_value(script):
    """The caller's code runs, with the caller's globals."""
    packed = pack_function(script("k = 5\ndef f(x): return x + k"), by_value=True)
    script("k = 7\ndef f(x): return 'wrong'")

    assert unpack_function(carried(packed))(1) == 6


def test_what_was_typed_at_a_prompt_does_not_go_by_name(script):
    """No worker can import a notebook: its functions and classes travel with their code."""
    func = script("class Thing:\n    value = 5\ndef f(x): return x + 1")
    del script.module.__file__
    packed, (value,) = pack_function(func), [pack_batch([script.module.Thing()], "argument")]
    vars(script.module).clear()
    script.module.__name__ = "__main__"

    assert not travels_by_name(packed)
    assert unpack_function(carried(packed))(1) == 2
    assert opened(carried(value))[0].value == 5


@pytest.fixture
def prompt(monkeypatch) -> ModuleType:
    """``__main__`` is that of a prompt, a notebook or ``python -c``."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def typed_in(main: ModuleType, code: str) -> Any:
    """Return ``it``, which is defined at the prompt."""
    exec(code, main.__dict__)
    return main.it


@pytest.mark.parametrize(
    "func", [abs, os.getpid, os.path.join, tasks.square, OrderedDict, int, np.sqrt, np.linalg.norm]
)
def test_beside_a_prompt_what_belongs_to_a_module_goes_by_its_name(prompt, func):
    """So it is packed once, and not for each task."""
    packed = pack_function(func)

    assert travels_by_name(packed)
    assert unpack_function(packed) is func


def test_beside_a_prompt_what_is_made_of_modules_functions_does_too(prompt):
    """Whatever it is: only what was typed at the prompt is not to be found elsewhere."""
    packed = pack_function(functools.partial(os.path.join, "a"))

    assert travels_by_name(packed)
    assert unpack_function(packed)("b") == os.path.join("a", "b")


@pytest.mark.parametrize(
    "code",
    [
        "def it(): return 1",
        "it = lambda: 1",
        "class it: pass",
        "import functools, os\n@functools.wraps(os.path.join)\ndef it(): return 1",
        "import functools\nit = functools.partial(lambda: 1)",
        "import functools\ndef one(): return 1\nit = functools.partial(one)",
        "class One:\n    def one(self): return 1\nit = One().one",
    ],
    ids=["function", "lambda", "class", "wrapper", "partial", "named partial", "method"],
)
def test_beside_a_prompt_what_was_typed_there_brings_its_code(prompt, code):
    """Workers cannot import a prompt."""
    assert bytes(pack_function(typed_in(prompt, code)).data[:1]) == b"c"


def test_beside_a_prompt_cloudpickle_may_be_told_to_send_a_modules_code(prompt):
    """It is what users of notebooks know for modules that they are just writing."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(tasks)
    try:
        packed = pack_function(tasks.square)
    finally:
        cloudpickle.unregister_pickle_by_value(tasks)

    assert not travels_by_name(packed)
    assert unpack_function(packed)(3) == 9
