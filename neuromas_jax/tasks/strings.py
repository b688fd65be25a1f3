"""Nested string edits: `reverse swap shift a b c d`, functions applied from right to left to four distinct letters.

A partial solution helps a little: `copy` returns its operand. After Hupkes et al., PCFG SET (2020).
"""

from neuromas_jax.tasks.expression import LITERAL, Places, unreadable
from neuromas_jax.tasks.types import Question, Task

LETTERS = "abcdefghij"
LENGTH = 4
MAX_FUNCTIONS = 26  # one label each
FUNCTIONS = {
    "copy": lambda s: s,
    "reverse": lambda s: s[::-1],
    "shift": lambda s: s[1:] + s[:1],  # rotate left by one
    "swap": lambda s: s[-1:] + s[1:-1] + s[:1],  # first and last exchanged
}
NAMES = tuple(FUNCTIONS)
FORM = "`reverse swap shift a b c d`: functions copy, reverse, shift, swap, then 4 distinct letters from a to j"


def draw(rng, depth: int) -> str:
    """`depth` functions and four letters."""
    return " ".join(rng.choices(NAMES, k=depth) + rng.sample(LETTERS, LENGTH))


def read(text: str) -> Question:
    """The question with its facts; raises ValueError on a text of another form."""
    words = text.split()
    names, letters = words[:-LENGTH], words[-LENGTH:]
    if (not 1 <= len(names) <= MAX_FUNCTIONS or any(name not in FUNCTIONS for name in names) or len(set(letters)) != LENGTH
            or any(letter not in LETTERS or len(letter) != 1 for letter in letters)):
        raise unreadable("strings", text, FORM)
    places, need = Places(), LITERAL
    numbers = [places.place() for _ in names]
    for number in reversed(numbers):
        letters = FUNCTIONS[names[number]](letters)
        need = places.close(number, " ".join(letters), (need,))
    return Question(text, " ".join(letters), len(names), facts=places.facts())


def make(depths=(1, 2, 3, 4), weights=(0.10, 0.20, 0.30, 0.40), held_out_depth=5) -> Task:
    """Nested string edits; depth is the number of functions."""
    return Task("strings", tuple(depths), tuple(weights), held_out_depth, (1, 12), 1 / 24, True, draw, read)
