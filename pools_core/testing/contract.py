"""The contract that every backend keeps, whole: one class of tests, put together from its chapters.

Each chapter is a class in a module of its own:

    contract_base       the factory that a backend supplies, what it says of itself, common fixtures
    contract_maps       what map, starmap, imap, apply and their kin return
    contract_feeding    how input is pulled, cut and bounded; what is refused
    contract_errors     how a task's failure arrives; retries
    contract_values     values that only look like control, or cannot be pickled
    contract_async      results in the future, callbacks, many threads, fair shares
    contract_futures    futures, and threads that wait for single tasks
    contract_lifecycle  close, join, terminate; what is released; random streams
    contract_deaths     workers that die and tasks that are killed, where workers are processes
    contract_workers    workers that are set up and taken down, and what they are given
    contract_lives      how long workers and their state live; calls that end before their time
    contract_worker_failures    init and exit functions that fail
    contract_shared     shared objects, a fixed order of workers, bounds on input
    contract_functions  functions that workers cannot look up

A backend's author needs only ``PoolContract``.
"""

from __future__ import annotations

from pools_core.testing.contract_async import AsyncContract
from pools_core.testing.contract_deaths import DeathsContract
from pools_core.testing.contract_errors import ErrorsContract
from pools_core.testing.contract_feeding import FeedingContract
from pools_core.testing.contract_functions import FunctionsContract
from pools_core.testing.contract_futures import FuturesContract
from pools_core.testing.contract_lifecycle import LifecycleContract
from pools_core.testing.contract_lives import LivesContract
from pools_core.testing.contract_maps import MapsContract
from pools_core.testing.contract_shared import SharedContract
from pools_core.testing.contract_values import ValuesContract
from pools_core.testing.contract_worker_failures import WorkerFailuresContract
from pools_core.testing.contract_workers import WorkersContract

__all__ = ["PoolContract"]


class PoolContract(
    MapsContract,
    FeedingContract,
    ErrorsContract,
    ValuesContract,
    AsyncContract,
    FuturesContract,
    LifecycleContract,
    DeathsContract,
    WorkersContract,
    LivesContract,
    WorkerFailuresContract,
    SharedContract,
    FunctionsContract,
):
    """Subclass it as ``Test...``, supply ``make_pool``, and say what the backend is."""
