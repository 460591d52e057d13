"""The one line that goes before an object on the one-way hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.strict_json import strict_json
from sekisho.transfer.manifest import DELIVERY, HEX64, MAX_MANIFEST, MAX_PART, MAX_PARTS

MAX_HEADER = 64 * 1024  # bytes with the newline

Kind = Literal["manifest", "part"]


@dataclass(frozen=True, slots=True)
class Header:
    """What follows: a manifest (index 0) or a part, ``size`` bytes with this SHA-256."""

    kind: Kind
    delivery: str
    index: int
    size: int
    sha256: str

    def line(self) -> bytes:
        """Return the line as sent, with its newline."""
        value = {
            "v": 1,
            "kind": self.kind,
            "delivery": self.delivery,
            "index": self.index,
            "size": self.size,
            "sha256": self.sha256,
        }
        return canonical(value) + b"\n"


def parse_header(line: bytes) -> Header:
    """Return the header of a line (with its newline); SekishoError when it is none."""

    def refuse(key: str, got: object, expected: str) -> SekishoError:
        problem = Problem("header", key, printable(got), expected)
        return SekishoError("the object is refused", (problem,))

    if len(line) > MAX_HEADER or not line.endswith(b"\n"):
        raise refuse("", f"{len(line)} bytes", f"one line of at most {MAX_HEADER} bytes")
    try:
        value = strict_json(line[:-1], size=MAX_HEADER, form=True)
    except (ValueError, TypeError, RecursionError) as error:
        raise refuse("", str(error), "canonical JSON") from error
    keys = {"v", "kind", "delivery", "index", "size", "sha256"}
    if not isinstance(value, dict) or value.keys() != keys:
        raise refuse("", printable(line), f"canonical JSON with {', '.join(sorted(keys))}")
    if value["v"] != 1 or value["kind"] not in {"manifest", "part"}:
        raise refuse("v, kind", (value["v"], value["kind"]), "1 and manifest or part")
    for key, form in (("delivery", DELIVERY), ("sha256", HEX64)):
        if not isinstance(value[key], str) or not form.fullmatch(value[key]):
            raise refuse(key, value[key], form.pattern)
    manifest = value["kind"] == "manifest"
    limits = {
        "index": (0, 0 if manifest else MAX_PARTS - 1),
        "size": (1, MAX_MANIFEST if manifest else MAX_PART),
    }
    for key, (low, high) in limits.items():
        if type(value[key]) is not int or not low <= value[key] <= high:
            raise refuse(key, value[key], f"an integer from {low} to {high}")
    return Header(value["kind"], value["delivery"], value["index"], value["size"], value["sha256"])
