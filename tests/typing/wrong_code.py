"""What users write by mistake; each line marked ``wrong`` is an error to checkers, and no other is.

Never run, see ``tests/core/test_typing.py``.
"""

from __future__ import annotations

from concurrent.futures import Future

from pools_core import AsyncResult, MakePool, Pool
from pools_core.aio import AsyncPool
from pools_multicore import MulticorePool, WorkerPool


def measure(text: str) -> int:
    return len(text)


def area(width: float, height: float) -> float:
    return width * height


WORDS = ["one", "two"]


def pools() -> None:
    MakePool(3)  # wrong
    MulticorePool("four")  # wrong
    MulticorePool(start_method="thread")  # wrong
    pool: MulticorePool = MakePool("multicore")  # wrong
    pool.close()


def calls(pool: Pool) -> None:
    pool.map(measure)  # wrong
    pool.map(WORDS, measure)  # wrong
    pool.map(measure, 3)  # wrong
    pool.map(measure, WORDS, "10")  # wrong
    pool.map(measure, WORDS, task_timout=3)  # wrong
    pool.map(measure, WORDS, task_timeout="3 s")  # wrong
    pool.map(measure, WORDS, on_error="ignore")  # wrong
    pool.map(measure, WORDS, retry_on=3)  # wrong
    pool.starmap(area, [1, 2])  # wrong
    pool.apply(area, 1.0)  # wrong
    pool.submit(measure)  # wrong
    pool.submit(measure, 3)  # wrong
    pool.submit(area, 1.0, heigth=2.0)  # wrong
    pool.mapp(measure, WORDS)  # wrong


def results(pool: Pool) -> None:
    names: list[str] = pool.map(measure, WORDS)  # wrong
    whole: list[int] = pool.map(measure, WORDS, on_error="return")  # wrong
    one: str = next(pool.imap(measure, WORDS))  # wrong
    future: Future[str] = pool.submit(measure, "one")  # wrong
    later: AsyncResult[str] = pool.apply_async(measure, ("one",))  # wrong
    print(names, whole, one, future, later)
    for result in pool.imap(measure, WORDS, on_error="return"):
        print(result + 1)  # wrong


async def from_asyncio(apool: AsyncPool) -> None:
    name: str = await apool.submit(measure, "one")  # wrong
    names: list[str] = await apool.map(measure, WORDS)  # wrong
    whole: list[int] = await apool.map(measure, WORDS, on_error="return")  # wrong
    print(name, names, whole)
    async for result in apool.imap(measure, WORDS, on_error="return"):
        print(result + 1)  # wrong
    list(apool.imap(measure, WORDS))  # wrong


def as_with_mpire(pool: WorkerPool) -> None:
    whole: list[int] = pool.map_unordered(measure, WORDS, on_error="return")  # wrong
    name: str = pool.apply(measure, ("one",))  # wrong
    pool.imap(measure, WORDS, task_timout=3)  # wrong
    print(whole, name)
