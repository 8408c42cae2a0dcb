"""Who is measured: one ``Library`` each; to add one, write its class and name it here."""

from __future__ import annotations

from benchmarks.library import Library
from benchmarks.peers import Dask, Joblib, Loky, Mpire, Pebble, Ray
from benchmarks.standard import MultiprocessingPool, Pools, StandardExecutor

__all__ = ["LIBRARIES", "LIMIT", "OURS"]

OURS = Pools.name
LIMIT = "limit"
"""Stands beside the libraries in the table: what the machine takes for the same; see ``limits``."""
LIBRARIES: dict[str, type[Library]] = {
    kind.name: kind
    for kind in (Pools, MultiprocessingPool, StandardExecutor, Mpire, Loky, Joblib, Pebble, Ray, Dask)
}
