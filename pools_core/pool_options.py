"""What can be said of a pool on every backend, written once; a backend's settings inherit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

__all__ = ["PLAIN_SETTINGS", "PoolSettings"]


def _not_in_a_file(_text: str) -> Any:
    raise ValueError("can be given in code only")


def _in_section_pool(_text: str) -> Any:
    raise ValueError("stands in the section [pool], for all backends")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The options that mean the same on every backend.

    Attributes:
        shared_objects: given to each worker once, and to each function as an argument; None for nothing.
            Under fork it is not copied; else it is sent to each worker once.
        pass_worker_id: functions get their worker's number, from 0, as first argument.
        use_worker_state: functions get a dict of their worker's own.
        keep_alive: state, and what ``worker_init`` set up, lasts until the pool ends, not just for a call.
        enable_insights: time is taken; see ``Pool.insights``.
        order_tasks: chunk k of a call goes to worker k modulo the number of workers.
        plugins_off: names of plugins that do not hear of this pool, besides those that are switched off for
            the whole process.
    """

    shared_objects: Any = field(default=None, compare=False, metadata={"parse": _not_in_a_file})
    pass_worker_id: bool = False
    use_worker_state: bool = False
    keep_alive: bool = False
    enable_insights: bool = False
    order_tasks: bool = False
    plugins_off: Sequence[str] = field(default=(), metadata={"parse": _in_section_pool})

    def check_common(self) -> None:
        """Raise TypeError for a value of the wrong type."""
        for name in FLAGS:
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} is True or False, not {value!r}")
        off: Any = self.plugins_off
        if (
            isinstance(off, str)
            or not isinstance(off, Sequence)
            or not all(isinstance(name, str) for name in off)
        ):
            raise TypeError(f"plugins_off is a list of plugins' names, not {off!r}")


FLAGS: Final = tuple(one.name for one in fields(PoolSettings) if one.type == "bool")
COMMON: Final = tuple(one.name for one in fields(PoolSettings) if one.name != "plugins_off")
"""Those that can be changed while the pool lives."""
PLAIN_SETTINGS: Final = PoolSettings()
