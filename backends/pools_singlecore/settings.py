"""The options of the singlecore backend."""

from __future__ import annotations

from dataclasses import dataclass

from pools_core.config import whole_number
from pools_core.errors import UnsupportedOptionError
from pools_core.pool_options import PoolSettings

__all__ = ["SinglecoreSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinglecoreSettings(PoolSettings):
    """What a singlecore pool can be told; and what any pool can.

    Attributes:
        n_jobs: 1; accepted because programs name it whichever backend they use.
    """

    n_jobs: int = 1

    def __post_init__(self) -> None:
        """Refuse more workers than one, rather than quietly run without them."""
        self.check_common()
        if whole_number("n_jobs", self.n_jobs, 1) > 1:
            from pools_core.registry import capable

            raise UnsupportedOptionError("n_jobs", "singlecore", capable("n_jobs"))
