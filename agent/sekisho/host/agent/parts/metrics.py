"""The metrics part: the monitor, and nobody else, may read how this host is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Self

from sekisho.core.errors import SekishoError
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.metrics import MetricsServer, server_context
from sekisho.policy.host_policy import HostPolicy


class MetricsPart(Part):
    """Serves the metrics as the policy says, and tells who else came."""

    NAME = "metrics"
    EVERY_S = 5.0

    def __init__(self, book: Book, paths: Paths) -> None:
        self._book, self._etc = book, paths.etc
        self._server: MetricsServer | None = None
        self._serve: Callable[[], MetricsServer] | None = None
        self._refusals: deque[str] = deque(maxlen=100)  # from the server's threads

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.paths)

    def policy(self, policy: HostPolicy) -> None:
        """Serve as a new policy says."""

        def serve() -> MetricsServer:
            etc, wanted = self._etc, policy.metrics
            context = server_context(etc / "host.crt.pem", etc / "host.key.pem", etc / "ca.crt.pem")
            return MetricsServer(
                (wanted.address, wanted.port),
                context,
                allowed=frozenset(policy.management.monitors),
                render=self._render,
                failed=self._refusals.append,
            )

        self._serve = serve
        self.reload()

    def reload(self) -> None:
        """Serve anew, with the certificates that are there now."""
        self.close()
        self._open()

    def _open(self) -> None:
        if self._serve is not None:
            self._server = self._serve()

    def _render(self) -> bytes:
        self._book.parts()  # who reads learns of a part that is silent, whatever became of the loop
        return self._book.metrics.render()

    def look(self) -> None:
        """Tell whom the server refused, and serve where that failed before."""
        while self._refusals:
            self._book.failed(self.NAME, SekishoError(self._refusals.popleft()))
        if self._server is None:
            self._open()
        self._book.up(self.NAME, works=self._server is not None and self._server.serving)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()
            self._server = None
