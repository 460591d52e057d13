"""The one durable writer, and the one bounded reader, of files of our own.

For host, control and monitor; a pure room touches no file. In a folder that others own, files are
opened by handle instead (`sekisho.core.safe_files`).
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError


def _unreadable(path: Path, error: OSError) -> SekishoError:
    problem = Problem(str(path), "", error.strerror or "an error", "a readable file")
    return SekishoError(f"{path} cannot be read", (problem,))


def read_bounded(path: Path, limit: int) -> bytes:
    """Return a file's bytes, at most ``limit`` and one more, so that the caller sees the excess.

    Raises:
        SekishoError: not there, not readable, or no regular file.

    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            data = b""
            while len(data) <= limit and (more := os.read(handle, limit + 1 - len(data))):
                data += more
        finally:
            os.close(handle)
    except OSError as error:
        raise _unreadable(path, error) from None
    return data


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, prefix: str = ".sekisho-") -> None:
    """Write a file so that it is the old one or the new one after a power cut, never half.

    A writer that is killed leaves a file behind whose name begins with ``prefix``. An OSError names
    ``path``, not the temporary file beside it.
    """
    try:
        _write_beside(path, data, mode, prefix)
    except OSError as error:
        error.filename = str(path)
        raise


def _write_beside(path: Path, data: bytes, mode: int, prefix: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
