"""Metrics out: a registry of our own, and an HTTPS server that knows whom it talks to.

Mutual TLS 1.3. The client needs a certificate of the site's CA *and* must be one of the policy's
monitors: by the address it comes from, and by an address in its certificate. Every other name of
the CA's (another host of the site) is refused.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sekisho.core.errors import SekishoError
from sekisho.host.debian_python import load
from sekisho.host.metrics_table import METRICS, Metric

HANDSHAKE_S = 5.0
REQUEST_S = 10.0  # from the first byte of a request's head to its last
IDLE_S = 90.0  # between two requests on one connection
MAX_REQUEST = 8192  # bytes of a request's head
#: Connections at once of one monitor, and of all (each has its thread: the unit's TasksMax).
MAX_CONNECTIONS, MAX_ALL = 8, 32
_IP_FREEBIND = 15  # bind before the address is there: the network may come after us


class Metrics:
    """All metrics of `METRICS`; every label value is there from the start, at 0."""

    def __init__(self, labels: Mapping[str, Iterable[str]]) -> None:
        """Make the series; ``labels`` has the values of those labels the table leaves open."""
        # Before the import: without it each counter brings a second series, ``…_created``.
        os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "True")
        prometheus = load("prometheus_client", "python3-prometheus-client")
        self._render = prometheus.generate_latest
        self.registry = prometheus.CollectorRegistry()
        self._held: dict[str, Any] = {}
        self._labels: dict[str, tuple[str, ...]] = {}
        # Our own copy of the values: asking the library for one walks through all of them.
        self._now: dict[tuple[str, tuple[str, ...]], float] = {}
        self._lock = threading.Lock()
        known = {label: tuple(values) for label, values in labels.items()}
        for metric in METRICS:
            kind = prometheus.Counter if metric.kind == "counter" else prometheus.Gauge
            names = tuple(label for label, _ in metric.labels)
            self._held[metric.name] = kind(metric.name, metric.text, names, registry=self.registry)
            self._labels[metric.name] = names
            for values in _combinations(metric, known):
                self._held[metric.name].labels(*values)

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        return self._held[name].labels(*labels) if labels else self._held[name]

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Count ``by`` more."""
        with self._lock:
            self._child(name, labels).inc(by)
            self._now[name, labels] = self._now.get((name, labels), 0.0) + by

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._child(name, labels).set(value)
            self._now[name, labels] = value

    def raise_to(self, name: str, value: float) -> None:
        """Bring a counter to a total that something else counted; never down."""
        missing = value - self.get(name)
        if missing > 0:
            self.add(name, by=missing)

    def get(self, name: str, *labels: str) -> float:
        """Return a metric's value now; 0 for labels never seen."""
        if len(labels) != len(self._labels[name]):
            raise ValueError(f"{name} has labels {self._labels[name]}, got {labels}")
        return self._now.get((name, labels), 0.0)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(self._render(self.registry))


def _combinations(metric: Metric, known: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()] if metric.labels else []
    for label, values in metric.labels:
        found = [(*head, value) for head in found for value in (values or known[label])]
    return found


def server_context(cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """Return a context that speaks TLS 1.3 only, and only to clients of the site's CA.

    Raises:
        SekishoError: a file is missing or does not fit.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise SekishoError(f"TLS cannot be set up from {cert}, {key}, {ca}: {error}") from None
    return context


def named_addresses(certificate: Mapping[str, Any] | None) -> set[str]:
    """Return the IP addresses a verified certificate names."""
    found = set()
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "IP Address":
            with contextlib.suppress(ValueError):
                found.add(str(ipaddress.ip_address(value)))
    return found


class MetricsServer:
    """Serves ``GET /metrics`` from threads of its own, each monitor on so many and no more."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        *,
        allowed: frozenset[str],
        render: Callable[[], bytes],
        failed: Callable[[str], None],
    ) -> None:
        self._context, self._allowed = context, allowed
        self._render, self._failed = render, failed
        each = max(2, min(MAX_CONNECTIONS, MAX_ALL // max(1, len(allowed))))
        self._slots = {address: threading.BoundedSemaphore(each) for address in allowed}
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            self._socket.bind(address)
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise SekishoError(
                f"metrics cannot be served on {address[0]}:{address[1]}: {error.strerror}"
            ) from None
        self._thread = threading.Thread(target=self._accept, name="metrics", daemon=True)
        self._thread.start()

    @property
    def serving(self) -> bool:
        """Tell whether connections are taken."""
        return self._thread.is_alive()

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return int(self._socket.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                client, peer = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return
                continue
            slots = self._slots.get(str(peer[0]))
            if slots is None:
                self._failed(f"a connection from {peer[0]}, which is no monitor")
                client.close()
                continue
            if not slots.acquire(blocking=False):
                self._failed(f"too many connections at once from {peer[0]}")
                client.close()
                continue
            threading.Thread(target=self._talk, args=(client, slots), daemon=True).start()

    def _talk(self, client: socket.socket, slots: threading.BoundedSemaphore) -> None:
        try:
            client.settimeout(HANDSHAKE_S)
            with self._context.wrap_socket(client, server_side=True) as stream:
                if not named_addresses(stream.getpeercert()) & self._allowed:
                    self._failed("a certificate that is not the monitor's")
                    return
                self._answer(stream)
        except TimeoutError:  # the client went away without a word, or never spoke
            pass
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._failed(str(error))
        finally:
            client.close()
            slots.release()

    def _answer(self, stream: ssl.SSLSocket) -> None:
        """Answer requests until the client has no more: a handshake costs more than a scrape."""
        head = b""
        while True:
            until = time.monotonic() + REQUEST_S if head else None
            while b"\r\n\r\n" not in head:
                if until is not None:  # else: nothing of it is here, the time between two counts
                    stream.settimeout(max(0.001, until - time.monotonic()))
                more = stream.recv(2048)
                until = until or time.monotonic() + REQUEST_S
                if not more or len(head) + len(more) > MAX_REQUEST:
                    return
                head += more
            request, head = head.split(b"\r\n\r\n", 1)
            stream.settimeout(REQUEST_S)
            words = request.split(b"\r\n", 1)[0].split(b" ")
            if words[:1] != [b"GET"]:  # it may bring a body, which nobody reads
                stream.sendall(_response(b"405 Method Not Allowed", b"only GET\n"))
                return
            if len(words) < 2 or words[1].split(b"?", 1)[0] != b"/metrics":
                stream.sendall(_response(b"404 Not Found", b"only /metrics\n"))
            else:
                stream.sendall(_response(b"200 OK", self._render()))
            stream.settimeout(IDLE_S)

    def close(self) -> None:
        """Stop serving."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=HANDSHAKE_S)


def _response(status: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        b"Content-Length: %d\r\n\r\n" % (status, len(body)) + body
    )
