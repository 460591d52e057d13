"""Regular expressions of a catalogue: bounded before one ever meets a host's text. Pure.

A host chooses the text, and a bundle from elsewhere the pattern as well, so both have bounds: the
text is short, and the pattern can be tried on it in a bounded number of ways. Python's engine tries
one after the other, and ``(?:a|a)*b`` has two for each letter.
"""

from __future__ import annotations

import re
import re._constants as sre  # type: ignore[import-not-found] # the parser has no public name
import re._parser as sre_parser  # type: ignore[import-not-found]
import warnings
from functools import lru_cache
from typing import Any

MAX_PATTERN = 256
#: Characters of a text that is matched; what a check asks this way is a word or a line.
MAX_TEXT = 1024
#: Two runs of any length, beside each other, on the longest text.
MAX_WAYS = 2 * MAX_TEXT**2
_ONE_WAY = (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN, sre.AT)
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)


@lru_cache(256)
def bounded(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern.

    Raises:
        ValueError: too long, no regular expression, one with a look-around or a back-reference, or
            one that a text of `MAX_TEXT` characters can be tried on in more than `MAX_WAYS` ways.

    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters, at most {MAX_PATTERN}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ways = _ways(sre_parser.parse(pattern))
            if ways <= MAX_WAYS:
                return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as bad:
        raise ValueError(f"no regular expression ({bad})") from None
    raise ValueError("a pattern that a text can be tried on in too many ways (repeats in repeats)")


def _ways(tree: Any) -> int:
    """Return in how many ways a parsed pattern can be tried, at most `MAX_WAYS` + 1."""
    found = 1
    for op, value in tree:
        found = min(found * _of(op, value), MAX_WAYS + 1)
    return found


def _of(op: Any, value: Any) -> int:
    if op in _ONE_WAY:
        return 1
    if op is sre.BRANCH:
        return sum(_ways(branch) for branch in value[1])
    if op is sre.SUBPATTERN:
        return _ways(value[3])
    if op is sre.ATOMIC_GROUP:
        return _ways(value)
    if op in _REPEATS:
        least, most, inner = int(value[0]), min(int(value[1]), MAX_TEXT), _ways(value[2])
        spread = max(most - least, 0) + 1
        # Each turn may go each of the inner ways: ten turns of two are a thousand already.
        return spread if inner == 1 else spread * inner ** min(most, 32)
    raise ValueError("a look-around or a back-reference")
