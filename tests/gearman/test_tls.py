"""Callers and nodes talk TLS to a job server, and to no other than the right one.

    caller, node ══ TLS ══ relay ── plain ── gearmand

gearmand as distributions build it often lacks TLS, so a relay of the test's own stands before it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from pools_core.errors import SecurityError, TransportError
from pools_core.testing import tasks
from pools_core.testing.waiting import wait_until

AUTHORITY = """
[ca]
default_ca = test
[test]
database = index.txt
new_certs_dir = .
default_md = sha256
rand_serial = yes
unique_subject = no
copy_extensions = copy
policy = any
[any]
commonName = supplied
"""

HELLO = b"\x16\x03\x01"
"""How TLS begins."""

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """Made by the ``openssl`` command, in a folder: ``name.pem`` and ``name.key``."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "index.txt").touch()
        (folder / "authority.ini").write_text(AUTHORITY)

    def authority(self, name):
        """Make a certificate that may vouch for others."""
        as_ca = ("-addext", "keyUsage=critical,keyCertSign", "-subj", f"/CN={name}", "-days", "2")
        self._openssl("req", "-x509", *KEY, *as_ca, "-keyout", f"{name}.key", "-out", f"{name}.pem")

    def issue(self, name, host="IP:127.0.0.1", by="authority", years=(2020, 2100)):
        """Make a certificate for a host, for certain years."""
        subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={host}")
        self._openssl("req", *KEY, *subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        vouched = ("-config", "authority.ini", "-cert", f"{by}.pem", "-keyfile", f"{by}.key", "-batch")
        first, last = (f"{year}0101000000Z" for year in years)
        times = ("-startdate", first, "-enddate", last)
        self._openssl("ca", *vouched, *times, "-notext", "-in", f"{name}.csr", "-out", f"{name}.pem")

    def path(self, file):
        return str(self.folder / file)

    def server(self, name="server", ask_for=None):
        """Return how a server with that certificate talks TLS.

        Args:
            name: of the certificate.
            ask_for: name of the authority whose certificates it wants to see; None: it asks for none.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(f"{name}.pem"), self.path(f"{name}.key"))
        if ask_for is not None:
            context.load_verify_locations(self.path(f"{ask_for}.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, and what it vouches for: good, misnamed and expired; and another authority's."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is not installed; apt install openssl")
        pytest.skip("openssl is not installed (apt install openssl)")
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.authority("authority")
    made.authority("stranger")
    made.issue("server")
    made.issue("client")
    made.issue("misnamed", host="DNS:elsewhere.example")
    made.issue("expired", years=(2020, 2021))
    made.issue("early", years=(2100, 2101))
    made.issue("foreign", by="stranger")
    return made


@pytest.fixture
def tls(certificates):
    """Options of those who trust the authority."""
    return {"tls": "true", "tls_ca": certificates.path("authority.pem")}


def config_for(cluster, name, port, options):
    lines = [f"{key} = {value}" for key, value in {"connect_timeout": 2, **options}.items()]
    return cluster.config_for(name, port, extra="\n".join(lines))


def squares(cluster, config):
    with cluster.pool(config) as pool:
        return pool.map(tasks.square, range(100)) == [number * number for number in range(100)]


class Heard:
    """What came through a relay."""

    def __init__(self):
        self.pieces = {True: b"", False: b""}

    def __call__(self, data, to_port):
        self.pieces[to_port] += data

    @property
    def to_server(self):
        return self.pieces[True]

    def hellos(self):
        return self.to_server.count(HELLO)


def test_callers_and_nodes_work_over_tls(cluster, make_relay, certificates, tls):
    """Also with large arguments and results, and when connections are made again."""
    with make_relay(cluster.ports[0], certificates.server()) as relay:
        config = config_for(cluster, "tls", relay.port, tls)
        node = cluster.start_node(config=config)
        with cluster.pool(config) as pool:
            assert pool.map(tasks.square, range(100)) == [number * number for number in range(100)]
            assert pool.apply(len, (bytes(5_000_000),)) == 5_000_000
            assert len(pool.apply(tasks.huge, (5_000_000,))) == 5_000_000

            cluster.servers[0].end()
            cluster.start_server()
            assert pool.map(tasks.square, range(100)) == [number * number for number in range(100)]
        assert node.says().count("is back") == 1


def test_a_server_that_asks_for_certificates_gets_them(cluster, make_relay, certificates, tls):
    """From callers and from nodes; without one there is an error that says so."""
    with make_relay(cluster.ports[0], certificates.server(ask_for="authority")) as relay:
        mine = {"tls_cert": certificates.path("client.pem"), "tls_key": certificates.path("client.key")}
        config = config_for(cluster, "known", relay.port, {**tls, **mine})
        cluster.start_node(config=config)
        assert squares(cluster, config)


class Doorman:
    """A server that wants to see a certificate, and tells who has none so, as OpenSSL does.

    asyncio, on which relays run, just closes the connection.
    """

    def __init__(self, tls):
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:  # it was shut down
                return
            with line:
                line.settimeout(10)
                with contextlib.suppress(OSError), self._tls.wrap_socket(line, server_side=True):
                    raise AssertionError("it was let in")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._server.close()


@pytest.mark.parametrize("whose", [None, "foreign"], ids=["none", "a stranger's"])
def test_without_the_certificate_that_a_server_asks_for_there_is_an_error(cluster, certificates, tls, whose):
    """It names the option."""
    if whose is not None:
        tls.update(tls_cert=certificates.path(f"{whose}.pem"), tls_key=certificates.path(f"{whose}.key"))
    with Doorman(certificates.server(ask_for="authority")) as doorman:
        config = config_for(cluster, "unknown", doorman.port, tls)

        assert_refused(cluster, config, doorman.port, "tls_cert")


@pytest.mark.parametrize(
    ("certificate", "complaint"),
    [
        ("foreign", "unable to get local issuer certificate"),
        ("misnamed", "certificate is not valid for '127.0.0.1'"),
        ("expired", "certificate has expired"),
        ("early", "certificate is not yet valid"),
    ],
)
def test_a_server_that_cannot_prove_who_it_is_hears_nothing(
    cluster, make_relay, certificates, tls, certificate, complaint
):
    """Neither caller nor node talks to it; both say why."""
    heard = Heard()
    with make_relay(cluster.ports[0], certificates.server(certificate), heard) as relay:
        config = config_for(cluster, "wary", relay.port, tls)

        assert_refused(cluster, config, relay.port, re.escape(complaint))
    assert not heard.to_server


def test_the_authorities_of_the_system_do_not_vouch_for_ours(cluster, make_relay, certificates):
    """Without tls_ca those count, and no other."""
    with make_relay(cluster.ports[0], certificates.server()) as relay:
        config = config_for(cluster, "system", relay.port, {"tls": "true"})

        assert_refused(cluster, config, relay.port, "certificate.*check tls_ca")


def test_tls_to_a_plain_server_is_not_given_up_for_plain(cluster, make_relay, tls):
    """Both say what is wrong; all that they ever send is the beginning of TLS."""
    heard = Heard()
    with make_relay(cluster.ports[0], hears=heard) as relay:
        config = config_for(cluster, "hopeful", relay.port, tls)

        assert_refused(
            cluster,
            config,
            relay.port,
            "does that server speak TLS",
            lambda: heard.to_server.count(HELLO) > 3,
        )
    assert heard.to_server.startswith(HELLO)
    assert b"\0REQ" not in heard.to_server and b"workers" not in heard.to_server


def test_plain_to_a_tls_server(cluster, make_relay, certificates):
    """Both say what is wrong."""
    heard = Heard()
    with make_relay(cluster.ports[0], certificates.server(), heard) as relay:
        config = config_for(cluster, "plain", relay.port, {})

        assert_refused(cluster, config, relay.port, "set tls = true")
    assert not heard.to_server


def assert_refused(cluster, config, port, complaint, tried=lambda: True):
    """A pool is not made, a node does not start to work; both name the server and say why.

    Args:
        cluster, config: of both.
        port: where the server listens.
        complaint: a pattern.
        tried: whether the node has tried often enough.
    """
    complaint = f"127.0.0.1:{port}.*{complaint}"
    with pytest.raises(TransportError, match=complaint):
        cluster.pool(config)
    node = cluster.start_node(config=config, ready=False)
    wait_until(lambda: node.gone() or "job server away" in node.says(), 20, node.says())
    assert re.search(f"job server away: {complaint}", node.says()), node.says()
    wait_until(tried, 20, "the node has tried again")
    assert "is ready" not in node.says()
    node.end()


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("tls_ca", "missing.pem"),
        ("tls_ca", "server.key"),
        ("tls_cert", "missing.pem"),
        ("tls_key", "client.pem"),
    ],
)
def test_files_that_cannot_be_used_are_refused_at_once(cluster, certificates, tls, option, file):
    """Before anything is connected; the error names the options."""
    mine = {"tls_cert": "server.pem", "tls_key": "server.key"}
    given = {**tls, **{key: certificates.path(name) for key, name in mine.items()}}
    config = config_for(cluster, "broken", cluster.ports[0], {**given, option: certificates.path(file)})

    with pytest.raises(SecurityError, match="tls_ca, tls_cert or tls_key cannot be used"):
        cluster.pool(config)
    node = cluster.start_node(config=config, ready=False)
    wait_until(node.gone, 20, "the node has ended")
    assert "tls_ca, tls_cert or tls_key cannot be used" in node.says()
