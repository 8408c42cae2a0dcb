"""Whatever can fail does, in a random order, under one call; no task is lost, none is counted twice.

    short   2,000 tasks, each fault once; part of every test run
    long    POOLS_CHAOS_TASKS=20000 python -m pytest -n 0 tests/gearman/test_chaos.py

Faults come as tasks finish, not by the clock: so many results, then the next.  POOLS_CHAOS_SEED=7 gives
the order of seed 7; the long run takes another each time, and says which.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import pytest

from pools_core.errors import WorkerDiedError
from pools_core.results import Failure
from pools_core.testing import tasks
from pools_core.testing.waiting import deadline, wait_until

SHORT = 2_000
"""Tasks of the short run."""

TASKS = int(os.environ.get("POOLS_CHAOS_TASKS", SHORT))
ROUNDS = max(1, TASKS // SHORT)
"""How often each fault comes."""

POISON = 3
"""Tasks that kill their worker whenever they run."""

NODES = 3

PATIENCE = "node_timeout = 1\nconnect_timeout = {}"
"""A node that is silent for a second is overtaken."""

SOON, LATE = 1, 60
"""Seconds after which a node gives up a mute connection: it says what nobody waits for, or comes back."""

CALLER = """
import sys
from pools_core import MakePool
from pools_core.testing import tasks
MakePool("gearman", sys.argv[1]).map(tasks.work, [tasks.Job(0, sys.argv[2], seconds=0.5)] * 50, chunksize=1)
"""


@pytest.fixture(autouse=True)
def _ends_by_a_deadline_at_all():
    with deadline(120 * ROUNDS):
        yield


@dataclass
class Node:
    """A node and its cables to the job servers."""

    process: Any
    cables: list[Any]

    def workers(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            return self.process.process.children(recursive=True)
        return []

    def tasks(self, log):
        """Return what each of its workers began last."""
        pids = {worker.pid for worker in self.workers()}
        return set({pid: int(word) for word, pid in tasks.notes(log) if pid in pids}.values())

    def end(self):
        self.process.end()
        for cable in self.cables:
            cable.end()


@dataclass
class Mending:
    """What ends a fault.

    Attributes:
        mend: how.
        after: tasks whose results must have come before: it shall be noticed.
    """

    mend: Any
    after: set[int]


class Chaos:
    """A cluster of two job servers and a few nodes, and what can happen to it.

    Each fault is a method; one that is to be mended returns how.
    """

    def __init__(self, cluster, relay, choice, folder):
        self.cluster = cluster
        self.log = str(folder / "log")
        self.nodes = []
        self._relay, self._choice, self._folder = relay, choice, folder
        self._all = []
        self._callers = 0
        for _ in range(NODES):
            self._start_node()

    def faults(self):
        return [
            self.node_killed,
            self.worker_killed,
            self.job_server_killed_and_restarted,
            self.job_server_lost,
            self.node_cut_off,
            self.node_frozen,
            self.caller_killed,
        ]

    def node_killed(self):
        """Its workers are not: they end by themselves."""
        victim = self._take_node()
        victim.process.send(signal.SIGKILL)

    def worker_killed(self):
        """While it runs a task, or between two."""
        workers = [worker for node in self.nodes for worker in node.workers()]
        with contextlib.suppress(psutil.NoSuchProcess):
            self._choice.choice(workers).kill()

    def job_server_killed_and_restarted(self):
        """At once; what it had in line is gone."""
        number = self._choice.randrange(2)
        self.cluster.servers[number].end()
        self.cluster.start_server(number)

    def job_server_lost(self):
        """For a while; the other stands in for it."""
        number = self._choice.randrange(2)
        self.cluster.servers[number].end()
        return Mending(partial(self.cluster.start_server, number), set())

    def node_cut_off(self):
        """Not even the end of its connections comes through, until it is back."""
        victim = self._take_node()
        for cable in victim.cables:
            cable.cut()

        def join():
            for cable in victim.cables:
                cable.join()
            self._give_back(victim)

        return Mending(join, victim.tasks(self.log))

    def node_frozen(self):
        """It keeps its connections and says nothing, until it thaws."""
        victim = self._take_node()
        victim.process.send(signal.SIGSTOP)

        def thaw():
            victim.process.send(signal.SIGCONT)
            self._give_back(victim)

        return Mending(thaw, victim.tasks(self.log))

    def caller_killed(self):
        """Another one, with jobs in line."""
        self._callers += 1
        log = str(self._folder / f"caller{self._callers}")
        caller = subprocess.Popen([sys.executable, "-c", CALLER, str(self.cluster.config), log])
        try:
            wait_until(lambda: tasks.runs(log) or caller.poll() is not None, 30, "it has jobs that run")
        finally:
            caller.kill()
            caller.wait()
        assert tasks.runs(log)

    def _start_node(self):
        cables = [self._relay(port) for port in self.cluster.ports]
        ports = [cable.port for cable in cables]
        patience = PATIENCE.format(self._choice.choice((SOON, LATE)))
        config = self.cluster.config_for(f"node{len(self._all)}", *ports, extra=patience)
        node = Node(self.cluster.start_node(config=config), cables)
        self._all.append(node)
        self.nodes.append(node)

    def _take_node(self):
        """Return a node that nothing else shall happen to; another takes its place."""
        victim = self.nodes.pop(self._choice.randrange(len(self.nodes)))
        self._start_node()
        return victim

    def _give_back(self, node):
        """A node is well again; one that is too many is told to stop, and hands back what it has."""
        surplus = self.nodes.pop(self._choice.randrange(len(self.nodes)))
        surplus.process.send(signal.SIGTERM)
        self.nodes.append(node)

    def in_line(self):
        """Return how many jobs the job servers have."""
        return sum(jobs(port) for port in self.cluster.ports)

    def end(self):
        for node in self._all:
            node.end()


def jobs(port):
    """Return how many jobs a job server has, those that run included."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line, line.makefile("rw") as talk:
        talk.write("status\n")
        talk.flush()
        return sum(int(row.split("\t")[1]) for row in iter(talk.readline, ".\n"))


@pytest.fixture
def seed():
    chosen = os.environ.get("POOLS_CHAOS_SEED")
    if chosen is None:
        chosen = 1 if TASKS == SHORT else random.SystemRandom().randrange(10**6)
    print(f"POOLS_CHAOS_SEED={chosen} POOLS_CHAOS_TASKS={TASKS}")
    return int(chosen)


@pytest.fixture
def chaos(make_cluster, server_kind, make_relay, tmp_path, seed):
    with make_cluster(tmp_path, kind=server_kind, servers=2, extra=PATIENCE.format(SOON)) as cluster:
        made = Chaos(cluster, make_relay, random.Random(seed), tmp_path)
        yield made
        made.end()
        print(cluster.logs())


class Course:
    """Which fault comes when, and which tasks there are; the same for the same seed."""

    def __init__(self, seed, chaos):
        choice = random.Random(seed)
        self._faults = [
            fault for _ in range(ROUNDS) for fault in choice.sample(chaos.faults(), len(chaos.faults()))
        ]
        self._apart = TASKS / (len(self._faults) + 3)
        self._moments = [
            int(self._apart * (number + choice.uniform(0.5, 1.5))) for number in range(len(self._faults))
        ]
        self._mending = None
        self.poison = set(choice.sample(range(TASKS), POISON))
        self.work = [
            tasks.Job(
                number,
                chaos.log,
                seconds=choice.choice((0, 0.02, 0.07)),
                deed="os._exit" if number in self.poison else "return",
            )
            for number in range(TASKS)
        ]

    def go_on(self, results):
        """Do what is due after these results: mend what is broken, if it was noticed, and break more."""
        if not self._faults or len(results) < self._moments[0]:
            return
        late = len(results) > self._moments[0] + 2 * self._apart
        if self._mending is not None and (late or self._mending.after <= results.keys() | self.poison):
            self.mend()
        if self._mending is None:
            print(f"{len(results)} results: {self._faults[0].__name__}")
            self._mending = self._faults.pop(0)()
            del self._moments[0]

    def mend(self):
        """Mend what is broken."""
        if self._mending is not None:
            self._mending.mend()
            self._mending = None

    @property
    def over(self):
        return not self._faults


def test_chaos(chaos, seed):
    """Every task but the poison gives its result, once; the poison fails; the cluster is free and whole."""
    course = Course(seed, chaos)
    results, failed = Counter(), Counter()
    with chaos.cluster.pool() as pool:
        for result in pool.imap_unordered(tasks.work, course.work, max_retries=4 + ROUNDS, on_error="return"):
            if isinstance(result, Failure):
                assert isinstance(result.error, WorkerDiedError)
                failed[result.index] += 1
            else:
                results[result] += 1
            course.go_on(results)
        course.mend()

        assert course.over
        assert failed == Counter(course.poison)
        assert results == Counter(set(range(TASKS)) - course.poison)
        assert len(tasks.runs(chaos.log)) > TASKS, "something had to run again"
        wait_until(
            lambda: pool.map(tasks.square, range(10)) and pool.size == 2 * NODES, 60, "the cluster is whole"
        )
        wait_until(lambda: chaos.in_line() == 0, 60, "the job servers have nothing in line")
