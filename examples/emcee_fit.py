"""A fit with emcee, whose walkers ask a pool for their likelihoods.

    python examples/emcee_fit.py --backend multicore

emcee takes anything that has a `map`; so does most of what samples and optimizes.
Here a likelihood takes microseconds, so that a pool cannot help; with yours, from a millisecond on, it does.
Needs `pip install emcee`.
"""

import argparse

import emcee
import numpy as np

from pools_core import MakePool

# E. Hubble, 1929, table 1: the distance of 24 nebulae in Mpc, and their velocity in km/s.
# fmt: off
DISTANCES = np.array([
    0.032, 0.034, 0.214, 0.263, 0.275, 0.275, 0.45, 0.5, 0.5, 0.63, 0.8, 0.9,
    0.9, 0.9, 0.9, 1.0, 1.1, 1.1, 1.4, 1.7, 2.0, 2.0, 2.0, 2.0,
])
VELOCITIES = np.array([
    170, 290, -130, -70, -185, -220, 200, 290, 270, 200, 300, -30,
    650, 150, 500, 920, 450, 500, 500, 960, 500, 850, 800, 1090,
])
# fmt: on


def log_probability(parameters: np.ndarray) -> float:
    """Return how probable a Hubble constant is, and a scatter of the velocities about it."""
    hubble, scatter = parameters
    if scatter <= 0:
        return -np.inf
    off = (VELOCITIES - hubble * DISTANCES) / scatter
    return float(-0.5 * (off**2).sum() - (len(off) + 1) * np.log(scatter))  # + 1: any scale is as likely


def main() -> None:
    """Read the options, sample, print what was found."""
    parser = argparse.ArgumentParser(description="Fit the Hubble constant to Hubble's own data.")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()

    random = np.random.RandomState(1929)  # emcee takes the state of this kind only
    start = emcee.State(random.normal([500, 200], 20, size=(32, 2)), random_state=random.get_state())
    with MakePool(args.backend, config=args.config) as pool:
        sampler = emcee.EnsembleSampler(32, 2, log_probability, pool=pool)
        sampler.run_mcmc(start, args.steps)

    samples = sampler.get_chain(discard=args.steps // 5, flat=True)
    for name, values in zip(("Hubble constant [km/s/Mpc]", "scatter [km/s]"), samples.T, strict=True):
        print(f"{name}: {values.mean():.6f} +- {values.std():.6f}")


if __name__ == "__main__":
    main()
