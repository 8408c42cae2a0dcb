"""Functions that are named by text: ``module:function`` or ``file.py:function``.

A module is imported as ever, and workers import it by its name.  A file is loaded as a module under
a name of its own, which no other process knows; so its functions travel in a ``FileFunction``, which
loads the same file in the worker, or, where the file is not to be found, carries the code along.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import operator
import os
import pickle
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pools_core.options import nearest

__all__ = ["FileFunction", "FunctionNotFoundError", "find_function"]

PREFIX: Final = "_pools_file_"


class FunctionNotFoundError(LookupError):
    """A text names no function that can be called."""


def find_function(reference: str) -> Callable[..., Any]:
    """Return the function that a text names; it can be sent to workers.

    Args:
        reference: ``module:function`` or ``path/to/file.py:function``; the function may have dots, as in
            ``module:Class.method``.  Modules are also looked for in the current directory, and what a
            file imports also beside that file, as Python itself does for a script.

    Raises:
        FunctionNotFoundError: there is none, or importing it fails, in one line.
    """
    where, colon, name = reference.rpartition(":")
    if not (colon and where and name):
        raise FunctionNotFoundError(f"FUNC is module:function or file.py:function, not {reference!r}")
    if where.endswith(".py"):
        path = Path(where).expanduser().absolute()
        module = _loaded(where, lambda: _load_file(path, _read(path)))
        return FileFunction(_attribute(module, name, where), module, path, name)
    _look_in("")
    return _attribute(_loaded(where, lambda: importlib.import_module(where)), name, where)


def _loaded(where: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(f"{error.name}.")):
            raise FunctionNotFoundError(f"there is no module {error.name!r}") from error
        raise FunctionNotFoundError(f"{where} cannot be imported: {error}") from error
    except FileNotFoundError as error:
        what = f"{error.strerror}: {error.filename}"
        raise FunctionNotFoundError(f"{where} cannot be imported: {what}") from error
    except (Exception, SystemExit) as error:  # whatever a stranger's import raises, the user is told
        text = " ".join(str(error).split())
        raise FunctionNotFoundError(f"{where} cannot be imported: {type(error).__name__}: {text}") from error


def _attribute(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    try:
        found = operator.attrgetter(name)(module)
    except AttributeError as error:
        functions = [
            key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
        ]
        near = nearest(name, functions) if functions else "; it has no function at all"
        raise FunctionNotFoundError(f"{where} has no function {name!r}{near}") from error
    if not callable(found):
        raise FunctionNotFoundError(f"{name!r} in {where} is {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]  # callable, and more cannot be known


# ── files ──


class FileFunction:
    """A function of a file that was loaded under a made-up module name.

    It pickles by the file's path and contents, so that a worker on this machine loads the same file
    once and knows its classes and globals as a module's; and with its code, for workers elsewhere.

    Args:
        function: the function itself; it may come from elsewhere, if the file has it by that name.
        module: what the file was loaded as.
        path: the file, absolute.
        name: the function's name in it, maybe with dots.
    """

    def __init__(self, function: Callable[..., Any], module: ModuleType, path: Path, name: str) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._module = module
        self._path = path
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        code = _code_of(self._function, self._module)
        return _restore, (str(self._path), self._module.__name__, self._name, code)

    def __repr__(self) -> str:
        return f"<function {self._name} of {self._path}>"


def _restore(path: str, module_name: str, name: str, code: bytes | None) -> Callable[..., Any]:
    """Return the function in a worker: from the module, from the file, or from its code."""
    module = sys.modules.get(module_name)
    if module is None:
        try:
            source = _read(Path(path))
        except OSError:
            source = b""
        if _module_name(Path(path), source) == module_name:
            module = _load_file(Path(path), source)
    if module is not None:
        return operator.attrgetter(name)(module)  # type: ignore[no-any-return]  # find_function saw it
    if code is None:
        raise ImportError(f"{path} is not here, or not the same file, and {name!r} cannot be sent by value")
    return pickle.loads(code)  # type: ignore[no-any-return]  # made by _code_of


def _code_of(function: Callable[..., Any], module: ModuleType) -> bytes | None:
    """Pickle a function with its code; None if it refers to something that cannot be pickled."""
    import cloudpickle

    from pools_core.by_value import dumps

    cloudpickle.register_pickle_by_value(module)
    try:
        return dumps(function, cloudpickle.DEFAULT_PROTOCOL)
    except Exception:  # the globals' own __reduce__ may raise anything; workers here do not need it
        return None
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _module_name(path: Path, source: bytes) -> str:
    """Return a name that belongs to this file as it is now."""
    digest = hashlib.blake2b(os.fsencode(path) + b"\0" + source, digest_size=6).hexdigest()
    return f"{PREFIX}{path.stem}_{digest}"


def _load_file(path: Path, source: bytes) -> ModuleType:
    name = _module_name(path, source)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _look_in(str(path.parent))
    sys.modules[name] = module  # first: dataclasses and pickle look their module up there
    try:
        if isinstance(spec.loader, SourceFileLoader):
            # What was read, and gave the module its name: bytecode that lies around may be of an earlier
            # second's file, which was as long.
            exec(spec.loader.source_to_code(source, str(path)), vars(module))  # noqa: S102  as an import does
        else:
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_in(folder: str) -> None:
    """Let imports look into a folder first, as Python does for the script that it runs."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
