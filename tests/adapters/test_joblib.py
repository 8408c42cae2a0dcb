"""The joblib backend, driven by joblib itself, by scikit-learn, and by joblib's own tests of backends."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import pickle
import threading
import time
import warnings

import pytest

from pools_core import MakePool, SerializationError
from pools_core.testing import tasks
from pools_core.testing.gate import Gate
from pools_core.testing.waiting import wait_until

joblib = pytest.importorskip("joblib", reason="joblib is not installed")
from joblib import Parallel, delayed, parallel_config  # noqa: E402  joblib may be missing

from pools_core.adapters.joblib import PoolsBackend  # noqa: E402  likewise


def who(_):
    """Return the process that ran it, after a moment."""
    time.sleep(0.02)
    return os.getpid()


def nested(number):
    """Run a loop in a loop."""
    return Parallel(n_jobs=2)(delayed(tasks.square)(n) for n in range(number))


def at_once(gate):
    """Wait at a gate."""
    return tasks.pass_gate(gate)


@pytest.fixture(params=["name", "instance", "live by name", "live"])
def config(request):
    """Arguments of ``parallel_config``, in every way that there is."""
    if request.param == "name":
        yield {"backend": "pools", "pool": "multicore"}
        return
    if request.param == "instance":
        backend = PoolsBackend(backend="multicore", config={"multicore": {"start_method": "fork"}})
        yield {"backend": backend}
        backend.close()
        return
    with MakePool("multicore", n_jobs=2) as pool:
        if request.param == "live":
            yield {"backend": PoolsBackend(pool)}
        else:
            yield {"backend": "pools", "pool": pool}
        assert pool.map(tasks.square, [3]) == [9]


class TestParallel:
    """What users write."""

    def test_results_come_from_our_workers(self, config):
        """In order, from other processes, in batches."""
        with parallel_config(**config, n_jobs=2):
            assert Parallel()(delayed(tasks.square)(n) for n in range(500)) == [n * n for n in range(500)]
            processes = set(Parallel()(delayed(who)(n) for n in range(20)))

        assert len(processes) == 2
        assert os.getpid() not in processes

    def test_a_failure_aborts_the_rest(self, config):
        """The tasks that run are killed, and the next call works."""
        with parallel_config(**config, n_jobs=2):
            began = time.monotonic()
            with pytest.raises(tasks.Misbehaved):
                Parallel(batch_size=1, pre_dispatch="all")(
                    [delayed(tasks.go_wrong)("raise"), *(delayed(tasks.nap)(60) for _ in range(5))]
                )
            assert Parallel()(delayed(tasks.square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
            assert time.monotonic() - began < 30

    @pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
    def test_generators(self, config, return_as):
        """Results as they come."""
        with parallel_config(**config, n_jobs=2):
            results = Parallel(return_as=return_as)(delayed(tasks.square)(n) for n in range(20))
            assert sorted(results) == [n * n for n in range(20)]

    def test_two_generators_at_once_and_one_given_up(self, config):
        """Giving one up leaves the other alone."""
        with parallel_config(**config, n_jobs=2), Gate() as gate, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib tells of what was not consumed
            first = Parallel(return_as="generator")(delayed(at_once)(gate.address) for _ in range(10))
            second = Parallel(return_as="generator")(delayed(tasks.square)(n) for n in range(10))
            del first
            gc.collect()
            assert list(second) == [n * n for n in range(10)]

    def test_nested_loops(self, config):
        """A worker's own loops run in its threads."""
        with parallel_config(**config, n_jobs=2):
            assert Parallel()(delayed(nested)(n) for n in range(5)) == [
                [n * n for n in range(number)] for number in range(5)
            ]

    def test_a_time_limit(self, config):
        """It is joblib's, and its error."""
        with parallel_config(**config, n_jobs=2), pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=0.3)(delayed(tasks.nap)(30) for _ in range(4))

    def test_what_cannot_be_pickled_is_an_error_and_no_hang(self, config):
        """Also when it comes up in joblib's callback."""
        items = [*range(20), threading.Lock()]
        with parallel_config(**config, n_jobs=2), pytest.raises(SerializationError):
            Parallel(batch_size=1)(delayed(tasks.identity)(item) for item in items)

    def test_lambdas_and_closures(self, config):
        """As in notebooks."""
        with parallel_config(**config, n_jobs=2):
            assert Parallel()(delayed(lambda n, up=1: n + up)(n) for n in range(5)) == [1, 2, 3, 4, 5]


class TestWorkers:
    """How many, whose, how long."""

    def test_n_jobs(self):
        """joblib's rules, on a pool of three."""
        with MakePool("multicore", n_jobs=3) as pool:
            backend = PoolsBackend(pool)
            asked = {n: backend.effective_n_jobs(n) for n in (None, 1, 2, 3, 7, -1, -2, -9)}
            with parallel_config(backend):
                assert joblib.effective_n_jobs() == 3
        assert asked == {None: 1, 1: 1, 2: 2, 3: 3, 7: 3, -1: 3, -2: 2, -9: 1}
        with pytest.raises(ValueError, match="n_jobs == 0"):
            backend.effective_n_jobs(0)

    def test_of_a_live_pool_no_more_are_used_than_n_jobs(self):
        """Other users of the pool have the rest."""
        with (
            MakePool("multicore", n_jobs=4) as pool,
            Gate() as gate,
            parallel_config("pools", pool=pool, n_jobs=2),
        ):
            results = Parallel(batch_size=1, return_as="generator")(
                delayed(at_once)(gate.address) for _ in range(8)
            )
            gate.wait_for(2)
            assert pool.map(tasks.square, range(10), task_timeout=30) == [n * n for n in range(10)]
            assert len(gate.arrived) == 2
            gate.open()
            assert list(results) == [""] * 8

    def test_a_pool_of_its_own_is_as_large_as_n_jobs_and_ends_with_the_block(self):
        """And serves one call after the other."""
        with parallel_config("pools", pool="multicore", n_jobs=3) as active:
            backend = active["backend"]
            Parallel()(delayed(tasks.square)(n) for n in range(10))
            pool = backend._own
            Parallel()(delayed(tasks.square)(n) for n in range(10))
            assert backend._own is pool
            assert pool.size == 3
            Parallel(n_jobs=2)(delayed(tasks.square)(n) for n in range(10))
            assert backend._own.size == 2
        del active, backend, pool

        wait_until(lambda: not multiprocessing.active_children())

    def test_options_of_the_pool(self):
        """By ``parallel_config``, or by ``Parallel`` itself."""
        with parallel_config("pools", pool="multicore", start_method="spawn", n_jobs=2) as active:
            assert Parallel()(delayed(tasks.square)(n) for n in range(3)) == [0, 1, 4]
            assert "multicore" in repr(active["backend"])
        results = Parallel(n_jobs=2, backend="pools", pool="threads")(delayed(who)(n) for n in range(4))
        assert set(results) == {os.getpid()}

    def test_the_backend_of_the_environment_is_the_default(self, monkeypatch):
        """As of ``MakePool``."""
        monkeypatch.setenv("POOLS_BACKEND", "threads")
        with parallel_config("pools", n_jobs=2):
            assert set(Parallel()(delayed(who)(n) for n in range(4))) == {os.getpid()}

    def test_threads_of_numerical_libraries(self):
        """joblib's option for them becomes the pool's."""
        with parallel_config("pools", pool="multicore", n_jobs=2, inner_max_num_threads=3) as active:
            assert active["backend"]._pool_options(2) == {"n_jobs": 2, "blas_threads": 3}

    def test_a_live_pool_takes_no_options(self, processes):
        """It has them already."""
        with pytest.raises(TypeError, match="live pool"):
            PoolsBackend(processes, start_method="spawn")
        with pytest.raises(TypeError, match="one parameter"):
            PoolsBackend("multicore", backend="threads")

    def test_the_backend_travels_without_its_pool(self):
        """An estimator may refer to it."""
        backend = PoolsBackend("multicore", start_method="spawn")
        backend.effective_n_jobs(2)
        other = pickle.loads(pickle.dumps(backend))
        backend.close()

        assert (other._name, other._options, other._own) == ("multicore", {"start_method": "spawn"}, None)


class TestScikitLearn:
    """Its own results, from our workers."""

    @pytest.mark.parametrize("name", ["multicore", "threads", "singlecore"])
    def test_a_grid_search_gives_the_same_result(self, name):
        """Scores, the choice, and the order."""
        datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
        svm = importlib.import_module("sklearn.svm")
        selection = importlib.import_module("sklearn.model_selection")
        data, target = datasets.load_iris(return_X_y=True)
        grid = {"C": [0.1, 1.0, 10.0], "gamma": [0.1, 1.0]}

        def fitted(n_jobs=None):
            return selection.GridSearchCV(svm.SVC(), grid, cv=3, n_jobs=n_jobs).fit(data, target)

        expected = fitted(1)
        with parallel_config("pools", pool=name, n_jobs=2):
            found = fitted()

        assert found.best_params_ == expected.best_params_
        for key in ("mean_test_score", "std_test_score", "rank_test_score"):
            assert list(found.cv_results_[key]) == list(expected.cv_results_[key])

    def test_a_forest_and_cross_validation(self, processes):
        """What asks for threads, and what does not."""
        datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
        ensemble = importlib.import_module("sklearn.ensemble")
        selection = importlib.import_module("sklearn.model_selection")
        data, target = datasets.load_iris(return_X_y=True)
        forest = ensemble.RandomForestClassifier(n_estimators=10, random_state=0)
        expected = selection.cross_val_score(forest, data, target, cv=3)
        with parallel_config(PoolsBackend(processes)):
            found = selection.cross_val_score(forest, data, target, cv=3)

        assert list(found) == list(expected)


# joblib's tests of whichever backend, called with ours.  Left out are those that look for the private
# attribute ``_workers``, that are about joblib's memory maps of arrays, or about loky by name.

OWN = [
    ("test_simple_parallel", {"n_jobs": [1, 2, -1, -2], "verbose": [2]}),
    ("test_main_thread_renamed_no_warning", {}),
    ("test_parallel_as_context_manager", {}),
    ("test_parallel_timeout_success", {}),
    ("test_parallel_timeout_fail", {}),
    ("test_parallel_timeout_fail_with_generator", {"return_as": ["generator", "generator_unordered"]}),
    ("test_error_in_task_iterator", {}),
    ("test_invalid_njobs", {}),
    ("test_njobs_converted_to_int", {"n_jobs": ["2", 2.3, 2]}),
    ("test_abort_backend", {"n_jobs": [1, 2, -1, -2]}),
    ("test_deadlock_with_generator", {"return_as": ["generator", "generator_unordered"], "n_jobs": [2, -1]}),
    ("test_multiple_generator_call", {"return_as": ["generator", "generator_unordered"], "n_jobs": [2]}),
    ("test_multiple_generator_call_managed", {"return_as": ["generator"], "n_jobs": [2]}),
    ("test_parallel_unordered_generator_returns_fastest_first", {"n_jobs": [2]}),
    ("test_lambda_expression", {}),
    ("test_backend_batch_statistics_reset", {}),
    ("test_nested_backend_context_manager", {"context": ["parallel_config", "parallel_backend"]}),
    ("test_nested_backend_in_sequential", {"n_jobs": [2, -1], "context": ["parallel_config"]}),
    ("test_backend_context_manager", {"context": ["parallel_config", "parallel_backend"]}),
]


def own_cases():
    """Yield the name of each of joblib's tests and its arguments."""
    for name, options in OWN:
        cases = [{}]
        for option, values in options.items():
            cases = [{**case, option: value} for case in cases for value in values]
        for case in cases:
            yield pytest.param(name, case, id="-".join([name, *map(str, case.values())]))


@pytest.mark.parametrize(("name", "options"), list(own_cases()))
def test_joblibs_own_tests_of_backends(name, options, monkeypatch, pytestconfig):
    """With our backend's name."""
    for mark in ("thread_unsafe", "no_cover", "timeout"):
        pytestconfig.addinivalue_line("markers", f"{mark}: joblib's own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("joblib.test.test_parallel", reason="joblib came without its tests")
    if not hasattr(theirs, name):
        pytest.skip(f"this joblib has no {name}")
    options = dict(options)
    if "context" in options:
        options["context"] = getattr(joblib, options["context"])
    if name in ("test_main_thread_renamed_no_warning", "test_backend_context_manager"):
        options["monkeypatch"] = monkeypatch
    monkeypatch.setenv("POOLS_BACKEND", "multicore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # joblib tells of results that its test did not take
        getattr(theirs, name)(backend="pools", **options)
    gc.collect()
