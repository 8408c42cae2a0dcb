"""Functions for workers that are set up: what comes before their own arguments is what a session gives.

    set_up, count, take_down    a worker's life: begun, used, ended; each leaves its mark
    *_gate                      the same, waiting until the test says so

Like ``tasks``, this module imports nothing but the standard library.  What a test adds comes first, by
``functools.partial``; then what the session gives, in its order; then the item.
"""

from __future__ import annotations

import gc
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pools_core.testing.tasks import Address, Payload, first, go_wrong, note, pass_gate, runs

State = dict[str, Any]

kept: str | None = None
"""What ``keep`` has kept, in the worker that called it."""

TICK: Final = 0.01
"""Seconds between two lines of ``tick_forever``."""


# --- a worker's life --------------------------------------------------------------------------------


def set_up(log: str, state: State) -> None:
    """Begin: leave a line, and give the state a name of its own."""
    state["token"] = uuid.uuid4().hex
    state["tasks"] = 0
    note(log, f"init:{state['token']}")


def keep() -> None:
    """Begin, by assigning a global of this module."""
    global kept  # noqa: PLW0603  that is the point
    kept = "kept"


def found(item: object) -> str | None:
    """Return what has been kept."""
    return kept


def keeper() -> Callable[[], None]:
    """Return a function that does what ``keep`` does, and has no name of its own."""

    def keep_too() -> None:
        global kept  # noqa: PLW0603  as above
        kept = "kept"

    return keep_too


def finder() -> Callable[[object], str | None]:
    """Return a function that does what ``found`` does, and has no name of its own."""
    return lambda _: kept


def set_up_as(log: str, owner: str, state: State) -> None:
    """Begin for somebody."""
    set_up(log, state)
    state["owner"] = owner


def count(state: State, item: Any) -> tuple[str, int, Any]:
    """Return the name of the state, how many tasks it has seen, and the item."""
    state["tasks"] += 1
    return state["token"], state["tasks"], item


def count_for(state: State, item: Any) -> tuple[str, Any]:
    """Count, and return for whom the worker was set up, and the item."""
    state["tasks"] += 1
    return state["owner"], item


def count_anew(state: State, _: Any) -> int:
    """Count in a state that nothing has been put into."""
    state["tasks"] = state.get("tasks", 0) + 1
    return int(state["tasks"])


def count_at_gate(gate: Address, state: State, item: Any) -> tuple[str, int, Any]:
    """Count when the test lets it."""
    pass_gate(gate, str(item))
    return count(state, item)


def count_pair(state: State, left: Any, right: Any) -> tuple[str, int, Any]:
    """Count a task of two arguments."""
    return count(state, (left, right))


def count_and_fail_first(log: str, state: State, item: int) -> int:
    """Count; fail the first time that this item comes."""
    state["tasks"] += 1
    note(log, str(item))
    if first(log, str(item)):
        go_wrong("raise")
    return item


def count_and_fail_at(index: int, state: State, item: int) -> int:
    """Count; fail at one item."""
    state["tasks"] += 1
    if item == index:
        go_wrong("raise")
    return item


def count_and_grow(state: State, nbytes: int) -> tuple[str, int]:
    """Count, and hold that much memory for good."""
    grow(nbytes)
    return count(state, nbytes)[:2]


def count_or_die(state: State, item: int) -> int:
    """Count; at item 4 die."""
    state["tasks"] += 1
    if item == 4:
        go_wrong("SIGKILL")
    return item


def take_down(log: str, state: State) -> tuple[str, int]:
    """End: leave a line, and return the state's name and how many tasks it has seen."""
    note(log, f"exit:{state['token']}")
    return state["token"], state["tasks"]


def take_down_at_gate(log: str, gate: Address, state: State) -> tuple[str, int]:
    """End when the test lets it."""
    pass_gate(gate, "exit")
    return take_down(log, state)


def fail_the_first_time(log: str, state: State) -> tuple[str, int]:
    """End, but raise if this is the first worker to end."""
    result = take_down(log, state)
    if next(word for word in runs(log) if word.startswith("exit:")) == f"exit:{state['token']}":
        go_wrong("raise")
    return result


# --- for the test itself ------------------------------------------------------------------------------


def life_of(log: str) -> dict[str, Any]:
    """Return options that set workers up and take them down, with lines in that log."""
    return {
        "worker_init": partial(set_up, log),
        "worker_exit": partial(take_down, log),
    }


def begun(log: str) -> list[str]:
    """Return the names of the states that ``set_up`` made, in order."""
    return _after(log, "init:")


def ended(log: str) -> list[str]:
    """Return the names of the states that ``take_down`` took down, in order."""
    return _after(log, "exit:")


def _after(log: str, prefix: str) -> list[str]:
    return [word.removeprefix(prefix) for word in runs(log) if word.startswith(prefix)]


# --- what a session gives -----------------------------------------------------------------------------


def keep_extras(*extras: Any) -> None:
    """As ``worker_init``: put into the state, which is last, what came before it."""
    extras[-1]["init got"] = extras[:-1]


def give_extras(*extras: Any) -> tuple[Any, ...]:
    """As ``worker_exit``: return what came."""
    return extras


def append_to_shared(shared: list[Any], item: Any) -> tuple[int, int]:
    """Append to the shared list; return its id and its length in this worker."""
    shared.append(item)
    return id(shared), len(shared)


def shared_and_item(shared: Any, item: Any) -> tuple[Any, Any]:
    """Return both."""
    return shared, item


def total_of_shared(shared: Any, item: float) -> float:
    """Return the sum of a shared array, and of the item."""
    return float(shared.sum()) + item


def hold_shared(lock: Any, item: Any) -> Any:
    """Use a shared lock."""
    with lock:
        return item


def die_of_shared(shared: Any, item: Any) -> None:
    """Die."""
    go_wrong("SIGKILL")


class Noted:
    """An object that leaves a line whenever it is pickled."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __reduce__(self) -> tuple[type[Noted], tuple[str]]:
        note(self.log, "pickled")
        return Noted, (self.log,)


def shared_at_gate(gate: Address, shared: Any, item: Any) -> None:
    """Wait until the test lets it go on."""
    pass_gate(gate, str(item))


def wait_at_gate(gate: Address, given: Any, item: Any) -> None:
    """Likewise, whatever the session gives."""
    pass_gate(gate, str(item))


def shared_and_nothing(shared: Any, item: Any) -> None:
    """Have a shared object, and return nothing."""


def count_payloads(shared: Any, item: Any) -> int:
    """Return how many payloads there are in this process."""
    gc.collect()
    return sum(type(one) is Payload for one in gc.get_objects())


def number_and_item(number: int, item: Any) -> tuple[int, Any]:
    """Return the worker's number and the item."""
    return number, item


def number_at_gate(gate: Address, number: int, item: Any) -> tuple[int, Any]:
    """Likewise, when the test lets it."""
    pass_gate(gate, str(item))
    return number, item


def number_at_gate_if_first(gate: Address, log: str, number: int, item: Any) -> tuple[int, Any]:
    """Likewise, and leave a line; only the first task waits."""
    if item == 0:
        pass_gate(gate, str(item))
    note(log, str(item))
    return number, item


# --- without anything given ---------------------------------------------------------------------------


def note_and_return(log: str, word: str, value: Any = None) -> Any:
    """Leave a line, and return something."""
    note(log, word)
    return value


def note_and_go_wrong(log: str, word: str, way: str) -> Any:
    """Leave a line, and go wrong in some way."""
    note(log, word)
    go_wrong(way)


def note_and_go_wrong_first(log: str, word: str, way: str) -> Any:
    """Leave a line; go wrong the first time."""
    note(log, word)
    if first(log, word):
        go_wrong(way)


def tick_forever(log: str) -> Any:
    """Leave a line now and then, for ever: how many there are says how long it was let run."""
    while True:
        note(log, "tick")
        time.sleep(TICK)  # simulates a task that works on; without it the log would grow by megabytes


def nap_and_note(log: str, seconds: float) -> None:
    """Take some time, as an expensive initialisation does, then leave a line."""
    time.sleep(seconds)  # simulates the expensive initialisation
    note(log, "init")


def grow(nbytes: int) -> int:
    """Hold that much memory for good; return the process id."""
    _held.append(bytearray(b"\xa5" * nbytes))
    return os.getpid()


def grow_and_die(nbytes: int) -> None:
    """Hold that much memory, then die of it, as far as anybody can see."""
    grow(nbytes)
    go_wrong("SIGKILL")


_held: Final[list[bytearray]] = []
