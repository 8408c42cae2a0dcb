"""A grid search of scikit-learn, on any backend, through joblib.

    python examples/grid_search.py --backend multicore

scikit-learn runs its loops with joblib, and joblib runs them where `parallel_config` says: nothing of the
search changes, nor does its result.
Needs `pip install scikit-learn`; the images are the 1,797 handwritten digits that come with it.
"""

import argparse

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import pools_core.adapters.joblib  # noqa: F401  registers the backend "pools"

GRID = {"C": [1, 10], "gamma": [0.0005, 0.001, 0.002]}


def main() -> None:
    """Read the options, search, print the accuracy of each combination and the best of them."""
    parser = argparse.ArgumentParser(description="Find the parameters that read handwritten digits best.")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    args = parser.parse_args()

    images, digits = load_digits(return_X_y=True)
    search = GridSearchCV(SVC(), GRID, cv=3)
    with joblib.parallel_config("pools", pool=args.backend, config=args.config):
        search.fit(images, digits)

    found = search.cv_results_
    for parameters, accuracy in zip(found["params"], found["mean_test_score"], strict=True):
        print(f"{accuracy:.6f}  {parameters}")
    print(f"best: {search.best_params_}")


if __name__ == "__main__":
    main()
