"""Files of a delivery: found without following links, read and put in place whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.safe_files import Folder, UnsafeError
from sekisho.transfer.manifest import MAX_FILES, Entry, Part, digest_of, spans
from sekisho.transfer.names import check_path, check_together

CHUNK = 1024 * 1024
HASHERS = 2


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file of the directory to send: path, bytes, and what tells that it changed."""

    path: str
    size: int
    mtime_ns: int
    inode: int


def _not_sent(path: str, got: str, expected: str) -> SekishoError:
    return SekishoError(
        "the directory cannot be sent", (Problem(printable(path), "", got, expected),)
    )


def find_files(root: Path) -> list[Found]:
    """Return the regular files below ``root`` in order of path.

    Raises:
        SekishoError: a link, device, socket or pipe, a name not allowed, too many files, none at
            all, or a folder that cannot be read. Nothing is skipped silently.

    """
    found: list[Found] = []

    def stop(error: OSError) -> None:
        raise _not_sent(str(error.filename), printable(str(error)), "a readable folder") from error

    if root.is_symlink():
        raise _not_sent(str(root), "no directory", "a directory, not a link to one")
    try:
        top = Folder.open(str(root))
    except (UnsafeError, FileNotFoundError) as error:
        text = "a directory, with no link of others on the way"
        raise _not_sent(str(root), printable(str(error)), text) from error
    with top, top.opened() as start:
        for folder, names, files, handle in os.fwalk(
            ".", onerror=stop, follow_symlinks=False, dir_fd=start
        ):
            names.sort()
            for name in sorted([*files, *names]):
                path = os.path.relpath(Path(folder) / name)
                status = os.stat(name, dir_fd=handle, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    continue
                if not stat.S_ISREG(status.st_mode):
                    kind = "a link" if stat.S_ISLNK(status.st_mode) else "a device, socket or pipe"
                    raise _not_sent(path, kind, "regular files and folders only")
                check_path(path, str(root))
                found.append(Found(path, status.st_size, status.st_mtime_ns, status.st_ino))
                if len(found) > MAX_FILES:
                    raise _not_sent(str(root), f"more than {MAX_FILES} files", "fewer; pack them")
    if not found:
        raise _not_sent(str(root), "no file", "at least one file")
    found.sort(key=lambda item: item.path)
    check_together((item.path for item in found), str(root))
    return found


@contextlib.contextmanager
def open_beneath(root: Path, path: str) -> Iterator[int]:
    """Open the regular file ``path`` below ``root``, no link of others followed on the way."""
    *folders, name = path.split("/")
    try:
        with contextlib.ExitStack() as stack:
            here = stack.enter_context(Folder.open(str(root)))
            for folder in folders:
                here = stack.enter_context(here.sub(folder))
            fd = stack.enter_context(here.pin(name)).open()
    except UnsafeError as error:
        raise _not_sent(path, error.strerror or "", "what it was a moment ago") from error
    try:
        yield fd
    finally:
        os.close(fd)


def hash_span(fd: int, offset: int, size: int, progress: Callable[[int], None]) -> str:
    """Return the SHA-256 of ``size`` bytes at ``offset``; SekishoError when they are not there."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    end = offset + size
    while offset < end:
        got = os.preadv(fd, [buffer[: min(CHUNK, end - offset)]], offset)
        if got == 0:
            raise _not_sent("", "a file that became shorter", "files that do not change")
        digest.update(buffer[:got])
        offset += got
        progress(got)
    return digest.hexdigest()


def _hash_part(
    root: Path, item: Found, span: tuple[int, int], progress: Callable[[int], None]
) -> str:
    with open_beneath(root, item.path) as fd:
        digest = hash_span(fd, *span, progress)
        status = os.fstat(fd)
    if (status.st_size, status.st_mtime_ns, status.st_ino) != (
        item.size,
        item.mtime_ns,
        item.inode,
    ):
        raise _not_sent(item.path, "it changed while it was read", "files that do not change")
    return digest


def digest_files(
    root: Path, found: list[Found], part_size: int, progress: Callable[[int], None]
) -> tuple[Entry, ...]:
    """Return the manifest's entries of the files; two parts are hashed at a time."""
    entries: list[Entry] = []
    index = 0
    with ThreadPoolExecutor(HASHERS) as pool:
        jobs = [
            [
                (span, pool.submit(_hash_part, root, item, span, progress))
                for span in spans(item.size, part_size)
            ]
            for item in found
        ]
        try:
            for item, pieces in zip(found, jobs, strict=True):
                parts = tuple(
                    Part(index + number, offset, size, job.result())
                    for number, ((offset, size), job) in enumerate(pieces)
                )
                index += len(parts)
                entries.append(Entry(item.path, item.size, digest_of(parts), parts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(entries)


def sync_dir(path: Path) -> None:
    """Bring a folder's names to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes, mode: int = 0o640) -> None:
    """Put a small file in place durably: a reader sees the old one, or all of the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_dir(path.parent)
