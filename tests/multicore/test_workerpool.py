"""WorkerPool does what MPIRE's documentation says; the letters are those of the list in MPIRE.md, 4.9."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from multiprocessing import resource_tracker

import numpy as np
import pytest

import pools_multicore
from pools_core import Failure, RemoteError, SerializationError, WorkerDiedError
from pools_core.testing.leaks import gone, nothing_left_behind
from pools_core.testing.waiting import Background, deadline, wait_until
from pools_multicore import WorkerPool, chunk_tasks, make_single_arguments
from pools_multicore.mpire_functions import Limited

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")

START_METHODS = ["fork", "forkserver", "spawn", "threading"]
MAPS = ["map", "map_unordered", "imap", "imap_unordered"]
START_UP = 30  # seconds; fresh interpreters on a busy machine


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(60):
        yield


@pytest.fixture(autouse=True, scope="module")
def _helpers_of_multiprocessing():
    """Its resource tracker and shared memory live until the program ends: here, to the last test."""
    resource_tracker.ensure_running()
    kept = multiprocessing.get_context("spawn").RawValue("i")
    yield
    del kept
    resource_tracker._resource_tracker._stop()


@pytest.fixture(params=START_METHODS)
def start_method(request):
    return request.param


@pytest.fixture(scope="module", params=START_METHODS)
def made(request):
    """Return a function that makes pools of one start method."""
    return functools.partial(WorkerPool, 2, start_method=request.param)


@pytest.fixture
def pool():
    with WorkerPool(2) as pool:
        yield pool


def results(pool, method, *args, **options):
    """Return what a map gives, as a list; of an unordered one, in order."""
    values = list(getattr(pool, method)(*args, **options))
    return sorted(values) if "unordered" in method else values


# --- tasks ------------------------------------------------------------------------------------------------


def square(x):
    return x * x


def arguments(*args, **kwargs):
    return args, kwargs


def identity(x):
    return x


def pid(_x=None):
    return os.getpid()


def nap(seconds):
    """Sleep in steps, so that a thread can be interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)
    return seconds


def fail_at_three(x):
    if x == 3:
        raise KeyError("three", x)
    return x


def shape(block):
    return block.shape


def double(block):
    return block * 2


def count_up(state, x):
    state["n"] = state.get("n", 0) + 1
    return state["n"]


def set_up(state):
    state["init"] = state.get("init", 0) + 1
    state["n"] = 0


def leave(state):
    return state.get("init"), state.get("n")


def leave_otherwise(state):
    return "otherwise", state.get("n")


def raise_in_hook(*_extras):
    raise ValueError("in a hook")


def nap_in_hook(*_extras):
    nap(5)


def die(how):
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), how)
    time.sleep(10)


# --- A: maps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MAPS)
class TestMaps:
    @pytest.mark.parametrize(
        "options",
        [{}, {"chunk_size": 3}, {"chunk_size": 2.5}, {"n_splits": 4}, {"chunk_size": 4, "n_splits": 2}],
    )
    def test_every_result_is_there_whatever_the_chunks(self, method, options):
        """Sizes of chunks are a matter of speed, not of results."""
        with WorkerPool(3, keep_alive=True) as pool:
            for count, kind in itertools.product((0, 1, 2, 200), (range, lambda n: list(range(n)))):
                got = results(pool, method, square, kind(count), **options)
                assert got == [x * x for x in range(count)]

    def test_a_generator_goes_with_its_length_and_without(self, method, pool):
        """Without, chunks are of four, and a warning says so."""
        assert results(pool, method, square, (x for x in range(9)), iterable_len=9) == [
            x * x for x in range(9)
        ]
        with pytest.warns(RuntimeWarning, match="iterable_len or chunk_size"):
            assert results(pool, method, square, (x for x in range(9))) == [x * x for x in range(9)]

    def test_iterable_len_cuts_the_input(self, method, pool):
        """A shorter length is a wish."""
        assert results(pool, method, square, range(10), iterable_len=3) == [0, 1, 4]
        endless = itertools.count()
        assert results(pool, method, square, endless, iterable_len=3) == [0, 1, 4]
        assert next(endless) == 3

    @pytest.mark.parametrize("kind", [list, iter])
    def test_iterable_len_that_is_too_large_is_an_error(self, method, pool, kind):
        """As in MPIRE."""
        with pytest.raises(ValueError, match="iterable_len is 5, but the input had 2"):
            results(pool, method, square, kind([1, 2]), iterable_len=5)
        assert results(pool, method, square, [3]) == [9]

    def test_options_may_be_given_without_names(self, method, pool):
        """In MPIRE's order: iterable_len, max_tasks_active, chunk_size, n_splits."""
        assert results(pool, method, square, range(9), 4, 8, 2, None) == [0, 1, 4, 9]

    def test_an_unknown_option_is_an_error(self, method, pool):
        """It names the nearest one."""
        with pytest.raises(TypeError, match="did you mean 'chunk_size'"):
            results(pool, method, square, [1], chunksize=2)

    def test_a_result_larger_than_a_pipe(self, method, pool):
        """Also when workers are replaced."""
        got = getattr(pool, method)(bytes, [1 << 20] * 6, worker_lifespan=2)
        assert [len(value) for value in got] == [1 << 20] * 6


def test_types_of_results(pool):
    """Lists and generators."""
    assert type(pool.map(square, [1])) is list
    assert type(pool.map_unordered(square, [1])) is list
    assert isinstance(pool.imap(square, [1]), types.GeneratorType)
    assert isinstance(pool.imap_unordered(square, [1]), types.GeneratorType)


# --- B: arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("element", "args", "kwargs"),
    [
        (5, (5,), {}),
        (None, (None,), {}),
        ("ab", ("ab",), {}),
        (b"ab", (b"ab",), {}),
        ((1, 2), (1, 2), {}),
        ([1, 2], (1, 2), {}),
        ({7}, (7,), {}),
        (range(2), (0, 1), {}),
        (((1, 2), 3), ((1, 2), 3), {}),
        (({"x": 1},), ({"x": 1},), {}),
        ({"x": 1, "y": 2}, (), {"x": 1, "y": 2}),
        ((), (), {}),
    ],
)
def test_how_an_element_becomes_arguments(element, args, kwargs):
    """MPIRE.md, 1.6."""
    with WorkerPool(1, start_method="threading") as pool:
        assert pool.map(arguments, [element]) == [(args, kwargs)]


def test_an_array_in_a_list_is_one_argument(pool):
    """It is not unpacked into rows."""
    (((array,), _),) = pool.map(arguments, [np.arange(3)])
    assert array.tolist() == [0, 1, 2]


@pytest.mark.parametrize("wrong", [{"y": 1}, {}])
def test_missing_and_unknown_keywords_are_the_tasks_error(pool, wrong):
    """A TypeError, as of any call."""
    with pytest.raises(TypeError):
        pool.map(square, [wrong])


def test_make_single_arguments_keeps_elements_whole(pool):
    """Generator or list."""
    pairs = [(1, 2), (3, 4)]
    assert pool.map(identity, make_single_arguments(pairs), iterable_len=2) == pairs
    assert make_single_arguments(pairs, generator=False) == [((1, 2),), ((3, 4),)]


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((), None, ((), {})),
        (5, None, ((5,), {})),
        ("ab", None, (("ab",), {})),
        ([1, 2], {"k": 3}, ((1, 2), {"k": 3})),
        ({"x": 1}, None, (("x",), {})),
        (None, None, ((None,), {})),
    ],
)
def test_arguments_of_apply(pool, args, kwargs, expected):
    """Unlike in a map, a dict gives its keys."""
    assert pool.apply(arguments, args, kwargs) == expected


# --- C: laziness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
class TestLaziness:
    def test_nothing_happens_before_the_first_next(self, method, pool):
        """Not even a look at the options."""
        source = iter(range(10))
        generator = getattr(pool, method)(square, source, chunk_size=0)
        assert next(source) == 0
        with pytest.raises(ValueError, match="chunk_size"):
            next(generator)

    def test_an_endless_input_is_read_as_results_are_taken(self, method, pool):
        """Two chunks for each worker ahead, no more."""
        source = itertools.count()
        generator = getattr(pool, method)(square, source, chunk_size=3)
        got = list(itertools.islice(generator, 30))
        assert next(source) <= 30 + 12
        assert len(set(got)) == 30

    def test_finished_results_behind_a_slow_one_count(self, method, pool):
        """MPIRE's reorder buffer has no bound."""
        source = iter(range(10_000))
        naps = (0.3 if x == 0 else 0 for x in source)
        generator = getattr(pool, method)(nap, naps, chunk_size=1, max_tasks_active=6)
        next(generator)
        assert next(source) <= 7

    def test_a_dropped_generator_leaves_the_pool_usable(self, method, pool):
        """The rest is not run."""
        for value in getattr(pool, method)(square, itertools.count(), chunk_size=1):
            assert value is not None
            break
        assert pool.map(square, [2]) == [4]


# --- D: chunks and blocks ---------------------------------------------------------------------------------


def runs_of(values):
    """Return how often each value comes in a row."""
    return [len(list(group)) for _, group in itertools.groupby(values)]


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (10, {"n_splits": 3}, [4, 3, 3]),
        (10, {"chunk_size": 2.5}, [3, 2, 3, 2]),
        (12, {"chunk_size": 5}, [5, 5, 2]),
        (6, {}, [1] * 6),
        (256, {}, [2] * 128),
        (9, {"chunk_size": 4, "n_splits": 9}, [4, 4, 1]),
    ],
)
@pytest.mark.parametrize("method", ["map", "imap"])
def test_sizes_of_chunks_follow_the_documented_formula(method, count, options, expected):
    """With ordered tasks two neighbouring chunks are of two workers, so that they can be told apart."""
    with WorkerPool(2, pass_worker_id=True, order_tasks=True, start_method="threading") as pool:
        assert runs_of(getattr(pool, method)(lambda worker, _: worker, range(count), **options)) == expected


@pytest.mark.parametrize("method", ["map", "imap"])
def test_chunks_stay_whole_when_tasks_are_slow(method):
    """Results then come in parts, and each makes room for a part of a chunk only."""
    with WorkerPool(2, pass_worker_id=True, order_tasks=True, start_method="threading") as pool:
        ids = getattr(pool, method)(lambda worker, _: nap(0.003) and worker, range(60), chunk_size=5)
        assert runs_of(ids) == [5] * 12


def test_chunks_of_an_input_of_unknown_length_are_of_four():
    """The documentation says one, the program four."""
    with WorkerPool(2, pass_worker_id=True, order_tasks=True, start_method="threading") as pool:
        with pytest.warns(RuntimeWarning):
            ids = pool.map(lambda worker, _: worker, iter(range(10)))
        assert runs_of(ids) == [4, 4, 2]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [2, 1, 1, 1, 2, 1, 1, 1]),
        ({"chunk_size": 2.5}, [3, 2, 3, 2]),
        ({"n_splits": 3}, [4, 3, 3]),
        ({"n_splits": 3, "iterable_len": 5}, [2, 2, 1]),
    ],
)
def test_blocks_of_an_array(pool, options, rows):
    """Each block of rows is a task; four for each worker."""
    array = np.arange(20).reshape(10, 2)
    assert pool.map(shape, array, **options) == [(count, 2) for count in rows]


@pytest.mark.parametrize("method", MAPS)
def test_arrays_come_back_joined_from_map_only(pool, method):
    """Unless that is not wanted."""
    array = np.arange(20).reshape(10, 2)
    values = getattr(pool, method)(double, array)
    if method == "map":
        assert isinstance(values, np.ndarray)
        assert (values == array * 2).all()
        blocks = pool.map(double, array, concatenate_numpy_output=False)
        assert isinstance(blocks, list) and (np.concatenate(blocks) == array * 2).all()
    else:
        joined = np.concatenate(list(values))
        assert sorted(joined[:, 0].tolist()) == (array * 2)[:, 0].tolist()


def test_concatenation_is_an_option_of_map_alone(pool):
    """As in MPIRE."""
    with pytest.raises(TypeError, match="concatenate_numpy_output"):
        pool.map_unordered(double, np.arange(3), concatenate_numpy_output=True)


def test_an_empty_array_gives_an_empty_list(pool):
    """MPIRE divides by zero."""
    assert pool.map(double, np.zeros((0, 2))) == []


def test_chunk_tasks():
    """It is public; see MPIRE.md, 1.8."""
    assert list(chunk_tasks(range(10), n_splits=3)) == [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]
    assert list(chunk_tasks(iter("abcde"), chunk_size=2)) == [("a", "b"), ("c", "d"), ("e",)]
    assert list(chunk_tasks([1, 2, 3], iterable_len=2, chunk_size=1)) == [(1,), (2,)]
    assert list(chunk_tasks([1, 2], iterable_len=9, chunk_size=2)) == [(1, 2)]
    assert list(chunk_tasks([], n_splits=3)) == []
    assert list(chunk_tasks([1, 2], n_splits=5)) == [(1,), (2,)]
    assert [part.tolist() for part in chunk_tasks(np.arange(5), chunk_size=2)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="chunk_size or n_splits"):
        list(chunk_tasks([1]))
    with pytest.raises(ValueError, match="iterable_len"):
        list(chunk_tasks(iter([1]), n_splits=1))


# --- E: limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MAPS)
@pytest.mark.parametrize(("bound", "chunk_size"), [(1, 1), (3, 10), (4, 2)])
def test_no_more_tasks_are_active_than_the_limit(method, bound, chunk_size):
    """Also when a chunk would be larger; MPIRE hangs then."""
    done = []

    def source():
        for x in range(40):
            assert x - len(done) < bound
            yield x

    def task(x):
        done.append(x)
        return x

    with WorkerPool(2, start_method="threading") as pool:
        got = getattr(pool, method)(task, source(), 40, max_tasks_active=bound, chunk_size=chunk_size)
        assert sorted(got) == list(range(40))


# --- F: what functions get --------------------------------------------------------------------------------


def all_three(worker, shared, state, x):
    state.setdefault("first", x)
    return worker, shared, sorted(state), x


def test_extra_arguments_come_in_order(made):
    """Worker id, shared objects, state; then the task's own."""
    with made(pass_worker_id=True, shared_objects={"a", "set"}, use_worker_state=True) as pool:
        got = pool.map(all_three, range(6), chunk_size=1)
    assert {worker for worker, *_ in got} <= {0, 1}
    assert [rest for _, *rest in got] == [[{"a", "set"}, ["first"], x] for x in range(6)]


def test_setters_take_effect_at_the_next_call(pool):
    """Also with apply, where MPIRE goes on with the old ones."""
    pool.set_keep_alive()
    assert pool.map(arguments, [1]) == [((1,), {})]
    pool.set_shared_objects("shared")
    assert pool.apply(arguments, (1,)) == (("shared", 1), {})
    pool.set_shared_objects(np.arange(2))
    pool.set_shared_objects(np.arange(3))
    assert pool.apply(len) == 3
    pool.set_shared_objects(None)
    pool.pass_on_worker_id()
    assert pool.map(arguments, [5])[0][0][1:] == (5,)
    pool.pass_on_worker_id(False)
    pool.set_use_worker_state()
    assert pool.map(arguments, [5]) == [(({}, 5), {})]


def add(shared, x):
    lock, total = shared
    with lock:
        total.value += x


def test_locks_and_values_can_be_shared(made):
    """Those of the pool's own context, under every start method."""
    pool = made()
    lock, total = pool.ctx.Lock(), pool.ctx.Value("i", 0)
    pool.set_shared_objects((lock, total))
    with pool:
        pool.map(add, range(20), chunk_size=2)
    assert total.value == 190


def test_under_fork_a_shared_object_need_not_be_pickled():
    """It is inherited, also by workers that replace others; in threads it is the very object."""
    for start_method in ("fork", "threading"):
        shared = threading.Lock()
        with WorkerPool(2, shared_objects=shared, start_method=start_method) as pool:
            assert (
                pool.map(lambda lock, _: lock.locked(), range(6), chunk_size=1, worker_lifespan=1)
                == [False] * 6
            )


def test_state_is_each_workers_own(made):
    """Each counts its own tasks."""
    with made(use_worker_state=True, keep_alive=True) as pool:
        counts = pool.map(count_up, range(30), chunk_size=1, worker_exit=leave)
        pool.stop_and_join()
        assert sum(n for _, n in pool.get_exit_results()) == 30
        assert max(counts) <= 30


# --- G: init and exit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MAPS)
def test_hooks_run_once_per_worker_and_call(method):
    """A pool that is not kept alive has new workers for each call."""
    with WorkerPool(2, use_worker_state=True, start_method="threading") as pool:
        for _ in range(2):
            list(getattr(pool, method)(count_up, range(20), worker_init=set_up, worker_exit=leave))
            exits = pool.get_exit_results()
            assert {init for init, _ in exits} == {1}
            assert sum(n for _, n in exits) == 20
        list(getattr(pool, method)(count_up, range(3)))
        assert pool.get_exit_results() == []


def test_hooks_under_every_start_method(made):
    """And their results, which may be large; a worker that got no task runs neither."""
    with made(use_worker_state=True) as pool:
        pool.map(count_up, [1], worker_init=set_up, worker_exit=leave)
        assert pool.get_exit_results() == [(1, 1)]


def big_leave(_state):
    return bytes(10 << 20)


@pytest.mark.parametrize("lifespan", [None, 1])
def test_large_exit_results(lifespan):
    """Ten megabytes each; a worker that is replaced gives one, too."""
    with WorkerPool(1, use_worker_state=True) as pool:
        pool.map(count_up, range(3), worker_exit=big_leave, worker_lifespan=lifespan)
        assert [len(value) for value in pool.get_exit_results()] == [10 << 20] * (3 if lifespan else 1)


def test_an_error_in_a_hook_reaches_the_caller(made):
    """And the pool can be used again."""
    with made() as pool:
        for hook in ("worker_init", "worker_exit"):
            with pytest.raises(ValueError, match="in a hook"):
                pool.map(square, range(4), **{hook: raise_in_hook})
        assert pool.map(square, range(4)) == [0, 1, 4, 9]


def test_after_an_init_that_failed_the_next_apply_may_bring_another(pool):
    """In MPIRE it hangs; here it has new workers."""
    for apply in (pool.apply, lambda *args, **hooks: pool.apply_async(*args, **hooks).get()):
        with pytest.raises(ValueError, match="in a hook"):
            apply(square, 3, worker_init=raise_in_hook)
        assert apply(square, 3, worker_init=arguments) == 9
        pool.join()


def test_an_error_in_an_exit_function_comes_from_join_after_apply(pool):
    """That is where it runs."""
    assert pool.apply(square, (3,), worker_exit=raise_in_hook) == 9
    with pytest.raises(ValueError, match="in a hook"):
        pool.stop_and_join()
    assert pool.apply(square, (3,)) == 9


def test_leaving_the_block_runs_exit_functions():
    """MPIRE's documentation promises it for pools that are kept alive."""
    with WorkerPool(1, use_worker_state=True, keep_alive=True) as pool:
        pool.map(count_up, range(5), worker_exit=leave)
        assert pool.get_exit_results() == []
    assert pool.get_exit_results() == [(None, 5)]


def test_leaving_it_by_an_exception_does_not():
    """The work is dropped."""
    with contextlib.suppress(KeyError), WorkerPool(1, use_worker_state=True, keep_alive=True) as pool:
        pool.map(count_up, range(5), worker_exit=leave)
        raise KeyError
    assert pool.get_exit_results() == []


# --- H: lifespan ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "chunk_size", "lifespan", "pids"), [(6, 1, 2, 3), (12, 4, 2, 3)])
def test_a_worker_is_replaced_after_its_lifespan_in_whole_chunks(count, chunk_size, lifespan, pids):
    """As documented: a chunk that has begun is finished."""
    with WorkerPool(1, use_worker_state=True) as pool:
        got = pool.map(count_and_pid, range(count), chunk_size=chunk_size, worker_lifespan=lifespan)
    assert len({pid for _, pid in got}) == pids
    assert sorted(n for n, _ in got) == sorted([*range(1, count // pids + 1)] * pids)


def count_and_pid(state, x):
    return count_up(state, x), os.getpid()


@pytest.mark.parametrize("method", MAPS)
def test_hooks_with_a_lifespan(method):
    """Once for each worker that there was."""
    with WorkerPool(2, use_worker_state=True, start_method="threading") as pool:
        options = {"worker_init": set_up, "worker_exit": leave, "worker_lifespan": 1, "chunk_size": 1}
        list(getattr(pool, method)(count_up, range(10), **options))
        assert pool.get_exit_results() == [(1, 1)] * 10


# --- I: keep_alive ----------------------------------------------------------------------------------------


def test_workers_that_are_kept_alive_are_the_same(made):
    """Over ordered and unordered maps, apply, and functions that change."""
    with made(keep_alive=True, use_worker_state=True) as pool:
        for method in MAPS:
            list(getattr(pool, method)(count_up, range(6), worker_init=set_up, worker_exit=leave))
        assert pool.map(lambda state, x: (x, sorted(state)), [1]) == [(1, ["init", "n"])]
        pool.apply(count_up, (1,))
        pool.stop_and_join()
        exits = pool.get_exit_results()
        assert {init for init, _ in exits} == {1}
        assert sum(n for _, n in exits) == 25


def test_without_keep_alive_a_call_has_workers_of_its_own(pool):
    """They see the program as it is when the call begins; and they are gone after it."""
    first = set(pool.map(pid, range(4), chunk_size=1))
    for old in first:
        assert gone(old)
    assert not first & set(pool.map(pid, range(4), chunk_size=1))


REDEFINED = """
from pools_multicore import WorkerPool

def task(x):
    return "first"

if __name__ == "__main__":
    with WorkerPool(1, keep_alive=True) as pool:
        print(pool.map(task, [1]))

        def task(x):
            return "second"

        def later(x):
            return "later"

        print(pool.map(task, [1]), pool.map(later, [1]))
"""


def test_a_function_that_is_defined_anew_is_the_new_one(tmp_path):
    """Also for workers that know one of that name."""
    script = tmp_path / "redefined.py"
    script.write_text(REDEFINED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=40, check=False)
    assert done.stdout == "['first']\n['second'] ['later']\n", done.stderr


def test_forked_workers_see_globals_as_they_are_when_a_call_begins(pool):
    """With workers of the call before they would see old ones."""
    for value in ("old", "new"):
        globals()["SEEN"] = value
        assert pool.map(lambda _: sys.modules[square.__module__].SEEN, [1]) == [value]


def test_hooks_that_change_are_warned_of():
    """The first init counts, and the latest exit, as MPIRE's documentation has it."""
    with WorkerPool(1, use_worker_state=True, keep_alive=True, start_method="threading") as pool:
        pool.map(count_up, range(3), worker_init=set_up, worker_exit=leave)
        with pytest.warns(RuntimeWarning, match="worker_init, worker_exit"):
            pool.map(count_up, range(3), worker_init=raise_in_hook, worker_exit=leave_otherwise)
        pool.map(count_up, range(3))
        pool.join()
        assert pool.get_exit_results() == [("otherwise", 9)]


def test_hooks_that_come_later_run():
    """Also in workers that live already."""
    with WorkerPool(1, use_worker_state=True, keep_alive=True) as pool:
        pool.map(count_up, range(3))
        for _ in range(2):
            pool.map(count_up, range(3), worker_init=set_up, worker_exit=leave)
        pool.join()
        assert pool.get_exit_results() == [(1, 6)]


def test_set_keep_alive_counts_at_the_end_of_the_next_map(pool):
    """On, and off again."""
    pool.set_keep_alive()
    first = set(pool.map(pid, range(9), chunk_size=1))
    pool.set_keep_alive(False)
    assert set(pool.map(pid, range(9), chunk_size=1)) <= first | set(pool.map(pid, [1])) | first
    for old in first:
        assert gone(old)


# --- J: apply ---------------------------------------------------------------------------------------------


def test_apply_under_every_start_method(made):
    """Values, keywords, errors; workers stay from one to the next."""
    with made(use_worker_state=True) as pool:
        assert next(pool.apply(count_up, (x,)) for x in range(3)) == 1
        with pytest.raises(KeyError, match="three"):
            pool.apply(lambda _, x: fail_at_three(x), (3,))
        assert pool.apply(lambda _, a, b=0: (a, b), (1,), {"b": 2}) == (1, 2)


def test_async_results(pool):
    """ready, successful, wait, get; a get that is too early, and again later."""
    slow = pool.apply_async(nap, 0.3)
    quick = pool.apply_async(square, 3)
    with pytest.raises(ValueError, match="not ready"):
        slow.successful()
    with pytest.raises(TimeoutError):
        slow.get(timeout=0.01)
    assert quick.get() == quick.get() == 9
    slow.wait()
    assert slow.ready() and slow.successful()
    assert slow.get() == 0.3


def test_callbacks(pool):
    """Before the result is ready; the error's gets the exception."""
    got = []
    assert pool.apply_async(square, 3, callback=got.append).get() == 9
    failed = pool.apply_async(fail_at_three, 3, error_callback=got.append)
    with pytest.raises(KeyError):
        failed.get()
    assert got[0] == 9 and isinstance(got[1], KeyError)
    assert pool.apply(square, 4, callback=got.append) == 16
    assert got[2] == 16


def test_a_failure_or_timeout_hits_its_own_task_only(pool):
    """Six tasks, every other one too slow."""
    tasks = [pool.apply_async(nap, x % 2 * 5, task_timeout=0.3) for x in range(6)]
    for x, task in enumerate(tasks):
        if x % 2:
            with pytest.raises(TimeoutError):
                task.get()
        else:
            assert task.get() == 0


def test_results_are_there_after_join_and_after_the_block():
    """MPIRE loses those that the block did not wait for."""
    with WorkerPool(2) as pool:
        first = [pool.apply_async(square, x) for x in range(50)]
        pool.stop_and_join()
        assert [result.get(0) for result in first] == [x * x for x in range(50)]
        second = [pool.apply_async(square, x) for x in range(50)]
    assert [result.get(0) for result in second] == [x * x for x in range(50)]


def test_join_that_keeps_alive_waits_only(pool):
    """Workers stay."""
    results = [pool.apply_async(pid) for _ in range(6)]
    pool.stop_and_join(keep_alive=True)
    assert all(result.ready() for result in results)
    assert pool.apply(pid) in {result.get() for result in results}


def test_a_map_after_apply_has_the_same_workers_and_ends_them():
    """And collects what apply's exit function returns."""
    with WorkerPool(1, use_worker_state=True) as pool:
        pool.apply(count_up, (1,), worker_init=set_up, worker_exit=leave)
        pending = pool.apply_async(count_up, (1,))
        assert pool.map(count_up, range(3)) == [3, 4, 5]
        assert pending.ready()
        assert pool.get_exit_results() == [(1, 5)]


# --- K: errors --------------------------------------------------------------------------------------------


class OwnError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first = first

    def __reduce__(self):
        return OwnError, (self.first, "again")


def raises(kind):
    if kind == "own":
        raise OwnError(1, 2)
    if kind == "errno":
        open("/does/not/exist")  # noqa: SIM115  it does not exist
    if kind == "exit":
        sys.exit(3)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "local":

        class LocalError(Exception):
            def __reduce__(self):
                raise TypeError("not to be pickled")

        raise LocalError("here")
    return kind


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("own", OwnError),
        ("errno", FileNotFoundError),
        ("exit", SystemExit),
        ("interrupt", KeyboardInterrupt),
        ("local", RemoteError),
    ],
)
@pytest.mark.parametrize("method", [*MAPS, "apply"])
def test_an_exception_arrives_as_itself(method, kind, expected):
    """With its attributes, a plain traceback as cause; and the pool works on."""
    with WorkerPool(2) as pool:
        with pytest.raises(expected) as caught:
            list(getattr(pool, method)(raises, [kind]))
        error = caught.value
        assert "\x1b[" not in str(error.__cause__) and "raises" in str(error.__cause__)
        assert kind != "own" or error.first == 1
        assert kind != "errno" or (error.errno == 2 and error.filename == "/does/not/exist")
        assert kind != "exit" or error.code == 3
        assert kind != "local" or "LocalError: here" in str(error)
        assert results(pool, "map", square, [3]) == [9]


def test_errors_under_every_start_method(made):
    """One task of many."""
    with made() as pool:
        with pytest.raises(KeyError, match="three"):
            pool.map(fail_at_three, range(20))
        with pytest.raises(SystemExit):
            pool.map(raises, ["exit"])


@pytest.mark.parametrize("method", MAPS)
def test_an_error_of_the_input_reaches_the_caller(method, pool):
    """And nothing is left of the call."""

    def source():
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(getattr(pool, method)(square, source(), chunk_size=1))
    assert pool.map_unordered(square, [2]) == [4]


def test_failures_can_be_returned_and_retried(pool):
    """Options that MPIRE does not have."""
    got = pool.map(fail_at_three, range(5), on_error="return", max_retries=1, retry_on=KeyError)
    assert [isinstance(value, Failure) for value in got] == [False, False, False, True, False]


# --- L: time limits ---------------------------------------------------------------------------------------


def test_time_limits_under_every_start_method(made):
    """A generous one passes; a small one is a TimeoutError, soon; the pool is usable after it."""
    kinds = ("task", "worker_init", "worker_exit")
    generous = {f"{kind}_timeout": START_UP for kind in kinds}
    with made() as pool:
        for kind in kinds:
            hook = {} if kind == "task" else {kind: nap_in_hook}
            with pytest.raises(TimeoutError, match=kind):
                pool.map(nap, [5 if kind == "task" else 0] * 2, **hook, **{f"{kind}_timeout": 0.1})
        hooks = {"worker_init": arguments, "worker_exit": arguments}
        assert pool.map(nap, [0, 0], **generous, **hooks) == [0, 0]


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "apply"])
def test_time_limits_of_other_calls(method, pool):
    """Overshoot is under a tenth of a second, and some for a busy machine."""
    pool.apply(square, 1)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        list(getattr(pool, method)(nap, [5], task_timeout=0.2))
    assert time.monotonic() - started < 1.5
    pool.join()
    with pytest.raises(TimeoutError):
        pool.apply(square, 1, worker_init=nap_in_hook, worker_init_timeout=0.1)
    assert pool.apply(square, 3) == 9


def test_an_exit_function_that_takes_too_long_after_apply(pool):
    """The joining call says so."""
    pool.apply(square, 1, worker_exit=nap_in_hook, worker_exit_timeout=0.1)
    with pytest.raises(TimeoutError, match="worker_exit"):
        pool.stop_and_join()


def test_a_time_limit_of_a_thread_does_not_hit_the_next_task():
    """Tasks that end just about when their time is up."""
    with WorkerPool(2, start_method="threading") as pool:
        for _ in range(3):
            values = pool.map(nap, [0.01] * 20, task_timeout=0.012, on_error="return", chunk_size=5)
            assert len(values) == 20
            for value in values:
                assert value == 0.01 or isinstance(value.error, TimeoutError)


def test_a_time_limit_of_a_thread_may_be_over_before_its_task_begins(monkeypatch):
    """As on a machine that has something else to do just then."""

    class AtOnce:
        """A timer that rings before it has been started."""

        def __init__(self, _seconds, ring):
            self.start, self.cancel = ring, list

    monkeypatch.setattr("pools_multicore.mpire_functions.threading.Timer", AtOnce)
    began = []
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        Limited(began.append, 0.01, "task")(1)
    assert began == []


# --- M: death ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("method", ["map", "imap_unordered", "apply"])
def test_a_worker_that_dies_is_an_error(how, method, pool):
    """A RuntimeError, at once; and the pool goes on."""
    started = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        list(getattr(pool, method)(die, [how]))
    assert isinstance(caught.value, WorkerDiedError)
    assert time.monotonic() - started < 5
    assert pool.map(square, [2]) == [4]


def test_a_death_hits_its_own_apply_only(pool):
    """A hundred, one of which dies."""
    tasks = [pool.apply_async(die if x == 50 else square, "exit" if x == 50 else x) for x in range(100)]
    with pytest.raises(RuntimeError):
        tasks[50].get()
    assert [task.get() for x, task in enumerate(tasks) if x != 50] == [x * x for x in range(100) if x != 50]


def die_in_hook(*_extras):
    os._exit(3)


@pytest.mark.parametrize("hook", ["worker_init", "worker_exit"])
def test_a_death_in_a_hook_is_an_error(hook, pool):
    """It says in which."""
    with pytest.raises(RuntimeError, match=hook):
        pool.map(square, range(3), **{hook: die_in_hook})
    assert pool.map(square, [2]) == [4]


# --- N: Ctrl-C --------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, threading, time
from pools_multicore import WorkerPool

def task(x):
    time.sleep(60)

if __name__ == "__main__":
    with WorkerPool(2) as pool:
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        try:
            list(getattr(pool, METHOD)(task, [1, 2, 3, 4]) or ())
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - started < 5, flush=True)
        print(pool.map(abs, [-1]), flush=True)
"""


@pytest.mark.parametrize("method", ["map", "imap"])
def test_ctrl_c_ends_a_call(method, tmp_path):
    """Promptly; the pool is usable, and nothing is left."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED.replace("METHOD", repr(method)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=40, check=False)
    assert done.stdout == "interrupted True\n[1]\n", done.stderr


# --- O: life ----------------------------------------------------------------------------------------------


def test_there_is_no_closed_state(start_method):
    """After its end, once or twice, a pool starts anew."""
    pool = WorkerPool(1, start_method=start_method)
    for end in ("stop_and_join", "terminate", "join"):
        getattr(pool, end)()
        assert pool.apply(square, 3) == 9
        getattr(pool, end)()
        getattr(pool, end)()


def test_a_pool_works_again_after_its_block():
    """And in another one."""
    pool = WorkerPool(2)
    for _ in range(2):
        with pool:
            assert pool.map(square, [3]) == [9]
        assert pool.map(square, [4]) == [16]


def test_nothing_is_left_of_many_pools():
    """Processes, threads, descriptors; with every kind of end."""
    with nothing_left_behind():
        for end in ["join", "terminate", "none"] * 4:
            pool = WorkerPool(2)
            pool.map(square, [1, 2])
            pool.apply_async(square, 2).wait()
            if end != "none":
                getattr(pool, end)()
            del pool


def test_a_second_map_is_an_error_and_ends_the_first(pool):
    """If the first one is an imap that waits for its consumer."""
    first = pool.imap(square, range(100), chunk_size=1)
    assert next(first) == 0
    with pytest.raises(RuntimeError, match="while imap"):
        pool.map(square, [1])
    with pytest.raises(RuntimeError, match="map"):
        next(first)
    assert pool.map(square, [1]) == [1]


def test_a_second_map_in_another_thread_is_an_error_for_it_alone(pool):
    """The first one goes on."""
    first = Background(pool.map, nap, [0.5, 0.5])
    wait_until(lambda: pool._lives._turn is not None)
    with pytest.raises(RuntimeError, match="another pool"):
        pool.map(square, [1])
    assert first.result() == [0.5, 0.5]


@pytest.mark.parametrize("end", ["join", "terminate", "with"])
def test_reading_an_imap_after_the_end_is_an_error(end):
    """No deadlock, with a bar and without."""
    for options in ({}, {"progress_bar": True, "progress_bar_style": lambda _event: None}):
        pool = WorkerPool(2)
        with pool if end == "with" else contextlib.nullcontext():
            generator = pool.imap(square, range(1000), chunk_size=1, **options)
            next(generator)
        if end != "with":
            getattr(pool, end)()
        with pytest.raises(RuntimeError, match="before all results of imap"):
            list(generator)


def test_terminate_ends_a_map_of_another_thread(pool):
    """At once, though tasks would go on for long."""
    running = Background(pool.map, time.sleep, [60, 60])
    wait_until(lambda: pool._lives.running)
    pool.terminate()
    with pytest.raises(RuntimeError, match="terminated"):
        running.result()


def test_a_pool_in_another_thread(made):
    """It need not be the main one."""

    def use():
        with made() as pool:
            return pool.map(square, range(5)), pool.apply(square, 3)

    assert Background(use).result() == ([0, 1, 4, 9, 16], 9)


def nested(x):
    with WorkerPool(2, start_method="fork") as pool:
        return pool.map(square, range(x))


def test_nested_pools_need_workers_that_are_no_daemons():
    """Else it is an AssertionError."""
    with WorkerPool(1, daemon=False) as pool:
        assert pool.map(nested, [3]) == [[0, 1, 4]]
    with WorkerPool(1) as pool, pytest.raises(AssertionError):
        pool.map(nested, [3])


# --- P: order ---------------------------------------------------------------------------------------------


def test_order_tasks(made):
    """Chunk k goes to worker k modulo n, anew in each call; MPIRE's setter does nothing."""
    for by_setter in (False, True):
        with made(pass_worker_id=True, keep_alive=True, order_tasks=not by_setter) as pool:
            if by_setter:
                pool.set_order_tasks()
            for method, size in itertools.product(("map", "imap"), (1, 3)):
                ids = list(getattr(pool, method)(lambda worker, _: worker, range(20), chunk_size=size))
                assert ids == [x // size % 2 for x in range(20)]


# --- Q: pinning -------------------------------------------------------------------------------------------


def affinity(_x):
    return sorted(os.sched_getaffinity(0))


def test_pinning():
    """One id for all, one for each, a list for each; nothing is nothing."""
    first, *rest = sorted(os.sched_getaffinity(0))
    last = rest[-1] if rest else first
    for cpu_ids, expected in [
        ([first], {(first,)}),
        ([first, last], {(first,), (last,)}),
        ([[first, last], last], {tuple(sorted({first, last})), (last,)}),
        ([], {(first, *rest)}),
    ]:
        with WorkerPool(2, cpu_ids=cpu_ids, order_tasks=True) as pool:
            assert set(map(tuple, pool.map(affinity, range(4), chunk_size=1))) == expected


@pytest.mark.parametrize(
    ("cpu_ids", "error"),
    [([0] * 3, ValueError), ([-1], ValueError), ([9999], ValueError), ([[]], ValueError), (["0"], TypeError)],
)
def test_bad_pins(cpu_ids, error):
    """In the constructor."""
    with pytest.raises(error):
        WorkerPool(2, cpu_ids=cpu_ids)


def test_threads_cannot_be_pinned():
    """MPIRE says so at the first call, with an AttributeError."""
    pool = WorkerPool(2, cpu_ids=[0], start_method="threading")
    for call in (lambda: pool.map(square, [1]), lambda: pool.apply(square, 1)):
        with pytest.raises(AttributeError, match="cpu_ids"):
            call()


# --- R: misuse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MAPS)
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"iterable_len": "3"}, TypeError),
        ({"iterable_len": -1}, ValueError),
        ({"max_tasks_active": 0}, ValueError),
        ({"max_tasks_active": "3"}, TypeError),
        ({"chunk_size": 0}, ValueError),
        ({"chunk_size": "3"}, TypeError),
        ({"n_splits": 0}, ValueError),
        ({"n_splits": 1.5}, TypeError),
        ({"worker_lifespan": 0}, ValueError),
        ({"worker_lifespan": 1.0}, TypeError),
        ({"task_timeout": 0}, ValueError),
        ({"task_timeout": "3"}, TypeError),
        ({"worker_init_timeout": -1}, ValueError),
        ({"worker_exit_timeout": "3"}, TypeError),
        ({"worker_init": 3}, TypeError),
        ({"progress_bar_options": 3}, TypeError),
        ({"progress_bar_options": {"no_such": 3}}, KeyError),
        ({"progress_bar_options": {"desc": 3}}, TypeError),
        ({"progress_bar_style": "no such"}, ValueError),
        ({"progress_bar_style": "rich", "progress_bar_options": {"position": 1}}, NotImplementedError),
    ],
)
def test_bad_options(method, options, error):
    """Before anything is started."""
    for start_method in ("fork", "threading"):
        pool = WorkerPool(2, start_method=start_method)
        with pytest.raises(error):
            list(getattr(pool, method)(square, [1], **options))
        assert "idle" in repr(pool)


def test_other_misuse():
    """MPIRE hangs when the function is none."""
    pool = WorkerPool(2)
    with pytest.raises(TypeError, match="not iterable"):
        pool.map(square, 3)
    for call in (pool.map, pool.apply):
        with pytest.raises(TypeError, match="not callable"):
            call(3, [3])
    with pytest.raises(TypeError):
        pool.map(square, [(1, 2)])
    with pytest.raises(ValueError, match="start_method"):
        WorkerPool(2, start_method="no such")
    for n_jobs, error in ((-1, ValueError), (2.5, TypeError), ("3", TypeError)):
        with pytest.raises(error):
            WorkerPool(n_jobs)
    with pytest.raises(TypeError, match="max_worker_memory"):
        WorkerPool(2, max_worker_memry=3)
    pool.terminate()


@pytest.mark.parametrize("n_jobs", [None, 0])
def test_by_default_there_are_as_many_workers_as_cpus(n_jobs):
    """That may be used."""
    with WorkerPool(n_jobs, pass_worker_id=True, order_tasks=True, start_method="threading") as pool:
        ids = pool.map(lambda worker, _: worker, range(300), chunk_size=1)
    assert max(ids) + 1 == pools_multicore.cpu_count()


# --- S: bars ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", MAPS)
def test_a_bar_shows_every_task(method, pool):
    """Blocks of an array count as tasks; there is a bar of nothing, too."""
    for elements, total in ((range(13), 13), (np.arange(20), 8), ([], 0)):
        events = []
        list(getattr(pool, method)(identity, elements, progress_bar=True, progress_bar_style=events.append))
        assert (events[-1].done, events[-1].total, events[-1].finished) == (total, total, True)


def test_a_bar_of_text(pool):
    """With MPIRE's options; and none where none is wanted."""
    file = io.StringIO()
    file.isatty = lambda: True
    options = {"desc": "crunching", "file": file, "ncols": 80}
    pool.map(square, range(13), progress_bar=True, progress_bar_options=options)
    assert "13/13" in file.getvalue() and "crunching" in file.getvalue()
    with pytest.warns(RuntimeWarning, match="total"):
        pool.map(square, range(3), progress_bar=True, progress_bar_options={**options, "total": 3})


def test_without_a_bar_nothing_is_printed(pool, capfd):
    """And the style for the dashboard prints nothing either."""
    pool.map(square, range(3))
    pool.map(square, range(3), progress_bar=True, progress_bar_style="dashboard")
    assert capfd.readouterr() == ("", "")


# --- T: insights ------------------------------------------------------------------------------------------

PARTS = ("start_up", "init", "waiting", "working", "exit")


def test_insights():
    """MPIRE's keys; numbers that agree; and nothing when they are off."""
    with WorkerPool(2, enable_insights=True, keep_alive=True) as pool:
        assert pool.get_insights() == {}
        pool.map(nap, [0.02] * 5, worker_init=arguments)
        pool.map(pow, [(2, 3), (2, 4)])
        pool.map(fail_at_three, [{"x": 1}])
        found = pool.get_insights()
    assert sum(found["n_completed_tasks"]) == 8
    expected = {"n_completed_tasks", "total_time", "top_5_max_task_durations", "top_5_max_task_args"}
    for part in PARTS:
        expected |= {f"{part}_time", f"total_{part}_time", f"{part}_time_mean", f"{part}_time_std"}
        expected.add(f"{part}_ratio")
        assert len(found[f"{part}_time"]) == 2
    assert set(found) == expected
    assert sum(found[f"{part}_ratio"] for part in PARTS) == pytest.approx(1)
    assert found["top_5_max_task_args"][0] == "Arg 0: 0.02"
    assert WorkerPool(2).get_insights() == {}


def test_the_arguments_of_slow_tasks():
    """Each by its place or its name."""
    with WorkerPool(1, enable_insights=True) as pool:
        pool.map(arguments, [(1, "b"), {"x": 5}, "text"])
        assert set(pool.get_insights()["top_5_max_task_args"]) == {
            "Arg 0: 1 | Arg 1: 'b'",
            "Arg x: 5",
            "Arg 0: 'text'",
        }


def test_insights_begin_anew_with_new_workers(capsys):
    """And are printed as a table."""
    with WorkerPool(2, enable_insights=True, start_method="threading") as pool:
        pool.print_insights()
        for _ in range(2):
            pool.map(square, range(7))
            assert sum(pool.get_insights()["n_completed_tasks"]) == 7
        pool.print_insights()
    printed = capsys.readouterr().out
    assert "no insights" in printed and "7 tasks" in printed


# --- U: start methods -------------------------------------------------------------------------------------


def test_every_map_under_every_start_method(made):
    """Also lambdas, with what MPIRE needs dill for."""
    with made(keep_alive=True, use_dill=True) as pool:
        for method in MAPS:
            assert results(pool, method, square, range(20)) == [x * x for x in range(20)]
            assert results(pool, method, lambda x: x + 1, range(3)) == [1, 2, 3]
        array = np.arange(20).reshape(10, 2)
        assert (pool.map(double, array) == array * 2).all()


def test_a_function_that_cannot_be_pickled_is_named(pool):
    """The wrapper that it travels in is not."""
    lock = threading.Lock()

    def locked(x):
        with lock:
            return x

    with pytest.raises(SerializationError, match="locked"):
        pool.map(locked, [1])


def test_warnings_point_at_the_users_line(pool):
    """Not into the library."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool.map(square, iter([1]))
        list(pool.imap(square, iter([1])))
    assert [os.path.basename(one.filename) for one in caught] == ["test_workerpool.py"] * 2
