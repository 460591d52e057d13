"""How much is in a JSON text, told before it is parsed. Pure.

A parser makes an object of every few bytes: 24 MiB of ``[],`` become 500 MiB. Counting takes one
pass of two regular expressions that never go back, and no memory beyond the text's own.
"""

from __future__ import annotations

import re
from itertools import accumulate

#: Values (and keys) of any JSON text that no narrower bound is given for: some 100 MB at the worst.
MAX_VALUES = 1_000_000
#: Nothing of ours is nested deeper than a third of this.
MAX_DEPTH = 64
#: A text, whole or cut off by the end: what stands in it counts for nothing.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def json_within(data: bytes, *, values: int = MAX_VALUES, depth: int = MAX_DEPTH) -> None:
    """Raise ValueError when a JSON text holds more values, or is nested deeper, than given.

    Every comma, colon and opening bracket outside a text counts as one value. What is no JSON may
    pass; the parser refuses it.
    """
    if len(data) <= depth:
        return
    bare = _TEXT.sub(b"", data)
    count = sum(map(bare.count, (b",", b":", b"[", b"{")))
    if count > values:
        raise ValueError(f"more than {values} values")
    brackets = bare.translate(None, bytes(set(range(256)) - set(_STEP)))
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth:
        raise ValueError(f"nested deeper than {depth}")
