"""How every command shows itself: tables in a terminal."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDTH_OF_A_PIPE = 132


def console(*, color: bool, stderr: bool = False) -> Console:
    """Return a console; ``color`` False or NO_COLOR turns colours off."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        no_color=None if color else True,
        highlight=False,
        width=None if stream.isatty() else _WIDTH_OF_A_PIPE,
    )
