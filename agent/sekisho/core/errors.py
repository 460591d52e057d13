"""One base for every error a person reads: what failed, where, got, expected, what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect of an input.

    Attributes:
        where: file and line, host or offset, as a reader would look it up.
        key: the field or record that is wrong ("" when the whole input is).
        got: what stands there, already safe to print.
        expected: what should stand there.
        item: the item of the regulation it touches, or "".
        hint: what to do next, or "".

    """

    where: str
    key: str
    got: str
    expected: str
    item: str = ""
    hint: str = ""

    def line(self) -> str:
        """Return the problem as one line for a terminal, whatever its parts hold."""
        text = f"{self.where}: {self.key + ': ' if self.key else ''}got {self.got}"
        text += f"; expected {self.expected}"
        if self.item:
            text += f" [{self.item}]"
        if self.hint:
            text += f" -> {self.hint}"
        return printable(text, 4000)


class SekishoError(Exception):
    """A failure with everything its reader needs; foreign exceptions become one at the edge."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = problems

    def diagnostics(self) -> str:
        """Return the message and one line per problem."""
        return "\n".join([self.message, *(f"  {problem.line()}" for problem in self.problems)])


def printable(value: object, limit: int = 120) -> str:
    """Return ``value`` safe for a terminal: control and non-ASCII-bidi characters escaped, cut."""
    text = value if isinstance(value, str) else repr(value)
    # Cut first: what is shown of 4 MiB costs no more than what is shown of a line.
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1]
    )
    length = max(len(text), len(safe))
    return safe if length <= limit else f"{safe[:limit]}… ({length} characters)"
