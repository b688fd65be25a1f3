"""Modular expression trees: `( ( 3 + 5 ) * ( 2 - 7 ) ) % 10 =`, values from 0 to 9.

A partial solution does not help here: every operand moves the result, so half a tree scores like chance.
"""

from neuromas_jax.tasks.expression import LITERAL, Places, unreadable
from neuromas_jax.tasks.types import Question, Task

OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
NAMES = tuple(OPERATORS)
MODULUS = 10
TAIL = ["%", str(MODULUS), "="]
FORM = "`( ( 3 + 5 ) * ( 2 - 7 ) ) % 10 =`: operators + - *, digits, brackets round each operation, blanks between all"


def _tree(rng, depth: int) -> str:
    if depth == 0:
        return str(rng.randrange(10))
    left = _tree(rng, depth - 1)
    return f"( {left} {rng.choice(NAMES)} {_tree(rng, depth - 1)} )"


def draw(rng, depth: int) -> str:
    """A balanced tree with `depth` levels of operators."""
    return f"{_tree(rng, depth)} {' '.join(TAIL)}"


def _parse(tokens: list[str], at: int, places: Places) -> tuple[int, int, int, int]:
    token = tokens[at]
    if token != "(":
        if len(token) != 1 or token not in "0123456789":
            raise ValueError(token)
        return int(token), LITERAL, 0, at + 1
    left, left_place, left_depth, at = _parse(tokens, at + 1, places)
    operator = OPERATORS[tokens[at]]
    place = places.place()
    right, right_place, right_depth, at = _parse(tokens, at + 1, places)
    if tokens[at] != ")":
        raise ValueError(tokens[at])
    value = operator(left, right) % MODULUS
    places.close(place, str(value), (left_place, right_place))
    return value, place, max(left_depth, right_depth) + 1, at + 1


def read(text: str) -> Question:
    """The question with its facts; raises ValueError on a text of another form."""
    tokens, places = text.split(), Places()
    try:
        value, _, depth, end = _parse(tokens, 0, places)
        facts = places.facts(places.level_order())
    except (ValueError, IndexError, KeyError, RecursionError) as error:
        raise unreadable("modular", text, FORM) from error
    if tokens[end:] != TAIL:
        raise unreadable("modular", text, FORM)
    return Question(text, str(value), depth, facts=facts)


def make(depths=(1, 2, 3), weights=(0.15, 0.35, 0.50), held_out_depth=4) -> Task:
    """Modular expression trees; depth is the number of levels of operators."""
    return Task("modular", tuple(depths), tuple(weights), held_out_depth, (1, 4), 0.1, False, draw, read)
