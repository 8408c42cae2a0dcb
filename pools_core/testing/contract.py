"""The contract that every backend keeps, whole: one class of tests, put together from its chapters.

Each chapter is a class in a module of its own:

    contract_base       the factory that a backend supplies, what it says of itself, common fixtures
    contract_maps       what map, starmap, imap, apply and their kin return
    contract_feeding    how input is pulled, cut and bounded; what is refused
    contract_errors     how a task's failure arrives; retries
    contract_values     values that only look like control, or cannot be pickled
    contract_async      results in the future, callbacks, many threads, fair shares
    contract_lifecycle  close, join, terminate; what is released; random streams
    contract_deaths     workers that die and tasks that are killed, where workers are processes

A backend's author needs only ``PoolContract``.
"""

from __future__ import annotations

from pools_core.testing.contract_async import AsyncContract
from pools_core.testing.contract_deaths import DeathsContract
from pools_core.testing.contract_errors import ErrorsContract
from pools_core.testing.contract_feeding import FeedingContract
from pools_core.testing.contract_lifecycle import LifecycleContract
from pools_core.testing.contract_maps import MapsContract
from pools_core.testing.contract_values import ValuesContract

__all__ = ["PoolContract"]


class PoolContract(
    MapsContract,
    FeedingContract,
    ErrorsContract,
    ValuesContract,
    AsyncContract,
    LifecycleContract,
    DeathsContract,
):
    """Subclass it as ``Test...``, supply ``make_pool``, and say what the backend is."""
