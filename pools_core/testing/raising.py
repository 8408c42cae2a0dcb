"""Tasks that raise, most of them an error that is hard to bring home to the caller.

Like ``tasks``, this module imports nothing but the standard library and modules of its kind.
"""

from __future__ import annotations

import os
import threading
from typing import Any, NoReturn


class Misbehaved(Exception):
    """What ``go_wrong("raise")`` raises, so that it cannot be taken for an error of the pool."""


def raise_it(error: BaseException) -> NoReturn:
    """Raise what was given."""
    raise error


def raise_on_odd(number: int) -> int:
    """Return even numbers; of odd ones complain."""
    if number % 2:
        raise Misbehaved(number)
    return number


class RichError(Exception):
    """Carries more than its arguments."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code
        self.pid = os.getpid()
        self.detail: dict[str, Any] = {}


def raise_rich(text: str) -> NoReturn:
    """Raise an error with attributes, one of which was set after it was made."""
    error = RichError(text, 42)
    error.detail["seen"] = text
    raise error


class UnpicklableError(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class UnUnpicklableError(Exception):
    """Can be pickled, but not unpickled: its ``__init__`` needs more than it passes on."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


class UnprintableError(Exception):
    """Neither ``str`` nor ``repr`` of it works."""

    def __str__(self) -> str:
        raise Misbehaved("no text")

    __repr__ = __str__


class UnprintableArgument:
    """An argument that breaks whoever wants to show it."""

    def __repr__(self) -> str:
        raise Misbehaved("no repr")


def raise_unpicklable(text: str) -> NoReturn:
    """Raise what cannot be pickled."""
    raise UnpicklableError(text)


def raise_un_unpicklable(text: str) -> NoReturn:
    """Raise what cannot be unpickled."""
    raise UnUnpicklableError(text, "lost")


def raise_unprintable(_: Any = None) -> NoReturn:
    """Raise what cannot be shown."""
    raise UnprintableError


def raise_with_cause(text: str) -> NoReturn:
    """Raise an error from another."""
    try:
        raise KeyError("the root of it")
    except KeyError as cause:
        raise Misbehaved(text) from cause
