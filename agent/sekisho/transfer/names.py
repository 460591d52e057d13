"""Which names a delivery may carry: the same on every file system, and never outside its folder."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from sekisho.core.errors import Problem, SekishoError, printable

MAX_COMPONENT = 255  # bytes
#: Bytes. The kernel takes 4,095 (PATH_MAX), and a receiver's own folders go before the path.
MAX_PATH = 3840
MAX_COMPONENTS = 64
MAX_FOLDERS = 100_000  # of one delivery
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
        plain = part.isascii() and part.isprintable()
        if not plain and any(unicodedata.category(letter) in _FORBIDDEN for letter in part):
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


def _folded(part: str) -> bytes:
    if part.isascii():
        return part.lower().encode("ascii")
    whole = unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())
    return whole.encode("utf-8", "surrogatepass")


class Together:
    """Names that have to stand side by side on any file system, taken one after another.

    The same name twice, the same but for case or Unicode form, and a file where another name has a
    folder are refused, and so are more than `MAX_FOLDERS` folders: one entry is kept for each
    component, however deep it lies.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        #: (number of the folder, folded component) → (its number, or 0 for a file; as written).
        #: Bytes: one letter beyond Unicode's first plane makes text four times as large.
        self._seen: dict[tuple[int, bytes], tuple[int, bytes]] = {}
        self._folders = 0

    def add(self, path: str) -> None:
        """Take one more name; SekishoError names the one it cannot stand beside."""
        *folders, name = path.split("/")
        place = 0
        for depth, part in enumerate(folders):
            key, written = (place, _folded(part)), part.encode("utf-8", "surrogatepass")
            found = self._seen.get(key)
            if found is None:
                self._folders += 1
                if self._folders > MAX_FOLDERS:
                    got, text = f"more than {MAX_FOLDERS} folders", "the delivery is too large"
                    raise self._refuse(path, got, "fewer; pack them", text)
                found = self._seen[key] = (self._folders, written)
            if found != (found[0] or -1, written):
                raise self._collide(path, folders[:depth], found[1])
            place = found[0]
        key = (place, _folded(name))
        found = self._seen.get(key)
        if found is not None:
            raise self._collide(path, folders, found[1])
        self._seen[key] = (0, name.encode("utf-8", "surrogatepass"))

    def _collide(self, path: str, folders: list[str], name: bytes) -> SekishoError:
        other = "/".join([*folders, name.decode("utf-8", "surrogatepass")])
        text = "two names of the delivery collide"
        return self._refuse(path, f"also {printable(other)}", "names that differ by more", text)

    def _refuse(self, path: str, got: str, expected: str, text: str) -> SekishoError:
        return SekishoError(text, (Problem(self._where, printable(path), got, expected),))


def check_together(paths: Iterable[str], where: str) -> None:
    """Refuse names that cannot stand side by side everywhere; see `Together`."""
    together = Together(where)
    for path in paths:
        together.add(path)
