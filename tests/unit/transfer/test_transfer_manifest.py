"""Names, manifests and headers: what may cross, and every hostile way to write them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.host.transfer.files import digest_files, find_files
from sekisho.host.transfer.outbox import Job, open_outbox
from sekisho.transfer.header import MAX_HEADER, Header, parse_header
from sekisho.transfer.manifest import EMPTY, parse_manifest, spans
from sekisho.transfer.names import check_path, check_together, flaw
from sekisho.transfer.sequence import Sequence, parse_sequence

A, B = "a" * 64, "b" * 64


def value() -> dict[str, Any]:
    return {
        "v": 1,
        "delivery": "0" * 32,
        "sequence": 1,
        "from": "hospital-a",
        "to": "inbound-1",
        "created": 1,
        "total": 30,
        "files": [
            {"path": "empty", "size": 0, "sha256": EMPTY, "parts": []},
            {
                "path": "甲/患者.csv",
                "size": 10,
                "sha256": A,
                "parts": [{"index": 0, "size": 10, "sha256": A}],
            },
            {
                "path": "z",
                "size": 20,
                "sha256": None,
                "parts": [
                    {"index": 1, "size": 15, "sha256": A},
                    {"index": 2, "size": 5, "sha256": A},
                ],
            },
        ],
    }


def test_a_manifest_comes_back_as_it_went_out() -> None:
    raw = canonical(value())
    manifest = parse_manifest(raw)
    assert manifest.to_bytes() == raw
    assert [(part.index, part.offset) for _, part in manifest.parts()] == [(0, 0), (1, 0), (2, 15)]
    assert manifest.part_count() == 3


HOSTILE_NAMES = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\x1b[31m",
    "a\x7f",
    "a\u202eb",
    "a\u200bb",
    "a\u2028b",
    "a\ufeff",
    "a\\b",
    "\udcff",
    "x" * 256,
    "é" * 128,
    "/".join(["x" * 200] * 21),
    "/".join(["x"] * 65),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_refused_with_its_flaw(name: str) -> None:
    assert flaw(name)
    with pytest.raises(SekishoError) as caught:
        check_path(name, "manifest")
    assert caught.value.diagnostics().isprintable() or "\n" in caught.value.diagnostics()
    assert "\x1b" not in caught.value.diagnostics()


@pytest.mark.parametrize(
    "name", ["a", "甲病院/2026年.csv", "x" * 255, "a b", ".hidden", "...", "-rf"]
)
def test_an_ordinary_name_is_allowed(name: str) -> None:
    assert check_path(name, "manifest") == name


@pytest.mark.parametrize(
    "names",
    [
        ["a", "a"],
        ["a", "A"],
        ["straße", "STRASSE"],
        ["é", "e\u0301"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["a/b/c", "a/b"],
        ["Dir/a", "dir/b"],
    ],
)
def test_names_that_collide_somewhere_are_refused(names: list[str]) -> None:
    with pytest.raises(SekishoError, match="collide"):
        check_together(names, "manifest")


def test_names_side_by_side_are_allowed() -> None:
    check_together(["a/b", "a/c", "ab", "a.b/c", "b/a"], "manifest")


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(whole: dict[str, Any]) -> None:
        place: Any = whole
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return apply


HOSTILE = [
    change("v", to=2),
    change("v", to=True),
    change("delivery", to="../../etc"),
    change("delivery", to="0" * 31),
    change("delivery", to="A" * 32),
    change("sequence", to=0),
    change("sequence", to=2**60),
    change("from", to="a/b"),
    change("from", to=""),
    change("to", to="x\n"),
    change("created", to=-1),
    change("total", to=31),
    change("total", to="30"),
    change("extra", to=1),
    change("files", to=[]),
    change("files", to={}),
    change("files", 1, "path", to="../x"),
    change("files", 1, "path", to="Z"),
    change("files", 1, "path", to=7),
    change("files", 1, "mode", to=0o4755),
    change("files", 1, "size", to=11),
    change("files", 1, "size", to=-10),
    change("files", 1, "size", to=True),
    change("files", 1, "sha256", to=B),
    change("files", 1, "sha256", to=None),
    change("files", 2, "sha256", to=B),
    change("files", 0, "sha256", to=None),
    change("files", 1, "sha256", to=7),
    change("files", 1, "sha256", to="A" * 64),
    change("files", 0, "sha256", to=A),
    change("files", 2, "parts", 0, "index", to=2),
    change("files", 2, "parts", 1, "index", to=1),
    change("files", 2, "parts", 1, "size", to=0),
    change("files", 2, "parts", 1, "size", to=2**31),
    change("files", 2, "parts", to=[]),
    change("files", 2, to=None),
]


@pytest.mark.parametrize("apply", HOSTILE)
def test_a_hostile_manifest_is_refused(apply: Callable[[dict[str, Any]], None]) -> None:
    whole = value()
    apply(whole)
    with pytest.raises(SekishoError):
        parse_manifest(canonical(whole))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'{"v":1.0}',
        json.dumps(value()).encode(),
        canonical(value()) + b"\n",
        canonical(value()).replace(b'"v":1', b'"v":1,"v":1'),
    ],
)
def test_bytes_that_are_no_canonical_manifest_are_refused(raw: bytes) -> None:
    with pytest.raises(SekishoError):
        parse_manifest(raw)


HEADER = Header("part", "0" * 32, 3, 10, A)


def test_a_header_comes_back_as_it_went_out() -> None:
    assert parse_header(HEADER.line()) == HEADER


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"{}\n",
        HEADER.line()[:-1],
        HEADER.line().replace(b'"v":1', b'"v":2'),
        HEADER.line().replace(b"part", b"open"),
        HEADER.line().replace(b'"size":10', b'"size":0'),
        HEADER.line().replace(b'"size":10', b'"size":1073741825'),
        HEADER.line().replace(b'"size":10', b'"size":true'),
        HEADER.line().replace(b'"index":3', b'"index":-1'),
        HEADER.line().replace(b'"index":3', b'"index":3.0'),
        HEADER.line().replace(b"0" * 32, b"../" * 10 + b"00"),
        HEADER.line().replace(b'{"', b'{ "'),
        b" " * (MAX_HEADER + 1) + b"\n",
        b"[" * 60_000 + b"\n",
    ],
)
def test_a_hostile_header_is_refused(line: bytes) -> None:
    with pytest.raises(SekishoError):
        parse_header(line)


def test_a_missing_delivery_is_visible_and_one_that_comes_late_is_crossed_off() -> None:
    state, repeated = Sequence().take(1)
    assert (state.missing, repeated) == ((), False)
    state, _ = state.take(4)
    assert state.missing == (2, 3)
    state, repeated = state.take(2)
    assert (state, repeated) == (Sequence(4, (3,)), False)
    state, repeated = state.take(4)
    assert repeated
    assert parse_sequence(state.to_bytes()) == state
    far, _ = Sequence().take(1000)
    assert len(far.missing) == 999
    for leap in (1001, 2**50, 2**53):
        with pytest.raises(SekishoError, match="leaps ahead"):
            Sequence().take(leap)
    for raw in (
        b"",
        b"{}",
        b"[]",
        b'{"highest":"1","missing":[]}',
        b'{"highest":1,"missing":[-1]}',
    ):
        with pytest.raises(SekishoError):
            parse_sequence(raw)


def test_files_are_cut_without_gaps() -> None:
    assert spans(0, 5) == []
    assert spans(5, 5) == [(0, 5)]
    assert spans(11, 5) == [(0, 5), (5, 5), (10, 1)]
    with pytest.raises(SekishoError):
        spans(5, 2**31)


def test_a_directory_is_found_whole_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/c/x").write_bytes(b"12")
    (tmp_path / "a").write_bytes(b"")
    found = find_files(tmp_path)
    assert [(one.path, one.size) for one in found] == [("a", 0), ("b/c/x", 2)]
    entries = digest_files(tmp_path, found, 1, lambda _: None)
    assert [len(entry.parts) for entry in entries] == [0, 2]


def link(path: Path) -> None:
    (path / "bad").symlink_to(path / "elsewhere")


def folder_link(path: Path) -> None:
    (path / "bad").symlink_to(path.parent)


def pipe(path: Path) -> None:
    os.mkfifo(path / "bad")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path / "bad"))


def control(path: Path) -> None:
    (path / "bad\n").touch()


def no_utf8(path: Path) -> None:
    (path / os.fsdecode(b"bad\xff")).touch()


def case(path: Path) -> None:
    (path / "good").touch()
    (path / "GOOD").touch()


@pytest.mark.parametrize(
    "make", [link, folder_link, pipe, unix_socket, control, no_utf8, case, lambda _: None]
)
def test_what_cannot_be_carried_is_refused_not_skipped(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (tmp_path / "sub").mkdir()
    make(tmp_path / "sub")
    with pytest.raises(SekishoError) as caught:
        find_files(tmp_path)
    assert caught.value.problems


def test_a_link_to_a_directory_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(SekishoError):
        find_files(tmp_path / "link")
    with pytest.raises(SekishoError):
        find_files(tmp_path / "none")


def test_an_unfinished_delivery_goes_on_and_a_changed_directory_does_not(tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    (root / "a").write_bytes(b"one")
    job = Job(root, "left", "right", 1024)

    def begin(*, fresh: bool = False) -> tuple[str, int, set[int], bool]:
        with open_outbox(
            tmp_path / "state", job, now=1, fresh=fresh, progress=lambda _: None
        ) as box:
            box.confirm(0)
            return box.manifest.delivery, box.manifest.sequence, set(box.confirmed), box.resumed

    first = begin()
    again = begin()
    assert again[:2] == first[:2]
    assert (first[3], again[3]) == (False, True)
    (root / "a").write_bytes(b"other")
    with pytest.raises(SekishoError, match="cannot be sent") as caught:
        begin()
    assert "--new" in caught.value.diagnostics()
    new = begin(fresh=True)
    assert new[0] != first[0]
    assert (first[1], new[1]) == (1, 2)


def test_a_directory_is_sent_by_one_process_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    (root / "a").touch()
    job = Job(root, "left", "right", 1024)
    state = tmp_path / "state"
    with (
        open_outbox(state, job, now=1, fresh=False, progress=lambda _: None),
        pytest.raises(SekishoError),
        open_outbox(state, job, now=1, fresh=False, progress=lambda _: None),
    ):
        pass
