"""ListOps: `[MIN [MAX 3 5 ] [SM 2 7 ] ]`, a balanced binary tree of MAX, MIN and SM (sum modulo 10) over digits.

A partial solution helps here: MAX and MIN often return an operand, so half a tree already beats chance.
After Nangia and Bowman, ListOps (2018).
"""

from neuromas_jax.tasks.expression import LITERAL, Places, unreadable
from neuromas_jax.tasks.types import Question, Task

OPERATORS = {"[MAX": max, "[MIN": min, "[SM": lambda operands: sum(operands) % 10}
NAMES = tuple(OPERATORS)
FORM = "`[MIN [MAX 3 5 ] [SM 2 7 ] ]`: operators MAX, MIN, SM, digits, and blanks between all"


def draw(rng, depth: int) -> str:
    """A balanced tree with `depth` levels of operators."""
    if depth == 0:
        return str(rng.randrange(10))
    return f"{rng.choice(NAMES)} {draw(rng, depth - 1)} {draw(rng, depth - 1)} ]"


def parse(tokens: list[str], at: int, places: Places, names=None) -> tuple[int, int, int, int]:
    """Parse one operand at `tokens[at]`; returns its value, place, depth and the position after it.

    names: values and places of operands that stand under a name, as `{"A": (7, place)}`.
    """
    token = tokens[at]
    if token not in OPERATORS:
        if names and token in names:
            return *names[token], 0, at + 1
        if len(token) != 1 or token not in "0123456789":
            raise ValueError(token)
        return int(token), LITERAL, 0, at + 1
    place = places.place()
    values, needs, deepest = [], [], 0
    at += 1
    while tokens[at] != "]":
        value, need, depth, at = parse(tokens, at, places, names)
        values.append(value)
        needs.append(need)
        deepest = max(deepest, depth)
    value = OPERATORS[token](values)
    places.close(place, str(value), needs)
    return value, place, deepest + 1, at + 1


def read(text: str) -> Question:
    """The question with its facts; raises ValueError on a text of another form."""
    tokens, places = text.split(), Places()
    try:
        value, _, depth, end = parse(tokens, 0, places)
        facts = places.facts(places.level_order())
    except (ValueError, IndexError, RecursionError) as error:
        raise unreadable("listops", text, FORM) from error
    if end != len(tokens):
        raise unreadable("listops", text, FORM)
    return Question(text, str(value), depth, facts=facts)


def make(depths=(1, 2, 3), weights=(0.15, 0.35, 0.50), held_out_depth=4) -> Task:
    """ListOps; depth is the number of levels of operators."""
    return Task("listops", tuple(depths), tuple(weights), held_out_depth, (1, 4), 0.1, True, draw, read)
