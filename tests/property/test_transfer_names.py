"""Any bytes as names, manifests and headers: judged, never a crash, never outside the folder."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.errors import SekishoError
from sekisho.transfer.header import parse_header
from sekisho.transfer.manifest import (
    Entry,
    Manifest,
    Part,
    digest_of,
    parse_manifest,
    spans,
)
from sekisho.transfer.names import flaw

some = settings(max_examples=examples(400), deadline=None, database=None)
text = st.text(
    alphabet=st.one_of(st.characters(), st.sampled_from("/.\\\0\n a\u202e")), max_size=40
)


@some
@given(path=text)
def test_an_allowed_name_stays_below_its_folder(path: str) -> None:
    if not flaw(path):
        assert posixpath.normpath(path) == path
        assert posixpath.normpath(posixpath.join("/store", path)).startswith("/store/")
        assert "\0" not in path
        path.encode("utf-8")


@some
@given(raw=st.binary(max_size=300))
def test_any_bytes_are_refused_clearly(raw: bytes) -> None:
    for parse in (parse_header, parse_manifest):
        with pytest.raises(SekishoError) as caught:
            parse(raw)
        assert "\x1b" not in caught.value.diagnostics()


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@some
@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=8),
    part=st.integers(1, 3000),
    digest=digests,
)
def test_every_built_manifest_is_accepted_and_its_parts_cover_each_file(
    sizes: list[int], part: int, digest: str
) -> None:
    entries, index = [], 0
    for number, size in enumerate(sizes):
        parts = []
        for offset, length in spans(size, part):
            parts.append(Part(index, offset, length, digest))
            index += 1
        entries.append(Entry(f"f{number}", size, digest_of(parts), tuple(parts)))
    manifest = Manifest("0" * 32, 1, "a", "b", 0, tuple(entries), sum(sizes))
    assert parse_manifest(manifest.to_bytes()) == manifest
