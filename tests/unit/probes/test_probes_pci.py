"""The probe of PCI: told as the policy writes it, or an error."""

from __future__ import annotations

from typing import Any

import pytest
from probes_raw import held

from sekisho.probes.model import ProbeError
from sekisho.probes.pci import PROBES


def pci(numbers: dict[str, str | None]) -> Any:
    texts = {f"/sys/bus/pci/devices/{key}": value for key, value in numbers.items()}
    return PROBES[0].parse({"numbers": held(texts)})


def test_functions_on_pci_are_told_as_the_policy_writes_them() -> None:
    numbers: dict[str, str | None] = {
        "0000:00:1f.2/vendor": "0x8086\n", "0000:00:1f.2/device": "0xa102\n",
        "0000:00:01.0/vendor": "0x8086\n", "0000:00:01.0/device": "garbled",
    }  # fmt: skip
    assert pci(numbers) == {"functions": ["0000:00:01.0 8086:????", "0000:00:1f.2 8086:a102"]}


@pytest.mark.parametrize(
    "numbers", [{}, {"0000:00:1f.2/vendor": "0x8086"}, {"0000:00:1f.2/vendor": None}]
)
def test_functions_that_cannot_be_read_are_an_error(numbers: dict[str, str | None]) -> None:
    with pytest.raises(ProbeError):
        pci(numbers)
