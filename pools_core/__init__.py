"""One pool API from a laptop to a cluster, chosen by name.

    from pools_core import MakePool

    with MakePool() as pool:
        print(pool.map(hex, range(3)))

Importing this package loads nothing else; each name loads its module when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in ``hints``

if TYPE_CHECKING:
    from typing import Any

    from pools_core.errors import BackendConflictError as BackendConflictError
    from pools_core.errors import BackendContractError as BackendContractError
    from pools_core.errors import BackendLoadError as BackendLoadError
    from pools_core.errors import BackendNotFoundError as BackendNotFoundError
    from pools_core.errors import ConfigError as ConfigError
    from pools_core.errors import PoolClosedError as PoolClosedError
    from pools_core.errors import PoolsError as PoolsError
    from pools_core.errors import PoolTimeoutError as PoolTimeoutError
    from pools_core.errors import RemoteError as RemoteError
    from pools_core.errors import RemoteTraceback as RemoteTraceback
    from pools_core.errors import SecurityError as SecurityError
    from pools_core.errors import SerializationError as SerializationError
    from pools_core.errors import TaskTimeoutError as TaskTimeoutError
    from pools_core.errors import TransportError as TransportError
    from pools_core.errors import UnsupportedOptionError as UnsupportedOptionError
    from pools_core.errors import WorkerDiedError as WorkerDiedError
    from pools_core.front import GetClusterPackage as GetClusterPackage
    from pools_core.front import MakePool as MakePool
    from pools_core.front import backends as backends
    from pools_core.pool import Pool as Pool
    from pools_core.protocol import Engine as Engine
    from pools_core.registry import BackendInfo as BackendInfo
    from pools_core.results import AsyncResult as AsyncResult
    from pools_core.results import Failure as Failure
    from pools_core.seeding import task_rng as task_rng
    from pools_core.seeding import task_seed as task_seed

    __version__: str
    """The version of the distribution ``pools-core`` that is installed."""

__all__ = [
    "AsyncResult",
    "BackendConflictError",
    "BackendContractError",
    "BackendInfo",
    "BackendLoadError",
    "BackendNotFoundError",
    "ConfigError",
    "Engine",
    "Failure",
    "GetClusterPackage",
    "MakePool",
    "Pool",
    "PoolClosedError",
    "PoolTimeoutError",
    "PoolsError",
    "RemoteError",
    "RemoteTraceback",
    "SecurityError",
    "SerializationError",
    "TaskTimeoutError",
    "TransportError",
    "UnsupportedOptionError",
    "WorkerDiedError",
    "__version__",
    "backends",
    "task_rng",
    "task_seed",
]

_ELSEWHERE = {
    "AsyncResult": "results",
    "BackendInfo": "registry",
    "Engine": "protocol",
    "Failure": "results",
    "GetClusterPackage": "front",
    "MakePool": "front",
    "Pool": "pool",
    "backends": "front",
    "task_rng": "seeding",
    "task_seed": "seeding",
}
"""The module that each public name lives in; those that are not listed are errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("pools-core")
    else:
        # Not by ``importlib``: a worker comes here, too, and would import that for nothing else.
        module = __import__(f"{__name__}.{_ELSEWHERE.get(name, 'errors')}", fromlist=[name])
        value = getattr(module, name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
