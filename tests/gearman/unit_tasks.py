"""Tasks of ``test_units``, in a module that nodes can import too: only such functions are kept by workers."""

from __future__ import annotations

import os

from pools_core.testing.gate import pass_gate
from pools_core.testing.task_log import note


def same(number: int) -> int:
    """Return it."""
    return number


def wait_at(number: int, waits: int, host: str, port: int) -> int:
    """Return a number; one of them waits at a gate."""
    if number == waits:
        pass_gate((host, port), str(number))
    return number


def wait_from(number: int, first: int, host: str, port: int) -> int:
    """Return a number; from some on they wait at a gate."""
    if number >= first:
        pass_gate((host, port), str(number))
    return number


def wait_and_note(number: int, waits: int, host: str, port: int, log: str) -> int:
    """Return a number; one of them waits at a gate, and those behind it are noted."""
    if number == waits:
        pass_gate((host, port), str(number))
    elif number > waits:
        note(log, str(number))
    return number


def die_at(number: int, dies: int, log: str) -> int:
    """Return a number; one of them ends the process, and those around it are noted."""
    if abs(number - dies) < 50:
        note(log, str(number))
    if number == dies:
        os._exit(9)
    return number
