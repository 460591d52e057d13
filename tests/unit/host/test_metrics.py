"""Metrics: every series is there from the start, and only the monitor gets them."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentworld import Authority, private_pem
from sekisho.core.errors import SekishoError
from sekisho.host import metrics as metrics_module
from sekisho.host.agent.table import labels
from sekisho.host.metrics import Metrics, MetricsServer, named_addresses, server_context
from sekisho.host.metrics_table import METRICS, reference

LABELS = {
    "check": ("6-iv-a.rules-drift", "6-iv-b.new-account"),
    "part": ("nft", "files"),
    "version": ("1",),
}


def test_every_series_is_there_from_the_start_at_nought() -> None:
    text = Metrics(LABELS).render().decode()
    for metric in METRICS:
        assert re.search(rf"^{metric.name}(\{{| )", text, re.MULTILINE), metric.name
    assert 'sekisho_detections_total{check="6-iv-b.new-account",severity="alert"} 0.0' in text
    assert "_created" not in text


def test_names_follow_the_house_rule_and_counters_end_in_total() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("sekisho_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_counting_setting_and_raising() -> None:
    metrics = Metrics(LABELS)
    metrics.add("sekisho_nft_drift_total")
    metrics.raise_to("sekisho_audit_lost_total", 7)
    metrics.raise_to("sekisho_audit_lost_total", 3)
    metrics.set("sekisho_agent_part_up", 1, "nft")
    assert metrics.get("sekisho_nft_drift_total") == 1
    assert metrics.get("sekisho_audit_lost_total") == 7
    assert metrics.get("sekisho_agent_part_up", "nft") == 1
    assert "sekisho_audit_lost_total 7.0" in metrics.render().decode()
    with pytest.raises(ValueError, match="labels"):
        metrics.get("sekisho_agent_part_up")


def test_the_reference_page_is_that_of_the_code(repository: Path) -> None:
    page = repository / "docs/reference/metrics.md"
    assert page.read_text() == reference(labels()["part"]), "run: make docs"


def test_only_addresses_of_a_certificate_count() -> None:
    assert named_addresses(None) == set()
    names = (("DNS", "10.0.0.1"), ("IP Address", "10.0.0.2"), ("IP Address", "no"))
    assert named_addresses({"subjectAltName": names}) == {"10.0.0.2"}


class Wire:
    """A server on this machine's loopback and clients of several kinds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.stranger = Authority(), Authority()
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.failures: list[str] = []
        (folder / "key").write_bytes(private_pem(self.key))
        (folder / "ca").write_bytes(self.authority.certificate("ca"))
        (folder / "crt").write_bytes(self.authority.certificate("core-1", self.key, "127.0.0.1"))
        self.server = MetricsServer(
            ("127.0.0.1", 0),
            server_context(folder / "crt", folder / "key", folder / "ca"),
            allowed=frozenset({"127.0.0.1", "127.0.0.2"}),
            render=lambda: b"sekisho_agent_info 1.0\n",
            failed=self.failures.append,
        )

    def client(self, certificate: bytes | None) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.folder / "ca"))
        if certificate is not None:
            (self.folder / "client").write_bytes(certificate)
            context.load_cert_chain(self.folder / "client", self.folder / "key")
        return http.client.HTTPSConnection(
            "127.0.0.1", self.server.port, context=context, timeout=10
        )


def ask(client: http.client.HTTPSConnection) -> http.client.HTTPResponse:
    client.request("GET", "/metrics")
    return client.getresponse()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    found = Wire(tmp_path)
    yield found
    found.server.close()


@pytest.mark.process
def test_the_monitor_reads_twice_over_one_connection(wire: Wire) -> None:
    client = wire.client(wire.authority.certificate("monitor-1", wire.key, "127.0.0.1"))
    for _ in range(2):
        client.request("GET", "/metrics")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"sekisho_agent_info 1.0\n")
    sock = client.sock
    assert isinstance(sock, ssl.SSLSocket)
    assert sock.version() == "TLSv1.3"
    client.request("GET", "/other")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (404, b"only /metrics\n")
    client.request("POST", "/metrics")
    assert client.getresponse().status == 405
    client.close()


@pytest.mark.process
def test_no_certificate_a_strangers_and_another_hosts_get_nothing(wire: Wire) -> None:
    for certificate in (
        None,
        wire.stranger.certificate("monitor-1", wire.key, "127.0.0.1"),
        wire.authority.certificate("inbound-1", wire.key, "10.77.0.12"),
        wire.authority.certificate("monitor-1", wire.key),
    ):
        client = wire.client(certificate)
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(client)
        client.close()
    assert any("not the monitor's" in failure for failure in wire.failures)


@pytest.mark.process
def test_one_monitor_that_takes_every_connection_does_not_stop_another(wire: Wire) -> None:
    held = [
        socket.create_connection(("127.0.0.1", wire.server.port), source_address=("127.0.0.2", 0))
        for _ in range(40)
    ]
    client = wire.client(wire.authority.certificate("monitor-1", wire.key, "127.0.0.1"))
    client.request("GET", "/metrics")
    assert client.getresponse().read() == b"sekisho_agent_info 1.0\n"
    client.close()
    assert any("too many connections" in failure for failure in wire.failures)
    for one in held:
        one.close()


@pytest.mark.process
def test_a_request_that_drips_is_ended(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "REQUEST_S", 0.5)
    client = wire.client(wire.authority.certificate("monitor-1", wire.key, "127.0.0.1"))
    client.connect()
    end = time.monotonic() + 20

    def drip() -> None:
        while time.monotonic() < end:
            client.sock.sendall(b"G")
            time.sleep(0.1)

    with pytest.raises(OSError, match=r"(?i)pipe|reset|eof|closed|violation"):
        drip()
    client.close()


@pytest.mark.process
def test_an_older_tls_is_refused(wire: Wire) -> None:
    client = wire.client(wire.authority.certificate("monitor-1", wire.key, "127.0.0.1"))
    client._context.maximum_version = ssl.TLSVersion.TLSv1_2  # type: ignore[attr-defined]
    with pytest.raises(OSError, match=r"(?i)ssl|protocol|version"):
        client.request("GET", "/metrics")


def test_missing_certificates_are_told(tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="TLS cannot be set up"):
        server_context(tmp_path / "a", tmp_path / "b", tmp_path / "c")
