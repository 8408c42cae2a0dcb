"""What a node can be told and asked, at both ends.

{"do": "ping"}                                  who and how it is
{"do": "cancel", "jobs": [...], "kill": bool}   stop jobs
{"do": "forget", "client": "..."}               stop all of a client, which has left
{"do": "drain"}                                 finish what runs, then end
{"do": "restart"}                               new worker processes, while work goes on
{"do": "kill"}                                  end at once; jobs go back to the queue
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import psutil

if TYPE_CHECKING:
    from pools_gearman.node import Node

__all__ = ["perform"]

DAY: Final = 86400.0


def perform(node: Node, request: Any) -> Any:
    """Do what a request says; return the answer, for JSON."""
    what = request.get("do") if isinstance(request, dict) else None
    action = _ACTIONS.get(str(what))
    if action is None:
        return {"error": f"a node cannot {what!r}; it can {', '.join(_ACTIONS)}"}
    return action(node, request)


def _ping(node: Node, _: Any) -> Any:
    return {
        "node": node.own.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": node.started,
        "time": time.time(),
        "state": node.state,
        "pool": node.own.pool,
        "slots": node.slots,
        "done": node.jobs.tally.done,
        "running": len(node.jobs.held),
        "tasks": node.jobs.tally.tasks,
        "failed": node.jobs.tally.failed,
        "mean": node.jobs.tally.seconds / node.jobs.tally.done if node.jobs.tally.done else None,
        "load": list(os.getloadavg()),
        **_usage(psutil.Process()),
        "workers": [_worker(child) for child in _workers()],
    }


def _workers() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _worker(process: psutil.Process) -> Any:
    try:
        return {"pid": process.pid, "since": process.create_time(), **_usage(process)}
    except psutil.Error:  # it has just ended
        return {"pid": process.pid, "since": None, "cpu": None, "memory": None}


def _usage(process: psutil.Process) -> Any:
    """Return a process's CPU seconds and resident bytes."""
    with process.oneshot():
        times = process.cpu_times()
        return {"cpu": times.user + times.system, "memory": process.memory_info().rss}


def _cancel(node: Node, request: Any) -> Any:
    stopped = node.jobs.cancel(set(map(str, request["jobs"])), kill=bool(request["kill"]))
    node.grab()
    return {"stopped": stopped}


def _forget(node: Node, request: Any) -> Any:
    client = str(request["client"])
    stopped = node.jobs.forget_client(client)
    node.forget_sessions(client.encode())
    node.grab()
    return {"stopped": stopped}


def _drain(node: Node, _: Any) -> Any:
    running = len(node.jobs.held)
    asyncio.get_running_loop().call_soon(node.stop, DAY)
    return {"running": running}


def _restart(node: Node, _: Any) -> Any:
    node.restart()
    return {"running": len(node.jobs.held)}


def _kill(node: Node, _: Any) -> Any:
    running = len(node.jobs.held)
    # After the answer has left.
    asyncio.get_running_loop().call_later(0.05, node.stop, 0)
    return {"handed back": running, "at": time.time()}


_ACTIONS: Final[dict[str, Callable[[Node, Any], Any]]] = {
    "ping": _ping,
    "cancel": _cancel,
    "forget": _forget,
    "drain": _drain,
    "restart": _restart,
    "kill": _kill,
}
