"""Putting a delivery's folder together from its held parts; every step can be done again."""

from __future__ import annotations

from pathlib import Path

from sekisho.edge.transfer_files import sync_dir, write_whole
from sekisho.errors import Problem, SekishoError
from sekisho.transfer.manifest import Entry, Manifest

FILE_MODE, FOLDER_MODE = 0o640, 0o750


def refuse(delivery: str, got: str, expected: str) -> SekishoError:
    """Return the error of an object the store does not take."""
    return SekishoError("the object is refused", (Problem("delivery", delivery, got, expected),))


def assemble(folder: Path, manifest: Manifest) -> None:
    """Move the held parts of ``folder`` into its ``tree``, durably.

    Raises:
        OSError: the disk refused.

    """
    mark = folder / "assembling"
    if not mark.exists():
        write_whole(mark, b"", FILE_MODE)
    tree = folder / "tree"
    folders = {tree}
    tree.mkdir(mode=FOLDER_MODE, exist_ok=True)
    for number, entry in enumerate(manifest.files):
        path = tree / entry.path
        if path.parent not in folders:
            path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            folders |= {parent for parent in path.parents if parent.is_relative_to(tree)}
        _move(folder, number, entry, path)
    for place in sorted(folders, key=lambda one: -len(one.parts)):
        sync_dir(place)
    sync_dir(folder)


def _move(folder: Path, number: int, entry: Entry, path: Path) -> None:
    if path.exists():
        return  # moved before a stop
    if not entry.parts:
        path.touch(FILE_MODE)
    elif len(entry.parts) == 1:
        (folder / "parts" / str(entry.parts[0].index)).rename(path)
    else:
        (folder / "files" / str(number)).rename(path)
