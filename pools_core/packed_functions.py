"""Functions to bytes and back: by name where that will do, else with their code.

The first byte says which:

    r  a name in the main script, checked against what is there
    n  whatever pickle made of it, which is mostly a name, too
    c  by cloudpickle, with its code but with references to what its module defines
    v  with its code and all that it uses of its module
"""

from __future__ import annotations

import _pickle as pickle  # as in ``payload``
import sys
from collections.abc import Callable
from types import CodeType, FunctionType

from pools_core.calls import OF_CALL, OF_EXIT, OF_INIT, Call, Packed, type_part
from pools_core.errors import unpicklable
from pools_core.hints import TYPE_CHECKING
from pools_core.payload import PROTOCOL, TRY_BY_VALUE, dumps_here, main_is_interactive, pack

if TYPE_CHECKING:
    from typing import Any, Final

    from pools_core.namespaces import Namespaces

__all__ = [
    "FunctionUnknownError",
    "is_by_value",
    "pack_function",
    "travels_by_name",
    "unknown_of",
    "unpack_function",
]


class FunctionUnknownError(Exception):
    """The function's name means nothing, or something else, in this process."""


def pack_function(func: Callable[..., Any], *, by_value: bool = False) -> Packed:
    """Pack a function for workers.

    By name where that is possible.  A name in ``__main__`` goes with a fingerprint of the code: a
    worker that was started before the function was defined has none of that name, or an older one, and
    says so instead of running the wrong code.

    Args:
        func: any callable.
        by_value: ship its code; for when a worker has refused the name.

    Raises:
        SerializationError: it cannot be pickled.
    """
    what = f"the function {getattr(func, '__qualname__', func)!r}"
    if by_value:
        return Packed(b"v" + _with_its_module(func, what))
    try:
        buffers: list[type_part] = []
        name = dumps_here(func, buffers)
    except TRY_BY_VALUE:
        pass
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's __reduce__ may raise anything
        raise unpicklable(f"{what} cannot be pickled: {type(error).__name__}: {error}", error) from error
    else:
        if not main_is_interactive():
            main = _main_function(func)
            return Packed(b"n" + name, buffers) if main is None else Packed(b"r" + _fingerprint(main) + name)
        # Beside a prompt, too, if it names nothing there: cloudpickle comes to the same, but takes its time.
        if b"__main__" not in name and not _goes_by_value():
            return Packed(b"n" + name, buffers)
    packed = pack(func, what, keep=True, by_value=True)
    return Packed(b"c" + packed.data, packed.buffers)


def travels_by_name(packed: Packed) -> bool:
    """Whether this is a function that workers look up, so that it is the same each time it is sent."""
    return bytes(packed.data[:1]) in b"rn"


def is_by_value(packed: Packed) -> bool:
    """Whether this is a function with its code, so that no worker can fail to know it."""
    return bytes(packed.data[:1]) == b"v"


def unknown_of(call: Call) -> int:
    """Return which functions of a call and its session are unknown here by name, see ``Refused``."""
    functions: dict[int, Callable[..., Any] | Packed | None] = {OF_CALL: call.function}
    if call.session is not None:
        functions |= {OF_INIT: call.session.init, OF_EXIT: call.session.exit}
    found = 0
    for whose, function in functions.items():
        if isinstance(function, Packed) and not is_by_value(function):
            try:
                unpack_function(function)
            except FunctionUnknownError:
                found |= whose
            except Exception:  # noqa: S112  the user's; it is not unknown
                continue
    return found


def unpack_function(packed: Packed, namespaces: Namespaces | None = None) -> Callable[..., Any]:
    """Open what ``pack_function`` made.

    Args:
        packed: the function.
        namespaces: the globals that functions of its session share.

    Raises:
        FunctionUnknownError: this process does not know the function by its name.
        Exception: whatever else unpickling raises.
    """
    view = memoryview(packed.data)
    try:
        func: Callable[..., Any]
        if bytes(view[:1]) == b"r":
            func = pickle.loads(view[1 + _DIGEST :])
            main = _main_function(func)
            if main is None or _fingerprint(main) != view[1 : 1 + _DIGEST]:
                raise FunctionUnknownError(f"{func!r} is not the caller's")
            if namespaces is not None:
                namespaces.meet(func)
        elif namespaces is None:
            func = pickle.loads(view[1:], buffers=packed.buffers)
        else:
            func = namespaces.open(pickle.loads, view[1:], buffers=packed.buffers)
    except (AttributeError, ImportError) as error:
        raise FunctionUnknownError(str(error)) from error
    return func


_DIGEST: Final = 16


def _main_function(func: Any) -> FunctionType | None:
    """Return a plain function of the main script as such, also one in a wrapper; None for anything else."""
    if type(func) is not FunctionType:
        func = getattr(func, "__wrapped__", None)
    if type(func) is FunctionType and func.__module__ in ("__main__", "__mp_main__"):
        return func
    return None


def _fingerprint(func: FunctionType) -> bytes:
    """Digest what a function does: its code, its defaults and what it closes over."""
    digest = _blake2b()(digest_size=_DIGEST)
    _digest_function(func, digest.update, {id(func)})
    return bytes(digest.digest())


def _blake2b() -> Callable[..., Any]:
    """Return the hash function, not by ``hashlib``: OpenSSL is a tenth of a spawned worker's start."""
    try:
        from _blake2 import blake2b
    except ImportError:  # a Python that was built without it
        from hashlib import blake2b
    found: Callable[..., Any] = blake2b
    return found


def _digest_function(func: FunctionType, update: Callable[[bytes], None], seen: set[int]) -> None:
    _digest_code(func.__code__, update)
    held = [*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).items()]
    for cell in func.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not bound yet
            held.append("empty cell")
    for value in held:
        if type(value) is FunctionType:
            if id(value) not in seen:
                seen.add(id(value))
                _digest_function(value, update, seen)
        else:
            try:
                update(pickle.dumps(value, PROTOCOL))
            except Exception:  # what cannot be compared counts as changed, and the code is sent along
                update(repr(id(value)).encode())


def _digest_code(code: CodeType, update: Callable[[bytes], None]) -> None:
    """Digest code without where it stands: paths and line numbers may differ between processes."""
    update(code.co_code)
    update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _digest_code(constant, update)
        elif isinstance(constant, frozenset):  # its order depends on the process
            update(repr(sorted(map(repr, constant))).encode())
        else:
            update(repr(constant).encode())


def _with_its_module(func: Callable[..., Any], what: str) -> bytes:
    """Pickle a callable with its code, and what it uses of its module, which workers cannot import."""
    import cloudpickle

    name = getattr(func, "__module__", None) or type(func).__module__
    module = sys.modules.get(name)
    register = (
        module is not None
        and name.partition(".")[0] not in sys.stdlib_module_names
        and name not in cloudpickle.list_registry_pickle_by_value()
    )
    if register:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(pack(func, what, by_value=True).data)
    finally:
        if register:
            cloudpickle.unregister_pickle_by_value(module)


def _goes_by_value() -> bool:
    """Whether cloudpickle was told to send the code of some modules; at a prompt users rely on that."""
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())
