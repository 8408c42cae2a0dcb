"""Log records of worker processes: which are made, what arrives, and what can go wrong on the way.

All of it in interpreters of their own, as relaying takes over the whole of ``logging``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from pools_core import logs

HEAD = '''
import contextlib, io, json, logging, marshal, os, socket, struct, sys, threading
from pools_core import logs

LENGTH = struct.Struct("<I")
near, far = socket.socketpair()
near.settimeout(30)

def send(data):
    far.sendall(LENGTH.pack(len(data)) + data)

def exactly(count):
    data = near.recv(count, socket.MSG_WAITALL)
    return data if len(data) == count else None

def arrived():
    """Yield what the worker sent, until it has closed its line."""
    far.close()
    while head := exactly(LENGTH.size):
        yield exactly(LENGTH.unpack(head)[0])

def in_worker(task, worker=3, send=send, levels=...):
    """Run a task in a forked worker; hand its records to this process's handlers; return their bytes."""
    sys.stdout.flush()
    levels = logs.snapshot() if levels is ... else levels
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            near.close()
            logs.relay(marshal.loads(marshal.dumps(levels)), worker, send)
            task()
            sys.stdout.flush()
            sys.stderr.flush()
            code = 0
        finally:
            os._exit(code)
    datas = list(arrived())
    assert os.waitpid(pid, 0)[1] == 0, "the task failed"
    for data in datas:
        logs.handle(data)
    return datas

class Kept(logging.Handler):
    """Keeps what it gets."""
    def __init__(self, level=0):
        super().__init__(level)
        self.records = []
    def emit(self, record):
        self.records.append(record)
    def texts(self):
        return [record.getMessage() for record in self.records]

def report(value):
    print(json.dumps(value))

root = logging.getLogger()
log = logging.getLogger("app.part")
'''


def python(body: str, head: str = HEAD) -> tuple[object, str]:
    """Run a script in a fresh interpreter; return what it reported and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", head + textwrap.dedent(body)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


# What arrives.


def test_a_record_reaches_the_parents_handler_once_with_the_workers_number():
    """Where it was made and by which process included; an inherited handler writes nothing itself."""
    (texts, facts), _ = python("""
        kept = Kept()
        root.addHandler(kept)
        stream = io.StringIO()
        root.addHandler(logging.StreamHandler(stream))

        def task():
            log.warning("%s of %d", "one", 2)
            assert stream.getvalue() == "", "the inherited handler wrote in the worker"

        in_worker(task)
        record = kept.records[0]
        report([kept.texts(), [record.worker_id, record.name, record.levelname, record.funcName,
                record.process != os.getpid(), stream.getvalue()]])
    """)

    assert texts == ["one of 2"]
    assert facts == [3, "app.part", "WARNING", "task", True, "one of 2\n"]


def test_a_traceback_and_a_stack_arrive_as_text():
    """What was raised need not be picklable, and the formatter prints it as ever."""
    text, _ = python("""
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(worker_id)d %(message)s"))
        root.addHandler(handler)

        class Local(Exception):
            lock = threading.Lock()

        def task():
            try:
                raise Local("what happened")
            except Local:
                log.exception("it failed", stack_info=True)

        in_worker(task)
        report(stream.getvalue())
    """)

    assert text.startswith("3 it failed\nTraceback (most recent call last):\n")
    assert text.count("Local: what happened\n") == 1
    assert "\nStack (most recent call last):\n" in text


def test_attributes_given_as_extra_arrive_or_are_shown():
    """Those that pickle as they are, others as text; the record is never lost for them."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)

        class Evil:
            def __repr__(self):
                raise ValueError

            def __reduce__(self):
                raise ValueError

        def task():
            class OnlyHere:
                pass
            OnlyHere.__qualname__ = "OnlyHere"
            sys.modules["__main__"].OnlyHere = OnlyHere
            log.error("x", extra={"number": 7, "several": {"a": [1, 2]}, "lock": threading.Lock(),
                                  "evil": Evil(), "unknown": OnlyHere()})
            log.error(Evil)

        in_worker(task)
        record = kept.records[0]
        report([record.number, record.several, record.lock, record.evil, record.unknown,
                len(kept.records)])
    """)

    number, several, lock, evil, unknown, count = facts
    assert (number, several) == (7, {"a": [1, 2]})
    assert lock.startswith("<unlocked _thread.lock object")
    assert evil == "<Evil>"
    assert unknown == "<OnlyHere that cannot be opened here>"
    assert count == 2


def test_levels_by_enum_and_level_names_known_to_the_parent_only():
    """A fresh worker has not run the parent's addLevelName."""
    facts, _ = python("""
        import enum
        kept = Kept()
        root.addHandler(kept)
        logging.addLevelName(25, "NOTICE")

        class Mine(enum.IntEnum):
            LEVEL = 25

        root.setLevel(Mine.LEVEL)
        kept.setLevel(Mine.LEVEL)

        def task():
            class Unknown(enum.IntEnum):
                LEVEL = 25

            logging._levelToName.pop(25)
            log.log(Mine.LEVEL, "a")
            log.log(Unknown.LEVEL, "b")

        in_worker(task)
        report([[record.levelname, record.levelno] for record in kept.records])
    """)

    assert facts == [["NOTICE", 25]] * 2


def test_a_fresh_interpreter_gets_the_parents_levels():
    """As a spawned worker does: it inherits nothing, and makes the records that the parent would make."""
    texts, _ = python("""
        import subprocess
        kept = Kept()
        root.addHandler(kept)
        root.setLevel(logging.ERROR)
        logging.getLogger("app").setLevel(logging.DEBUG)
        logging.getLogger("app.off").disabled = True
        logging.getLogger("own").propagate = False
        own = Kept()
        logging.getLogger("own").addHandler(own)

        child = '''
        import marshal, os, socket, struct, sys
        from pools_core import logs
        sock = socket.socket(fileno=int(sys.argv[1]))
        assert "logging" not in sys.modules
        logs.relay(None, 3, None)
        assert "logging" not in sys.modules
        levels = marshal.loads(bytes.fromhex(sys.argv[2]))
        logs.relay(levels, 3, lambda data: sock.sendall(struct.pack("<I", len(data)) + data))
        import logging
        logging.info("root info")
        logging.error("root error")
        logging.getLogger("app.part").debug("app debug")
        logging.getLogger("app.off").critical("disabled")
        logging.getLogger("own").error("own")
        '''.replace("\\n        ", "\\n")
        levels = marshal.dumps(logs.snapshot()).hex()
        process = subprocess.Popen(
            [sys.executable, "-c", child, str(far.fileno()), levels], pass_fds=[far.fileno()])
        datas = list(arrived())
        assert process.wait(30) == 0
        for data in datas:
            logs.handle(data)
        report([len(datas), kept.texts(), own.texts()])
    """)

    assert texts == [3, ["root error", "app debug"], ["own"]]


# Which records travel.


def test_what_no_handler_of_the_parent_wants_is_not_sent():
    """Neither below the lowest handler's level nor below the logger's, nor what is disabled."""
    facts, _ = python("""
        root.setLevel(logging.DEBUG)
        kept, loud = Kept(logging.ERROR), Kept(logging.INFO)
        root.addHandler(kept)
        logging.getLogger("loud").addHandler(loud)
        logging.getLogger("quiet").setLevel(logging.CRITICAL)

        def task():
            log.debug("below every handler")
            logging.getLogger("quiet").error("below its logger")
            logging.getLogger("loud").info("for the lowest handler")
            log.error("wanted")

        first = len(in_worker(task))
        report([first, kept.texts(), loud.texts()])
    """)

    assert facts == [2, ["wanted"], ["for the lowest handler"]]


def test_what_is_disabled_is_not_sent():
    """As ``logging.disable`` says in the parent, also to a worker that was forked before."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)
        logging.disable(logging.ERROR)
        levels = logs.snapshot()
        logging.disable(logging.NOTSET)

        def task():
            log.error("disabled")
            log.critical("wanted")

        report([len(in_worker(task, levels=levels)), kept.texts()])
    """)

    assert facts == [1, ["wanted"]]


def test_the_parents_own_rules_have_the_last_word():
    """Levels and filters as they are when the record comes; a child logger's handlers, too."""
    facts, _ = python("""
        kept, part = Kept(), Kept()
        root.addHandler(kept)
        log.addHandler(part)

        def task():
            log.error("secret")
            log.error("fine")
            logging.getLogger("other").error("too low by now")

        logging.getLogger("other")
        levels = logs.snapshot()
        log.addFilter(lambda record: "secret" not in record.msg)
        logging.getLogger("other").setLevel(logging.CRITICAL)
        in_worker(task, levels=levels)
        report([kept.texts(), part.texts()])
    """)

    assert facts == [["fine"], ["fine"]]


def test_a_logger_that_does_not_propagate_is_relayed_once():
    """Its records end at its own handlers, in the parent as without a pool."""
    facts, _ = python("""
        kept, own = Kept(), Kept()
        root.addHandler(kept)
        alone = logging.getLogger("alone")
        alone.propagate = False
        alone.addHandler(own)

        def task():
            logging.getLogger("alone.child").error("x")
            log.error("y")

        report([len(in_worker(task)), kept.texts(), own.texts()])
    """)

    assert facts == [2, ["y"], ["x"]]


def test_without_handlers_there_is_nothing_to_relay():
    """A library's NullHandler makes no difference: warnings go to stderr, as ``logging`` does it."""
    facts, stderr = python("""
        logging.getLogger("lib").addHandler(logging.NullHandler())
        assert logs.snapshot() is None

        def task():
            log.warning("to stderr")
            logging.getLogger("lib").warning("nowhere")

        report(len(in_worker(task)))
    """)

    assert facts == 0
    assert stderr == "to stderr\n"


def test_warnings_of_loggers_without_handlers_still_go_to_stderr():
    """One logger with a handler does not silence the others."""
    facts, stderr = python("""
        logging.getLogger("own").addHandler(Kept(logging.CRITICAL))
        report(len(in_worker(lambda: log.warning("to stderr"))))
    """)

    assert facts == 1
    assert stderr == "to stderr\n"


def test_no_logging_imported_no_snapshot():
    """And none imported by asking."""
    facts, _ = python(
        """
        import json, sys
        sys.modules.pop("logging", None)
        from pools_core import logs
        token = logs.fingerprint()
        facts = [logs.snapshot(), token, logs.changed(token), logs.tag_records(), "logging" in sys.modules]
        import logging
        print(json.dumps([*facts, logs.changed(token)]))
        """,
        head="",
    )

    assert facts == [None, None, False, None, False, True]


# Over time.


def test_relay_called_again_replaces_levels_and_keeps_the_tasks_handlers():
    """Levels come and go with the parent's; a handler that a task added in the worker is the task's."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)
        root.setLevel(logging.INFO)
        first = logs.snapshot()
        root.setLevel(logging.ERROR)
        log.setLevel(logging.DEBUG)
        log.propagate = False
        log.addHandler(Kept())
        second = logs.snapshot()

        def task():
            own = Kept()
            root.addHandler(own)
            log.debug("1 no")
            log.info("1 yes")
            logs.relay(second, 4, send)
            log.debug("2 yes")
            root.info("2 no")
            logs.relay(first, 5, send)
            log.info("3 yes")
            logs.relay(None, 5, send)
            root.error("4 no")
            assert own.texts() == ["1 yes", "3 yes", "4 no"], own.texts()

        import pickle
        datas = in_worker(task, levels=first)
        report([[fields["msg"], fields["worker_id"]] for fields, _ in map(pickle.loads, datas)])
    """)

    assert facts == [["1 yes", 3], ["2 yes", 4], ["3 yes", 5]]


CHANGES = {
    "nothing": "pass",
    "a logger's level": "log.setLevel(logging.DEBUG)",
    "the root's level": "root.setLevel(logging.DEBUG)",
    "disabled": "logging.disable(logging.INFO)",
    "a handler's level": "named.setLevel(logging.DEBUG)",
    "a handler added to the root": "root.addHandler(spare)",
    "a handler added to a logger": "log.addHandler(spare)",
    "a handler removed": "logging.getLogger('named').removeHandler(named)",
    "a handler made on a new logger": "logging.getLogger('new').addHandler(Kept())",
    "basicConfig": "logging.basicConfig(force=True)",
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed(what):
    """So that a call begins with the levels that hold now; and nothing is sent while nothing changes."""
    facts, _ = python(f"""
        named, spare = Kept(), Kept()
        root.addHandler(Kept())
        logging.getLogger("named").addHandler(named)
        token = logs.fingerprint()
        logs.snapshot()
        log.error("x"), log.isEnabledFor(10)
        still = logs.changed(token)
        {CHANGES[what]}
        report([still, logs.changed(token), logs.changed(logs.fingerprint())])
    """)

    assert facts == [False, what != "nothing", False]


def test_asking_for_changes_looks_at_no_logger():
    """Counted in steps, not in seconds: with 500 loggers the same number of calls as with none."""
    facts, _ = python("""
        root.addHandler(Kept())

        def steps():
            token = logs.fingerprint()
            logs.changed(token)
            count = 0

            def count_one(frame, event, arg):
                nonlocal count
                count += 1

            sys.setprofile(count_one)
            logs.changed(token)
            sys.setprofile(None)
            return count

        few = steps()
        for number in range(500):
            logging.getLogger(f"many.{number}")
        report([few, steps()])
    """)

    few, many = facts
    assert many == few < 100


# What goes wrong.


def test_a_record_that_cannot_be_formatted_harms_nobody():
    """Its task goes on, stderr tells of it as logging does, and the next record travels."""
    facts, stderr = python("""
        kept = Kept()
        root.addHandler(kept)

        def task():
            log.error("%d", "no number")
            log.error("next")

        in_worker(task)
        report(kept.texts())
    """)

    assert facts == ["next"]
    assert "--- Logging error ---" in stderr and "no number" in stderr


@pytest.mark.parametrize(("error", "tries"), [("BrokenPipeError", 1), ("RuntimeError", 2), ("ValueError", 2)])
def test_a_broken_line_drops_records_in_silence(error, tries):
    """The parent is gone; the task is not to learn it from its log.  A line that broke is not tried again."""
    facts, stderr = python(f"""
        root.addHandler(Kept())

        tries = 0

        def send(data):
            global tries
            tries += 1
            raise {error}

        def task():
            log.error("x")
            log.error("y")
            assert tries == {tries}, tries

        in_worker(task, send=send)
        report("went on")
    """)

    assert (facts, stderr) == ("went on", "")


def test_logging_within_send_does_not_recurse():
    """What sending has to say is dropped; the record that is being sent is not."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)

        def talkative(data):
            log.error("sending")
            send(data)

        in_worker(lambda: [log.error("a"), log.error("b")], send=talkative)
        report(kept.texts())
    """)

    assert facts == ["a", "b"]


def test_a_thread_that_waits_in_send_holds_up_no_other():
    """The handler has no lock, so that whoever holds the line's may log."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)

        def task():
            inside, go = threading.Event(), threading.Event()

            def slow(data):
                if threading.current_thread() is not threading.main_thread():
                    inside.set()
                    assert go.wait(30)
                send(data)

            logs.relay(levels, 3, slow)
            thread = threading.Thread(target=log.error, args=("from a thread",))
            thread.start()
            assert inside.wait(30)
            log.error("meanwhile")
            go.set()
            thread.join(30)

        levels = logs.snapshot()
        in_worker(task)
        report(kept.texts())
    """)

    assert facts == ["meanwhile", "from a thread"]


def test_a_process_that_a_task_forks_does_not_use_its_line():
    """Two writers would tear each other's frames; its warnings go to stderr."""
    facts, stderr = python("""
        kept = Kept()
        root.addHandler(kept)

        def task():
            pid = os.fork()
            if pid == 0:
                log.warning("from a grandchild")
                log.info("unimportant")
                sys.stderr.flush()
                os._exit(0)
            os.waitpid(pid, 0)
            log.error("from the worker")

        in_worker(task)
        report(kept.texts())
    """)

    assert facts == ["from the worker"]
    assert stderr == "from a grandchild\n"


def test_inherited_handlers_are_not_closed_in_the_worker():
    """Closing or flushing one would send what it buffers a second time."""
    facts, _ = python("""
        import gc
        from logging.handlers import MemoryHandler
        closed = []

        class Buffering(MemoryHandler):
            def __del__(self):
                closed.append(1)
                self.flush()

        kept = Kept()
        root.addHandler(Buffering(100, target=kept))
        log.warning("buffered")  # below the level at which it flushes

        def task():
            gc.collect()
            assert not closed

        in_worker(task)
        report(kept.texts())
    """)

    assert facts == []


def test_records_at_the_exit_of_the_interpreter_are_dropped():
    """The modules that sending needs are half gone then; nothing is printed."""
    facts, stderr = python("""
        import functools
        # Nothing of this script may be held by others, or its objects would outlive even the builtins.
        root.addHandler(logging.StreamHandler())
        logs.relay(logs.snapshot(), 3, functools.partial(os.write, 1))

        class Late:
            def __init__(self):
                self.log = log
            def __del__(self, write=os.write, is_finalizing=sys.is_finalizing):
                self.log.error("late")
                write(1, b'"logged at exit"' if is_finalizing() else b'"too early"')

        late = Late()
    """)

    assert (facts, stderr) == ("logged at exit", "")


BROKEN = {
    "a handler": "kept.emit = lambda record: 1 / 0",
    "a filter": "log.addFilter(lambda record: 1 / 0)",
    "a factory": "logging.setLogRecordFactory(lambda *args, **kwargs: args[5] + 1)",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_fails_in_the_parent_does_not_reach_the_engine(what):
    """It calls handle() in the thread that serves all workers."""
    facts, stderr = python(f"""
        kept = Kept()
        root.addHandler(kept)
        datas = in_worker(lambda: log.error("x"))
        kept.records.clear()
        {BROKEN[what]}
        for data in datas:
            logs.handle(data)
        logs.handle(b"no record")
        report(kept.texts())
    """)

    assert facts == (["x"] if what == "a factory" else [])
    assert ("ZeroDivisionError" in stderr) == (what != "a factory")
    assert stderr.count("--- Logging error ---") == (1 if what == "a factory" else 2)


def test_a_worker_that_has_a_pool_itself_passes_records_on():
    """The number is that of the outermost pool's worker, which its user knows."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)

        def outer():
            global near, far
            upwards = far
            near, far = socket.socketpair()
            near.settimeout(30)
            logs.relay(levels, 1, lambda data: upwards.sendall(LENGTH.pack(len(data)) + data))
            assert len(in_worker(lambda: log.error("inner"), worker=8, send=send)) == 1

        levels = logs.snapshot()
        in_worker(outer)
        report([[record.getMessage(), record.worker_id] for record in kept.records])
    """)

    assert facts == [["inner", 1]]


# In-process backends.


def test_records_made_by_a_task_in_this_process_are_tagged():
    """Others have None, so that one format serves all."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)
        from pools_core.seeding import current
        logs.tag_records()
        log.error("main")
        current.worker = 2
        log.error("task")
        thread = threading.Thread(target=log.error, args=("another thread",))
        thread.start()
        thread.join(30)
        current.worker = None
        log.error("main")
        report([record.worker_id for record in kept.records])
    """)

    assert facts == [None, 2, None, None]


def test_tagging_wraps_the_users_factory_once():
    """It goes on to make the records, however often tagging is asked for."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)
        calls = []
        plain = logging.getLogRecordFactory()

        def mine(*args, **kwargs):
            calls.append(1)
            record = plain(*args, **kwargs)
            record.mine = True
            return record

        logging.setLogRecordFactory(mine)
        for _ in range(3):
            logs.tag_records(lambda: 9)
        tagged = logging.getLogRecordFactory()
        logs.tag_records()
        log.error("x")
        report([kept.records[0].mine, kept.records[0].worker_id, len(calls),
                tagged is logging.getLogRecordFactory()])
    """)

    assert facts == [True, 9, 1, True]


def test_a_task_may_say_worker_id_itself():
    """``extra={"worker_id": ...}`` worked before there was tagging, and logging refuses to overwrite."""
    facts, _ = python("""
        kept = Kept()
        root.addHandler(kept)
        logs.tag_records(lambda: 1)
        log.error("x", extra={"worker_id": 5})
        log.error("y", extra={"other": 5})
        report([record.worker_id for record in kept.records])
    """)

    assert facts == [5, 1]


def test_importing_the_module_does_not_import_logging():
    """A spawned worker that has nothing to relay pays nothing."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import sys, pools_core.logs; print('logging' in sys.modules)"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(logs.__file__))},
    )

    assert done.stdout == "False\n", done.stderr
