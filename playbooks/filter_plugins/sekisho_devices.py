# SPDX-License-Identifier: GPL-2.0-or-later
"""Filters over the site's list of devices."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

from sekisho.devices.disks import render as disk_list
from sekisho.devices.udev_rules import render
from sekisho.core.errors import SekishoError


def sekisho_udev_rules(devices, mode="enforce"):
    """Return the udev rules that admit ``devices`` and nothing else; a dry run only tells."""
    try:
        return render([dict(device) for device in devices], dry=mode == "dry-run")
    except SekishoError as bad:
        raise AnsibleFilterError(bad.diagnostics()) from None


def sekisho_disk_list(disks):
    """Return the wall's list of the machine's own ``disks``."""
    try:
        return disk_list([dict(disk) for disk in disks])
    except SekishoError as bad:
        raise AnsibleFilterError(bad.diagnostics()) from None


class FilterModule:
    """What Ansible looks for."""

    def filters(self):
        """Return the filters by name."""
        return {"sekisho_udev_rules": sekisho_udev_rules, "sekisho_disk_list": sekisho_disk_list}
