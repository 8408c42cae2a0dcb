"""Two of the programs on a cluster: joblib with scikit-learn, and emcee.  A trial cluster on this machine."""

from __future__ import annotations

import os

import pytest

from pools_core import MakePool, PoolsError, backends
from pools_core.testing import tasks
from pools_core.testing.gate import Gate


def doubled(number):
    """Return something that depends on the number."""
    return 2 * number


class Point:
    """What a task gets and returns."""

    def __init__(self, x):
        self.x = x


def moved(point):
    """Use a class of this module."""
    assert type(point) is Point
    return Point(point.x + 1)


@pytest.fixture(scope="module")
def cluster(running_cluster, tmp_path_factory):
    """The path of a config; a job server and a node run while it is in use, as nobody's children."""
    info = backends().get("gearman")
    if info is None or not info.usable:
        pytest.skip(f"the gearman backend is not usable: {info.why if info else 'not installed'}")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("POOLS_")}
    with running_cluster(tmp_path_factory.mktemp("cluster"), environment) as config:
        yield config


def test_a_grid_search_through_joblib(cluster):
    """The same result as here, from the cluster's workers."""
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    import pools_core.adapters.joblib  # noqa: F401  registers the backend

    data, target = datasets.load_iris(return_X_y=True)
    grid = {"C": [0.1, 1.0, 10.0]}
    expected = GridSearchCV(SVC(), grid, cv=3, n_jobs=1).fit(data, target)
    with joblib.parallel_config("pools", pool="gearman", config=cluster):
        found = GridSearchCV(SVC(), grid, cv=3).fit(data, target)
        workers = set(joblib.Parallel()(joblib.delayed(tasks.process_id)(n) for n in range(20)))

    assert list(found.cv_results_["mean_test_score"]) == list(expected.cv_results_["mean_test_score"])
    assert found.best_params_ == expected.best_params_
    assert os.getpid() not in workers


def test_joblib_brings_along_what_the_nodes_do_not_have(cluster):
    """Functions and classes of this module, which no node can import."""
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    from pools_core.adapters.joblib import PoolsBackend

    with MakePool("gearman", config=cluster) as pool, joblib.parallel_config(PoolsBackend(pool)):
        points = joblib.Parallel()(joblib.delayed(moved)(Point(n)) for n in range(20))

    assert [point.x for point in points] == list(range(1, 21))


def test_emcee(cluster):
    """The same chain as here."""
    emcee = pytest.importorskip("emcee", reason="emcee is not installed")
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")

    def log_gauss(point):
        return float(-0.5 * (point**2).sum())

    def chain(pool):
        start = numpy.random.default_rng(1).normal(size=(8, 2))
        sampler = emcee.EnsembleSampler(8, 2, log_gauss, pool=pool)
        sampler._random.seed(4)
        sampler.run_mcmc(start, 5)
        return sampler.get_chain()

    with MakePool("gearman", config=cluster) as pool:
        assert numpy.array_equal(chain(pool), chain(None))


def test_the_executor(cluster):
    """Futures, a map, a failure, and one that is cancelled."""
    with MakePool("gearman", config=cluster) as pool, pool.executor() as executor:
        assert list(executor.map(tasks.square, range(20), chunksize=3)) == [n * n for n in range(20)]
        assert list(executor.map(doubled, range(20), chunksize=3)) == [2 * n for n in range(20)]
        with pytest.raises(tasks.Misbehaved):
            executor.submit(tasks.go_wrong, "raise").result(60)
        with Gate() as gate:
            futures = [executor.submit(tasks.pass_gate, gate.address) for _ in range(200)]
            gate.wait_for(1)
            assert futures[-1].cancel()
            for future in futures[1:]:
                future.cancel()
            gate.open()


def test_a_stub_explains_itself_there(cluster):
    """On another machine, as in another process."""
    with MakePool("gearman", config=cluster) as pool, pytest.raises(PoolsError, match="does not travel"):
        pool.apply(pool.map, (tasks.square, [1]))
