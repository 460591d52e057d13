"""Ansible's modules of this tree, loaded as they are; their shared files by Ansible's names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PLAYBOOKS = Path(__file__).resolve().parents[1] / "playbooks"


def module(name: str = "sekisho_live", folder: str = "library") -> ModuleType:
    """Return a module of ``playbooks/FOLDER``, loaded anew."""
    shared()
    return _loaded(name, PLAYBOOKS / folder / f"{name}.py")


def shared() -> None:
    """Make ``ansible.module_utils.sekisho_*`` what Ansible's finder makes of it on a host."""
    from sekisho.core import safe_files, text  # noqa: PLC0415 - the path comes first

    at = "ansible.module_utils.sekisho_"
    if f"{at}handles" not in sys.modules:
        sys.modules[f"{at}safe_files"] = safe_files
        sys.modules[f"{at}text"] = text
        path = PLAYBOOKS / "module_utils/sekisho_handles.py"
        sys.modules[f"{at}handles"] = _loaded("sekisho_handles", path)


def _loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look there
    spec.loader.exec_module(found)
    return found
