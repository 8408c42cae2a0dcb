"""The contract that every backend keeps, whole: one class of tests, put together from its chapters.

    contract_base       the factory that a backend supplies, what it says of itself, common fixtures
    contract_maps       what map, starmap, imap, apply and their kin return
    contract_feeding    how input is pulled, cut and bounded; what is refused
    contract_errors     how a task's failure arrives; retries; values that only look like control
    contract_async      results in the future, callbacks, many threads, fair shares
    contract_lifecycle  close, join, terminate; what is released; random streams
    contract_deaths     workers that die and tasks that are killed, where workers are processes
"""

from __future__ import annotations

from pools_core.testing.contract_async import AsyncContract
from pools_core.testing.contract_deaths import DeathsContract
from pools_core.testing.contract_errors import ErrorsContract
from pools_core.testing.contract_feeding import FeedingContract
from pools_core.testing.contract_lifecycle import LifecycleContract
from pools_core.testing.contract_maps import MapsContract

__all__ = ["PoolContract"]


class PoolContract(
    MapsContract, FeedingContract, ErrorsContract, AsyncContract, LifecycleContract, DeathsContract
):
    """Subclass it as ``Test...``, supply ``make_pool``, and say what the backend is."""
