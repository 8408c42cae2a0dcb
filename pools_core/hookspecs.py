"""The events in a pool's life that plugins may listen to, as pluggy hooks.

    from pools_core.hookspecs import hookimpl

    @hookimpl
    def pools_call_finished(pool_id, call_id, error): ...

A plugin takes whichever arguments of a hook it wants, by name.  It is found through the entry-point
group ``pools.plugins`` or handed to ``pools_core.registry.register``.  Hooks run in the thread that
met the event, so they must not block; they never run once per task; what they raise is logged.
"""

from __future__ import annotations

from typing import Any, Final

import pluggy

__all__ = ["PROJECT", "LifeCycle", "hookimpl"]

PROJECT: Final = "pools"
"""The name that pluggy knows these hooks by."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function or method, named as the hook, that listens to it."""


class LifeCycle:
    """Every hook.  ``hooks()`` returns an object that has these methods, or None."""

    @hookspec
    def pools_pool_opened(self, pool_id: int, backend: str, size: int) -> None:
        """A pool has been made.

        Args:
            pool_id: unique within this process.
            backend: its backend's name.
            size: how many tasks it can run at once.
        """

    @hookspec
    def pools_call_started(self, pool_id: int, call_id: int, tasks: int | None) -> None:
        """A call such as ``map`` has begun.

        Args:
            pool_id: the pool.
            call_id: unique within the pool.
            tasks: how many tasks it has; None when that is not known yet.
        """

    @hookspec
    def pools_chunk_done(self, pool_id: int, call_id: int, tasks: int, failures: int, seconds: float) -> None:
        """Some consecutive tasks of a call have ended.

        Args:
            pool_id: the pool.
            call_id: the call.
            tasks: how many have ended.
            failures: how many of these failed.
            seconds: the time that their worker spent on them.
        """

    @hookspec
    def pools_worker_started(self, pool_id: int, worker: str) -> None:
        """A worker is ready for its first chunk.

        Args:
            pool_id: the pool.
            worker: its name, as text.
        """

    @hookspec
    def pools_worker_died(self, pool_id: int, worker: str, exitcode: int | None) -> None:
        """A worker ended that had not been told to.

        Args:
            pool_id: the pool.
            worker: its name, as text.
            exitcode: exit code, or minus the signal's number; None when unknown.
        """

    @hookspec
    def pools_call_finished(self, pool_id: int, call_id: int, error: str | None) -> None:
        """A call has ended.

        Args:
            pool_id: the pool.
            call_id: the call.
            error: what it raised, as text; None when it ended well.
        """

    @hookspec
    def pools_pool_closed(self, pool_id: int) -> None:
        """A pool has ended; its workers are gone or going.

        Args:
            pool_id: the pool.
        """

    @hookspec
    def pools_cli(self, cli: Any) -> None:
        """The command ``pools`` starts; a plugin may add commands of its own.

        Args:
            cli: the ``click.Group`` to add them to.
        """
