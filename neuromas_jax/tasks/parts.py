"""ListOps in parts: the common text is a skeleton over names, each part says what one name stands for.

`[MIN [SM A B ] [MAX C D ] ] ; A = [MAX 3 5 ] ; B = ...`. A node that sees the common text and one part can derive the
facts of that part and nothing above it. A partial solution helps, as in ListOps.
"""

import string

from neuromas_jax.tasks import listops
from neuromas_jax.tasks.expression import Places, unreadable
from neuromas_jax.tasks.types import Fact, Question, Task

# depth: (levels of the skeleton, levels of each part)
SHAPES = {2: (1, 1), 3: (2, 1), 4: (2, 2)}
FORM = "`[MIN A B ] ; A = [MAX 3 5 ] ; B = [SM 2 7 ]`: a ListOps skeleton over names, then one ListOps tree a name"


def draw(rng, depth: int) -> str:
    """A skeleton with one name a leaf, and the part of each name."""
    skeleton, part = SHAPES[depth]
    names = string.ascii_uppercase[: 2**skeleton]

    def tree(level, first, last):
        if level == 0:
            return names[first]
        middle = (first + last) // 2
        return f"{rng.choice(listops.NAMES)} {tree(level - 1, first, middle)} {tree(level - 1, middle, last)} ]"

    texts = [tree(skeleton, 0, len(names))]
    texts += [f"{name} = {listops.draw(rng, part)}" for name in names]
    return " ; ".join(texts)


def read(text: str) -> Question:
    """The question with its facts, shares and common text; raises ValueError on a text of another form.

    Labels: parts first (A, B, ...), then the skeleton's inner operators in reading order, then those inside parts.
    """
    common, *parts = text.split(" ; ")
    try:
        facts, depth, answer = _solve(common.split(), [part.split() for part in parts])
    except (ValueError, IndexError, KeyError, RecursionError) as error:
        raise unreadable("parts", text, FORM) from error
    return Question(text, answer, depth, facts=facts, common=common, parts=tuple(parts))


def _solve(skeleton: list[str], parts: list[list[str]]) -> tuple[tuple[Fact, ...], int, str]:
    letters = string.ascii_uppercase
    inner, names, deepest = [], {}, 0
    spare = len(parts) + sum(token in listops.OPERATORS for token in skeleton) - 1
    for number, (name, equals, *tokens) in enumerate(parts):
        if name != letters[number] or equals != "=":
            raise ValueError(name)
        places = Places()
        value, place, depth, end = listops.parse(tokens, 0, places)
        if depth == 0 or end != len(tokens):
            raise ValueError(tokens)
        labels = [name] + list(letters[spare: spare + places.count - 1])
        spare += places.count - 1
        inner += [Fact(labels[p], v, tuple(labels[n] for n in needs), number) for p, v, needs in places.closed]
        # In the skeleton a name counts as an operand of its own; negative places cannot meet the skeleton's.
        names[name] = (value, -2 - number)
        deepest = max(deepest, depth)
    places = Places()
    value, _, depth, end = listops.parse(skeleton, 0, places, names)
    if depth == 0 or end != len(skeleton) or spare > len(letters):
        raise ValueError(skeleton)

    def label(place):
        if place < 0:
            return letters[-2 - place]
        return "answer" if place == 0 else letters[len(parts) + place - 1]

    outer = [Fact(label(p), v, tuple(label(n) for n in needs)) for p, v, needs in places.closed]
    return tuple(inner + outer), depth + deepest, str(value)


def make(depths=(2, 3), weights=(0.35, 0.65), held_out_depth=4) -> Task:
    """ListOps in parts; depth is the levels of the skeleton and of a part together."""
    return Task("parts", tuple(depths), tuple(weights), held_out_depth, (2, 4), 0.1, True, draw, read)
