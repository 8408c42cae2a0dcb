"""The contract of a pool as a kit of tests, which the author of any backend subclasses.

    from pools_core.testing import PoolContract

    class TestMyPool(PoolContract):
        processes = True

        def make_pool(self, **options):
            return MakePool("mine", n_jobs=2, **options)

Run by pytest, which is therefore needed to import ``PoolContract``; ``pools_core.testing.tasks``, the
functions that behave and misbehave, needs nothing, because workers import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pools_core.testing.contract import PoolContract

__all__ = ["PoolContract"]

_WITH_ASSERTS = (
    "contract",
    "contract_async",
    "contract_base",
    "contract_deaths",
    "contract_errors",
    "contract_feeding",
    "contract_lifecycle",
    "contract_lives",
    "contract_maps",
    "contract_shared",
    "contract_values",
    "contract_worker_failures",
    "contract_workers",
)


def __getattr__(name: str) -> Any:
    if name != "PoolContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest  # lazily: a worker that imports ``tasks`` has no use for it

    # So that a failed assert of the kit shows its values, as those of the user's own tests do.
    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _WITH_ASSERTS))
    from pools_core.testing.contract import PoolContract

    return PoolContract
