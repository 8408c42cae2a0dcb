"""The parts of client and node that only decide or keep books: no server, no node."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading

import pytest

from pools_core.calls import Call, Chunk, Outcomes, Packed, Refused
from pools_core.errors import TransportError
from pools_core.protocol import Logged, SessionOver
from pools_core.spinning import Spinner
from pools_core.testing.waiting import wait_until
from pools_gearman.callcache import MOST, CallCache
from pools_gearman.connection import Connection
from pools_gearman.intake import NEAR, TRIES, WINDOW, Line, share_out
from pools_gearman.jobs import Job, JobBook, Server
from pools_gearman.losses import Suspects
from pools_gearman.packed import PackedCall
from pools_gearman.reading import SharedReading
from pools_gearman.shared_loop import BATCH, SharedLoop, _LettingGo, at_end
from pools_gearman.signing import RefusedFrameError
from pools_gearman.wire import NodeId, RunJob

CALL = Call(1, Packed(b"nabs"))
CHUNK = Chunk(7, CALL, 0, 10, Packed(b""))


class FakeLink:
    """As much of a link as the books look at."""

    def __init__(self, state=None):
        self.state = state


def outcomes(first, size, last=False, chunk=CHUNK.id):
    return Outcomes(chunk, first, size, Packed(b""), last=last)


# --- one job's answer ---------------------------------------------------------------------------------


def test_an_answer_in_parts_is_accepted_in_order():
    job = Job(b"a-1.1", b"run", FakeLink(), CHUNK)
    job.accept(CHUNK, 0, outcomes(0, 4), last=False)
    job.accept(CHUNK, 1, Logged(b"record"), last=False)
    job.accept(CHUNK, 2, outcomes(4, 6, last=True), last=True)
    assert (job.number, job.received) == (3, 10)


@pytest.mark.parametrize(
    ("number", "event", "last"),
    [
        (1, outcomes(0, 4), False),  # one was left out
        (0, outcomes(0, 4), True),  # the server says that this is all, the node does not
        (0, outcomes(0, 10, last=True), False),
        (0, outcomes(0, 4, chunk=8), False),  # of another chunk
        (0, outcomes(8, 4), False),  # more than there are
        (0, Logged(b"record"), True),
        (0, SessionOver(1), True),
        (0, Refused(CHUNK.id), False),
    ],
)
def test_what_does_not_come_next_is_refused(number, event, last):
    """Swapped, repeated or made up: nothing of it is taken for received."""
    job = Job(b"a-1.1", b"run", FakeLink(), CHUNK)
    with pytest.raises(RefusedFrameError):
        job.accept(CHUNK, number, event, last=last)
    assert job.received == 0


def test_outcomes_are_not_taken_twice():
    job = Job(b"a-1.1", b"run", FakeLink(), CHUNK)
    job.accept(CHUNK, 0, outcomes(0, 4), last=False)
    with pytest.raises(RefusedFrameError):
        job.accept(CHUNK, 1, outcomes(3, 4), last=False)


def test_what_is_said_of_a_sessions_end_is_kept_in_order():
    job = Job(b"a-1.1", b"own", FakeLink(), None)
    job.add_said(0, SessionOver(1), last=True)
    with pytest.raises(RefusedFrameError):
        job.add_said(0, SessionOver(1), last=True)
    with pytest.raises(RefusedFrameError):
        job.add_said(1, SessionOver(1), last=False)


def test_only_the_first_answer_counts():
    loop = asyncio.new_event_loop()
    try:
        job = Job(b"a-1.1", b"own", FakeLink(), None, loop.create_future())
        job.settle("yes")
        job.settle(TransportError("no"))
        assert job.answer.result() == "yes"
    finally:
        loop.close()


# --- the books ----------------------------------------------------------------------------------------


def test_a_job_that_is_parted_from_its_chunk_is_not_out_any_more():
    moves = []
    book = JobBook(lambda: moves.append(1))
    job = book.chunks[CHUNK.id] = Job(b"a-1.1", b"run", FakeLink(), CHUNK)
    assert book.any
    assert book.part(job) is CHUNK
    assert book.part(job) is None
    assert not book.any and moves == [1]


def test_a_job_that_was_replaced_leaves_its_successor_alone():
    """The chunk went again; then the first job is heard of."""
    book = JobBook(lambda: None)
    old, new = (Job(name, b"run", FakeLink(), CHUNK) for name in (b"a-1.1", b"a-1.2"))
    book.chunks[CHUNK.id] = new
    book.part(old)
    assert book.chunks[CHUNK.id] is new


def test_a_server_with_few_jobs_for_its_nodes_is_the_better_one():
    """One without nodes is the last choice."""
    busy, idle, empty = Server("a-1"), Server("a-2"), Server("a-3")
    busy.nodes = {"t": NodeId("n", "t", 2)}
    idle.nodes = {"u": NodeId("m", "u", 8)}
    for server in (busy, idle):
        server.created.extend(Job(server.next_id(), b"run", FakeLink(server), CHUNK) for _ in range(4))
    assert sorted([empty, busy, idle], key=lambda server: server.load) == [idle, busy, empty]
    assert busy.next_id() == b"a-1.5"


def test_a_task_under_which_three_nodes_died_is_to_blame():
    """Whatever chunk it was in, and no other: a node may die for reasons of its own."""
    suspects = Suspects()
    later = CHUNK._replace(id=8, start=5)
    assert [suspects.died(*task) for task in [(CHUNK, 5), (CHUNK, 6), (later, 0)]] == [False] * 3
    assert suspects.died(CHUNK, 5)
    assert not suspects.died(CHUNK, 5)  # begins anew
    other = CHUNK._replace(call=CALL._replace(id=2))
    suspects.died(other, 6)
    suspects.close_call(1)
    suspects.died(other, 6)
    assert suspects.died(other, 6)


# --- a node takes jobs --------------------------------------------------------------------------------


def test_a_node_asks_for_more_at_once_the_more_it_gets():
    line = Line()
    asked = []
    for _ in range(8):
        (ask,) = share_out(100, [line])
        asked.append(ask)
        for _ in range(ask):
            line.got_job()
    assert asked[:3] == [1, 2, 4]
    assert max(asked) == WINDOW


def test_a_node_asks_for_no_more_than_it_has_room_for():
    lines = [Line(window=16), Line(window=16)]
    assert share_out(20, lines) == [16, 4]
    assert share_out(20, lines) == [0, 0]
    assert share_out(-3, [Line()]) == [0]


def test_a_server_that_does_not_answer_keeps_a_node_from_no_other():
    frozen = Line(asked=WINDOW, window=WINDOW)
    other = Line()
    assert share_out(4, [frozen, other]) == [0, 1]
    assert share_out(4, [frozen, other]) == [0, 0]
    assert share_out(0, [frozen, Line()]) == [0, 0]


def test_a_server_that_has_none_is_left_alone_until_it_wakes_the_node():
    line = Line(window=2)
    assert share_out(9, [line]) == [2]
    assert not line.got_none()  # the other request is still out
    assert line.got_none()
    assert share_out(9, [line]) == [0]
    line.was_woken(0.0)
    assert share_out(9, [line]) == [2], "and if there is but one, it says so along with it"
    line.got_job()
    assert share_out(9, [line]) == [0], "that is still to come"
    assert line.got_none()


def test_a_node_whose_server_has_more_goes_on_as_it_was():
    """Though it has nothing to do for a moment."""
    line = Line(window=8)
    line.habit.slept(True)
    assert share_out(9, [line]) == [8]
    line.got_job()
    assert not line.is_idle(100.0)
    assert (line.tries, line.window) == (0, 8)


def test_a_node_that_had_several_jobs_sleeps_at_once():
    """Whoever sent them does not wait for each; and that it is woken soon then means nothing."""
    line = Line(asleep=True)
    for _ in range(3):
        line.was_woken(100.0)
        assert share_out(9, [line]) == [2]
        line.got_job()
        line.got_job()
        assert share_out(9, [line]) == [4]
        assert not any(line.got_none() for _ in range(3))
        assert line.got_none()
        assert not line.is_idle(100.0)
    woken_after_a_job(line, 2 * NEAR)
    assert line.asleep


def woken_after_a_job(line, seconds):
    """Have a line that is asleep woken, given a job, and woken again so long after its end."""
    line.was_woken(0.0)
    assert share_out(9, [line]) == [2]
    assert not line.got_job() and line.got_none()
    assert not line.is_idle(100.0)
    assert share_out(9, [line]) == [0]
    line.was_woken(100.0 + seconds)
    assert share_out(9, [line]) == [2]
    assert not line.got_job() and line.got_none()
    line.is_idle(400.0)


@pytest.mark.parametrize("seconds", [NEAR / 2, 2 * NEAR])
def test_a_node_asks_before_it_sleeps_if_that_would_have_paid(seconds):
    line = Line(asleep=True)
    woken_after_a_job(line, seconds)
    assert share_out(9, [line]) == [int(seconds < NEAR)]


def test_a_job_that_comes_while_a_node_asks_makes_it_ask_again():
    """One at a time, and it sleeps while it has that one: the server says if there is more."""
    line = Line(asleep=True)
    woken_after_a_job(line, 0.0)
    for _ in range(3):
        for _ in range(TRIES - 1):
            assert share_out(9, [line]) == [1]
            assert not line.got_none()
        assert share_out(9, [line]) == [1]
        assert line.got_job() and line.asleep
        assert share_out(9, [line]) == [0]
        line.is_idle(300.0)


def rests_after_asking_in_vain(line):
    """Have a line ask in vain; return how often it is woken soon until it asks again."""
    for _ in range(TRIES):
        assert share_out(9, [line]) == [1]
        slept = line.got_none()
    assert slept and line.asleep
    rests = 0
    while line.asleep:
        line.was_woken(400.0)
        assert share_out(9, [line]) == [2]
        assert not line.got_job() and line.got_none()
        line.is_idle(400.0)
        rests += 1
    return rests


def test_a_node_that_asked_in_vain_does_so_more_and_more_rarely():
    """Until a job comes of it."""
    line = Line(asleep=True)
    woken_after_a_job(line, 0.0)
    assert [rests_after_asking_in_vain(line) for _ in range(4)] == [2, 4, 8, 16]
    assert share_out(9, [line]) == [1]
    assert line.got_job()
    line.is_idle(400.0)
    assert rests_after_asking_in_vain(line) == 2


def test_a_job_that_was_asked_for_before_all_were_done_is_waited_for():
    """The node sleeps only when each request has been answered."""
    line = Line(asleep=True)
    woken_after_a_job(line, 0.0)
    assert share_out(9, [line]) == [1]
    line.asked += 1
    assert not line.got_job()
    assert line.got_none()


def test_a_node_forgets_the_calls_that_it_has_not_used_for_longest():
    """But none of which a chunk is here."""
    forgotten = []
    cache = CallCache(lambda call: forgotten.append(call.id))

    def find(number):
        packed = PackedCall.of(CALL._replace(id=number))
        parts = [memoryview(part) for part in packed.parts]
        return cache.find(b"client", RunJob(packed.digest, 0, b"", parts, [], []), None)

    first = find(1)
    first.uses = 1
    for number in range(2, MOST + 3):
        find(number)
    assert forgotten == [2, 3]
    assert find(1) is first


# --- a loop that other threads act in -----------------------------------------------------------------


class Loop:
    """A shared loop that runs in a thread of its own."""

    def __init__(self):
        self.loop = SharedLoop()
        self.reading = SharedReading(self.loop)
        self.thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.loop.close()
        self.reading.close()


def test_a_thread_acts_in_the_loop_itself():
    """What it sets off goes on in the loop's thread, which is woken; what it sends leaves at the end."""
    seen, tasks = [], []
    went_on = threading.Event()

    def act():
        seen.append((threading.current_thread(), asyncio.get_running_loop()))
        at_end(shared.loop, lambda: seen.append("end"))
        seen.append("act")
        tasks.append(asyncio.ensure_future(go_on()))

    async def go_on():
        seen.append(threading.current_thread())
        went_on.set()

    with Loop() as shared:
        assert shared.loop.inside(act)
        assert went_on.wait(10)
        assert seen == [(threading.current_thread(), shared.loop), "act", "end", shared.thread]
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
    assert not shared.loop.inside(act)


def test_an_error_in_a_thread_that_acts_leaves_the_loop_as_it_was():
    with Loop() as shared:
        with pytest.raises(ZeroDivisionError):
            shared.loop.inside(lambda: 1 // 0)
        done = threading.Event()
        assert shared.loop.inside(lambda: shared.loop.call_soon(done.set))
        assert done.wait(10)


def test_what_lingers_leaves_with_the_next_that_does_not():
    sent = []
    with Loop() as shared, shared.loop.lock:  # so that the loop's thread cannot act meanwhile
        for number in range(3):
            shared.loop.linger(lambda number=number: at_end(shared.loop, lambda: sent.append(number)))
        assert sent == []
        shared.loop.inside(lambda: None)
        assert sorted(sent) == [0, 1, 2]


def test_what_lingers_leaves_when_there_is_enough_of_it():
    sent = []
    with Loop() as shared, shared.loop.lock:
        for _ in range(2 * BATCH + 1):
            shared.loop.linger(lambda: at_end(shared.loop, lambda: sent.append(1)))
        assert len(sent) == 2 * BATCH


def test_what_lingers_leaves_by_itself():
    """Nobody need act again, nor wait: the loop's own thread sees to it."""
    sent = threading.Event()
    with Loop() as shared:
        shared.loop.linger(lambda: at_end(shared.loop, sent.set))
        assert sent.wait(10)
        sent.clear()
        shared.loop.linger(lambda: at_end(shared.loop, sent.set))
        assert sent.wait(10)


def test_what_a_callback_sends_together_leaves_at_its_end():
    """And not a turn of the loop later; whatever becomes of it."""
    seen = []

    def send():
        at_end(shared.loop, lambda: seen.append("sent"))
        seen.append("done")

    def callback():
        shared.loop.together(send)
        with pytest.raises(ZeroDivisionError):
            shared.loop.together(lambda: send() or 1 // 0)
        send()
        seen.append("end")
        shared.loop.call_soon(over.set)

    over = threading.Event()
    with Loop() as shared:
        shared.loop.call_soon_threadsafe(callback)
        assert over.wait(10)
    assert seen == ["done", "sent", "done", "sent", "done", "end", "sent"]


@pytest.mark.parametrize("change", [None, "unregister", "modify"])
def test_what_another_thread_changes_while_the_loop_waits_counts(monkeypatch, change):
    """A file that it has let go of, though there is something to read, is not looked at."""
    ours, theirs = socket.socketpair()
    lock = threading.RLock()
    selector = _LettingGo(lock)
    select = selectors.DefaultSelector.select

    def waiting(self, timeout=None):
        ready = select(self, timeout)
        if change == "unregister":
            self.unregister(ours)
        elif change == "modify":
            self.modify(ours, selectors.EVENT_READ, "other")
        return ready

    with ours, theirs, selector:
        selector.register(ours, selectors.EVENT_READ)
        theirs.sendall(b"x")
        with monkeypatch.context() as patch:
            patch.setattr(selectors.DefaultSelector, "select", waiting)
            with lock:
                found = selector.select(10)
        assert [key.fileobj for key, _ in found] == ([ours] if change is None else [])


def line_of(shared, received):
    """Return a connection of the loop's, and the socket of whoever is at its other end."""
    ours, theirs = socket.socketpair()
    made = threading.Event()
    connections = []

    async def connect():
        def receive(packets):
            received.extend((packet.data, threading.current_thread()) for packet in packets)

        _, connection = await shared.loop.create_connection(lambda: Connection(1000, receive), sock=ours)
        connection.reading = shared.reading
        shared.reading.add(connection)
        connections.append(connection)
        made.set()

    shared.loop.inside(lambda: connections.append(asyncio.ensure_future(connect())))
    assert made.wait(10)
    return connections[-1], theirs


def begin_to_wait(shared):
    """Be about to sleep in this thread."""
    with shared.loop.lock:
        if not shared.reading.begin():
            shared.loop.inside(shared.reading.borrow)


def created(number):
    """A JOB_CREATED packet."""
    handle = b"H:%d" % number
    return b"\0RES\0\0\0\x08" + len(handle).to_bytes(4, "big") + handle


def test_whoever_waits_reads():
    """Without the loop's thread, and until it ends; then the loop reads again."""
    received = []
    with Loop() as shared:
        connection, theirs = line_of(shared, received)
        with theirs:
            begin_to_wait(shared)
            theirs.sendall(created(1))
            shared.loop.inside(shared.reading.take, shared.reading.sleep(10, 0))
            assert received == [(b"H:1", threading.current_thread())]

            shared.loop.inside(shared.reading.end)
            shared.loop.inside(shared.reading.give_back)
            theirs.sendall(created(2))
            wait_until(lambda: len(received) == 2, 10)
            assert received[1] == (b"H:2", shared.thread)
            closed_at(shared, connection, theirs)


def test_whoever_waits_again_and_again_stays_awake(monkeypatch):
    """But for the first time; for whom time stands still, looking never ends but by what has come."""
    received, timeouts = [], []
    with Loop() as shared:
        reading = shared.reading
        assert reading._spinner.most > 0
        reading._spinner = Spinner(clock=lambda: 0.0)
        reading._spinner._cpus = 2
        select = reading.selector.select
        monkeypatch.setattr(
            reading.selector, "select", lambda timeout: (timeouts.append(timeout), select(timeout))[1]
        )
        connection, theirs = line_of(shared, received)
        with theirs:
            for number in range(3):
                begin_to_wait(shared)
                theirs.sendall(created(number))
                shared.loop.inside(reading.take, reading.sleep(10, 1))
                shared.loop.inside(reading.end)
            assert [data for data, _ in received] == [b"H:0", b"H:1", b"H:2"]
            assert (timeouts[0], set(timeouts[1:])) == (10, {0})
            shared.loop.inside(reading.give_back)
            closed_at(shared, connection, theirs)


def closed_at(shared, connection, theirs):
    """End a connection from the other side and wait until the loop knows."""
    over = threading.Event()
    shared.loop.inside(lambda: connection.lost.add_done_callback(lambda _: over.set()))
    theirs.shutdown(socket.SHUT_RDWR)
    assert over.wait(10)


def test_a_connection_that_ends_while_a_thread_reads_is_the_loops_again():
    received = []
    with Loop() as shared:
        connection, theirs = line_of(shared, received)
        with theirs:
            over = threading.Event()
            shared.loop.inside(lambda: connection.lost.add_done_callback(lambda _: over.set()))
            begin_to_wait(shared)
            theirs.sendall(created(1))
            theirs.shutdown(socket.SHUT_RDWR)
            while not over.is_set():
                shared.loop.inside(shared.reading.take, shared.reading.sleep(0.1, 0))
            assert [data for data, _ in received] == [b"H:1"]
            shared.loop.inside(shared.reading.end)


def test_the_bell_wakes_whoever_sleeps_and_nobody_else():
    with Loop() as shared:
        shared.loop.inside(shared.reading.ring)  # nobody sleeps: not kept
        begin_to_wait(shared)
        assert shared.reading.sleep(0, 0) == []
        shared.loop.inside(shared.reading.ring)
        ready = shared.reading.sleep(10, 0)
        assert len(ready) == 1
        shared.loop.inside(shared.reading.take, ready)
        begin_to_wait(shared)
        assert shared.reading.sleep(0, 0) == []
        shared.loop.inside(shared.reading.end)
