"""Boolean expressions in the wording of BBH boolean_expressions: `not ( True ) and ( True ) is`.

Drawn from the grammar by a budget of tokens and read with Python's precedence (not, and, or; chains from the left).
Answers are balanced. Training uses other lengths than the file's 8 tokens. A partial solution helps: `and` and `or`
often return an operand. Wording after Suzgun et al., BIG-Bench Hard (2022).
"""

from neuromas_jax.tasks.expression import LITERAL, Places, unreadable
from neuromas_jax.tasks.types import Question, Task

NOT, BRACKET = 0.25, 0.25  # where all fit the budget: not, brackets, and, or are equally likely
FORM = "`not ( True ) and False is`: True, False, not, and, or, brackets, blanks between all, `is` at the end"


def _expression(rng, tokens: int) -> str:
    if tokens == 1:
        return "True" if rng.random() < 0.5 else "False"
    rule = rng.random() if tokens > 2 else 0.0
    if rule < NOT:
        return "not " + _expression(rng, tokens - 1)
    if rule < NOT + BRACKET:
        return f"( {_expression(rng, tokens - 2)} )"
    left = 1 + int(rng.random() * (tokens - 2))
    word = "and" if rng.random() < 0.5 else "or"
    return f"{_expression(rng, left)} {word} {_expression(rng, tokens - 1 - left)}"


def draw(rng, depth: int, wanted: str) -> str:
    """An expression of `depth` tokens with one operator at least and the answer `wanted`."""
    while True:
        text = _expression(rng, depth) + " is"
        if ("not" in text or "and" in text or "or" in text) and _parse(text)[0] == wanted:
            return text


class _Parser:
    """Recursive descent; each method returns (value, place)."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at, self.places = tokens, 0, Places()

    def disjunction(self):
        return self._chain("or", self.conjunction)

    def conjunction(self):
        return self._chain("and", self.negation)

    def _chain(self, word, operand):
        value, place = operand()
        while self.tokens[self.at] == word:
            self.at += 1
            mine = self.places.place()
            other, other_place = operand()
            value = (value or other) if word == "or" else (value and other)
            place = self.places.close(mine, str(value), (place, other_place))
        return value, place

    def negation(self):
        token = self.tokens[self.at]
        self.at += 1
        if token == "not":
            mine = self.places.place()
            value, place = self.negation()
            return not value, self.places.close(mine, str(not value), (place,))
        if token == "(":
            value, place = self.disjunction()
            if self.tokens[self.at] != ")":
                raise ValueError(self.tokens[self.at])
            self.at += 1
            return value, place
        if token not in ("True", "False"):
            raise ValueError(token)
        return token == "True", LITERAL


def _parse(text: str) -> tuple[str, int, Places]:
    tokens = text.split()
    parser = _Parser(tokens)
    try:
        value, _ = parser.disjunction()
    except (ValueError, IndexError, RecursionError) as error:
        raise unreadable("boolean", text, FORM) from error
    if tokens[parser.at:] != ["is"]:
        raise unreadable("boolean", text, FORM)
    return str(value), len(tokens) - 1, parser.places


def read(text: str) -> Question:
    """The question with its facts; raises ValueError on a text of another form."""
    value, depth, places = _parse(text)
    try:
        facts = places.facts()
    except ValueError as error:
        raise unreadable("boolean", text, FORM) from error
    return Question(text, value, depth, facts=facts)


def make(depths=(4, 5, 6, 7, 9, 10, 11), weights=(1, 1, 1, 1, 1, 1, 1), held_out_depth=8) -> Task:
    """Boolean expressions; depth is the number of tokens before `is`."""
    return Task("boolean", tuple(depths), tuple(weights), held_out_depth, (4, 20), 0.5, True, draw, read,
                (("True", 0.5), ("False", 0.5)))
