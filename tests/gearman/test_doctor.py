"""``pools doctor`` with a cluster's config: servers, nodes, the key and the clocks."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys

import pytest

from pools_core.errors import TransportError
from pools_gearman.doctor import judge_clock, judge_node

FREE = 1
"""A port on which nothing listens."""


def doctor(config, expected):
    """Run the command to its end; return its findings by topic and name."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("POOLS_")}
    done = subprocess.run(
        [sys.executable, "-m", "pools_core", "doctor", "--config", str(config), "--json"],
        env={**environment, "XDG_CONFIG_HOME": str(config.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return {(one["topic"], one["name"]): one for one in json.loads(done.stdout)["findings"]}


def faults(found):
    """Return topic and name of each thing that will not work."""
    return {key for key, one in found.items() if one["state"] == "fault"}


def write(folder, *lines):
    """Write a config that names its lines in ``[gearman]``."""
    path = folder / "c.ini"
    path.write_text("\n".join(["[gearman]", "connect_timeout = 0.5", *lines]) + "\n")
    return path


# --- a cluster ------------------------------------------------------------------------------------


def test_a_cluster_that_works_is_well(cluster):
    """Each server with its version, each node with what it says of itself."""
    node = cluster.start_node("--name", "n1")
    server = f"127.0.0.1:{cluster.ports[0]}"

    found = doctor(cluster.config, 0)

    told = found["servers", server]["value"]
    assert told["version"][0].isdigit() and told["answers in"].endswith(" ms") and told["nodes"] == 1
    assert found["servers", "transport"]["value"] == "plain"
    told = found["nodes", "n1"]["value"]
    assert (told["pid"], told["pool"], told["slots"]) == (node.pid, "multicore", 2)
    assert found["nodes", "n1, clock"]["value"] in ("not known", "+0.0 s")
    assert found["[gearman]", "job_servers"]["source"] == f"{cluster.config}:2"
    assert found["[gearman]", "namespace"]["source"] == "default"


def test_the_key_is_told_of_and_never_told(cluster):
    """Where it is, who can read it, how long it is."""
    told = doctor(cluster.config, 1)["key", "signatures"]  # there is no node
    assert told["value"] == {"file": str(cluster.key), "mode": "0600", "bytes": 64}
    assert told["state"] == "well"

    key = cluster.key.read_text().strip()
    assert key not in json.dumps(list(doctor(cluster.config, 1).values()))


def test_a_key_that_others_can_read_is_a_fault_and_nodes_are_not_asked(cluster):
    """They are listed all the same: for that no key is needed."""
    cluster.start_node("--name", "n1")
    cluster.key.chmod(0o644)
    found = doctor(cluster.config, 1)

    assert faults(found) == {("key", "signatures")}
    assert "chmod 600" in found["key", "signatures"]["advice"]
    assert found["nodes", "n1"]["value"]["workers"] == 2


def test_a_node_with_another_key_is_a_fault(cluster):
    """The most common mistake of all: the key was made anew, and not copied everywhere."""
    cluster.start_node("--name", "n1")
    cluster.key.write_text(secrets.token_hex(32))
    found = doctor(cluster.config, 1)

    assert faults(found) == {("nodes", "n1")}
    assert "keys" in found["nodes", "n1"]["advice"]


def test_without_any_node_calls_would_wait(cluster):
    """So that is a fault, with the command that mends it."""
    found = doctor(cluster.config, 1)

    assert faults(found) == {("nodes", "connected")}
    assert "pools gearman worker" in found["nodes", "connected"]["advice"]


def test_one_server_that_is_away_does_not_hide_the_other(cluster):
    """Its nodes are asked through the one that is there."""
    cluster.ports.append(FREE)
    cluster.write_config()
    cluster.start_node("--name", "n1")
    found = doctor(cluster.config, 1)

    assert faults(found) == {("servers", f"127.0.0.1:{FREE}")}
    assert found["nodes", "n1"]["value"]["slots"] == 2


# --- servers --------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_a_fault(tmp_path):
    """With what to do; the rest is shown."""
    path = write(tmp_path, f"job_servers = 127.0.0.1:{FREE}", "allow_unsigned = yes")
    found = doctor(path, 1)

    assert faults(found) == {("servers", f"127.0.0.1:{FREE}")}
    assert "pools gearman broker" in found["servers", f"127.0.0.1:{FREE}"]["advice"]
    assert found["key", "signatures"]["state"] == "note"
    assert found["versions", "pools-core"]["value"]


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_says_nothing_is_not_waited_for(tmp_path, tls):
    """Connected is not answered: ``connect_timeout`` holds for both, and for TLS as well."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        found = doctor(write(tmp_path, f"job_servers = {address}", "allow_unsigned = yes", f"tls = {tls}"), 1)

    assert faults(found) == {("servers", address)}
    assert ("TLS" if tls else "does not answer") in found["servers", address]["advice"]
    assert found["servers", "transport"]["value"] == ("TLS" if tls else "plain")


@pytest.mark.parametrize(
    ("lines", "key", "advice"),
    [
        ((), ("key", "signatures"), "pools gearman init"),
        (("secret_file = no.key",), ("key", "signatures"), "cannot be read"),
        (("allow_unsigned = yes", "tls = yes", "tls_ca = no.pem"), ("servers", "transport"), "tls_ca"),
        (("allow_unsigned = yes", "job_server = x"), ("[gearman]", "options"), "did you mean 'job_servers'"),
        (
            ("allow_unsigned = yes", "[gearman.worker]", "pool = multicoer"),
            ("[gearman.worker]", "pool"),
            "multicore",
        ),
    ],
)
def test_what_cannot_work_is_known_without_a_server(tmp_path, lines, key, advice):
    """Each with what to do."""
    found = doctor(write(tmp_path, *lines), 1)

    assert key in faults(found)
    assert advice in found[key]["advice"]


def test_a_config_of_glimpse_is_read_as_it_is(tmp_path):
    """Its values, and the lines where they stand."""
    path = tmp_path / "config.ini"
    path.write_text(
        f"[DEFAULT]\nhost = 127.0.0.1\n[client]\njob_server_url = %(host)s:{FREE}\nchunksize = 7\n"
    )
    found = doctor(path, 1)

    assert found["[gearman]", "job_servers"]["value"] == [f"127.0.0.1:{FREE}"]
    assert found["[gearman]", "job_servers"]["source"] == f"{path}:4"
    assert (
        found["[gearman]", "chunksize"] | {"value": 7, "source": f"{path}:5"}
        == found["[gearman]", "chunksize"]
    )
    assert ("servers", f"127.0.0.1:{FREE}") in faults(found)


def test_without_a_cluster_nothing_is_asked(tmp_path):
    """Whoever uses one machine need not read about servers."""
    path = tmp_path / "c.ini"
    path.write_text("[multicore]\nn_jobs = 1\n")

    assert not {topic for topic, _ in doctor(path, 0)} & {"servers", "nodes", "key", "[gearman]"}


# --- judging --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "value", "state"),
    [
        (None, "not known", "well"),
        (1000.0, "+0.0 s", "well"),
        (1002.0, "+0.0 s", "well"),  # within the time that the question took
        (999.0, "-1.0 s", "well"),
        (1102.0, "+100.0 s", "note"),
        (1402.0, "+400.0 s", "fault"),
        (500.0, "-500.0 s", "fault"),
    ],
)
def test_clocks(told, value, state):
    """They may differ by as much as a frame may be old."""
    finding = judge_clock("n1", told, before=1000.0, after=1002.0, most=300.0)

    assert (finding.value, finding.state) == (value, state)
    assert ("NTP" in finding.advice) == (state != "well")


def test_a_node_that_does_not_answer_is_a_fault():
    """With what is known of why."""
    finding = judge_node("n1", TransportError("node n1 has not answered within 10 s"))

    assert (finding.state, finding.advice) == ("fault", "node n1 has not answered within 10 s")
