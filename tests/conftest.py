"""What holds for every test: nothing is left behind, and nothing waits for ever."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from pools_core.bundle import Bundle
from pools_core.testing.leaks import gone, nothing_left_behind
from pools_core.testing.waiting import wait_until

LAUNCH = """
import subprocess, sys
with open("log", "wb") as log:
    print(subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=log, stderr=log).pid)
"""
"""Starts what shall be nobody's child, so that no test seems to leave it behind."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background by a shell without job control: children would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs that tests run have buffers, as those of users do: where it is set, a buffer that is copied by a
# fork, or never written, would not be noticed.
os.environ.pop("PYTHONUNBUFFERED", None)

if "PYTEST_XDIST_WORKER" in os.environ:
    # pytest-xdist starts its workers with ``-c``, which looks like a prompt; let tests, and the processes
    # that they start, see the main module of ``python -m pytest``.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("pytest.__main__")


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """Each test ends with the children, threads, descriptors and shared memory that it began with."""
    with nothing_left_behind():
        yield


@pytest.fixture
def bundles(monkeypatch):
    """Keep how many single tasks went together each time; so a test knows that they did."""
    sizes = []
    whole = Bundle.__init__

    def noted(self, number, members, *others):
        sizes.append(len(members))
        whole(self, number, members, *others)

    monkeypatch.setattr(Bundle, "__init__", noted)
    return sizes


@contextlib.contextmanager
def _running_cluster(folder, environment):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = "{}:{}".format(*probe.getsockname())

    def run(*command):
        where = {"cwd": folder, "env": environment, "timeout": 60}
        return subprocess.run(command, capture_output=True, text=True, check=True, **where).stdout

    pools = [sys.executable, "-m", "pools_core", "gearman"]
    run(*pools, "init", "--job-server", address)
    up = ["timeout", "600", *pools, "up", "-c", "config.ini", "-j", "2"]
    process = psutil.Process(int(run(sys.executable, "-c", LAUNCH, *up)))
    log = folder / "log"
    try:
        wait_until(lambda: "is ready" in log.read_text() or gone(process.pid), 60, "the cluster is ready")
        assert not gone(process.pid), log.read_text()
        yield folder / "config.ini"
    finally:
        family = [process, *process.children(recursive=True)]
        process.terminate()
        wait_until(lambda: all(gone(one.pid) for one in family), 30, "the cluster has ended")


@pytest.fixture(scope="session")
def running_cluster():
    """A context manager that takes a folder and an environment: in it, a job server and a node run there.

    They are nobody's children; it gives the path of their config.
    """
    return _running_cluster
