"""YAML into a tree that knows its lines, and a reader that collects every problem. Pure.

Built from libyaml's events in one loop: no recursion (deeply nested input crashes PyYAML's own
composer), no anchors or aliases (they multiply), no tags, no duplicate keys, no second document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import yaml

from sekisho.core.errors import Problem, printable

#: Deeper nesting than any inventory needs.
MAX_DEPTH = 32


@dataclass(slots=True)
class Node:
    """A scalar (``text``), a mapping (``pairs``) or a list (``entries``) and its line, from 1."""

    line: int
    text: str | None = None
    plain: bool = False
    pairs: dict[str, tuple[int, Node]] | None = None
    entries: list[Node] | None = None

    def describe(self) -> str:
        """Return what stands here, safe to print."""
        if self.pairs is not None:
            return f"a mapping ({printable(', '.join(list(self.pairs)[:6]), 60)})"
        if self.entries is not None:
            return f"a list of {len(self.entries)}"
        if self.text == "" and self.plain:
            return "nothing"
        return printable(repr(self.text))


@dataclass(slots=True)
class _Open:
    """A container still being filled, and the key that waits for its value."""

    node: Node
    key: str | None = None
    line: int = 0


_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark is not None else 1


class Reader:
    """One file being read: turns nodes into values and keeps every problem."""

    def __init__(self, path: str, problems: list[Problem]) -> None:
        self.path = path
        self.problems = problems

    def at(self, line: int) -> str:
        """Return ``file:line``."""
        return f"{self.path}:{line}"

    def wrong(  # noqa: PLR0913, PLR0917 - a problem has this many sides
        self, line: int, key: str, got: str, expected: str, item: str = "", hint: str = ""
    ) -> None:
        """Keep one problem."""
        self.problems.append(Problem(self.at(line), key, got, expected, item, hint))

    def compose(self, text: str) -> Node | None:
        """Return the tree of ``text``, or None after keeping the problem that stopped it."""
        before = len(self.problems)
        try:
            root = self._compose(text)
        except yaml.YAMLError as bad:
            mark = getattr(bad, "problem_mark", None)
            said = printable(getattr(bad, "problem", None) or str(bad))
            self.wrong(mark.line + 1 if mark is not None else 1, "", said, "YAML")
            return None
        return root if len(self.problems) == before else None

    def _compose(self, text: str) -> Node | None:
        root: Node | None = None
        stack: list[_Open] = []
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, _ENDS):
                stack.pop()
                continue
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                self.wrong(_line(event), "", "a second document", "one document per file")
                return None
            if not isinstance(event, yaml.NodeEvent):
                continue
            node = self._node(event)
            if node is None:
                return None
            if not stack:
                root = node
            elif not self._place(stack[-1], node):
                return None
            if node.text is None:
                if len(stack) >= MAX_DEPTH:
                    self.wrong(node.line, "", f"nesting deeper than {MAX_DEPTH}", "a flatter file")
                    return None
                stack.append(_Open(node))
        return root

    def _node(self, event: yaml.NodeEvent) -> Node | None:
        """Return an event's node; None after keeping the problem of an anchor, alias or tag."""
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            self.wrong(line, "", f"an alias (*{printable(event.anchor, 40)})", "the value itself")
            return None
        if event.anchor is not None:
            self.wrong(line, "", f"an anchor (&{printable(event.anchor, 40)})", "no anchors")
            return None
        if getattr(event, "tag", None) is not None:
            self.wrong(line, "", f"a tag ({printable(getattr(event, 'tag', ''), 40)})", "no tags")
            return None
        if isinstance(event, yaml.ScalarEvent):
            return Node(line, text=event.value, plain=event.implicit[0])
        if isinstance(event, yaml.MappingStartEvent):
            return Node(line, pairs={})
        return Node(line, entries=[])

    def _place(self, top: _Open, node: Node) -> bool:
        """Put ``node`` where the open container wants it; False when it cannot stand there."""
        if top.node.entries is not None:
            top.node.entries.append(node)
        elif top.key is not None:
            self._add(top.node, top.key, top.line, node)
            top.key = None
        elif node.text is None:
            self.wrong(node.line, "", node.describe(), "a plain key")
            return False
        else:
            top.key, top.line = node.text, node.line
        return True

    def _add(self, parent: Node, key: str, line: int, node: Node) -> None:
        pairs = parent.pairs
        assert pairs is not None  # noqa: S101 - only mappings have keys
        if key in pairs:
            first = pairs[key][0]
            self.wrong(line, printable(key, 60), "the same key again", f"it once (line {first})")
            return
        pairs[key] = (line, node)

    # -- values -------------------------------------------------------------------------------

    def mapping(
        self, node: Node | None, key: str, allowed: Mapping[str, bool]
    ) -> dict[str, Node] | None:
        """Return a mapping with only ``allowed`` keys (value: required) as key → node."""
        if node is None:
            return None
        if node.pairs is None:
            self.wrong(node.line, key, node.describe(), f"a mapping with {', '.join(allowed)}")
            return None
        found: dict[str, Node] = {}
        for name, (line, value) in node.pairs.items():
            if name in allowed:
                found[name] = value
            else:
                self.wrong(
                    line,
                    f"{key}.{printable(name, 60)}" if key else printable(name, 60),
                    "an unknown key",
                    f"one of {', '.join(allowed)}",
                )
        for name, needed in allowed.items():
            if needed and name not in found:
                self.wrong(node.line, f"{key}.{name}" if key else name, "nothing", "a value")
        return found

    def named(
        self, node: Node | None, key: str, name: re.Pattern[str], what: str
    ) -> list[tuple[str, int, Node]]:
        """Return the entries of a mapping from names to values as (name, line, node)."""
        if node is None:
            return []
        if node.pairs is None:
            self.wrong(node.line, key, node.describe(), f"a mapping from {what} to its description")
            return []
        found: list[tuple[str, int, Node]] = []
        for entry, (line, value) in node.pairs.items():
            if name.fullmatch(entry) and (other := yaml_type(entry)) is not None:
                read_as = f"a word that YAML reads as {other.removeprefix('a YAML ')}"
                self.wrong(line, f"{key}.{entry}", read_as, f"another name for {what}")
            elif name.fullmatch(entry):
                found.append((entry, line, value))
            else:
                self.wrong(line, f"{key}.{printable(entry, 60)}", "this name", f"{name.pattern}")
        return found

    def text(self, node: Node | None, key: str, pattern: re.Pattern[str], expected: str) -> str:
        """Return text that matches ``pattern`` whole; "" after keeping the problem."""
        if node is None:
            return ""
        if node.text is None:
            self.wrong(node.line, key, node.describe(), expected)
            return ""
        if node.plain and (other := yaml_type(node.text)) is not None:
            self.wrong(node.line, key, f"{other} ({node.describe()})", f"{expected}, in quotes")
            return ""
        if not pattern.fullmatch(node.text):
            self.wrong(node.line, key, node.describe(), expected)
            return ""
        return node.text

    def number(self, node: Node | None, key: str, low: int, high: int) -> int:
        """Return a decimal integer from ``low`` to ``high``; ``low`` after keeping the problem."""
        if node is None:
            return low
        text = node.text
        if text is None or not node.plain or not re.fullmatch(r"0|[1-9][0-9]{0,9}", text):
            self.wrong(node.line, key, node.describe(), f"a whole number from {low} to {high}")
            return low
        if not low <= int(text) <= high:
            self.wrong(node.line, key, text, f"a whole number from {low} to {high}")
            return low
        return int(text)

    def one_of(self, node: Node | None, key: str, allowed: Sequence[str]) -> str:
        """Return one of ``allowed``; the first after keeping the problem."""
        if node is None:
            return allowed[0]
        if node.text in allowed:
            return str(node.text)
        self.wrong(node.line, key, node.describe(), f"one of {', '.join(allowed)}")
        return allowed[0]

    def entries(self, node: Node | None, key: str, *, least: int) -> list[Node]:
        """Return a list's entries; keep a problem when it is no list or shorter than ``least``."""
        if node is None:
            return []
        if node.entries is None:
            self.wrong(node.line, key, node.describe(), "a list")
            return []
        if len(node.entries) < least:
            self.wrong(node.line, key, node.describe(), f"a list of at least {least}")
        return node.entries


@lru_cache(maxsize=4096)
def yaml_type(text: str) -> str | None:
    """Return what YAML (and so Ansible) makes of plain ``text`` when that is not text."""
    candidates = yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], [])
    for tag, regexp in candidates:
        if regexp.match(text):
            return f"a YAML {tag.rpartition(':')[2]}"
    return None
