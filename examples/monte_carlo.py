"""Monte Carlo with a seed: the same estimate on every backend, to the last digit.

    python examples/monte_carlo.py --backend singlecore
    python examples/monte_carlo.py --backend multicore

How sure can we be of Michelson's speed of light?  Each task draws his 100 measurements anew, with
replacement, and takes the mean; how far the means scatter is the answer (a bootstrap).
With `seed`, each task has a random stream of its own, which depends on the seed and the task's number, and
not on the worker, the chunk or the backend.
"""

import argparse
import statistics

from pools_core import MakePool, task_rng

# A. A. Michelson, 1879, five series of twenty: km/s in air, less 299,000.
MEASURED = """
850 740 900 1070 930 850 950 980 980 880 1000 980 930 650 760 810 1000 1000 960 960
960 940 960 940 880 800 850 880 900 840 830 790 810 880 880 830 800 790 760 800
880 880 880 860 720 720 620 860 970 950 880 910 850 870 840 840 850 840 840 840
890 810 810 820 800 770 760 740 750 760 910 920 890 860 880 720 840 850 850 780
890 840 780 810 760 810 790 810 820 850 870 870 810 740 810 940 950 800 810 870
"""
SPEEDS = [299_000 + int(word) for word in MEASURED.split()]


def mean_of_a_resample(_: int) -> float:
    """Return the mean of as many measurements, drawn with replacement."""
    return statistics.fmean(task_rng().choices(SPEEDS, k=len(SPEEDS)))


def main() -> None:
    """Read the options, draw, print the estimate and how sure it is."""
    parser = argparse.ArgumentParser(description="Bootstrap Michelson's speed of light.")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1879)
    args = parser.parse_args()

    with MakePool(args.backend, config=args.config) as pool:
        means = pool.map(mean_of_a_resample, range(args.resamples), seed=args.seed)

    cuts = statistics.quantiles(means, n=40)  # the first and the last have 95 % between them
    print(f"speed of light in air: {statistics.fmean(means)!r} km/s")
    print(f"95 % of the means are from {cuts[0]!r} to {cuts[-1]!r} km/s")


if __name__ == "__main__":
    main()
