"""Verifiers of real benchmarks, by the form of their answers. Every one is total: any object gives a Verdict, in bounded time.

All but code read one line of a message, the last that names the answer (`final_answer`), and compare the whole of it: an answer
that is only somewhere in the text, or one of several, is wrong.

>>> verify("number", "3 + 4 = 7\\nAnswer: 7.", "7").outcome
'right'
>>> verify("choice", "Answer: A or B", "B").outcome
'wrong'
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
import re

from neuromas_jax.tasks.cage import run_caged
from neuromas_jax.tasks.verify import MALFORMED, MAX_CHARACTERS, Verdict, judged, number, verify_text

_LINE = re.compile(r"(?i)(?<![a-z])answer(?:\s+is\b|\s*[:=])?\s*([^\n]*)")
_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[).:]\s*(.*))?")
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_TOKEN = re.compile(r"\s*(?:(\d{1,9})|([-+*/()]))")
MAX_EXPRESSION = 200
LIMIT = 24  # what four numbers must make


def final_answer(message) -> str:
    """What the last line with the word `answer` says, or the last `\\boxed{...}` behind it or where there is no such line.

    Stripped of the marks that models put around answers: `**`, `$`, and a full stop. "" for none, for anything but text, and for
    text that is too long.
    """
    if not isinstance(message, str) or len(message) > MAX_CHARACTERS:
        return ""
    found, at = "", -1
    for match in _LINE.finditer(message):
        found, at = match.group(1), match.start()
    box = message.rfind("\\boxed{")
    if box > at or (box >= 0 and not found):
        found = _braced(message, box + len("\\boxed{"))
    elif "\\boxed{" in found:
        found = _braced(found, found.index("\\boxed{") + len("\\boxed{"))
    found = found.strip().strip("*`").strip()
    if len(found) > 1 and found.startswith("$") and found.endswith("$"):
        found = found.strip("$").strip()
    return found.removesuffix(".").strip().strip("*").strip()


def _braced(text: str, start: int) -> str:
    """From `start` up to the brace that closes it; "" where none does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return ""


def _text(message, answer: str, facts: Mapping) -> Verdict:
    """The same words; spaces and the case of letters do not count."""
    found = final_answer(message)
    return judged(found, " ".join(found.split()).casefold() == " ".join(answer.split()).casefold())


def _number(message, answer: str, facts: Mapping) -> Verdict:
    """The same exact number: `1,234.50`, `3/4`, `$18`, and `50%` where the answer is one."""
    found = final_answer(message).replace("−", "-")
    value = number(found.removeprefix("$").removesuffix("%" if answer.endswith("%") else "").strip())
    return judged(found, value is not None and value == number(answer.removesuffix("%")))


def _choice(message, answer: str, facts: Mapping) -> Verdict:
    """The letter of an option, `B`, `(B)` or `B.`, alone or with that option's own text behind it."""
    found = final_answer(message)
    match = _LETTER.fullmatch(found)
    if match is None:
        return judged(found, False)
    letter, rest = match.group(1).upper(), (match.group(2) or "").strip()
    options = facts.get("options", ())
    index = ord(letter) - ord("A")
    own = options[index] if index < len(options) else ""
    return judged(found, letter == answer and (not rest or rest.casefold() == own.strip().removesuffix(".").casefold()))


def _game24(message, answer: str, facts: Mapping) -> Verdict:
    """An expression over each of the four numbers once that makes 24, in exact fractions; `= 24` may stand behind it."""
    found = final_answer(message)
    text = re.sub(r"\s*=\s*24\s*\Z", "", found).replace("×", "*").replace("÷", "/").replace("−", "-")
    result = evaluate(text)
    if result is None:
        return judged(found, False)
    value, used = result
    return judged(found, value == LIMIT and sorted(used) == sorted(facts["numbers"]))


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """Value of an expression of whole numbers, `+ - * /` and brackets, and the numbers in it; None for anything else.

    No power and no unary sign, so values stay small: of `n` numbers of 9 digits, at most `9 n`.
    """
    if len(text) > MAX_EXPRESSION:
        return None
    tokens, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        tokens.append(match.group(1) or match.group(2))
        at = match.end()
    used: list[int] = []

    def term(place: int, level: int):
        """A sum (level 0), a product (1) or an atom (2) from `place` on: its value and the place behind it."""
        if level == 2:
            token = tokens[place]
            if token == "(":
                value, place = term(place + 1, 0)
                if tokens[place] != ")":
                    raise ValueError
                return value, place + 1
            used.append(int(token))
            return Fraction(int(token)), place + 1
        value, place = term(place, level + 1)
        while place < len(tokens) and tokens[place] in ("+-", "*/")[level]:
            other, after = term(place + 1, level + 1)
            sign, place = tokens[place], after
            value = {"+": value.__add__, "-": value.__sub__, "*": value.__mul__, "/": value.__truediv__}[sign](other)
        return value, place

    try:
        value, end = term(0, 0)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return (value, used) if end == len(tokens) else None


def _latex(message, answer: str, facts: Mapping) -> Verdict:
    """Equal as mathematics, by `math-verify` (extra `math`). It may take long or never end: `judge` gives it a time limit."""
    from math_verify import parse, verify as equal

    found = final_answer(message)
    try:
        right = bool(found) and equal(parse(f"${answer}$", parsing_timeout=None), parse(f"${found}$", parsing_timeout=None),
                                      timeout_seconds=None)
    except Exception:  # it raises whatever sympy does
        right = False
    return judged(found, right)


def _code(message, answer: str, facts: Mapping) -> Verdict:
    """The last fenced block of a message, or all of it, passes the tests in a cage.

    `facts["before"]` is what the program goes on from (HumanEval's prompt), which a message that repeats it need not have.
    """
    if not isinstance(message, str) or len(message) > MAX_CHARACTERS or not message.strip():
        return MALFORMED
    blocks = _BLOCK.findall(message)
    program, before = blocks[-1] if blocks else message, facts.get("before", "")
    name = facts.get("name")
    if before and not (name and re.search(rf"^def {re.escape(name)}\b", program, re.MULTILINE)):
        program = before + program
    elif before:  # a whole function: it still needs the prompt's imports and helpers
        program = before.rstrip() + "\n    pass\n\n" + program
    return judged(program, run_caged([program, *facts["tests"]], seconds=facts.get("seconds", 5.0)))


def _exact(message, answer: str, facts: Mapping) -> Verdict:
    """To the letter what follows the last word `answer`, as the generated families have it."""
    return verify_text(message, answer)


VERIFIERS: dict[str, Callable[[object, str, Mapping], Verdict]] = {
    "exact": _exact, "text": _text, "number": _number, "choice": _choice, "game24": _game24, "latex": _latex, "code": _code,
}
SLOW = ("latex", "code")  # for a judge's workers; the others take microseconds


def verify(kind: str, message, answer: str, facts: Mapping | None = None) -> Verdict:
    """A verdict by one of `VERIFIERS`.

    Args:
      kind: the form of the answer.
      message: anything.
      answer: the right one; "" where a verifier needs none.
      facts: what else it needs: `options` of a choice, `numbers` of the game of 24, `tests`, `before` and `name` of code.

    Raises:
      ValueError: an unknown kind.
    """
    if kind not in VERIFIERS:
        raise ValueError(f"unknown verifier {kind!r}; allowed: {', '.join(VERIFIERS)}")
    return VERIFIERS[kind](message, answer, facts or {})
