"""What users write, and the types that checkers give it; never run, see ``tests/core/test_typing.py``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from concurrent.futures import Executor, Future, as_completed
from typing import Any, assert_type

import pools_core.aio
from pools_core import (
    AsyncResult,
    BackendInfo,
    Failure,
    GetClusterPackage,
    MakePool,
    Pool,
    PoolsError,
    WorkerDiedError,
    backends,
    task_rng,
    task_seed,
)
from pools_core.options import CallOptions
from pools_multicore import MulticorePool, WorkerPool, cpu_count
from pools_singlecore import SinglecorePool
from pools_threads import ThreadPool


def measure(text: str) -> int:
    return len(text)


def area(width: float, height: float) -> float:
    return width * height


def draw(_: int) -> float:
    assert_type(task_seed(), int)
    return task_rng().random()


WORDS = ["one", "two"]
SIZES = [(1.0, 2.0), (3.0, 4.0)]


def make_pools() -> None:
    assert_type(MakePool(), Pool)
    assert_type(MakePool("gearman", config="config.ini"), Pool)
    assert_type(MakePool("multicore", {"multicore": {"n_jobs": 2}}, n_jobs=4), Pool)
    assert_type(GetClusterPackage("gearman").MakePool("config.ini"), Pool)
    assert_type(GetClusterPackage("gearman").RunMain(["status"]), int)
    assert_type(backends(), Mapping[str, BackendInfo])
    assert_type(cpu_count(), int)
    with MulticorePool(4, start_method="spawn", cpu_ids=[0, 1], max_worker_memory="2GB") as pool:
        assert_type(pool, MulticorePool)
        assert_type(pool.size, int)
    with SinglecorePool() as one, ThreadPool(4) as threads:
        both: list[Pool] = [one, threads]
        assert_type(both[0].map(measure, WORDS), list[int])


def lists(pool: Pool) -> None:
    assert_type(pool.map(measure, WORDS), list[int])
    assert_type(pool.map(measure, WORDS, 10), list[int])
    assert_type(pool.map(measure, (word for word in WORDS), chunksize=2.5, task_timeout=3), list[int])
    assert_type(pool.map(hex, range(3)), list[str])
    assert_type(pool.map(draw, range(3), seed=1, progress_bar=True), list[float])
    assert_type(pool.map_unordered(measure, WORDS, max_retries=2, retry_on=WorkerDiedError), list[int])
    assert_type(pool.starmap(area, SIZES), list[float])
    told: list[int] = []
    assert_type(pool.map(measure, WORDS, callback=told.append), list[int])


def failures_among_the_results(pool: Pool, options: CallOptions) -> None:
    assert_type(pool.map(measure, WORDS, on_error="raise"), list[int])
    assert_type(pool.map(measure, WORDS, on_error="return"), list[int | Failure])
    assert_type(pool.map_unordered(measure, WORDS, on_error="return"), list[int | Failure])
    assert_type(pool.starmap(area, SIZES, 5, on_error="return"), list[float | Failure])
    assert_type(pool.map(measure, WORDS, **options), list[int | Failure])  # it may say on_error="return"
    assert_type(pool.map_async(measure, WORDS, on_error="return").get(), list[int | Failure])
    for result in pool.imap(measure, WORDS, on_error="return"):
        assert_type(result, int | Failure)
        if isinstance(result, Failure):
            assert_type(result.error, BaseException)
            assert_type(result.index, int)
        else:
            assert_type(result, int)


def iterators(pool: Pool) -> None:
    iterator: Iterator[int] = pool.imap(measure, WORDS)
    assert_type(next(iterator), int)
    assert_type(pool.imap_unordered(area, SIZES).next(timeout=1), float)
    assert_type(list(pool.imap(measure, WORDS, max_tasks_active=100)), list[int])
    for name, length in zip(WORDS, pool.imap(measure, WORDS), strict=True):
        assert_type(name, str)
        assert_type(length, int)


def single_tasks(pool: Pool) -> None:
    assert_type(pool.apply(area, (1.0, 2.0)), float)
    assert_type(pool.apply(area, kwds={"width": 1.0, "height": 2.0}, task_timeout=5), float)
    assert_type(pool.apply(area, (1.0, 2.0), on_error="return"), float | Failure)
    assert_type(pool.submit(area, 1.0, height=2.0), Future[float])
    assert_type(pool.submit(measure, "one").result(), int)
    assert_type([future.result() for future in as_completed([pool.submit(measure, "one")])], list[int])


def later(pool: Pool) -> None:
    lengths: list[int] = []
    errors: list[BaseException] = []
    single = pool.apply_async(measure, ("one",), callback=lengths.append, error_callback=errors.append)
    assert_type(single, AsyncResult[int])
    assert_type(single.get(timeout=1), int)
    assert_type(pool.map_async(measure, WORDS, callback=lengths.extend).get(), list[int])
    assert_type(pool.starmap_async(area, SIZES).get(), list[float])
    assert_type(single.cancel(), bool)


def executors(pool: Pool) -> None:
    executor = pool.executor()
    assert_type(executor, Executor)
    assert_type(executor.submit(measure, "one"), Future[int])
    assert_type(executor.map(measure, WORDS), Iterator[int])


async def words() -> AsyncIterator[str]:
    for word in WORDS:
        await asyncio.sleep(0)
        yield word


async def from_asyncio() -> None:
    async with pools_core.aio.AsyncPool(MakePool()) as apool:
        assert_type(await apool.submit(area, 1.0, height=2.0), float)
        assert_type(await apool.apply(measure, ("one",), task_timeout=3), int)
        assert_type(await apool.map(measure, words()), list[int])
        async for length in apool.imap(measure, words(), ordered=False):
            assert_type(length, int)
        assert_type(await apool.apply(measure, ("one",), on_error="return"), int | Failure)
        assert_type(await apool.map(measure, WORDS, on_error="raise"), list[int])
        assert_type(await apool.map(measure, WORDS, on_error="return"), list[int | Failure])
        async for result in apool.imap(measure, words(), on_error="return"):
            assert_type(result, int | Failure)
        async for result in apool.imap_unordered(measure, WORDS, on_error="return", task_timeout=3):
            assert_type(result, int | Failure)
        loop = asyncio.get_running_loop()
        assert_type(await loop.run_in_executor(apool.pool.executor(), measure, "one"), int)


def as_with_mpire() -> None:
    with WorkerPool(n_jobs=2, keep_alive=True) as pool:
        assert_type(pool.map(measure, WORDS, chunk_size=2), Any)  # a list; of arrays, one array
        assert_type(pool.map_unordered(measure, WORDS, n_splits=2), list[int])
        assert_type(pool.map_unordered(measure, WORDS, on_error="return"), list[int | Failure])
        assert_type(pool.imap(measure, WORDS, on_error="raise"), Generator[int, None, None])
        assert_type(pool.imap_unordered(measure, WORDS), Generator[int, None, None])
        for result in pool.imap(measure, WORDS, on_error="return"):
            assert_type(result, int | Failure)
        assert_type(pool.apply(measure, ("one",), task_timeout=3), int)
        assert_type(pool.apply_async(measure, ("one",)), AsyncResult[int])


def what_can_go_wrong(pool: Pool) -> int | None:
    try:
        return sum(pool.map(measure, WORDS))
    except WorkerDiedError as error:
        return error.exitcode
    except PoolsError:
        return None
