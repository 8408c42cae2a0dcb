"""What tasks of a function took is remembered by its code, and nothing else of it is kept."""

from __future__ import annotations

import functools
import gc
import math
import weakref

import pytest

from pools_core.times import KNOWN, Taken, Times

TAKEN = Taken(1.0, 8.0)


def plain(value):
    """Return it."""
    return value


class Thing:
    """Something with a method, and which can be called."""

    def method(self, value):
        """Return it."""
        return value

    __call__ = method


def closure(held):
    """Return a function that holds on to something."""
    return lambda value: (value, held)


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (plain, plain),
        (closure(1), closure(2)),
        (Thing().method, Thing().method),
        (functools.partial(plain, 1), plain),
        (functools.partial(functools.partial(plain, 1)), functools.partial(plain, 2)),
        (abs, abs),
        (math.sqrt, math.sqrt),
        (str, str),
    ],
    ids=["function", "closure", "method", "partial", "partials", "builtin", "of a module", "type"],
)
def test_a_function_is_known_again(first, again):
    """Also when it is another object of the same code."""
    times = Times()
    assert times.of(first) is None
    times.note(first, TAKEN)
    assert times.of(again) == TAKEN
    assert times.of(functools.reduce) is None


@pytest.mark.parametrize("function", [Thing(), [].append, Thing, "text".join])
def test_what_has_a_state_of_its_own_is_not(function):
    """Nor could it be without holding on to it."""
    times = Times()
    times.note(function, TAKEN)
    assert times.of(function) is None


def test_nothing_is_kept_of_what_a_function_holds():
    """A closure over an array of a gigabyte goes when its user lets it go."""
    thing, times = Thing(), Times()
    gone = weakref.ref(thing)
    for function in (closure(thing), thing.method, functools.partial(plain, thing)):
        times.note(function, TAKEN)
    del thing, function
    gc.collect()
    assert gone() is None


def test_no_more_than_so_many_are_remembered():
    """Programs that make functions as they run would fill the memory."""
    times = Times()
    made = [eval(f"lambda value: {number}") for number in range(3 * KNOWN + 10)]
    for function in made:
        times.note(function, TAKEN)
        times.note(function, TAKEN)
    assert 0 < sum(times.of(function) is not None for function in made) <= KNOWN
    assert times.of(made[-1]) == TAKEN
