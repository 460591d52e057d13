"""Putting a delivery's folder together from its held parts; every step can be done again."""

from __future__ import annotations

import os
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError
from sekisho.host.transfer.files import sync_dir, write_whole
from sekisho.transfer.manifest import each_file

FILE_MODE, FOLDER_MODE = 0o640, 0o750


def refuse(delivery: str, got: str, expected: str, hint: str = "") -> SekishoError:
    """Return the error of an object the store does not take."""
    problem = Problem("delivery", delivery, got, expected, hint=hint)
    return SekishoError("the object is refused", (problem,))


def assemble(folder: Path) -> None:
    """Move the held parts of ``folder`` into its ``tree``, durably.

    Raises:
        SekishoError: the manifest is not the one that was accepted.
        OSError: the disk refused.

    """
    mark = folder / "assembling"
    if not mark.exists():
        write_whole(mark, b"", FILE_MODE)
    tree = folder / "tree"
    tree.mkdir(mode=FOLDER_MODE, exist_ok=True)
    made = tree
    with (folder / "manifest.json").open("rb") as stream:
        for number, (name, first, count) in enumerate(each_file(stream)):
            path = tree / name
            if path.parent != made:
                path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                made = path.parent
            if path.exists():
                continue  # moved before a stop
            if count == 0:
                path.touch(FILE_MODE)
            elif count == 1:
                (folder / "parts" / str(first)).rename(path)
            else:
                (folder / "files" / str(number)).rename(path)
    for place, _, _ in os.walk(tree, topdown=False):
        sync_dir(Path(place))
    sync_dir(folder)
