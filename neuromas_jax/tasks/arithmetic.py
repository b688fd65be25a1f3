"""Arithmetic in the wording of BBH multistep_arithmetic_two: `((-1 + 2 + 9 * 5) - (-2 + -4 + -4 * -7)) =`.

Two brackets of k operands from -9 to 9, usual precedence, chains from the left. A partial solution does not help. The operators
of the first bracket are A, C, E, ... and those of the second B, D, F, ..., each from its value back to what is computed first:
the answer is made of A and B whatever the brackets' lengths, and what is learned on short ones serves longer ones. Drawn are
only questions whose values have two digits at most, which the embedded tokenizer writes as one word; `read` takes any.
Wording after Suzgun et al., BIG-Bench Hard (2022).
"""

import functools
import string

from neuromas_jax.tasks.expression import LITERAL, Places, unreadable
from neuromas_jax.tasks.modular import NAMES, OPERATORS
from neuromas_jax.tasks.types import Question, Task

MAX_LITERAL = 9
MAX_VALUE = 99  # of every sub-expression of a drawn question
FAR = 40  # answers this far from 0 are a quarter of all, and hardest to learn
DIGITS = tuple(map(str, range(MAX_LITERAL + 1)))
FORM = "`((-1 + 2 + 9 * 5) - (-2 + -4 + -4 * -7)) =`: two brackets of operands from -9 to 9, operators + - *"


def draw(rng, depth: int, uneven: bool = False, far: float = 0.0) -> str:
    """Two brackets of `depth` operands, or with `uneven` one of them of 2 to `depth`; all values within `MAX_VALUE`.

    far: share of questions whose answer has to lie `FAR` or more from 0.
    """
    def bracket(size):
        terms = [str(rng.randint(-MAX_LITERAL, MAX_LITERAL))]
        for _ in range(size - 1):
            terms += [rng.choice(NAMES), str(rng.randint(-MAX_LITERAL, MAX_LITERAL))]
        return f"({' '.join(terms)})"
    nearest = FAR if far and rng.random() < far else 0
    while True:
        sizes = [depth, rng.randint(2, depth) if uneven else depth]
        if uneven:
            rng.shuffle(sizes)
        text = f"({bracket(sizes[0])} {rng.choice(NAMES)} {bracket(sizes[1])}) ="
        values = [abs(int(fact.value)) for fact in read(text).facts]
        if max(values) <= MAX_VALUE and values[-1] >= nearest:
            return text


class _Parser:
    """Recursive descent; each method returns (value, place)."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.places, self.widest, self.width = tokens, 0, Places(), 0, 0

    def total(self):
        return self._chain(("+", "-"), self.product)

    def product(self):
        return self._chain(("*",), self.operand)

    def _chain(self, words, operand):
        value, place = operand()
        while (word := self.tokens[self.at]) in words:
            self.at += 1
            mine = self.places.place()
            other, other_place = operand()
            value = OPERATORS[word](value, other)
            place = self.places.close(mine, str(value), (place, other_place))
        return value, place

    def operand(self):
        token = self.tokens[self.at]
        self.at += 1
        if token == "(":
            outer, self.width = self.width, 0
            value, place = self.total()
            if self.tokens[self.at] != ")":
                raise ValueError(self.tokens[self.at])
            self.at += 1
            self.widest, self.width = max(self.widest, self.width), outer
            return value, place
        if token.removeprefix("-") not in DIGITS:
            raise ValueError(token)
        self.width += 1
        return int(token), LITERAL


def _letters(closed) -> dict[int, str]:
    """Letters of all operators but the root, which closes last: every other letter to each of its two operands."""
    places, sides = [place for place, _, _ in closed[:-1]], closed[-1][2]
    first = places.index(sides[0]) + 1 if sides else 0  # an operand closes after all that it is made of
    return {place: string.ascii_uppercase[2 * back + side]
            for side, mine in enumerate((places[:first], places[first:])) for back, place in enumerate(reversed(mine))}


def read(text: str) -> Question:
    """The question with its facts; raises ValueError on a text of another form."""
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()
    parser = _Parser(tokens)
    try:
        value, _ = parser.total()
        facts = parser.places.facts(_letters(parser.places.closed))
    except (ValueError, IndexError, RecursionError) as error:
        raise unreadable("arithmetic", text, FORM) from error
    if tokens[parser.at:] != ["="]:
        raise unreadable("arithmetic", text, FORM)
    return Question(text, str(value), parser.widest, facts=facts)


def make(depths=(2, 3, 4), weights=(0.15, 0.35, 0.50), held_out_depth=5, uneven=False, far=0.0) -> Task:
    """Two brackets joined; depth is the number of operands in each, or with `uneven` in the longer one.

    Uneven questions fill the wide step from one depth to the next: at 2 and 4 operands one bracket is as long as the file's.
    """
    return Task("arithmetic", tuple(depths), tuple(weights), held_out_depth, (2, 12), 0.0, False,
                functools.partial(draw, uneven=bool(uneven), far=far), read)
