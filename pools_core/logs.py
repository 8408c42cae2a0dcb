"""Records of ``logging`` from worker processes, in the hands of the parent's handlers.

    parent                                        worker
    snapshot(): levels, as plain data   ──▶   relay(): one handler in place of all others
    handle(): logger, filters, handlers ◀──   the record, made plain and packed

In a worker a logger drops what the parent's would drop, so that a debug message nobody wants costs
what it always costs and no byte is sent.  What does travel arrives whole: message and traceback are
text by then, and attributes given as ``extra`` come along where they can be pickled.

Where tasks run in the caller's own process there is nothing to carry: ``tag_records`` names the worker.

The bytes are a pickle.  They are opened by the process that started the worker and came over the socket
pair between the two; on a cluster they are part of a frame whose signature has been checked.

Nothing here imports ``logging`` before somebody else has, save ``relay`` when there is something to relay.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pools_core.seeding import current

if TYPE_CHECKING:
    import logging

__all__ = ["LogLevels", "changed", "fingerprint", "handle", "relay", "snapshot", "tag_records"]

LogLevels = tuple[int, int, dict[str, tuple[int, bool, bool]]]
"""What ``marshal`` can carry: the level below which no handler wants a record, the level up to which
logging is disabled, and of each logger by name (the root's is empty) level, disabled, propagate."""

Fingerprint = tuple[Any, ...]

WORKER_ID: Final = "worker_id"
"""The attribute of a record that says which worker made it."""

_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})
_PROTOCOL: Final = 5
_UNSET: Final = (0, False, True)
"""A logger that nobody has configured: NOTSET, not disabled, propagating."""


# In the parent: what the workers have to know.


def snapshot() -> LogLevels | None:
    """Return what workers need, to make the records that this process wants and no others.

    None if ``logging`` is not imported here or has no handler (``NullHandler`` counts for none): then a
    worker's records go where they would go without a pool.
    """
    logging = _logging()
    if logging is None:
        return None
    loggers = dict(_loggers(logging))
    handlers = [handler for logger in loggers.values() for handler in _real_handlers(logging, logger)]
    if not handlers:
        return None
    threshold = min(int(handler.level) for handler in handlers)
    if not loggers[""].handlers and logging.lastResort is not None:
        # Loggers without a handler of their own have this one, in the worker as in the parent.
        threshold = min(threshold, int(logging.lastResort.level))
    # int() and str(): a level may be an IntEnum, which marshal would not take.
    table = {
        str(name): (int(logger.level), bool(logger.disabled), bool(logger.propagate))
        for name, logger in loggers.items()
    }
    return threshold, int(logging.root.manager.disable), table


def fingerprint() -> Fingerprint | None:
    """Return a value that differs when a new snapshot is called for; take it before the snapshot.

    It costs a microsecond or two, and another for each fifty loggers.  Noticed are: ``logging`` imported;
    any ``setLevel`` and ``logging.disable``; loggers made; handlers made, dropped, added or removed, and
    their levels.  Not noticed: ``propagate`` or ``disabled`` set directly.  Then records go on to travel
    as before, and the parent's loggers, which have the last word, judge them as they are now.
    """
    logging = _logging()
    if logging is None:
        return None
    root: Any = logging.root
    return (
        _level_changes(root),
        # All handlers alive, so that a new one is seen wherever it was added; the root's, as an old one
        # may be put there, and as dictConfig forgets those that it did not make itself.
        [getattr(ref(), "level", 0) for ref in getattr(logging, "_handlerList", ())],
        [(id(handler), handler.level) for handler in root.handlers],
        _attached(root.manager.loggerDict),
    )


def changed(token: Fingerprint | None) -> bool:
    """Whether a new snapshot is called for since ``fingerprint()`` returned this."""
    return fingerprint() != token


_seen_changes = 0
_MARK: Final = "pools"


def _level_changes(root: Any) -> int:
    """Return a number that rises when any logger's level has changed.

    Every change of a level empties the caches in which loggers keep whether they are enabled.  A mark
    left in the root's is gone then, which is found out without looking at all loggers.  Should there be
    no such cache, everything counts as changed: slower, and still right.
    """
    global _seen_changes  # noqa: PLW0603  one for the process, as the loggers are
    cache = getattr(root, "_cache", {})
    if _MARK not in cache:
        cache[_MARK] = True
        _seen_changes += 1
    return _seen_changes


_lists: tuple[int, list[list[Any]]] = (-1, [])


def _attached(loggers: dict[str, Any]) -> int:
    """Return how many handlers hang on named loggers, by a sum that runs in C."""
    global _lists  # noqa: PLW0603  as above
    size, lists = _lists
    if size != len(loggers):
        found = (getattr(logger, "handlers", None) for logger in list(loggers.values()))
        _lists = size, lists = len(loggers), [handlers for handlers in found if handlers is not None]
    return size << 32 | sum(map(len, lists))


# In a worker.


def relay(levels: LogLevels | None, worker: int, send: Callable[[bytes], None]) -> None:
    """From now on, in this worker process, give records to the parent.

    The first call in a process takes all handlers off, also those that came by a fork: they write to
    files and connections that are the parent's.  Handlers that tasks add later stay, and get their
    records beside the parent.  A further call replaces levels, number and ``send``.

    Args:
        levels: the parent's ``snapshot()``; None for no relaying, which leaves ``logging`` unimported.
        worker: the number that records get as their ``worker_id``.
        send: takes the packed record to the parent.  It may be called from any thread, in the middle of
            anything (a finalizer may log); it must keep its own order and must not wait for a lock that
            its caller may hold.  What it raises is dropped, with the record.
    """
    logging = _logging()
    if logging is None:
        if levels is None:
            return
        import logging
    line = _line
    if line is None or line.pid != os.getpid():
        line = _take_over(logging)
    elif levels is None:
        _hang(logging, None)
    line.open(worker, send)
    if levels is None:
        return
    _adopt(logging, levels)
    handler = line.handler()
    handler.setLevel(levels[0])
    _hang(logging, handler)


class _Line:
    """The one way that records take out of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._handler: logging.Handler | None = None
        self._sending = threading.local()
        self._worker = 0
        self._send: Callable[[bytes], None] | None = None

    def open(self, worker: int, send: Callable[[bytes], None]) -> None:
        """Send this way from now on."""
        self._worker = worker
        self._send = send

    def handler(self) -> logging.Handler:
        """Return what to hang on loggers; made when first asked for, which few processes do."""
        if self._handler is None:
            self._handler = _relay_handler(self.take)
        return self._handler

    def take(self, record: logging.LogRecord) -> None:
        """Pack a record and send it; raises nothing into the task that logs."""
        if sys.is_finalizing():
            return
        if os.getpid() != self.pid:
            _as_if_unconfigured(record)
            return
        try:
            data = _pack(record, self._worker)
        except Exception:  # the record's own text: said on stderr, as logging says it
            self.handler().handleError(record)
        else:
            self._give(data)

    def _give(self, data: bytes) -> None:
        send = self._send
        if send is None or getattr(self._sending, "now", False):
            return  # what sending itself has to say cannot be sent
        self._sending.now = True
        try:
            send(data)
        except OSError:
            self._send = None  # the parent is gone; whoever reads the channel is about to find out
        except Exception:  # nobody is left to tell, and a task is not to fail for its log
            pass
        finally:
            self._sending.now = False


_line: _Line | None = None
_inherited: Final[list[Any]] = []
"""Handlers that were taken off: kept, as a finalizer might flush or close what is the parent's."""


def _take_over(logging: Any) -> _Line:
    """Clear all handlers away, and return the line that this process has from now on."""
    global _line  # noqa: PLW0603  one for the process
    for _, logger in _loggers(logging):
        if logger.handlers:
            for handler in _real_handlers(logging, logger):
                logger.removeHandler(handler)
                _inherited.append(handler)
    _line = _Line()
    return _line


def _adopt(logging: Any, levels: LogLevels) -> None:
    """Give the loggers of this process the parent's levels; those it does not know keep theirs."""
    _, disable, table = levels
    existing = dict(_loggers(logging))
    for name, state in table.items():
        logger = existing.get(name)
        if logger is None:
            if state == _UNSET:
                continue  # as it will be when somebody asks for it
            logger = logging.getLogger(name)
        # Not setLevel, which empties the caches of all loggers each time; disable() does, at the end.
        logger.level, logger.disabled, logger.propagate = state
    logging.disable(disable)


def _hang(logging: Any, handler: Any) -> None:
    """Have each record pass the handler exactly once: on the root, and where the way to the root ends."""
    for name, logger in _loggers(logging):
        for old in [old for old in logger.handlers if getattr(old, "pools_relay", False)]:
            if old is not handler or (name and logger.propagate):
                logger.removeHandler(old)
        if handler is not None and not (name and logger.propagate):
            logger.addHandler(handler)  # once, however often it is called


def _relay_handler(take: Callable[[logging.LogRecord], None]) -> logging.Handler:
    """Return a handler that hands records to ``take``."""
    import logging

    class RelayHandler(logging.Handler):
        """A record's way to the parent process."""

        pools_relay = True

        def handle(self, record: logging.LogRecord) -> bool:
            """Pass the record on, with no lock: a thread that waits in ``send`` would hold all others up."""
            self.emit(record)
            return True

        def emit(self, record: logging.LogRecord) -> None:
            """Pass the record on."""
            take(record)

    return RelayHandler()


def _as_if_unconfigured(record: logging.LogRecord) -> None:
    """In a process that a task forked: the line is not its own, but stderr is the parent's, too."""
    import logging

    last = logging.lastResort
    if last is not None and record.levelno >= last.level:
        last.handle(record)


def _pack(record: logging.LogRecord, worker: int) -> bytes:
    """Return a record as bytes that ``_unpack`` can open, whatever was logged.

    Values beyond the plain ones are pickled one by one: one that cannot be, or whose class is unknown
    to the parent, costs itself and not the record.
    """
    fields = dict(record.__dict__)
    fields["msg"] = record.getMessage()
    fields["args"] = ()
    fields["levelno"] = int(
        record.levelno
    )  # the parent compares it, be it an enum that only the worker knows
    if record.exc_info:
        fields["exc_text"] = record.exc_text or _traceback(record.exc_info)
        fields["exc_info"] = None
    fields[WORKER_ID] = worker
    plain: dict[str, Any] = {}
    others: dict[str, tuple[str, bytes]] = {}
    for name, value in fields.items():
        if type(value) in _PLAIN:
            plain[name] = value
            continue
        try:
            others[name] = type(value).__qualname__, pickle.dumps(value, _PROTOCOL)
        except Exception:  # pickling runs the value's own code; what it looks like is told instead
            plain[name] = _shown(value)
    return pickle.dumps((plain, others), _PROTOCOL)


def _traceback(exc_info: Any) -> str:
    import logging

    return logging.Formatter().formatException(exc_info)


def _shown(value: Any) -> str:
    try:
        return f"{value!r}"
    except Exception:  # the value's own code again
        return f"<{type(value).__qualname__}>"


# In the parent: what becomes of the records.


def handle(data: bytes) -> None:
    """Give a worker's record to the logger of its name, as if it had been made here; never raises.

    Levels, filters and propagation are those of this process.  The record has the attribute
    ``worker_id``.  Handlers run in the calling thread; an error in one of them is told as ``logging``
    tells it.
    """
    import logging

    record = None
    try:
        record = _unpack(data)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # a filter's, or of a handler without care: in the thread that serves all workers
        logging.NullHandler().handleError(record or logging.LogRecord("", 0, "", 0, "", (), None))


def _unpack(data: bytes) -> logging.LogRecord:
    """Rebuild a record."""
    import logging

    plain, others = pickle.loads(data)
    for name, (kind, packed) in others.items():
        try:
            plain[name] = pickle.loads(packed)
        except Exception:  # the value's own code, or a class that only the worker knows
            plain[name] = f"<{kind} that cannot be opened here>"
    if plain["levelname"] == f"Level {plain['levelno']}":  # a name that was given in this process only
        plain["levelname"] = logging.getLevelName(plain["levelno"])
    try:
        # By way of the record factory, for the attributes that this process's formatters count on.
        return logging.makeLogRecord(plain)
    except Exception:  # the user's factory may not expect a record without text
        record = logging.LogRecord("", 0, "", 0, "", (), None)
        record.__dict__.update(plain)
        return record


# Where tasks run in the caller's own process.


def running_worker() -> int | None:
    """Return the number of the worker whose task this thread is running; None if it runs none."""
    return getattr(current, "worker", None)


def tag_records(worker: Callable[[], int | None] = running_worker) -> None:
    """Have all records made in this process from now on carry ``worker_id``: a number, or None.

    The factory of records that is installed goes on to make them.  May be called often: it does nothing
    while the tagging factory is in place, nor while nobody has imported ``logging``.

    Args:
        worker: tells the number of the worker that runs a task in the calling thread, if any.
    """
    logging = _logging()
    if logging is None:
        return
    make = logging.getLogRecordFactory()
    if getattr(make, "pools_tags", False):
        return
    make_record = logging.Logger.makeRecord.__code__

    def tagged(*args: Any, **kwargs: Any) -> Any:
        record = make(*args, **kwargs)
        # Who logs with extra={"worker_id": ...} shall have it: makeRecord would refuse to replace ours.
        caller = sys._getframe(1)  # noqa: SLF001  the one way to see `extra` from a record factory
        extra = caller.f_locals.get("extra") if caller.f_code is make_record else None
        if not extra or WORKER_ID not in extra:
            record.worker_id = worker()
        return record

    tagged.pools_tags = True  # type: ignore[attr-defined]  # by which it is known again
    logging.setLogRecordFactory(tagged)


def _logging() -> Any:
    """Return the module, or None if nobody has imported it, or another thread is just about to."""
    module: Any = sys.modules.get("logging")
    # What stands last in it: with that, all of it is there.
    return module if hasattr(module, "captureWarnings") else None


def _loggers(logging: Any) -> Iterator[tuple[str, Any]]:
    """Yield each logger with its name, the root's being empty."""
    yield "", logging.root
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):  # not a place held for one
            yield name, logger


def _real_handlers(logging: Any, logger: Any) -> list[Any]:
    """Return the handlers of a logger that do something with a record."""
    return [handler for handler in logger.handlers if not isinstance(handler, logging.NullHandler)]
