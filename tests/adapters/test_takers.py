"""Programs that take a pool, each run for real: the same result as without one."""

from __future__ import annotations

import importlib
import random
import warnings

import pytest

from pools_core.testing.waiting import wait_until

np = pytest.importorskip("numpy", reason="numpy is not installed")


def library(name):
    """Return a library, or skip the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says when it is imported is its own affair
        return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(autouse=True)
def _their_own_warnings():
    """They warn of what numpy will change; a warning is an error in our tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def log_gauss(point):
    """Return the logarithm of a normal density; a row of an array is one point."""
    assert np.ndim(point) == 1
    return float(-0.5 * np.sum(np.asarray(point) ** 2))


def rosenbrock(point):
    """Return a function that is hard to minimize."""
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


def unit_to_box(point):
    """Map the unit cube onto a box."""
    return 10 * np.asarray(point) - 5


def count_ones(individual):
    """Return a fitness, as deap wants it."""
    return (sum(individual),)


def line_residual(params, x, data):
    """Return what a line leaves, as lmfit wants it."""
    return params["slope"] * x + params["start"] - data


def test_scipy_takes_map_as_workers(pool):
    """``workers`` is called with a function and an iterable, nothing else."""
    optimize = library("scipy.optimize")
    bounds = [(-2, 2), (-2, 2)]
    options = {"rng": 3, "maxiter": 5, "popsize": 5, "updating": "deferred", "polish": False}

    found = optimize.differential_evolution(rosenbrock, bounds, workers=pool.map, **options)
    expected = optimize.differential_evolution(rosenbrock, bounds, workers=1, **options)
    assert list(found.x) == list(expected.x)

    found = optimize.brute(rosenbrock, bounds, Ns=9, finish=None, workers=pool.map)
    assert list(found) == list(optimize.brute(rosenbrock, bounds, Ns=9, finish=None))


def test_emcee(pool):
    """Rows of an array are the tasks; the function holds everything."""
    emcee = library("emcee")

    def chain(**options):
        start = np.random.default_rng(1).normal(size=(8, 2))
        sampler = emcee.EnsembleSampler(8, 2, log_gauss, **options)
        sampler._random.seed(4)
        sampler.run_mcmc(start, 20)
        return sampler.get_chain()

    assert np.array_equal(chain(pool=pool), chain())


def test_zeus(pool):
    """It gives ``map`` a generator."""
    zeus = library("zeus")

    def chain(**options):
        random.seed(5)
        np.random.seed(5)
        start = np.random.randn(8, 2)
        sampler = zeus.EnsembleSampler(8, 2, log_gauss, verbose=False, **options)
        sampler.run_mcmc(start, 10, progress=False)
        return sampler.get_chain()

    assert np.array_equal(chain(pool=pool), chain())


def test_dynesty(pool):
    """It looks at ``_processes`` for the length of its queue."""
    dynesty = library("dynesty")

    def evidence(**options):
        sampler = dynesty.NestedSampler(
            log_gauss, unit_to_box, 2, nlive=40, rstate=np.random.default_rng(6), **options
        )
        sampler.run_nested(maxiter=200, print_progress=False)
        assert sampler.queue_size == (pool.size if options else 1)
        return sampler.results.logz[-1]

    # With several at a time it proposes other points, so that only the value is the same.
    assert abs(evidence(pool=pool) - evidence()) < 3


@pytest.mark.parametrize("both", [False, True])
def test_nautilus(pool, both):
    """One pool, or one for each of its two uses."""
    nautilus = library("nautilus")

    def evidence(**options):
        sampler = nautilus.Sampler(
            unit_to_box, log_gauss, n_dim=2, n_live=100, n_networks=0, seed=7, n_batch=50, **options
        )
        sampler.run(n_like_max=400, n_shell=50, discard_exploration=False, verbose=False)
        return sampler.log_z

    assert evidence(pool=(pool, pool) if both else pool) == pytest.approx(evidence(), abs=1.0)


def test_pymoo(pool):
    """By ``starmap``; it copies what holds it."""
    library("pymoo")
    starmap = importlib.import_module("pymoo.parallelization").StarmapParallelization
    algorithm = importlib.import_module("pymoo.algorithms.soo.nonconvex.ga").GA
    minimize = importlib.import_module("pymoo.optimize").minimize
    problem_class = importlib.import_module("pymoo.core.problem").ElementwiseProblem

    class Sphere(problem_class):
        def __init__(self, **options):
            super().__init__(n_var=3, n_obj=1, xl=-1.0, xu=1.0, **options)

        def _evaluate(self, x, out, *args, **kwargs):
            out["F"] = float((x**2).sum())

    def best(**options):
        return minimize(Sphere(**options), algorithm(pop_size=10), ("n_gen", 4), seed=8).F[0]

    assert best(elementwise_runner=starmap(pool.starmap)) == best()


def test_deap(pool):
    """``toolbox.register("map", pool.map)``."""
    library("deap")
    algorithms, base, creator, tools = (
        importlib.import_module(f"deap.{name}") for name in ("algorithms", "base", "creator", "tools")
    )
    if not hasattr(creator, "Fitness"):
        creator.create("Fitness", base.Fitness, weights=(1.0,))
        creator.create("Individual", list, fitness=creator.Fitness)

    def best(how):
        random.seed(9)
        toolbox = base.Toolbox()
        toolbox.register("map", how)
        toolbox.register("evaluate", count_ones)
        toolbox.register("mate", tools.cxTwoPoint)
        toolbox.register("mutate", tools.mutFlipBit, indpb=0.1)
        toolbox.register("select", tools.selTournament, tournsize=3)
        crowd = [creator.Individual(random.choices([0, 1], k=20)) for _ in range(20)]
        crowd, _ = algorithms.eaSimple(crowd, toolbox, cxpb=0.5, mutpb=0.2, ngen=4, verbose=False)
        return sorted(map(sum, crowd))

    assert best(pool.map) == best(map)


def test_lmfit(pool):
    """Its ``emcee`` hands the pool on, its ``brute`` the map."""
    lmfit = library("lmfit")
    library("emcee")
    x = np.linspace(0, 1, 20)
    data = 3 * x + 1

    def parameters():
        made = lmfit.Parameters()
        made.add("slope", 2.0, min=0, max=5, brute_step=1)
        made.add("start", 0.5, min=0, max=2, brute_step=1)
        return made

    def chain(**options):
        fit = lmfit.Minimizer(line_residual, parameters(), fcn_args=(x, data))
        result = fit.emcee(
            steps=10, nwalkers=10, burn=0, thin=1, seed=10, progress=False, is_weighted=True, **options
        )
        return result.flatchain.to_numpy()

    assert np.array_equal(chain(workers=pool), chain())

    def corner(**options):
        fit = lmfit.Minimizer(line_residual, parameters(), fcn_args=(x, data))
        return fit.brute(**options).brute_x0

    assert list(corner(workers=pool.map)) == list(corner())


def test_scripts_for_schwimmbad(pool):
    """What takes one of its pools takes ours, and both say the same."""
    schwimmbad = library("schwimmbad")

    def script(pool):
        told = []
        if not pool.is_master():
            pool.wait()
            raise SystemExit
        with pool:
            results = list(pool.map(log_gauss, np.arange(12.0).reshape(6, 2), callback=told.append))
        return results, sorted(told)

    assert script(pool) == script(schwimmbad.SerialPool())
    assert {name for name in dir(schwimmbad.SerialPool) if name[0] != "_"} - set(dir(pool)) <= {"batched_map"}
    wait_until(lambda: pool.state == "joined")
