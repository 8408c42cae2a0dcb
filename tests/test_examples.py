"""Every example, run as its first lines say, gives the same results on every backend."""

from __future__ import annotations

import asyncio
import contextlib
import email
import functools
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tokenize
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from pools_core.testing.waiting import wait_until

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NEEDS = {
    "emcee_fit.py": "emcee",
    "grid_search.py": "sklearn",
    "opentelemetry_spans.py": "opentelemetry.sdk",
    "prometheus_metrics.py": "prometheus_client",
    "thumbnails.py": "PIL",
    "web_offload.py": "aiohttp",
}
"""Which libraries an example needs beside ours; its tests skip without."""
SECONDS = 300


def environment():
    """Return what a user's shell has, without a config of theirs; `pools` and `python` are ours."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("POOLS_")}
    return ours | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), ours["PATH"]])}


def run(*command, cwd=ROOT, check=True):
    """Run a command to its end."""
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=check
    )


def command_of(name, *options):
    """Return the command that runs an example; a warning is an error."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, options)]


def example(name, *options, check=True):
    """Run an example to its end."""
    return run(*command_of(name, *options), check=check)


@functools.cache
def reference(name, *options):
    """Return what an example prints on the reference backend."""
    return example(name, *options, "--backend", "singlecore").stdout


def free_address():
    """Return an address of this machine where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return "{}:{}".format(*probe.getsockname())


def agrees(printed, expected):
    """Whether a text is as expected, where ``...`` stands for anything, and blanks count as one."""
    pattern = ".*".join(map(re.escape, " ".join(expected.split()).split("...")))
    return re.fullmatch(pattern, " ".join(printed.split())) is not None


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory):
    """A config for local pools; an example starts no more workers than a small machine has CPUs."""
    config = tmp_path_factory.mktemp("two_workers") / "pools.ini"
    config.write_text("[threads]\nn_jobs = 2\n[multicore]\nn_jobs = 2\n")
    return config


@pytest.fixture(scope="session")
def gearmand():
    """The job server, which CI must have."""
    if not shutil.which("gearmand") and not shutil.which("gearmand", path="/usr/sbin:/usr/local/sbin"):
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("gearmand is not installed (apt install gearman-job-server)")


@pytest.fixture(scope="session")
def cluster(gearmand, running_cluster, tmp_path_factory):
    """The config of a job server and a node that run as long as tests use them."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), environment()) as config:
        yield config


@pytest.fixture(params=["threads", "multicore", "gearman"])
def elsewhere(request, two_workers):
    """Options for an example to run on another backend than the reference."""
    config = request.getfixturevalue("cluster") if request.param == "gearman" else two_workers
    return ("--backend", request.param, "--config", config)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Real files, large and small, and two that do not tokenize."""
    folder = tmp_path_factory.mktemp("sources")
    for package in (asyncio, email, json):
        path = Path(package.__file__).parent
        shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "unknown.py").write_text("# -*- coding: uft-8 -*-\n")
    (folder / "open.py").write_text("('no end'\n")
    return folder


def test_tokens_are_counted_alike(elsewhere, sources):
    """Also those of files some of which do not tokenize."""
    done = example("count_tokens.py", *elsewhere, sources)

    assert done.stdout == reference("count_tokens.py", sources)
    assert done.stdout.count("does not tokenize") == 2
    assert f"Pool {elsewhere[1]} open" in done.stderr


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path):
    """Not taken for one without files."""
    done = example("count_tokens.py", tmp_path / "nowhere", check=False)

    assert (done.returncode, done.stdout) == (2, "") and "nowhere is no folder" in done.stderr


def test_the_totals_are_those_of_a_plain_loop(sources):
    """So that all backends are not wrong in the same way."""
    spec = importlib.util.spec_from_file_location("count_tokens_example", EXAMPLES / "count_tokens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    totals = Counter()
    failed = []
    for path in module.sources(sources):
        try:
            totals += module.count_tokens(path)
        except Exception as error:
            failed.append(f"does not tokenize: {path}: {error}")

    lines = reference("count_tokens.py", sources).splitlines()
    counts = [line.split() for line in lines if re.fullmatch(r"[A-Z_]+ +[\d,]+", line)]
    assert {kind: int(count.replace(",", "")) for kind, count in counts} == dict(totals)
    assert [line for line in lines if line.startswith("does not")] == failed
    assert sum(totals.values()) > 100_000


def test_a_config_file_chooses_the_backend(tmp_path):
    """The program need not know where it runs; that it was asked shows by what it refuses."""
    config = tmp_path / "pools.ini"
    config.write_text("[pool]\nbackend = threads\n[threads]\nn_jobs = 2\n[multicore]\nn_jobs = no number\n")

    done = example("monte_carlo.py", "--config", config)

    assert done.stdout == reference("monte_carlo.py")
    refused = example("monte_carlo.py", "--config", config, "--backend", "multicore", check=False)
    assert refused.returncode != 0 and "no number" in refused.stderr


def test_the_estimate_depends_on_the_seed_alone(elsewhere):
    """To the last digit; and it is near the mean of the measurements themselves."""
    printed = example("monte_carlo.py", *elsewhere).stdout

    assert printed == reference("monte_carlo.py")
    assert printed != reference("monte_carlo.py", "--seed", "1")
    estimate, low, high = map(float, re.findall(r"(\d{6}\.\d+)", printed))
    assert low < estimate < high
    assert estimate == pytest.approx(299_852.4, abs=1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with a photograph, icons, half an image, and something else."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib, whose images are used, is missing")
    data = Path(matplotlib.get_data_path())
    folder = tmp_path_factory.mktemp("pictures")
    photograph = data / "sample_data" / "grace_hopper.jpg"
    for path in (photograph, *sorted((data / "images").glob("*_large.png"))):
        shutil.copy(path, folder)
    (folder / "half.jpg").write_bytes(photograph.read_bytes()[:10_000])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_thumbnails_are_made_of_all_images_but_the_broken_one(elsewhere, pictures, tmp_path):
    """Each keeps its name and its shape."""
    done = example("thumbnails.py", pictures, "--out", tmp_path / "out", "--size", 32, *elsewhere)

    from PIL import Image

    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {path.name for path in pictures.iterdir()} - {"half.jpg", "notes.txt"}
    assert len(made) > 5
    for name in made:
        with Image.open(pictures / name) as whole, Image.open(tmp_path / "out" / name) as small:
            assert max(small.size) == 32 < max(whole.size)
            assert small.width / small.height == pytest.approx(whole.width / whole.height, rel=0.05)
    assert f"{len(made)} thumbnails in {tmp_path / 'out'}\nno thumbnail of half.jpg: " in done.stdout
    assert done.stdout == reference(
        "thumbnails.py", str(pictures), "--out", str(tmp_path / "out"), "--size", "32"
    )


def test_thumbnails_never_replace_their_images(pictures):
    """A slip of the hand must not cost photographs."""
    before = {path: path.read_bytes() for path in pictures.iterdir()}

    done = example("thumbnails.py", pictures, "--out", pictures, check=False)

    assert done.returncode == 2
    assert "a folder of their own" in done.stderr
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_a_grid_search_finds_what_scikit_learn_finds_alone(elsewhere):
    """With other means than ours, nothing of the search would differ."""
    printed = example("grid_search.py", *elsewhere).stdout

    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    assert printed == reference("grid_search.py")
    best = re.search(r"best: (.*)", printed)[1]
    accuracies = dict(re.findall(r"^(0\.\d+)  (.*)$", printed, re.MULTILINE))
    assert best == accuracies[max(accuracies)]
    one = {name: [value] for name, value in json.loads(best.replace("'", '"')).items()}
    alone = GridSearchCV(SVC(), one, cv=3, n_jobs=1).fit(*load_digits(return_X_y=True))
    assert f"{alone.best_score_:.6f}" == max(accuracies)


def test_a_sampler_walks_the_same_way(elsewhere):
    """And arrives where least squares do: at 424 km/s/Mpc through the origin."""
    printed = example("emcee_fit.py", "--steps", 60, *elsewhere).stdout

    assert printed == reference("emcee_fit.py", "--steps", "60")
    hubble, width = map(float, re.search(r"Hubble constant.*: (\S+) \+- (\S+)", printed).groups())
    assert abs(hubble - 424) < width


@pytest.mark.parametrize("name", ["opentelemetry_spans.py", "prometheus_metrics.py"])
def test_plugins_tell_of_every_task(elsewhere, name):
    """Two calls; one task fails, whichever backend it is on."""
    printed = example(name, *elsewhere).stdout

    if "opentelemetry" in name:
        assert printed.count(f'"name": "{elsewhere[1]} call"') == 2
        first, second = map(int, re.findall(r'"pools.tasks": (\d+)', printed))
        assert second == first + 1 > 100
        assert sum(map(int, re.findall(r'"failures": (\d+)', printed))) == 1
    else:
        assert 'pools_calls_total{outcome="ok"} 2.0' in printed
        assert 'pools_tasks_total{outcome="failed"} 1.0' in printed
        assert f'pools_open{{backend="{elsewhere[1]}"}} 0.0' in printed


@contextlib.contextmanager
def serving(*options):
    """Run the web service; gives its process and its port, and ends it as Ctrl-C does."""
    command = command_of("web_offload.py", "--port", 0, *options)
    at_once = environment() | {"PYTHONUNBUFFERED": "1"}  # aiohttp says where it listens, and flushes nothing
    with subprocess.Popen(command, env=at_once, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            yield server, int(re.search(r"Running on http://127\.0\.0\.1:(\d+)", line)[1])
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
    assert server.returncode == 0


@contextlib.contextmanager
def asked(port, method, path, body=None, **headers):
    """Send a request; the answer can be had from what this gives."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("backend", ["singlecore", "threads", "multicore"])
def test_a_web_service_answers_many_at_once(backend, two_workers):
    """A client that reads until the connection ends; many programs; and one that is none."""
    files = sorted(Path(tokenize.__file__).parent.glob("c*.py"))
    with (
        serving("--backend", backend, "--config", str(two_workers)) as (_, port),
        contextlib.ExitStack() as stack,
    ):
        with asked(port, "POST", "/tokens", b"x = 1", Connection="close") as connection:
            whole = b"".join(iter(lambda: connection.sock.recv(4096), b""))
        asking = [stack.enter_context(asked(port, "POST", "/tokens", path.read_bytes())) for path in files]
        answers = [connection.getresponse() for connection in asking]
        counts = [json.loads(answer.read()) for answer in answers]
        with asked(port, "POST", "/tokens", b"(((") as connection:
            refused = connection.getresponse()
            why = refused.read().decode()

    assert whole.startswith(b"HTTP/1.1 200 OK") and b'"NUMBER": 1' in whole
    assert len(files) > 10 and {answer.status for answer in answers} == {200}
    for path, count in zip(files, counts, strict=True):
        with path.open("rb") as file:
            assert count == Counter(tokenize.tok_name[t.type] for t in tokenize.tokenize(file.readline))
    assert refused.status == 400 and "does not tokenize: " in why


def test_a_web_service_answers_while_its_workers_do_not(two_workers):
    """A handler that computed by itself, or waited in the event loop, would hold up the others."""
    with serving("--backend", "multicore", "--config", str(two_workers)) as (server, port):
        workers = psutil.Process(server.pid).children(recursive=True)
        assert workers
        for worker in workers:
            worker.suspend()
        try:
            with asked(port, "POST", "/tokens", b"x = 1") as waits:
                for _ in range(3):  # by the second time at the latest, the handler of the first has it
                    with asked(port, "GET", "/") as connection:
                        assert connection.getresponse().status == 404
                assert not select.select([waits.sock], [], [], 0)[0]
                for worker in workers:
                    worker.resume()
                assert json.loads(waits.getresponse().read())["NUMBER"] == 1
        finally:
            for worker in workers:
                worker.resume()


def test_gearman_in_two_terminals(gearmand, tmp_path):
    """Both terminals' commands as they stand, but for the port; all has ended with them."""
    address = free_address()
    page = (EXAMPLES / "gearman_two_terminals.md").read_text()
    assert "127.0.0.1:4730" in page
    page = page.replace("127.0.0.1:4730", address)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "text", "bash", "text"]
    first, first_says, second, second_says = (text for _, text in blocks)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    log = tmp_path / "terminal1"

    with log.open("w") as out:
        terminal = subprocess.Popen(
            ["bash", "-ec", first], cwd=tmp_path, env=environment(), stdout=out, stderr=out
        )
    try:
        wait_until(lambda: "is ready" in log.read_text() or terminal.poll() is not None, 60, "it is ready")
        assert terminal.poll() is None and agrees(log.read_text(), first_says), log.read_text()
        done = run("bash", "-ec", second, cwd=tmp_path)
        assert agrees(done.stdout + done.stderr, second_says), done.stdout + done.stderr
        assert terminal.wait(60) == 0
    finally:
        if terminal.poll() is None:
            family = psutil.Process(terminal.pid).children(recursive=True)
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
            terminal.wait(60)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address.split(":"))


def test_the_list_of_examples_has_them_all():
    """What is not in the list is not found."""
    listed = set(re.findall(r"\(\.\./examples/([\w.]+)", (ROOT / "docs" / "examples.md").read_text()))
    there = {path.name for path in EXAMPLES.iterdir() if path.name[0] not in "._"}

    assert listed == there - {"README.md"}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_refuses_an_unknown_backend(name, tmp_path):
    """So each does ask for the backend that it is told to use."""
    folder = [tmp_path] if name == "thumbnails.py" else []

    done = example(name, *folder, "--backend", "nowhere", check=False)

    assert done.returncode != 0
    assert "nowhere" in done.stderr and "multicore" in done.stderr
