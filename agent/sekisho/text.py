"""Text that machines write, split as its writers split it. Pure; Ansible's modules use it as well.

`str.splitlines` splits at ten characters, some of which people may put into their own names
(U+2028, U+0085, form feed: ``chfn`` takes them); the kernel and Debian's tools split at one.
"""

from __future__ import annotations


def lines_of(text: str) -> list[str]:
    """Return the lines of ``text``, split at newlines only; an unended last line counts."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines
