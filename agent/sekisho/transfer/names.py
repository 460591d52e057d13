"""Which names a delivery may carry: the same on every file system, and never outside its folder."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from sekisho.errors import Problem, SekishoError, printable

MAX_COMPONENT = 255  # bytes
MAX_PATH = 4096  # bytes
MAX_COMPONENTS = 64
# Control, format (bidi marks among them), surrogate, private and line/paragraph separators.
_FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def flaw(path: str) -> str:  # noqa: PLR0911 - one return per flaw
    """Return why ``path`` may not be the name of a file in a delivery, or nothing."""
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        return "a name that is no UTF-8"
    if not path or len(raw) > MAX_PATH:
        return f"{len(raw)} bytes (1 to {MAX_PATH} allowed)"
    parts = path.split("/")
    if path.startswith("/"):
        return "an absolute path"
    if len(parts) > MAX_COMPONENTS:
        return f"{len(parts)} folders deep"
    for part in parts:
        if part in {"", ".", ".."}:
            return f"the component {part!r}"
        if len(part.encode()) > MAX_COMPONENT:
            return f"a component of {len(part.encode())} bytes (at most {MAX_COMPONENT})"
        if "\\" in part:
            return "a backslash"
        if any(unicodedata.category(letter) in _FORBIDDEN for letter in part):
            return "a control or invisible character"
    return ""


def check_path(path: object, where: str) -> str:
    """Return ``path`` when it may stand in a delivery; SekishoError names the flaw."""
    got = flaw(path) if isinstance(path, str) else f"a {type(path).__name__}"
    if got or not isinstance(path, str):
        raise SekishoError(
            "a name in the delivery is not allowed",
            (Problem(where, printable(path), got, "a plain relative path"),),
        )
    return path


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def check_together(paths: Iterable[str], where: str) -> None:
    """Refuse names that cannot stand side by side everywhere.

    Twice the same, the same but for case or Unicode form, or a file where another name has a
    folder: SekishoError names the pair.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folded = _folded(path)
        other = files.get(folded) or folders.get(folded)
        prefix, folded_prefix = path, folded
        while other is None and "/" in prefix:
            prefix, folded_prefix = prefix.rpartition("/")[0], folded_prefix.rpartition("/")[0]
            other = files.get(folded_prefix)
            if folders.setdefault(folded_prefix, prefix) != prefix:
                other = folders[folded_prefix]
        if other is not None:
            problem = Problem(
                where, printable(path), f"also {printable(other)}", "names that differ by more"
            )
            raise SekishoError("two names of the delivery collide", (problem,))
        files[folded] = path
