"""Shared by the expression families: operator places, their labels, and the facts of a parsed expression.

A parser calls `place()` when it reads an operator and `close(...)` once the operands are known, so operators are
numbered in reading order and closed in the order of computation, needs first; the root closes last.
"""

import string

from neuromas_jax.tasks.types import Fact

LITERAL = -1  # the "place" of an operand that is a literal


class Places:
    """Operators of one expression: numbered when read, valued when closed."""

    def __init__(self):
        self.count = 0
        self.closed = []

    def place(self) -> int:
        """The number of the operator just read, from 0."""
        self.count += 1
        return self.count - 1

    def close(self, place: int, value: str, operands) -> int:
        """Record the value of an operator; operands are places, LITERAL for literals. Returns the place."""
        self.closed.append((place, value, tuple(p for p in operands if p != LITERAL)))
        return place

    def level_order(self) -> dict[int, str]:
        """Letters from the root down: its operands first, then theirs, each level from left to right.

        In balanced trees the answer is then made of A and B at every depth, and what is learned on shallow questions serves
        deeper ones.
        """
        needs_of = {place: needs for place, _, needs in self.closed}
        order = list(self.closed[-1][2])
        for place in order:  # it grows while it is read
            order += needs_of[place]
        return dict(zip(order, string.ascii_uppercase))

    def facts(self, letters: dict[int, str] | None = None) -> tuple[Fact, ...]:
        """Facts with needs first. The root is `answer`, every other operator has its letter, by default that of its place.

        Raises ValueError where there is no operator or more than there are letters.
        """
        if not self.closed:
            raise ValueError("the expression has no operator; a question needs one at least")
        if self.count > len(string.ascii_uppercase):
            raise ValueError(f"{self.count} operators, but labels go from A to Z; choose a smaller depth")
        letters = letters or dict(enumerate(string.ascii_uppercase[: self.count]))
        labels = letters | {self.closed[-1][0]: "answer"}
        return tuple(Fact(labels[p], value, tuple(labels[n] for n in needs)) for p, value, needs in self.closed)


def unreadable(family: str, text: str, form: str) -> ValueError:
    """The error for a text that is not of the family's form."""
    return ValueError(f"cannot read {text[:200]!r} as {family}; the form is {form}")
