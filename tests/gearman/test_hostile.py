"""Whoever reaches the job server: garbage, forged and replayed frames, to nodes and to callers.

Nothing is unpickled, nothing runs, it is logged once, and everybody goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import struct

import pytest

from pools_core.calls import Call, Chunk
from pools_core.errors import SecurityError
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch
from pools_core.testing import tasks
from pools_core.testing.waiting import Background, wait_until
from pools_gearman import wire
from pools_gearman.signing import Direction, Signer
from pools_gearman.wire import Names, PackedCall

NAMES = Names("pools")
SUBMIT, CREATED, COMPLETE, FAIL, GRAB, ASSIGN, CAN_DO, NO_JOB = 7, 8, 13, 14, 30, 31, 1, 10


class Raw:
    """A plain socket to a job server."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)

    def send(self, kind, *args):
        body = b"\0".join(args)
        self.sock.sendall(struct.pack(">4sII", b"\0REQ", kind, len(body)) + body)

    def receive(self):
        _, kind, size = struct.unpack(">4sII", self._exactly(12))
        return kind, self._exactly(size)

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            assert more, "the server closed the connection"
            data += more
        return data

    def ask(self, function, unique, data):
        """Submit a job and return what comes of it."""
        self.send(SUBMIT, function, unique, data)
        while True:
            kind, body = self.receive()
            if kind in (COMPLETE, FAIL):
                return kind, body.partition(b"\0")[2]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


class Mark:
    """Unpickled, it leaves a line in a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return tasks.note, (self.path, "unpickled")


def run_frame(signer, job, mark):
    """A whole, well-formed job, whose function, when unpickled, leaves a mark."""
    call = Call(1, pack_function(tasks.identity))
    evil = pickle.dumps(Mark(mark))
    call = Call(1, type(call.function)(b"n" + evil))
    chunk = Chunk(1, call, 0, 1, pack_batch([1], "argument"))
    body = wire.encode_run(chunk, PackedCall.of(call), with_call=True)
    return b"".join(signer.seal(Direction.TO_NODE, job, NAMES.run, body))


@pytest.fixture
def target(cluster, tmp_path):
    """A cluster with a node named n1, and the path of a file that shall not come to be."""
    cluster.start_node("--name", "n1")
    return cluster, str(tmp_path / "mark")


def still_works(cluster):
    with cluster.pool() as pool:
        return pool.map(tasks.square, range(10)) == [number * number for number in range(10)]


def test_a_node_opens_nothing_that_is_not_signed_for_it(target):
    """Garbage, pickles, frames without signature, with another key, or bound to another job."""
    cluster, mark = target
    right, wrong = Signer(cluster.key.read_bytes().strip()), Signer(b"not the right key")
    good = run_frame(right, b"evil-1.99", mark)
    frames = {
        b"evil-1.1": b"",
        b"evil-1.2": os.urandom(500),
        b"evil-1.3": pickle.dumps(Mark(mark)),
        b"evil-1.4": run_frame(Signer(None), b"evil-1.4", mark),
        b"evil-1.5": run_frame(wrong, b"evil-1.5", mark),
        b"evil-1.6": good,
        b"evil-1.7": good[:60],
        b"evil-1.8": good + b"x",
        b"": good,
    }
    with Raw(cluster.ports[0]) as raw:
        for function in (NAMES.run, NAMES.control("n1")):
            for unique, frame in frames.items():
                kind, answer = raw.ask(function, unique, frame)
                assert kind == COMPLETE and wire.read_refusal(answer) is not None

    assert tasks.runs(mark) == []
    says = cluster.nodes[0].says()
    assert says.count("it is not signed") == 1 and says.count("its signature is wrong") == 1
    assert still_works(cluster)


def test_a_node_runs_a_recorded_job_only_once(target):
    """The second time it is refused, signature or not; so is one that is too old."""
    cluster, mark = target
    signer = Signer(cluster.key.read_bytes().strip())
    frame = run_frame(signer, b"replay-1.1", mark)
    with Raw(cluster.ports[0]) as raw:
        raw.ask(NAMES.run, b"replay-1.1", frame)
        assert tasks.runs(mark) == ["unpickled"]  # the first time it is an ordinary job
        _, answer = raw.ask(NAMES.run, b"replay-1.1", frame)

        assert wire.read_refusal(answer).name == "REPLAYED"
    assert tasks.runs(mark) == ["unpickled"]


def test_a_node_survives_packets_that_make_no_sense(target):
    """It is the job server that relays them; ids may hold anything but a NUL."""
    cluster, _ = target
    with Raw(cluster.ports[0]) as raw:
        for unique in (b"\xff\xfe", b"x" * 60, b"\n\r\x1b[31m", b"pools"):
            kind, answer = raw.ask(NAMES.run, unique, b"x" * 100)
            assert kind == COMPLETE and wire.read_refusal(answer) is not None
    assert still_works(cluster)


class Impostor:
    """A worker without the key that takes jobs and answers what it likes, until the body ends."""

    def __init__(self, port, answers):
        self._raw = Raw(port)
        self._answers = answers
        self.taken = 0
        self._raw.send(CAN_DO, NAMES.run)

    def serve(self):
        """Answer one job with each answer."""
        for answer in self._answers:
            while True:
                self._raw.send(GRAB)
                kind, body = self._raw.receive()
                if kind == ASSIGN:
                    break
            handle, _, _, data = body.split(b"\0", 3)
            self.taken += 1
            self._raw.send(COMPLETE, handle, answer(data))

    def close(self):
        self._raw.sock.close()


def test_a_caller_opens_no_forged_result(cluster, tmp_path, caplog):
    """It asks again, logs it once, and gets the true result as soon as a true node comes."""
    mark = str(tmp_path / "mark")
    evil = pickle.dumps(Mark(mark))
    impostor = Impostor(cluster.ports[0], [lambda data: evil, lambda data: data])
    with caplog.at_level(logging.WARNING, "pools_gearman"), cluster.pool() as pool:
        waiting = Background(pool.apply, tasks.square, (3,))
        impostor.serve()
        impostor.close()
        cluster.start_node()

        assert waiting.result(30) == 9
    assert tasks.runs(mark) == []
    assert 1 <= sum("was refused" in record.message for record in caplog.records) <= 2


def test_forged_results_without_end_are_a_security_error(cluster, tmp_path):
    """Rather than a call that never ends."""
    mark = str(tmp_path / "mark")
    impostor = Impostor(cluster.ports[0], [lambda data: pickle.dumps(Mark(mark))] * 3)
    with cluster.pool() as pool:
        waiting = Background(pool.apply, tasks.square, (3,))
        impostor.serve()
        with pytest.raises(SecurityError, match="3 times in a row"):
            waiting.result(30)
    impostor.close()
    assert tasks.runs(mark) == []


def test_a_result_of_another_job_is_refused(cluster):
    """A node's true answer, given out as that to another job."""
    cluster.start_node()
    signer = Signer(cluster.key.read_bytes().strip())
    recorded = b"".join(signer.seal(Direction.TO_CLIENT, b"a-1.1", NAMES.run, [b"\x03\0\0\0\0"]))
    for node in cluster.nodes:
        node.end()
    impostor = Impostor(cluster.ports[0], [lambda data: recorded] * 3)
    with cluster.pool() as pool:
        waiting = Background(pool.apply, tasks.square, (3,))
        impostor.serve()
        with pytest.raises(SecurityError, match="signature is wrong"):
            waiting.result(30)
    impostor.close()


def test_a_caller_survives_a_server_that_talks_nonsense():
    """The connection is given up, with an error that says so."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk():
            line, _ = server.accept()
            with line:
                line.recv(1000)
                line.sendall(b"\0RES" + os.urandom(100))
                with contextlib.suppress(OSError):
                    line.recv(1000)

        talker = Background(talk)
        from pools_core import MakePool
        from pools_core.errors import TransportError

        config = {"gearman": {"job_servers": f"127.0.0.1:{server.getsockname()[1]}", "allow_unsigned": True}}
        with pytest.raises(TransportError):
            MakePool("gearman", config, connect_timeout=2)
        wait_until(lambda: not talker.running, 10)
