"""All probes by name: every module of this package that has a ``PROBES`` tuple. No second list."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import sekisho.probes as package
from sekisho.probes.model import Probe


@cache
def registry() -> dict[str, Probe]:
    """Return every probe by name; ValueError when two share one."""
    found: dict[str, Probe] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name in ("account_names", "host_policy", "model", "ownership", "registry"):
            continue
        for probe in importlib.import_module(f"sekisho.probes.{module.name}").PROBES:
            if probe.name in found:
                msg = f"two probes are named {probe.name}"
                raise ValueError(msg)
            found[probe.name] = probe
    return found
