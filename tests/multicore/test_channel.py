"""Frames over a stream: whatever pieces it comes in, what arrives is what was sent."""

from __future__ import annotations

import socket
from array import array
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pools_core.frames import Kind
from pools_core.spinning import SPIN, Spinner
from pools_core.testing.waiting import Background
from pools_multicore.channel import (
    AT_ONCE,
    BUFFER,
    LARGE,
    FrameReader,
    Outbox,
    frame_bytes,
    read_frames,
    write_frame,
)

MOST_PARTS = BUFFER // 8 - 1
"""So many lengths go into the reader's buffer, beside the head."""

BORDERS = [LARGE - 1, LARGE, LARGE + 1, BUFFER - 1, BUFFER, BUFFER + 1]


def pattern(size: int, salt: int = 0) -> bytes:
    """Return bytes in which a shift, a loss or a mix-up shows."""
    unit = bytes((salt + 7 * position) % 251 for position in range(251))
    return (unit * (size // 251 + 1))[:size]


def stream(*frames) -> bytes:
    """Return frames as they lie on the wire."""
    return b"".join(bytes(buffer) for kind, parts in frames for buffer in frame_bytes(kind, parts))


def feed(reader: FrameReader, data: bytes, pieces=(BUFFER,)):
    """Return the frames that come of bytes that arrive in pieces of those sizes, over and over."""
    frames, sizes, rest = [], cycle(pieces), memoryview(data)
    while rest:
        space = reader.space()
        assert len(space) > 0, "a reader without space would take what follows for end-of-file"
        count = min(len(space), next(sizes), len(rest))
        space[:count] = rest[:count]
        reader.filled(count)
        rest = rest[count:]
        frames += reader.frames()
    return frames


FRAMES = [
    pytest.param([(Kind.READY, [])], id="no part"),
    pytest.param([(Kind.STOP, [b""])], id="an empty part"),
    pytest.param([(Kind.CHUNK, [b"", b"a", b"", b"bc", b""])], id="empty parts between others"),
    pytest.param([(Kind.CALL, [pattern(40), pattern(300, 1)]), (Kind.CLOSE, [b"1"])], id="two frames"),
    pytest.param([(Kind.CHUNK, [pattern(number % 5, number) for number in range(300)])], id="many parts"),
    pytest.param([(Kind.CHUNK, [b"head", pattern(LARGE), b"tail"])], id="a large part between small ones"),
    pytest.param([(Kind.CHUNK, [pattern(LARGE), pattern(LARGE, 1)])] * 2, id="large parts side by side"),
    pytest.param(
        [(Kind.CHUNK, [pattern(LARGE), b""]), (Kind.STOP, [])], id="an empty part after a large one"
    ),
]


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("pieces", [(10**9,), (1,), (7, 1, 8), (8,), (9, LARGE)], ids=str)
def test_frames_arrive_whatever_the_pieces(frames, pieces):
    """Whole, byte by byte, and cut within heads, lengths and parts."""
    reader, data = FrameReader(), stream(*frames)

    assert feed(reader, data, pieces) == frames
    assert reader.total == len(data)
    assert not reader.mid_part


@pytest.mark.parametrize("size", BORDERS)
@pytest.mark.parametrize("before", [0, 1, LARGE - 100])
def test_parts_around_the_borders_arrive(size, before):
    """From 32 KiB a part has memory of its own; smaller ones pass through the buffer of 64 KiB."""
    frames = [(Kind.OUTCOMES, [pattern(before, 3), pattern(size), pattern(5, 9)]), (Kind.STOP, [b"end"])]

    for pieces in ((BUFFER,), (1000, 31), (size,), (size + 1, 3)):
        arrived = feed(FrameReader(), stream(*frames), pieces)
        assert arrived == frames
        assert type(arrived[0][1][1]) is (bytearray if size >= LARGE else bytes)


sizes = st.integers(0, 50) | st.sampled_from(BORDERS) | st.integers(0, 100_000)
some_frames = st.lists(st.tuples(st.sampled_from(Kind), st.lists(sizes, max_size=6)), min_size=1, max_size=5)


@settings(deadline=None)
@given(shapes=some_frames, pieces=st.lists(st.integers(1, 90_000), min_size=1, max_size=6))
def test_frames_arrive_in_random_pieces(shapes, pieces):
    """Any frames, any pieces."""
    frames = [(kind, [pattern(size, salt) for salt, size in enumerate(parts)]) for kind, parts in shapes]

    assert feed(FrameReader(), stream(*frames), [*pieces, 10_000]) == frames


def test_a_frame_with_a_tail():
    """What has come of the next frame waits until the rest of it comes."""
    reader = FrameReader()
    first, second = (Kind.CHUNK, [pattern(100)]), (Kind.CALL, [pattern(200), pattern(3)])
    data = stream(first, second)
    cut = len(stream(first)) + 50

    assert feed(reader, data[:cut]) == [first]
    assert feed(reader, b"") == []
    assert list(reader.frames()) == []
    assert feed(reader, data[cut:]) == [second]


@pytest.mark.parametrize("size", [1_000_000, 5_000_000])
def test_a_large_part_is_received_straight_into_memory_of_its_own(size):
    """The space that is offered is the part's own, writable memory, and none of it is copied after."""
    reader, part = FrameReader(), pattern(size)
    data = stream((Kind.OUTCOMES, [b"fields", part]))
    assert feed(reader, data[:1000]) == []
    assert reader.mid_part
    target = reader.space().obj

    ((_, (fields, arrived)),) = feed(reader, data[1000:], (300_000, 17))

    assert memoryview(arrived).obj is target
    assert not memoryview(arrived).readonly
    assert (fields, arrived) == (b"fields", part)
    assert not reader.mid_part


def test_what_has_arrived_does_not_change_afterwards():
    """The buffer is used again and again; parts, large or small, are nobody else's."""
    reader = FrameReader()
    kept = [feed(reader, stream((Kind.CHUNK, [pattern(60, n), pattern(LARGE, n)])))[0] for n in range(5)]

    kept[0][1][1][:] = bytes(LARGE)

    for number, (_, parts) in enumerate(kept[1:], 1):
        assert parts == [pattern(60, number), pattern(LARGE, number)]


def test_the_greatest_number_of_parts_arrives():
    """A head and its lengths may fill the buffer to its last byte."""
    frames = [(Kind.CHUNK, [b"x"] * MOST_PARTS), (Kind.STOP, [])]

    assert feed(FrameReader(), stream(*frames), (BUFFER,)) == frames
    assert feed(FrameReader(), stream(*frames), (999,)) == frames


def test_a_frame_of_too_many_parts_is_refused():
    """By its head alone: it can only be a stranger's, and nothing is kept waiting for the rest of it."""
    data = stream((Kind.CHUNK, [b""] * (MOST_PARTS + 1)))

    with pytest.raises(ValueError, match=f"{MOST_PARTS + 1} parts"):
        feed(FrameReader(), data[:8])


def test_an_unknown_kind_is_refused():
    """A stream that is out of step, or a stranger's, is not taken for frames."""
    with pytest.raises((ValueError, KeyError), match="250"):
        feed(FrameReader(), b"\xfa" + bytes(15))


def test_small_parts_are_joined_and_large_ones_are_not_copied():
    """A frame of small parts is one buffer; a large part is sent from where it lies."""
    large, writable = pattern(LARGE), bytearray(pattern(LARGE))
    view = memoryview(array("d", range(10_000)))

    assert len(frame_bytes(Kind.CHUNK, [b"a"] * 500)) == 1
    buffers = frame_bytes(Kind.CHUNK, [b"a", large, b"b", writable, view])

    assert any(buffer is large for buffer in buffers)
    assert any(buffer is writable for buffer in buffers)
    assert any(isinstance(buffer, memoryview) and buffer.obj is view.obj for buffer in buffers)


def test_views_count_in_bytes():
    """A view of numbers has fewer elements than bytes, and an empty one has none."""
    small, large = array("d", range(100)), array("i", range(20_000))
    parts = [memoryview(small), memoryview(large), memoryview(b""), memoryview(array("d"))]

    ((_, arrived),) = feed(FrameReader(), stream((Kind.CHUNK, parts)))

    assert arrived == [small.tobytes(), large.tobytes(), b"", b""]


# --- over real sockets ----------------------------------------------------------------------------


@pytest.fixture
def line():
    """A socket pair; the first end does not block and has little room."""
    near, far = socket.socketpair()
    near.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with near, far:
        yield near, far


def deliver(outbox: Outbox, far: socket.socket, total: int, mouthful: int) -> tuple[list, int]:
    """Flush and read by turns until so many bytes have come; return the frames and how often it was stuck."""
    reader, frames, stuck = FrameReader(), [], 0
    while reader.total < total:
        stuck += not outbox.flush()
        count = far.recv_into(reader.space()[:mouthful])
        assert count
        reader.filled(count)
        frames += reader.frames()
    return frames, stuck


@pytest.mark.parametrize("mouthful", [1000, 8191, BUFFER])
def test_an_outbox_whose_peer_reads_slowly(line, mouthful):
    """It sends what the socket takes, never blocks, and begins again in the middle of a buffer."""
    near, far = line
    frames = [(Kind.CHUNK, [pattern(50, n), pattern(LARGE + n, n), pattern(n)]) for n in range(1, 12)]
    outbox = Outbox(near)
    assert not outbox
    for kind, parts in frames:
        outbox.put(kind, parts)
    assert outbox

    arrived, stuck = deliver(outbox, far, len(stream(*frames)), mouthful)

    assert arrived == frames
    assert stuck > 1
    assert outbox.flush()
    assert not outbox


def test_an_outbox_sends_more_buffers_than_fit_in_one_system_call(line):
    """Many arrays or many frames are many buffers; the kernel takes 1024 at once (IOV_MAX)."""
    near, far = line
    frames = [(Kind.CHUNK, [pattern(LARGE, n) for n in range(3 * AT_ONCE)])]
    frames += [(Kind.CLOSE, [n.to_bytes(8, "little")]) for n in range(1500)]
    outbox = Outbox(near)
    for kind, parts in frames:
        outbox.put(kind, parts)

    arrived, _ = deliver(outbox, far, len(stream(*frames)), BUFFER)

    assert arrived == frames
    assert not outbox


def test_an_outbox_takes_frames_while_it_is_stuck(line):
    """What is put later comes later."""
    near, far = line
    frames = [(Kind.CHUNK, [pattern(500_000, n)]) for n in range(3)] + [(Kind.STOP, [])]
    outbox = Outbox(near)
    for kind, parts in frames:
        outbox.put(kind, parts)
        assert not outbox.flush()

    assert deliver(outbox, far, len(stream(*frames)), BUFFER)[0] == frames


class Attentive:
    """A socket that notices when it is asked to send nothing: that succeeds for ever and gets nowhere."""

    def __init__(self, sock):
        self._sock = sock

    def send(self, buffer):
        assert len(buffer), "asked to send nothing"
        return self._sock.send(buffer)

    def sendmsg(self, buffers):
        assert any(map(len, buffers)), "asked to send nothing"
        return self._sock.sendmsg(buffers)


@pytest.mark.parametrize("parts", [[pattern(LARGE), b""], [b"a", pattern(LARGE), b"", b""]], ids=len)
def test_an_outbox_gets_over_empty_parts_after_a_large_one(line, parts):
    """Nothing is left to send, so the flush is done."""
    near, far = line
    outbox = Outbox(Attentive(near))
    outbox.put(Kind.CHUNK, parts)

    assert deliver(outbox, far, len(stream((Kind.CHUNK, parts))), BUFFER)[0] == [(Kind.CHUNK, parts)]
    assert outbox.flush()
    assert not outbox


def test_an_outbox_whose_peer_is_gone_raises(line):
    """An OSError, for the engine to take as a death."""
    near, far = line
    far.close()
    outbox = Outbox(near)
    outbox.put(Kind.STOP, [])

    with pytest.raises(OSError):
        outbox.flush()


@pytest.fixture(params=["asleep", "awake"])
def spinner(request):
    """How the worker's side waits; awake: never asleep but the first time, since its time stands still."""

    class Asked(Spinner):
        times = 0

        def wait(self, look, sleep):
            self.times += 1
            return super().wait(look, sleep)

    spinner = Asked(0.0 if request.param == "asleep" else SPIN, lambda: 0.0)
    yield spinner
    assert spinner.times


def test_frames_over_blocking_sockets(line, spinner):
    """The worker's side of the line: write, and read until end-of-file."""
    near, far = line
    near.setblocking(True)
    frames = [(Kind.READY, []), (Kind.OUTCOMES, [b"f", b"", pattern(200_000), b""]), (Kind.REFUSED, [b"x"])]
    reading = Background(lambda: list(read_frames(far, spinner)))

    for kind, parts in frames:
        write_frame(near, kind, parts)
    near.close()

    assert reading.result() == frames


@pytest.mark.parametrize("cut", [1, 8, 15, 40, LARGE])
def test_a_frame_that_is_cut_off_never_came(line, cut, spinner):
    """End-of-file in the middle of one: the frames before it count, and nothing else."""
    near, far = line
    near.setblocking(True)
    near.sendall(stream((Kind.READY, [])))
    reading = Background(lambda: list(read_frames(far, spinner)))
    near.sendall(stream((Kind.OUTCOMES, [pattern(20), pattern(2 * LARGE)]))[:cut])
    near.close()

    assert reading.result() == [(Kind.READY, [])]
