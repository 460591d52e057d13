"""The one reader of JSON that others wrote: bounded before it is parsed, one reading only. Pure.

Two readers of one text must see one value, so a key that stands twice, a float, NaN, a byte order
mark or another encoding than UTF-8 is refused, not mended (RFC 8259, 4 and 8.1; RFC 7493).
"""

from __future__ import annotations

import json
from typing import Any

from sekisho.core.bounds import MAX_DEPTH, MAX_VALUES, json_within
from sekisho.core.canonical import canonical
from sekisho.core.errors import printable


def strict_json(  # noqa: PLR0913 - each is one bound or one freedom, by name
    data: bytes,
    *,
    size: int,
    values: int = MAX_VALUES,
    depth: int = MAX_DEPTH,
    floats: bool = False,
    surrogates: bool = False,
    form: bool = False,
) -> Any:
    """Return the value of a JSON text.

    Args:
        data: the text.
        size: the most bytes it may have.
        values: the most values and keys it may hold (`sekisho.core.bounds.json_within`).
        depth: the deepest it may be nested.
        floats: whether numbers with a point or an exponent pass (never NaN or an infinity).
        surrogates: whether text may hold lone surrogates, as names of files that are no UTF-8 do.
        form: whether it must be in canonical form (`sekisho.core.canonical`).

    Raises:
        ValueError: says what is wrong; nothing is parsed of what is too large.

    """
    if len(data) > size:
        raise ValueError(f"more than {size} bytes")
    json_within(data, values=values, depth=depth)
    try:
        value = json.loads(
            data.decode("utf-8", "surrogatepass" if surrogates else "strict"),
            object_pairs_hook=_unique,
            parse_float=float if floats else _no_float,
            parse_constant=_no_float,
        )
        if not surrogates and b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        same = not form or canonical(value) == data
    except UnicodeDecodeError as bad:
        raise ValueError(f"byte {bad.start} is no UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("text with half a character (a lone surrogate)") from None
    except json.JSONDecodeError as bad:
        raise ValueError(f"no JSON: {bad.msg} at character {bad.pos}") from None
    except (TypeError, RecursionError) as bad:
        raise ValueError(printable(str(bad))) from None
    if not same:
        raise ValueError("another form of JSON than the canonical one")
    return value


def _no_float(text: str) -> Any:
    raise ValueError(f"the number {printable(text, 40)}, which has no canonical form")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {printable(again, 40)!r} twice")
    return found
