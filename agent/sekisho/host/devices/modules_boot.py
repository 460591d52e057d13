"""Verbs of the module wall: boot, settle, end, status. One line of JSON, or nothing."""

from __future__ import annotations

import argparse
import json
import sys

from sekisho.core.errors import SekishoError
from sekisho.host.devices.module_wall import Wall


def main(argv: list[str]) -> int:
    """Run one verb; 0 done, 2 not as it should be or could not tell."""
    parser = argparse.ArgumentParser(prog="modules-wall", description=__doc__)
    parser.add_argument("verb", choices=("boot", "settle", "end", "status"))
    parser.add_argument(
        "--check", action="store_true", help="say what would change, change nothing"
    )
    asked = parser.parse_args(argv)
    wall = Wall()
    try:
        if asked.verb == "boot":
            return wall.boot()
        if asked.verb == "end":
            _print({"left": wall.end()})
        elif asked.verb == "settle":
            _print(wall.settle(dry=asked.check))
        else:
            _print(wall.told() | {"closed": wall.closed()})
    except (SekishoError, OSError) as bad:
        said = bad.diagnostics() if isinstance(bad, SekishoError) else str(bad)
        sys.stderr.write(f"modules-wall: {said}\n")
        return 2
    return 0


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
