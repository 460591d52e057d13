# SPDX-License-Identifier: GPL-2.0-or-later
"""Filters over the site's list of devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from sekisho.core.errors import SekishoError
from sekisho.devices.disks import render as disk_list
from sekisho.devices.udev_rules import render


def sekisho_udev_rules(devices: Iterable[Mapping[str, Any]], mode: str = "enforce") -> str:
    """Return the udev rules that admit ``devices`` and nothing else; a dry run only tells."""
    try:
        return render([dict(device) for device in devices], dry=mode == "dry-run")
    except SekishoError as bad:
        raise AnsibleFilterError(bad.diagnostics()) from None


def sekisho_disk_list(disks: Iterable[Mapping[str, Any]]) -> str:
    """Return the wall's list of the machine's own ``disks``."""
    try:
        return disk_list([dict(disk) for disk in disks])
    except SekishoError as bad:
        raise AnsibleFilterError(bad.diagnostics()) from None


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filters by name."""
        return {"sekisho_udev_rules": sekisho_udev_rules, "sekisho_disk_list": sekisho_disk_list}
