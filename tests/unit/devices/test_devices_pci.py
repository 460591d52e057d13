"""The PCI functions a machine is made of: one form, each place once, anything else refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.devices.pci import FUNCTION, MAX_FUNCTIONS, function, parse_functions, twice

ONE = "0000:00:1f.2 8086:a102"
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(ONE) | st.from_regex(FUNCTION),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(ANY)
def test_a_list_is_taken_whole_or_refused(value: Any) -> None:
    try:
        found = parse_functions(value)
    except SekishoError:
        return
    assert found == set(value)
    assert all(FUNCTION.fullmatch(one) for one in found)
    assert twice(found) is None


@pytest.mark.parametrize(
    "value",
    [None, ONE, [ONE, ONE], [ONE, "0000:00:1f.2 8086:a103"], ["0000:00:1F.2 8086:A102"],
     [f"{i:04x}:00:00.0 8086:0001" for i in range(MAX_FUNCTIONS + 1)]],
)  # fmt: skip
def test_a_garbled_list_is_refused(value: Any) -> None:
    with pytest.raises(SekishoError):
        parse_functions(value)


@given(st.text() | st.none(), st.text() | st.none())
def test_what_sysfs_does_not_say_fits_no_list(vendor: str | None, device: str | None) -> None:
    told = function("0000:00:1f.2", vendor, device)
    assert FUNCTION.fullmatch(told) is None or "?" not in told
    assert function("0000:00:1f.2", "0x8086\n", "0xa102\n") == ONE
