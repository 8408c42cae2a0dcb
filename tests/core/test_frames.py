"""Calls, chunks and outcomes as bytes: what is decoded is what was encoded, whatever values hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools_core.calls import (
    Call,
    Chunk,
    Convention,
    FailedTask,
    Outcomes,
    Packed,
    Refused,
    Returned,
    Session,
    SessionEnded,
    SetupFailed,
    Shortened,
    WorkerTimes,
)
from pools_core.failures import describe, rebuild, shown
from pools_core.frames import (
    Kind,
    decode_call,
    decode_chunk,
    decode_event,
    decode_outcomes,
    decode_session,
    encode_call,
    encode_chunk,
    encode_event,
    encode_outcomes,
    encode_session,
)
from pools_core.packed_functions import pack_function, unpack_function
from pools_core.payload import pack, pack_batch, seal, unpack, unpack_batch
from pools_core.shared import SharedObject

any_text = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=()), max_size=40)
numbers = st.integers(0, 2**64 - 1)
small_numbers = st.integers(0, 2**32 - 1)
packed_values = st.builds(Packed, st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=4))

ARRIVALS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "view": lambda part: memoryview(bytearray(part)),
}


@pytest.fixture(params=ARRIVALS)
def carry(request):
    """Return a function that gives parts in other memory, in each way in which an engine may deliver them."""
    return lambda parts: [ARRIVALS[request.param](part) for part in parts]


def plain(packed: Packed) -> Packed:
    """Return packed values with bytes in them, to compare."""
    return Packed(bytes(packed.data), [bytes(buffer) for buffer in packed.buffers])


def bytes_of(parts) -> list[bytes]:
    """Return parts as a socket would give them."""
    return [bytes(part) for part in parts]


def event_of(event):
    """Return an event as the other side gets it."""
    kind, parts = encode_event(event)
    return decode_event(kind, bytes_of(parts))


CALL = Call(1, Packed(b"n"))


def test_no_two_kinds_are_one():
    """A kind is known by its number alone; 0 is none of them, so that an empty buffer is no frame."""
    assert [kind.value for kind in Kind] == list(range(1, len(Kind.__members__) + 1))


# --- calls ----------------------------------------------------------------------------------------


@given(
    number=numbers,
    function=packed_values,
    convention=st.sampled_from(Convention),
    timeout=st.none() | st.integers(0, 10**6) | st.floats(1e-8, 1e9),
    seed=st.none() | st.integers(),
    session=st.none() | st.integers(1, 2**64),
    lifespan=st.none() | st.integers(1, 2**64),
    measured=st.booleans(),
)
def test_calls_round_trip(number, function, convention, timeout, seed, session, lifespan, measured):
    """Every field, with seeds of any size and buffers in their order; the session is found by its number."""
    known = {3: Session(3)} if session is None else {3: Session(3), session: Session(session)}
    found = known[session] if session is not None else None
    call = Call(number, function, convention, timeout, seed, found, lifespan, measured)

    decoded = decode_call(bytes_of(encode_call(call)), known)

    assert decoded._replace(function=plain(decoded.function)) == call
    assert decoded.session is found
    assert type(decoded.convention) is Convention
    assert type(decoded.task_timeout) is type(timeout)


def test_a_function_round_trips(carry):
    """With the large array that its closure holds."""
    weights = bytearray(range(256)) * 200
    call = Call(3, pack_function(lambda at: weights[at]), Convention.STAR, 1.5, -(10**40))

    decoded = decode_call(carry(encode_call(call)), {})

    assert decoded.seed == -(10**40)
    assert unpack_function(decoded.function)(257) == 1


def test_a_call_before_its_session_is_an_error():
    """As a chunk before its call."""
    with pytest.raises(KeyError):
        decode_call(encode_call(CALL._replace(session=Session(4))), {})


# --- sessions -------------------------------------------------------------------------------------

timeouts = st.none() | st.integers(1, 10**6) | st.floats(1e-8, 1e9)


@given(
    number=st.integers(1, 2**64),
    init=st.none() | packed_values,
    leave=st.none() | packed_values,
    gives_id=st.booleans(),
    gives_state=st.booleans(),
    init_timeout=timeouts,
    exit_timeout=timeouts,
)
def test_sessions_round_trip(number, init, leave, gives_id, gives_state, init_timeout, exit_timeout):
    """Every field; both functions with their buffers, which are not mixed up."""
    session = Session(number, init, leave, gives_id, gives_state, None, init_timeout, exit_timeout)

    decoded = decode_session(bytes_of(encode_session(session, inherited=False)))

    init, leave = (None if one is None else plain(one) for one in (decoded.init, decoded.exit))
    assert decoded._replace(init=init, exit=leave) == session
    assert type(decoded.init_timeout) is type(init_timeout)
    assert type(decoded.exit_timeout) is type(exit_timeout)


@pytest.mark.parametrize(
    "value", [0, "", [1, {"a": (2,)}], bytearray(range(256)) * 500], ids=lambda value: type(value).__name__
)
def test_shared_objects_round_trip(carry, value):
    """Beside functions, large and small."""
    weights = bytearray(range(256)) * 200
    shared = SharedObject(value)
    session = Session(1, pack_function(lambda at: weights[at]), None, shared=shared)

    decoded = decode_session(carry(encode_session(session, inherited=False)))

    assert decoded.shared.value() == value
    assert decoded.shared.value() is decoded.shared.value()
    assert unpack_function(decoded.init)(257) == 1


def test_what_is_inherited_does_not_travel():
    """It need not even be picklable."""
    shared = SharedObject(lambda: None)
    session = Session(1, shared=shared)

    parts = encode_session(session, inherited=True)

    assert len(parts) == 1
    assert decode_session(parts).shared is shared


def test_what_is_said_to_be_inherited_and_is_not_is_an_error():
    """An engine that is wrong about it must hear of it."""
    shared = SharedObject("gone")
    parts = encode_session(Session(1, shared=shared), inherited=True)
    del shared

    with pytest.raises(KeyError):
        decode_session(parts)


# --- chunks ---------------------------------------------------------------------------------------


@given(
    number=numbers,
    start=numbers,
    size=small_numbers,
    ticket=numbers,
    items=packed_values,
    unit=st.none() | st.integers(1, 2**32 - 1),
    trial=st.booleans(),
)
def test_chunks_round_trip(number, start, size, ticket, items, unit, trial):
    """Every field; the call is found by its number."""
    calls = {1: CALL, 7: Call(7, Packed(b"c"))}
    chunk = Chunk(number, calls[7], start, size, items, unit=unit, trial=trial)

    decoded, its_ticket = decode_chunk(bytes_of(encode_chunk(chunk, ticket)), calls)

    assert decoded._replace(items=plain(decoded.items)) == chunk
    assert decoded.call is calls[7]
    assert its_ticket == ticket


def test_a_chunk_has_no_ticket_unless_it_is_given_one():
    """Zero is what engines without tickets read."""
    assert decode_chunk(encode_chunk(Chunk(1, CALL, 0, 1, Packed(b""))), {1: CALL})[1] == 0


@pytest.mark.parametrize(
    "values",
    [[], [1, "a"], range(5), [[1], "x" * 100_000, bytearray(100_000), None], [Outcomes(1, 0, 1, [])]],
    ids=["none", "plain", "range", "mixed", "lookalike"],
)
def test_items_round_trip(carry, values):
    """Small and large; also such as look like what frames are made of."""
    chunk = Chunk(5, CALL, 10, len(values), pack_batch(values, "argument"))

    decoded, _ = decode_chunk(carry(encode_chunk(chunk)), {1: CALL})
    opened, sealed = unpack_batch(decoded.items)

    assert sealed is (type(values) is list and any(type(value) not in (int, str) for value in values))
    assert len(opened) == len(values)
    if not sealed:
        assert list(opened) == list(values)


def test_a_chunk_before_its_call_is_an_error():
    """An engine that forgot to send the call first must hear of it."""
    with pytest.raises(KeyError):
        decode_chunk(encode_chunk(Chunk(1, CALL, 0, 1, Packed(b""))), {})


# --- outcomes -------------------------------------------------------------------------------------

failed_tasks = st.builds(
    FailedTask,
    offset=small_numbers,
    type_name=any_text,
    text=any_text,
    traceback=any_text,
    arguments=any_text,
    worker=any_text,
    error=st.none() | st.binary(max_size=60),
)
seconds_spent = st.floats(0, 1e9)
worker_times = st.builds(
    WorkerTimes,
    worker=small_numbers,
    waiting=seconds_spent,
    init=seconds_spent,
    working=seconds_spent,
    tasks=small_numbers,
    slowest=st.lists(st.tuples(seconds_spent, small_numbers, any_text), max_size=5).map(tuple),
)


@given(
    chunk=numbers,
    first=small_numbers,
    size=small_numbers,
    values=packed_values,
    failures=st.lists(failed_tasks, max_size=4).map(tuple),
    seconds=st.floats(0, 1e9),
    last=st.booleans(),
    times=st.none() | worker_times,
)
def test_outcomes_round_trip(chunk, first, size, values, failures, seconds, last, times):
    """Every field, texts with surrogates and NULs, pickles as they are."""
    outcomes = Outcomes(chunk, first, size, values, failures, seconds, last, times)

    decoded = decode_outcomes(bytes_of(encode_outcomes(outcomes)))

    assert decoded._replace(values=plain(decoded.values)) == outcomes
    assert type(decoded.last) is bool
    assert type(decoded.failures) is tuple


def test_outcomes_without_failures_do_not_pay_for_them():
    """The second part is empty then: this is what nearly every chunk is answered with."""
    parts = encode_outcomes(Outcomes(1, 0, 1, seal([1])))

    assert parts[1] == b""
    assert decode_outcomes(parts).failures == ()


def test_results_round_trip(carry):
    """Large buffers arrive in the parts' own memory, without a copy."""
    values = [1, pack([2], "a result"), pack(bytearray(50_000), "a result"), None]
    parts = carry(encode_outcomes(Outcomes(9, 4, 4, seal(values), seconds=0.25, last=False)))

    decoded = decode_outcomes(parts)

    assert (decoded.chunk, decoded.first, decoded.size) == (9, 4, 4)
    assert (decoded.seconds, decoded.last) == (0.25, False)
    assert any(buffer is parts[-1] for buffer in decoded.values.buffers)
    assert len(unpack_batch(decoded.values)[0]) == 4


def raised(error: BaseException) -> BaseException:
    """Return an error with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def told(error: BaseException, item="item") -> BaseException:
    """Return what the caller sees of an error that a task raised in another process."""
    failed = describe(raised(error), 2, shown(item, Convention.ONE), "worker 1 on here", False)
    outcomes = Outcomes(1, 0, 3, seal([None] * 3), (failed,))
    (decoded,) = decode_outcomes(bytes_of(encode_outcomes(outcomes))).failures
    assert decoded == failed
    return rebuild(decoded, 42)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 3),
        KeyError("key"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(3),
        KeyboardInterrupt(),
        ValueError("\udcff\0"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_round_trip(error):
    """As themselves, with the worker's traceback and a note of which task it was."""
    seen = told(error)

    assert type(seen) is type(error)
    assert seen.args == error.args
    assert str(seen) == str(error)
    assert "in raised" in str(seen.__cause__)
    assert seen.__notes__ == ["raised by task 42 with 'item' in worker 1 on here"]


class Fancy(str):
    """A str of somebody's own, such as a translation or markup."""

    __slots__ = ()


class FancyError(Exception):
    """Its text is such a str."""

    def __str__(self):
        return Fancy("fancy text")


class FancyItem:
    """Its repr is such a str."""

    def __repr__(self):
        return Fancy("fancy item")


@pytest.mark.parametrize(
    ("error", "item"),
    [
        pytest.param(FancyError(), "item", id="text"),
        pytest.param(ValueError("x"), FancyItem(), id="repr"),
    ],
)
def test_failures_whose_texts_are_fancy_round_trip(error, item):
    """str() and repr() may return a subclass of str."""
    seen = told(error, item)

    assert str(seen) == str(error)
    assert repr(item) in seen.__notes__[0]


@given(numbers)
def test_refusals_round_trip(chunk):
    """Any id."""
    assert event_of(Refused(chunk)) == Refused(chunk)


@given(numbers)
def test_what_is_given_back_round_trips(chunk):
    """Any id; and it is not taken for a refusal."""
    found = event_of(Returned(chunk))
    assert (type(found), found) == (Returned, Returned(chunk))
    refused = event_of(Refused(chunk))
    assert (type(refused), refused) == (Refused, Refused(chunk))


@given(numbers, small_numbers)
def test_what_is_left_of_a_chunk_round_trips(chunk, size):
    """Any id and size."""
    found = event_of(Shortened(chunk, size))
    assert (type(found), found) == (Shortened, Shortened(chunk, size))


@given(numbers, failed_tasks)
def test_failed_setups_round_trip(chunk, failure):
    """With all that is known of the failure."""
    assert event_of(SetupFailed(chunk, failure)) == SetupFailed(chunk, failure)


@given(
    session=st.integers(1, 2**64),
    worker=small_numbers,
    values=packed_values,
    failure=st.none() | failed_tasks,
    seconds=seconds_spent,
)
def test_ends_of_sessions_round_trip(session, worker, values, failure, seconds):
    """Every field, with large values in their buffers."""
    ended = SessionEnded(session, worker, values, failure, seconds)

    decoded = event_of(ended)

    assert decoded._replace(values=plain(decoded.values)) == ended


@pytest.mark.parametrize(
    "value", [None, 5, [1, 2], bytearray(100_000)], ids=lambda value: type(value).__name__
)
def test_exit_results_round_trip(carry, value):
    """Packed as results of tasks are; none at all is another thing than None."""
    sealed = seal([pack(value, "the value") if isinstance(value, list | bytearray) else value])
    kind, parts = encode_event(SessionEnded(1, 0, sealed))
    _, nothing = encode_event(SessionEnded(1, 0, seal([])))

    (opened,), packed = unpack_batch(decode_event(kind, carry(parts)).values)

    assert (unpack(opened) if packed else opened) == value
    assert len(unpack_batch(decode_event(kind, carry(nothing)).values)[0]) == 0


EVENTS = {
    Kind.OUTCOMES,
    Kind.REFUSED,
    Kind.RETURNED,
    Kind.SHORTENED,
    Kind.SETUP_FAILED,
    Kind.SESSION_ENDED,
}


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in EVENTS], ids=lambda kind: kind.name)
def test_other_kinds_are_no_events(kind):
    """An engine that passes them on must hear of it."""
    with pytest.raises(ValueError, match=kind.name):
        decode_event(kind, [b""])
