"""A worker as a child process: takes after its parent, begins and ends as those of ``multiprocessing`` do.

A fresh interpreter does not import ``multiprocessing`` for that, nor what this imports: together a quarter of
its start.  Few tasks need it; when one does, or the main script, it learns then what this process is.
"""

from __future__ import annotations

import _pickle as pickle  # as in ``pools_core.payload``
import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from typing import Any

__all__ = ["forget_exit_functions", "fork", "import_main", "run"]

HEARD_LATER = ("name", "authkey", "log_to_stderr", "log_level", "orig_dir", "start_method")
"""What concerns ``multiprocessing`` only, of what ``inherit.preparation`` says."""


class _Introduction:
    """Tells ``multiprocessing`` about this process: now if it has been imported, else when it is.

    So it is a finder of modules, which finds what the others find, and has it loaded by an ``_Introducer``.
    Whoever wants a submodule imports the package first.
    """

    def __init__(self) -> None:
        self._unsaid: list[Callable[[], None]] = []

    def say(self, what: Callable[[], None]) -> None:
        """Call a function as soon as it has somebody to talk to."""
        if "multiprocessing" in sys.modules:
            what()
            return
        self._unsaid.append(what)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders say of the package; None for anything else."""
        if name != "multiprocessing":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Introducer(spec.loader, self)  # type: ignore[assignment]  # all that is asked of it
        return spec

    def say_all(self) -> None:
        """The package is there."""
        sys.meta_path.remove(self)
        for what in self._unsaid:
            what()


class _Introducer:
    """Loads the package as another loader does, and then has said what there is to be said."""

    def __init__(self, loader: Loader, introduction: _Introduction) -> None:
        self._loader = loader
        self._introduction = introduction

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the other does, which is the module's again from now on."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._introduction.say_all()


_introduction = _Introduction()
_importing_main = False
_before: ModuleType | None = None
"""What was the main module before; kept, since what belongs to it may live on."""


def import_main(preparation: bytes) -> None:
    """Become like the parent, and import its main module under another name, as ``multiprocessing`` does.

    Args:
        preparation: what ``inherit.preparation`` made; comes over the parent's own socket pair.
    """
    global _importing_main  # noqa: PLW0603  one for the process
    data: dict[str, Any] = pickle.loads(preparation)
    sys.path = data["sys_path"]
    sys.argv = data["sys_argv"]
    later = {key: data[key] for key in HEARD_LATER if key in data}
    _importing_main = True
    _introduction.say(lambda: _standing().prepare(later, _importing_main))
    try:
        name: str | None = data.get("init_main_from_name")
        path: str | None = data.get("init_main_from_path")
        if name is not None:
            # What is run as a whole (``python -m package``, an archive) has no guard, and is not run again.
            if name != "__main__" and not name.endswith(".__main__"):
                _run_again(*_of_module(name))
        elif path is not None and path.endswith(".py"):
            _run_again(*_of_script(path))
        elif path is not None:
            _standing().import_main(path)
    finally:
        _importing_main = False


def _of_module(name: str) -> tuple[CodeType, dict[str, Any]]:
    """Return the code of a main module that was run by its name, and what it has from the start."""
    from importlib.util import find_spec

    spec = find_spec(name)
    loader: Any = None if spec is None else spec.loader
    code = loader.get_code(name) if hasattr(loader, "get_code") else None
    if spec is None or code is None:
        raise ImportError(f"no code object available for the main module, {name}", name=name)
    attributes = {"__file__": spec.origin, "__package__": spec.parent, "__spec__": spec}
    return code, {**attributes, "__loader__": loader, "__cached__": spec.cached}


def _of_script(path: str) -> tuple[CodeType, dict[str, Any]]:
    """Return the code of a script, and what it has from the start."""
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec", dont_inherit=True), {"__file__": path, "__package__": ""}


def _run_again(code: CodeType, attributes: dict[str, Any]) -> None:
    """Run the code of the main module, under the name by which the parent's is known here.

    ``runpy`` would do, which can run folders and archives, too, and takes a twentieth of a worker's start.
    """
    global _before  # noqa: PLW0603  one for the process
    module = ModuleType("__mp_main__")
    module.__dict__.update(attributes)
    _before = sys.modules["__main__"]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, module.__dict__)  # noqa: S102  the user's own program


def fork() -> int:
    """Fork, and see to it that what has been printed is not printed by both; returns 0 in the child.

    Raises:
        OSError: no process can be had.
    """
    _flush_streams()  # what is still in a buffer would be in the child's, too, which writes that at its end
    return os.fork()


def forget_exit_functions() -> None:
    """In a forked process: what its parent wants done at its own end is not for this one to do."""
    atexit._clear()  # noqa: SLF001  as multiprocessing does since Python 3.13


def run(config: dict[str, Any], serve: Callable[[], None], sentinel: int) -> int:
    """Serve, as a child process: between what is done at the beginning of one, and at its end.

    Args:
        config: the worker's, see ``standing.WorkerProcess``.
        serve: returns when there is nothing more to do.
        sentinel: a descriptor that says when the parent has ended.

    Returns:
        The exit code.
    """
    if "multiprocessing" in sys.modules:
        code: int = _standing().WorkerProcess(config, serve, sentinel).bootstrap()
    else:
        _introduction.say(lambda: _standing().WorkerProcess(config, serve, sentinel).introduce())
        code = _run_bare(serve)
    # As Python does at its end, and multiprocessing in all its child processes since 3.13.
    atexit._run_exitfuncs()  # noqa: SLF001
    _flush_streams()
    return code


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it may be None, or closed
            stream.flush()


def _run_bare(serve: Callable[[], None]) -> int:
    """Do what ``BaseProcess._bootstrap`` does, as far as it is needed without the rest of its package."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdin.close()  # it is the parent's
        sys.stdin = open(os.open(os.devnull, os.O_RDONLY), encoding="utf-8", closefd=False)  # noqa: SIM115
    try:
        serve()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001  as there: waits for a task's threads
    return 0


def _standing() -> Any:
    """Return the module that needs ``multiprocessing``."""
    import multiprocessing  # noqa: F401  first: once it is there it may call for the other, which has to be whole then

    import pools_multicore.standing

    return pools_multicore.standing
