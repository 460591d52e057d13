"""Text that machines write, split as its writers split it. Pure; Ansible's modules use it as well.

Names in it may be anybody's: of any bytes but two, and of any number.

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


def shown(text: str) -> str:
    """Return text as one line that is valid UTF-8: bytes that were none of it, too, are escaped.

    Ansible refuses a module's whole answer for one lone surrogate.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(lines: list[str], most: int = 1000) -> list[str]:
    """Return lines about things that others name, `shown`, and no more than ``most`` of them."""
    rest = len(lines) - most
    return [shown(line) for line in lines[:most]] + ([f"{rest} more"] if rest > 0 else [])


def is_number(text: str, digits: int = 18) -> bool:
    """Return whether ``text`` is a decimal number of at most ``digits`` ASCII digits.

    `str.isdigit` is true of ``²`` and of other scripts' digits, and `int` refuses the first and
    more than 4,300 digits of any.
    """
    return 0 < len(text) <= digits and text.isascii() and text.isdecimal()
