"""Modules that Debian ships for Debian's own Python, loaded under another Python as well.

On the servers they are simply there. A checkout's environment has another path; the packages used
here (nftables, prometheus_client) are plain Python, so they load all the same.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from sekisho.core.errors import Problem, SekishoError

FOLDER = "/usr/lib/python3/dist-packages"


def load(module: str, package: str) -> Any:
    """Return a module; SekishoError that names Debian's ``package`` when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pass
    sys.path.append(FOLDER)  # last: nothing of the environment is shadowed
    try:
        return importlib.import_module(module)
    except ImportError:
        problem = Problem(
            sys.executable, module, "no such module", f"Debian's {package}",
            hint=f"apt install {package}",
        )  # fmt: skip
        raise SekishoError(f"{module} is missing", (problem,)) from None
    finally:
        sys.path.remove(FOLDER)
