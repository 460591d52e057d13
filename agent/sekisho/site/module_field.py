"""A machine's ``modules``: how far the wall goes and what may be loaded. Pure."""

from __future__ import annotations

from sekisho.core.yaml_nodes import Node, Reader
from sekisho.devices.module_list import LOCKS, MAX_MODULES, NAME
from sekisho.devices.modules import canonical
from sekisho.site.model import Modules

_MODULES = {"lock": True, "allow": True}


def modules(read: Reader, node: Node | None) -> Modules:
    """Return what a site file says of modules; without a word of it, loading is not shut off."""
    body = read.mapping(node, "modules", _MODULES)
    if node is None or body is None:
        return Modules()
    entries = read.entries(body.get("allow"), "modules.allow", least=0)
    if len(entries) > MAX_MODULES:
        read.wrong(node.line, "modules.allow", f"{len(entries)} names", f"at most {MAX_MODULES}")
    names: dict[str, int] = {}
    for entry in entries[:MAX_MODULES]:
        name = canonical(read.text(entry, "modules.allow", NAME, "a kernel module's name"))
        if name and name in names:
            read.wrong(
                entry.line, "modules.allow", f"{name} again", f"it once (line {names[name]})"
            )
        names.setdefault(name, entry.line)
    return Modules(
        lock=read.one_of(body.get("lock"), "modules.lock", LOCKS),
        allow=tuple(name for name in names if name),
        at=read.at(node.line),
    )
