"""``pools_core.aio``: the same pool, awaited."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from pools_core import MakePool, PoolClosedError, TaskTimeoutError, task_seed
from pools_core.aio import AsyncPool, wrap
from pools_core.testing import tasks
from pools_core.testing.gate import Gate


def fail_on_two(number):
    """Return the number, unless it is two."""
    if number == 2:
        raise KeyError(number)
    return number


def draw(_):
    """Return the task's seed."""
    return task_seed()


async def arrivals(gate, count):
    """Wait until so many tasks have come to a gate."""
    while len(gate.arrived) < count:  # noqa: ASYNC110  a gate belongs to no loop
        await asyncio.sleep(0.01)


async def counted(pulled, pause=0.0):
    """Yield 0, 1, 2, ... without end."""
    for number in itertools.count():
        pulled.append(number)
        if pause:
            await asyncio.sleep(pause)
        yield number


class TestSubmit:
    """One task."""

    def test_the_result_is_awaited(self, pool):
        """With arguments of both kinds."""

        async def main():
            apool = wrap(pool)
            assert apool.size == pool.size
            assert await apool.submit(pow, 2, exp=5) == 32
            assert await asyncio.gather(*(apool.submit(tasks.square, n) for n in range(20))) == [
                n * n for n in range(20)
            ]

        asyncio.run(main())

    def test_its_failure_is_raised(self, pool):
        """As itself, also when a coroutine may not raise it."""

        async def main():
            apool = AsyncPool(pool)
            with pytest.raises(KeyError):
                await apool.submit(fail_on_two, 2)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await apool.submit(next, iter(()))

        asyncio.run(main())

    def test_the_loop_goes_on_and_no_thread_is_made_for_a_call(self, processes):
        """A hundred at once."""

        async def main():
            apool = AsyncPool(processes)
            await apool.submit(tasks.square, 1)
            before = threading.active_count()
            with Gate() as gate:
                calls = [asyncio.create_task(apool.submit(tasks.pass_gate, gate.address)) for _ in range(100)]
                await arrivals(gate, 2)
                assert threading.active_count() == before + 1  # the gate's own
                gate.open()
                await asyncio.gather(*calls)

        asyncio.run(main())

    def test_cancelled_it_stops_the_task(self, processes):
        """The worker is killed; others go on."""

        async def main():
            apool = AsyncPool(processes)
            with Gate() as gate:
                call = asyncio.create_task(apool.submit(tasks.pass_gate, gate.address))
                await arrivals(gate, 1)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                # Both workers are free, although the gate is shut.
                assert await asyncio.wait_for(
                    asyncio.gather(*(apool.submit(tasks.nap, 0.1) for _ in range(4))), 30
                )
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(apool.submit(tasks.pass_gate, gate.address), 0.3)
                assert await apool.submit(tasks.square, 3) == 9

        asyncio.run(main())

    def test_options_of_a_call(self, processes):
        """By ``apply``."""

        async def main():
            with pytest.raises(TaskTimeoutError):
                await AsyncPool(processes).apply(tasks.nap, (30,), task_timeout=0.2)

        asyncio.run(main())


class TestMap:
    """The whole at once."""

    def test_a_list_in_input_order(self, pool):
        """From any kind of iterable."""

        async def some():
            for number in range(10):
                yield number

        async def main():
            apool = AsyncPool(pool)
            expected = [n * n for n in range(10)]
            assert await apool.map(tasks.square, range(10)) == expected
            assert await apool.map(tasks.square, (n for n in range(10)), 3) == expected
            assert await apool.map(tasks.square, some()) == expected

        asyncio.run(main())


class TestImap:
    """One by one."""

    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("asynchronous", [True, False])
    def test_the_input_may_be_endless_and_is_pulled_as_needed(self, pool, ordered, asynchronous):
        """Never further ahead than ``max_tasks_active``."""

        async def main():
            pulled, got = [], []
            source = counted(pulled) if asynchronous else (pulled.append(n) or n for n in itertools.count())
            async with AsyncPool(pool).imap(
                tasks.square, source, ordered=ordered, max_tasks_active=4
            ) as results:
                async for result in results:
                    got.append(result)
                    await asyncio.sleep(0.005)
                    assert len(pulled) <= len(got) + 4
                    if len(got) == 30:
                        break
            assert sorted(got)[:10] == [n * n for n in range(10)]
            assert not ordered or got == [n * n for n in range(30)]

        asyncio.run(main())

    def test_a_slow_source_holds_up_no_result(self, pool):
        """A result comes while the next item is awaited."""

        async def main():
            gate = asyncio.Event()

            async def source():
                yield 3
                await gate.wait()
                yield 4

            results = AsyncPool(pool).imap(tasks.square, source())
            assert await asyncio.wait_for(anext(results), 30) == 9
            gate.set()
            assert [result async for result in results] == [16]

        asyncio.run(main())

    def test_unordered_results_come_as_they_are_done(self, processes):
        """The slow one last."""

        async def main():
            with Gate() as gate:
                jobs = [tasks.Job(0, gate=gate.address), *map(tasks.Job, range(1, 10))]
                results = AsyncPool(processes).imap_unordered(tasks.work, jobs, max_tasks_active=20)
                assert {await anext(results) for _ in range(9)} == set(range(1, 10))
                gate.open()
                assert [result async for result in results] == [0]

        asyncio.run(main())

    def test_it_goes_on_after_a_failure(self, pool):
        """Raised when its turn comes, with the item's number."""

        async def main():
            results = AsyncPool(pool).imap(fail_on_two, range(5))
            assert [await anext(results), await anext(results)] == [0, 1]
            with pytest.raises(KeyError) as raised:
                await anext(results)
            assert raised.value.__notes__[0].startswith("raised by task 2 ")
            assert [result async for result in results] == [3, 4]

        asyncio.run(main())

    def test_what_the_input_raises_comes_last(self, pool):
        """After the results that precede it."""

        async def main():
            results = AsyncPool(pool).imap(tasks.square, (6 // (2 - n) for n in range(5)))
            assert [await anext(results), await anext(results)] == [9, 36]
            with pytest.raises(ZeroDivisionError):
                await anext(results)
            assert [result async for result in results] == []

        asyncio.run(main())

    def test_options_hold_and_random_streams_are_those_of_map(self, pool):
        """By the item's number, not the task's."""

        async def main():
            results = AsyncPool(pool).imap(draw, range(5), seed=7)
            return [result async for result in results]

        assert asyncio.run(main()) == pool.map(draw, range(5), seed=7)

    def test_bad_arguments_are_errors_at_once(self, pool):
        """Not at the first result."""
        apool = AsyncPool(pool)
        with pytest.raises(TypeError):
            apool.imap(tasks.square, 3)
        with pytest.raises(TypeError, match="chunck"):
            apool.imap(tasks.square, [], chuncksize=3)
        with pytest.raises(ValueError, match="max_tasks_active"):
            apool.imap(tasks.square, [], max_tasks_active=0)

    def test_cancelled_while_it_waits_it_stops_its_tasks(self, processes):
        """So that the workers are free."""

        async def main():
            apool = AsyncPool(processes)

            async def consume(gate):
                async for _ in apool.imap(tasks.pass_gate, [gate.address] * 10):
                    pass

            with Gate() as gate:
                consumer = asyncio.create_task(consume(gate))
                await arrivals(gate, 2)
                consumer.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await consumer
                began = time.monotonic()
                assert await apool.map(tasks.square, range(10)) == [n * n for n in range(10)]
                assert time.monotonic() - began < 15

        asyncio.run(main())

    def test_dropped_it_stops_its_tasks(self, processes):
        """A loop that was left with ``break`` leaves nothing running."""

        async def main():
            apool = AsyncPool(processes)
            with Gate() as gate:
                first = [tasks.Job(0), *(tasks.Job(n, gate=gate.address) for n in range(1, 10))]
                async for _ in apool.imap(tasks.work, first):
                    break
                assert await asyncio.wait_for(apool.map(tasks.square, range(4)), 30) == [0, 1, 4, 9]
                assert processes.size == 2

        asyncio.run(main())


class TestTheEnd:
    """Who ends the pool."""

    def test_as_a_context_manager_it_ends_the_pool(self):
        """After its work, without blocking the loop."""

        async def main():
            pool = MakePool("multicore", n_jobs=2)
            async with AsyncPool(pool) as apool:
                call = asyncio.create_task(apool.submit(tasks.nap, 0.3))
                await asyncio.sleep(0.05)
            assert await call == 0.3
            assert pool.state == "joined"
            with pytest.raises(PoolClosedError):
                await apool.submit(tasks.square, 1)

        asyncio.run(main())

    def test_an_exception_drops_the_work(self):
        """As with the pool's own block."""

        async def main():
            pool = MakePool("multicore", n_jobs=2)
            with pytest.raises(ZeroDivisionError):
                async with AsyncPool(pool) as apool:
                    call = asyncio.create_task(apool.submit(tasks.nap, 60))
                    await asyncio.sleep(0.05)
                    1 / 0  # noqa: B018  for its effect
            with pytest.raises(PoolClosedError):
                await call

        asyncio.run(main())

    def test_run_in_executor_takes_the_executor(self, pool):
        """The standard way, without any of this."""

        async def main():
            loop = asyncio.get_running_loop()
            return await asyncio.gather(
                *(loop.run_in_executor(pool.executor(), tasks.square, n) for n in range(10))
            )

        assert asyncio.run(main()) == [n * n for n in range(10)]

    def test_a_loop_that_ended_meanwhile_is_no_trouble(self, processes, caplog):
        """Results that come too late are nobody's."""
        with Gate() as gate:

            async def main():
                results = AsyncPool(processes).imap(tasks.pass_gate, [gate.address] * 4)
                try:
                    await asyncio.wait_for(anext(results), 0.2)
                except TimeoutError:
                    pass
                processes.apply_async(tasks.square, (2,), callback=lambda _: None)

            asyncio.run(main())
            gate.open()
        processes.stop_and_join()

        assert caplog.text == ""
