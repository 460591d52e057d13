"""A host on the loopback that answers the auditor as a test wants it: honestly, or not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import paramiko

from sekisho.control.ssh.audit import WISH
from sekisho.host.probe.server import serve

Answer = Callable[[paramiko.Channel, bytes], None]


class _Server(paramiko.ServerInterface):
    def __init__(self, accepts: paramiko.PKey | None, answer: Answer) -> None:
        self.accepts = accepts
        self.answer = answer

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == "auditor" and self.accepts is not None and key == self.accepts
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002 - paramiko's interface
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        assert command == WISH.encode()

        def run() -> None:
            with contextlib.suppress(OSError, EOFError):
                request = b""
                while chunk := channel.recv(65536):
                    request += chunk
                self.answer(channel, request)
            channel.close()

        threading.Thread(target=run, daemon=True).start()
        return True


def honest(channel: paramiko.Channel, request: bytes) -> None:
    """Answer with the real probe service."""
    channel.sendall(real_answer(request))


def real_answer(request: bytes) -> bytes:
    """Return the real probe service's bytes for a request."""
    near, far = socket.socketpair()
    with near, far:
        near.sendall(request)
        near.shutdown(socket.SHUT_WR)
        thread = threading.Thread(target=serve, args=(far,))
        thread.start()
        found = b""
        while chunk := near.recv(65536):
            found += chunk
        thread.join()
    return found


@contextlib.contextmanager
def ssh_host(
    host_key: paramiko.PKey, accepts: paramiko.PKey | None, answer: Answer
) -> Iterator[int]:
    """Serve SSH on a loopback port; the port is what is given."""

    def talk(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.add_server_key(host_key)
        with contextlib.suppress(Exception):
            transport.start_server(server=_Server(accepts, answer))
            while transport.is_active():
                time.sleep(0.05)
        transport.close()

    with raw_host(talk) as port:
        yield port


@contextlib.contextmanager
def raw_host(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve bare TCP on a loopback port: ``talk`` gets every connection in its own thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    ended = threading.Event()

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            talk(connection)

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            connection.settimeout(20)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        thread.join()
        listener.close()
