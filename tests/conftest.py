"""Guards: a test cannot start a program, open a connection or write outside its own folder.

Opting in is a mark: ``process`` (programs, sockets), ``kernel`` (own namespaces), ``vm`` (the lab).
The guard is an audit hook (PEP 578), so that it holds whatever library makes the call.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The unit tests lie in folders named after rooms, and some share a world with a neighbour.
sys.path += [
    str(folder) for folder in sorted((Path(__file__).parent / "unit").iterdir()) if folder.is_dir()
]

_OPT_IN = ("process", "kernel", "vm")
_armed = False
_PROCESS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn"}
_CONNECT = {"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"}
#: Where an event's arguments hold the handle of the folder that its name is relative to.
_RELATIVE = {
    "os.remove": -1, "os.rmdir": -1, "os.chmod": -1, "os.chown": -1, "os.symlink": -1,
    "os.rename": 2, "os.link": 2,
}  # fmt: skip
_opening = threading.local()  # the event of os.open does not tell its folder
_open = os.open


def _open_told(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    _opening.folder = dir_fd
    try:
        return _open(path, flags, mode, dir_fd=dir_fd)
    finally:
        _opening.folder = None


os.open = _open_told
_WRITABLE = tuple(
    str(path)
    for path in (
        Path(tempfile.gettempdir()),
        Path(__file__).resolve().parent.parent / ".hypothesis",
        Path(__file__).resolve().parent.parent / ".pytest_cache",
        Path("/dev/null"),
        Path("/dev/shm"),
    )
)


class HostTouchedError(AssertionError):
    """A test without a mark reached for the host."""


def _outside(path: Any, folder: Any = -1) -> bool:
    if isinstance(path, int) or path is None:
        return False
    if os.fsdecode(path).startswith("/proc/self/fd/"):  # by an open handle
        path = os.path.realpath(path)
    if isinstance(folder, int) and folder >= 0:  # relative to an open directory
        path = os.path.join(
            os.readlink(f"/proc/self/fd/{folder}"),
            os.fsdecode(path),
        )
    text = os.path.abspath(os.fsdecode(path))
    return not text.startswith(_WRITABLE) and "__pycache__" not in text


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _armed:
        return
    if event in _PROCESS:
        raise HostTouchedError(f"{event}{args[:2]!r}: mark the test `process`")
    if event in _CONNECT and not (
        len(args) > 1 and isinstance(args[1], (str, bytes))  # a unix socket's path
    ):
        raise HostTouchedError(f"{event}{args[1:]!r}: mark the test `process`")
    if event == "open":
        path, mode, flags = args
        writes = (
            bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if mode is None
            else any(letter in mode for letter in "wax+")
        )
        if writes and _outside(path, getattr(_opening, "folder", None)):
            raise HostTouchedError(f"open({path!r}) for writing outside the test's own folder")
    if event in _RELATIVE and _outside(args[event == "os.symlink"], args[_RELATIVE[event]]):
        raise HostTouchedError(f"{event}({args[0]!r}) outside the test's own folder")


sys.addaudithook(_hook)

# A slow moment of the machine is no defect; `make check` as a whole has its time.
settings.register_profile("thorough", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=40)  # see examples.py
# CI repeats what was tried before: a fault that chance finds there would stop others' work.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "thorough")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lab", action="store_true", help="also run the tests that need the lab")
    parser.addoption(
        "--quiet-machine",
        action="store_true",
        help="also run the tests under thousands of packets a second",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "vm" in item.keywords and not config.getoption("--lab"):
            item.add_marker(pytest.mark.skip(reason="needs the lab: make test-lab"))
        # Two processes of tests at once, as `make test` runs them, are no quiet machine.
        if "quiet_machine" in item.keywords and not config.getoption("--quiet-machine"):
            item.add_marker(pytest.mark.skip(reason="needs a quiet machine: make test-time"))


@pytest.fixture(autouse=True)
def _host_is_out_of_reach(request: pytest.FixtureRequest) -> Iterator[None]:
    global _armed  # noqa: PLW0603 - an audit hook cannot be removed, only disarmed
    _armed = not any(mark in request.keywords for mark in _OPT_IN)
    yield
    _armed = False


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the checkout's root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """Return the outside test data; missing is a failure in CI and a skip on a laptop."""
    path = Path(os.environ.get("SEKISHO_SHARED", repository.parent / "shared")) / "data"
    if not path.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"outside test data is not at {path}")
        pytest.skip(f"outside test data is not at {path}")
    return path
