"""When a node asks its job server for work; the server is the test, and says one thing after the other."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

import pytest

from pools_core import MakePool
from pools_core.calls import Call, Chunk
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch
from pools_core.testing.waiting import deadline
from pools_gearman import intake, wire
from pools_gearman.intake import TRIES
from pools_gearman.node import Node
from pools_gearman.packed import PackedCall
from pools_gearman.packets import Command
from pools_gearman.settings import GearmanSettings, NodeSettings
from pools_gearman.shared_loop import SharedLoop
from pools_gearman.signing import Direction, Signer
from pools_gearman.wire import Names

SIGNER = Signer(None)
NAMES = Names("pools")
GRAB, SLEEP, DONE = Command.GRAB_JOB_UNIQ, Command.PRE_SLEEP, Command.WORK_COMPLETE


def packet(command, *args):
    """Return what a job server sends."""
    body = b"\0".join(args)
    return struct.pack(">4sII", b"\0RES", command, len(body)) + body


NOOP, NO_JOB = packet(Command.NOOP), packet(Command.NO_JOB)


class Server:
    """A job server with one node, as far as the node can tell."""

    def __init__(self, listening):
        lines = [Line(listening.accept()[0]) for _ in range(2)]
        assert [line.hear() for line in lines] == [GRAB, GRAB]
        self._work, self._control = sorted(lines, key=lambda line: NAMES.run not in line.functions)
        self._jobs = 0

    def say(self, *packets):
        """Tell the node something, all at once: a job could else be done before the rest comes."""
        self._work.sock.sendall(b"".join(packets))

    def job(self):
        """Return the packet with a job that takes no time."""
        self._jobs += 1
        job = b"test-1.%x" % self._jobs
        call = Call(1, pack_function(abs))
        chunk = Chunk(self._jobs, call, 0, 1, pack_batch([1], "argument"))
        body = wire.encode_run(chunk, PackedCall.of(call), with_call=True)
        frame = b"".join(SIGNER.seal(Direction.TO_NODE, job, NAMES.run, body))
        return packet(Command.JOB_ASSIGN_UNIQ, b"H:%d" % self._jobs, NAMES.run, job, frame)

    def hears(self, *commands):
        """Whether the node says just this next, in any order."""
        return sorted(self._work.hear() for _ in commands) == sorted(commands)

    def wake(self):
        """Wake the node, and give it a job."""
        self.say(NOOP)
        assert self.hears(GRAB, GRAB)
        self.say(self.job(), NO_JOB)
        assert self.hears(SLEEP, DONE)

    def close(self):
        self._work.close()
        self._control.close()


class Line:
    """The server's end of a connection."""

    def __init__(self, sock):
        sock.settimeout(20)
        self.sock = sock
        self.functions = []
        self._said = sock.makefile("rb")
        assert self._said.readline() == b"workers\n"
        sock.sendall(b".\n")

    def hear(self):
        """Return the next command, other than what the node says of itself."""
        while True:
            _, command, size = struct.unpack(">4sII", self._said.read(12))
            body = self._said.read(size)
            if command == Command.CAN_DO:
                self.functions.append(body)
            if command not in (Command.CAN_DO, Command.SET_CLIENT_ID):
                return command

    def close(self):
        self._said.close()
        self.sock.close()


@pytest.fixture
def server():
    """A job server, and a node that has been told that there is nothing to do."""
    with deadline(60), socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        settings = GearmanSettings(job_servers=f"127.0.0.1:{listening.getsockname()[1]}", allow_unsigned=True)
        engine = MakePool("threads", n_jobs=2).detach_engine()
        nodes, loops = [], []

        async def main():
            loops.append(asyncio.get_running_loop())
            nodes.append(
                Node(settings, NodeSettings("threads"), SIGNER, None, lambda: engine, lambda _: None)
            )
            await nodes[0].run(engine)

        def run():
            with asyncio.Runner(loop_factory=SharedLoop) as runner:
                runner.run(main())

        thread = threading.Thread(target=run)
        thread.start()
        made = Server(listening)
        try:
            made.say(NO_JOB)
            assert made.hears(SLEEP)
            yield made
        finally:
            loops[0].call_soon_threadsafe(nodes[0].stop, 0)
            thread.join(20)
            made.close()
            assert not thread.is_alive()


def test_a_node_that_was_woken_soon_asks_before_it_sleeps_again(server, monkeypatch):
    """The job of a caller that waits for each result comes without a word in between."""
    monkeypatch.setattr(intake, "NEAR", float("inf"))
    server.wake()
    server.wake()  # this came soon after the end of the first
    for _ in range(3):
        assert server.hears(GRAB)
        server.say(server.job())
        assert server.hears(SLEEP, DONE)
    for _ in range(TRIES):
        assert server.hears(GRAB)
        server.say(NO_JOB)
    assert server.hears(SLEEP)
    server.wake()
    server.wake()  # not before: that was in vain
    assert server.hears(GRAB)


def test_a_node_that_is_woken_late_sleeps_at_once(server, monkeypatch):
    monkeypatch.setattr(intake, "NEAR", 0.0)
    for _ in range(5):
        server.wake()
    server.say(NOOP)
    assert server.hears(GRAB, GRAB)
    for _ in range(2):
        server.say(NO_JOB)
    assert server.hears(SLEEP)
