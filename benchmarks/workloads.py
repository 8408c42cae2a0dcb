"""The three workloads that MPIRE published, scaled down; each written once for ``WorkerPool``.

    numerical       one large image, shared; many small filters
    stateful        how often each prefix occurs in many documents, counted in the worker's state
    initialization  a model that takes long to load, once per worker; small batches

The programs take the ``WorkerPool`` class as an argument: ``mpire.WorkerPool`` and
``pools_multicore.WorkerPool`` run the same lines.  Peers without that interface do the same work in the
way that suits them best; see ``Plainly``.  Run one by hand, as a user would write it:

    python -m benchmarks.workloads mpire
    python -m benchmarks.workloads pools
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.library import Library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "Model",
    "Scene",
    "documents",
    "initialization",
    "model",
    "numerical",
    "numerical_program",
    "scene",
    "stateful",
    "stateful_program",
]

IMAGE_EDGE = 5_000
WORDS_PER_DOCUMENT = 5_000
POPULAR = 3
LAYERS = 4
WIDTH = 1024
BATCH = 64
BATCHES_PER_RUN = 10


# --- numerical ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """What the numerical workload works on."""

    image: Array
    filters: list[Array]


def scene(size: int) -> Scene:
    """Make an image and as many filters as there are tasks."""
    import numpy as np

    rng = np.random.default_rng(42)
    image = rng.random((IMAGE_EDGE, IMAGE_EDGE))
    return Scene(image, [rng.standard_normal((4, 4)) for _ in range(size)])


def convolve(image: Array, kernel: Array) -> Array:
    """Task: filter the image, and return every fifth pixel of every fifth row."""
    signal = importlib.import_module("scipy.signal")  # by name: scipy need not be there for type checks
    filtered: Array = signal.convolve2d(image, kernel)[::5, ::5]
    return filtered


def numerical_program(WorkerPool: Any, work: Scene, jobs: int) -> float:  # noqa: N803  as it is imported
    """Filter the shared image; return the sum over all results."""
    with WorkerPool(n_jobs=jobs, shared_objects=work.image) as pool:
        return sum(float(part.sum()) for part in pool.imap(convolve, work.filters))


# --- stateful ----------------------------------------------------------------------------------------

Document = list[str]


def documents(size: int) -> list[Document]:
    """Make documents of uneven length from a vocabulary of 10,000 words."""
    rng = random.Random(42)
    letters = "etaoinshrdlu"
    words = ["".join(rng.choices(letters, k=rng.randint(6, 20))) for _ in range(10_000)]
    lengths = [int(WORDS_PER_DOCUMENT * rng.lognormvariate(0, 0.7)) for _ in range(size)]
    return [rng.choices(words, k=length) for length in lengths]


def count_prefixes(counts: dict[str, int], document: Document) -> None:
    """Add a document to the counts."""
    for word in document:
        for length in range(1, len(word)):
            prefix = word[:length]
            counts[prefix] = counts.get(prefix, 0) + 1


def popular(parts: Sequence[dict[str, int]]) -> int:
    """Return how many prefixes are popular, and so much more that no word can be missing."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return sum(count > POPULAR for count in total.values()) + 1_000_000 * total.total()


def begin_counting(state: dict[str, Any]) -> None:
    """Set a worker up: nothing is counted yet."""
    state["counts"] = {}


def count_document(state: dict[str, Any], document: Document) -> int:
    """Task: count the prefixes of a document in the worker's state."""
    count_prefixes(state["counts"], document)
    return len(document)


def end_counting(state: dict[str, Any]) -> dict[str, int]:
    """Take a worker down: hand over what it counted."""
    counts: dict[str, int] = state["counts"]
    return counts


def stateful_program(WorkerPool: Any, work: list[Document], jobs: int) -> int:  # noqa: N803
    """Count prefixes in the workers' states; return what ``popular`` makes of them."""
    with WorkerPool(n_jobs=jobs, use_worker_state=True) as pool:
        lengths = pool.map_unordered(
            count_document,
            [(document,) for document in work],
            worker_init=begin_counting,
            worker_exit=end_counting,
        )
        assert sum(lengths) == sum(map(len, work))
        return popular(pool.get_exit_results())


# --- expensive initialization ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """What the third workload works on.

    Attributes:
        path: file of the network's weights, compressed, so that loading it takes long.
        runs: how many times the workers evaluate a few batches.
    """

    path: Path
    runs: int


def model(size: int) -> Model:
    """Write a network to a file, which this process removes at its end."""
    import numpy as np

    path = Path(tempfile.mkdtemp(prefix="benchmark-")) / "model.npz"
    atexit.register(remove, path.parent, os.getpid())
    rng = np.random.default_rng(42)
    layers = [rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) for _ in range(LAYERS)]
    np.savez_compressed(path, **{f"layer{number}": layer for number, layer in enumerate(layers)})  # type: ignore[arg-type]
    return Model(path, size)


def remove(folder: Path, pid: int) -> None:
    """Remove a folder, in the process that made it; workers may have been told to do so, too."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def load(path: Path) -> list[Any]:
    """Load the network: this is what takes long."""
    import numpy as np

    with np.load(path) as stored:
        return [stored[name] for name in stored.files]


def evaluate(layers: list[Any], batch: int) -> int:
    """Send one batch through the network; return the sum of the classes found."""
    import numpy as np

    values = np.random.default_rng(batch).standard_normal((BATCH, WIDTH), dtype=np.float32)
    for layer in layers:
        values = np.maximum(values @ layer, 0) / WIDTH**0.5
    return int(values.argmax(axis=1).sum())


def load_model(path: Path, state: dict[str, Any]) -> None:
    """Set a worker up: load the model."""
    state["model"] = load(path)


def evaluate_batch(state: dict[str, Any], batch: int) -> int:
    """Task: evaluate a batch with the worker's model."""
    return evaluate(state["model"], batch)


def initialization_program(WorkerPool: Any, work: Model, jobs: int) -> int:  # noqa: N803
    """Evaluate a few batches many times; return the sum of all classes."""
    total = 0
    init = functools.partial(load_model, work.path)
    with WorkerPool(n_jobs=jobs, use_worker_state=True, keep_alive=True, cpu_ids=pins(jobs)) as pool:
        for _ in range(work.runs):
            total += sum(pool.imap_unordered(evaluate_batch, range(BATCHES_PER_RUN), worker_init=init))
    return total


def pins(jobs: int) -> list[int] | None:
    """Return a CPU for each worker; None where this system does not say which there are."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cpus = sorted(os.sched_getaffinity(0))
    return [cpus[number % len(cpus)] for number in range(jobs)]


# --- the same for peers that have no such interface ------------------------------------------------------


class Plainly:
    """The workloads for pools of functions: each returns what its program above returns."""

    @staticmethod
    def numerical(library: Library, work: Scene) -> float:
        """Share the image as the library can."""
        library.start(shared=work.image)
        total = sum(
            float(part.sum()) for part in library.map_shared(convolve, work.filters, library.large_chunk)
        )
        library.stop()
        return total

    @staticmethod
    def stateful(library: Library, work: list[Document]) -> int:
        """No state, and no exit: count batches of documents, four for each worker, and add them up.

        MPIRE's own comparison has managers here, which take many times as long.
        """
        library.start()
        step = library.chunk_size(work)
        batches = [work[start : start + step] for start in range(0, len(work), step)]
        parts = list(library.map(count_batch, batches, 1))
        library.stop()
        return popular(parts)

    @staticmethod
    def initialization(library: Library, work: Model) -> int:
        """Keep the model in a cache of each worker; MPIRE's own comparison loads it for each task."""
        library.start()
        task = functools.partial(evaluate_cached, work.path)
        total = 0
        for _ in range(work.runs):
            total += sum(library.map(task, range(BATCHES_PER_RUN), library.large_chunk))
        library.stop()
        return total


def count_batch(batch: list[Document]) -> dict[str, int]:
    """Task: count the prefixes of several documents."""
    counts: dict[str, int] = {}
    for document in batch:
        count_prefixes(counts, document)
    return counts


load_once = functools.cache(load)


def evaluate_cached(path: Path, batch: int) -> int:
    """Task: evaluate a batch with the model that this process has loaded, or loads now."""
    return evaluate(load_once(path), batch)


# --- operations ----------------------------------------------------------------------------------------


def has_worker_pool(library: Library) -> bool:
    """Whether the programs run on it as they stand."""
    return library.can("worker_pool", None)


def numerical(library: Library, work: Scene) -> float:
    """The first workload."""
    if has_worker_pool(library):
        return numerical_program(library.worker_pool(), work, library.workers)
    return Plainly.numerical(library, work)


def stateful(library: Library, work: list[Document]) -> int:
    """The second workload."""
    if has_worker_pool(library):
        return stateful_program(library.worker_pool(), work, library.workers)
    return Plainly.stateful(library, work)


def initialization(library: Library, work: Model) -> int:
    """The third workload."""
    if has_worker_pool(library):
        return initialization_program(library.worker_pool(), work, library.workers)
    return Plainly.initialization(library, work)


def main() -> None:
    """Run the three programs with one import or the other."""
    if sys.argv[1:] == ["mpire"]:
        WorkerPool = importlib.import_module("mpire").WorkerPool  # noqa: N806
    elif sys.argv[1:] == ["pools"]:
        from pools_multicore.workerpool import WorkerPool
    else:
        sys.exit("python -m benchmarks.workloads mpire | pools")
    programs: list[tuple[str, Any, Any]] = [
        ("numerical", numerical_program, scene(6)),
        ("stateful", stateful_program, documents(60)),
        ("initialization", initialization_program, model(40)),
    ]
    for name, program, work in programs:
        start = time.perf_counter()
        result = program(WorkerPool, work, 2)
        print(f"{name}: {result:.6g} in {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
