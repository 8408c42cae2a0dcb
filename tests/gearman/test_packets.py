"""The packet decoder: fed whole, byte by byte, with a tail, and with what no job server sends."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearman import protocol
from pools_core.errors import TransportError
from pools_gearman.packets import SCRATCH, Command, Line, Packet, PacketReader, encode

argument = st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b"x"))


@st.composite
def responses(draw):
    """A packet as a server sends it, and its bytes, made by pygearman."""
    command = draw(st.sampled_from(Command))
    names = protocol.GEARMAN_PARAMS_FOR_COMMAND[command]
    values = [draw(argument) for _ in names[:-1]] + [draw(st.binary(max_size=100)) for _ in names[-1:]]
    raw = protocol.pack_binary_command(int(command), dict(zip(names, values, strict=True)), is_response=True)
    return Packet(command, tuple(values[:-1]), values[-1] if values else b""), raw


def lines():
    text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
    return text.map(lambda line: (Line(line), f"{line}\n".encode()))


def feed(reader, raw, step):
    found = []
    while raw:
        space = reader.space()
        assert space
        count = min(step, len(raw), len(space))
        space[:count] = raw[:count]
        raw = raw[count:]
        reader.filled(count)
        found += [
            Packet(item.command, item.args, bytes(item.data)) if isinstance(item, Packet) else item
            for item in reader.items()
        ]
    return found


@given(st.lists(st.one_of(responses(), lines()), max_size=8), st.sampled_from([1, 2, 3, 7, 13, 10_000]))
def test_packets_and_lines_come_out_however_the_stream_is_cut(items, step):
    """pygearman's packets are read as what they were; a tail that is not complete stays."""
    raw = b"".join(part for _, part in items)
    tail = b"\0RES\0\0"

    assert feed(PacketReader(1 << 20), raw + tail, step) == [item for item, _ in items]


@given(responses())
def test_requests_are_as_pygearman_makes_them(sample):
    """So every server understands them."""
    packet, _ = sample
    names = protocol.GEARMAN_PARAMS_FOR_COMMAND[packet.command]
    values = [*packet.args, packet.data][: len(names)]

    ours = b"".join(encode(packet.command, *values))

    assert ours == protocol.pack_binary_command(int(packet.command), dict(zip(names, values, strict=True)))


@given(st.binary(min_size=1, max_size=200), st.sampled_from([1, 5, 1000]))
def test_garbage_is_an_error_or_waits_for_more_but_never_a_packet_of_ours(garbage, step):
    """Nor any other exception than the one that says so."""
    try:
        for item in feed(PacketReader(100), b"\0" + garbage, step):
            assert isinstance(item, Packet | Line)
    except TransportError:
        pass


@pytest.mark.parametrize("size", [101, 1 << 31, (1 << 32) - 1, (1 << 32) - 12])
def test_a_packet_over_the_cap_is_refused_by_its_header_alone(size):
    """Before anything is allocated; sizes are unsigned."""
    with pytest.raises(TransportError, match="max_frame_bytes"):
        feed(PacketReader(100), struct.pack(">4sII", b"\0RES", 28, size), 1)


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">4sII", b"\0REQ", 28, 0),  # a request
        struct.pack(">4sII", b"\0RES", 9999, 0),  # unknown
        struct.pack(">4sII", b"\0RES", 6, 1) + b"x",  # NOOP takes nothing
        struct.pack(">4sII", b"\0RES", 31, 3) + b"a\0b",  # too few arguments
        struct.pack(">4sII", b"\0RES", 28, 2000) + b"h" * 2000,  # a handle without end
    ],
)
def test_what_breaks_the_rules_is_refused(raw):
    """Rather than guessed at."""
    with pytest.raises(TransportError):
        feed(PacketReader(1 << 20), raw, 7)


@pytest.mark.parametrize("size", [SCRATCH - 20, SCRATCH, SCRATCH + 1, 3 * SCRATCH])
@pytest.mark.parametrize("step", [4096, 1 << 30])
def test_large_packets_are_received_in_place(size, step):
    """With others before and behind them."""
    small = struct.pack(">4sII", b"\0RES", 28, 3) + b"h\0x"
    large = struct.pack(">4sII", b"\0RES", 28, size + 2) + b"h\0" + b"y" * size

    found = feed(PacketReader(1 << 30), small + large + small, step)

    assert [len(packet.data) for packet in found] == [1, size, 1]


def test_a_line_without_end_is_refused():
    """A web server, say, that never stops."""
    with pytest.raises(TransportError, match="no end"):
        feed(PacketReader(1 << 20), b"x" * (4 << 20), 1 << 16)


def test_requests_that_no_server_could_read_are_not_made():
    """A NUL would begin another argument."""
    with pytest.raises(ValueError, match="NUL"):
        encode(Command.SUBMIT_JOB, b"a\0b", b"", b"")
    with pytest.raises(ValueError, match="3 arguments"):
        encode(Command.SUBMIT_JOB, b"a")
