"""Verifiers of real benchmarks, by the form of their answers. Every one is total: any object gives a Verdict, in bounded time.

All but code read what a message gives as its answer (`final_answer`) and compare the whole of it: one that is only somewhere in
the text, or one of several, is wrong.

>>> verify("number", "3 + 4 = 7\\nAnswer: 7.", "7").outcome
'right'
>>> verify("choice", "Answer: A or B", "B").outcome
'wrong'
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
import itertools
import re
import textwrap

from neuromas_jax.tasks.cage import run_caged
from neuromas_jax.tasks.verify import MALFORMED, MAX_CHARACTERS, Verdict, judged, number, verify_text

# `answer`, and whether `is`, `:` or `=` says that it comes now; marks for bold text may stand between.
_ANSWER = re.compile(r"(?i)(?<![a-z])answer\b[ \t*_`]*(is\b)?[ \t*_`]*([:=])?[ \t*_]*|^####", re.MULTILINE)
_LETTER = re.compile(r"(?:option |choice )?[(\[]?([a-z])[)\]]?(?: ?[).:\-] ?(\S.*)?)?", re.IGNORECASE)
_FENCE = re.compile(r"[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[ \t]*\r?")
_TOKEN = re.compile(r"\s*(?:(\d{1,9})|([-+*/()]))")
_WRAPPED = re.compile(r"\\(?:boxed|text|textbf|textit|mathrm|mathbf|mathsf) ?\{")
# Ways in which a program would look for its judge instead of solving its task: no honest solution of the sets here needs one.
_PRYING = re.compile(r"_getframe|\bbuiltins\b|__builtins__|\bctypes\b|\b_exit\b|\bgc\b|\binspect\b|f_(?:back|locals|globals)\b|"
                     r"tb_frame|settrace|setprofile|__subclasses__|/proc/")
MAX_ANSWER = 1000  # characters; what is longer is no answer
MAX_EXPRESSION, MAX_DEPTH = 200, 20
GOAL = 24  # what four numbers must make
SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "\\times": "*", "\\cdot": "*", "\\div": "/", "\\left": "",
         "\\right": "", "[": "(", "]": ")", "{": "(", "}": ")"}
FALSE_IN_LATEX = ("\\ne", "\\ge", "\\le", "\\approx", "\\sim", "\\cancel", "\\pm", "\\to", "<", ">", "$", "≠", "≈", "≥", "≤")


def final_answer(message) -> str:
    """What a message gives as its answer; "" where that cannot be told, for anything but text, and for text that is too long.

    The last `answer is`, `answer:` or `####` counts, with the line behind it (or the next, where that is empty); a `\\boxed{}`
    on a later line, or without any, counts for more; `answer` alone, as the generated families have it, only where there is
    neither. Several different boxes in one line are no answer. Marks around it are taken off: bold, quotes, `$`, `\\text{}`, a
    full stop.
    """
    if not isinstance(message, str) or len(message) > MAX_CHARACTERS:
        return ""
    marked, bare = None, None
    for match in _ANSWER.finditer(message):
        if match[1] or match[2] or match[0] == "####":
            marked = match
        else:
            bare = match
    box = message.rfind("\\boxed{")
    if box >= 0 and (marked is None or "\n" in message[marked.end():box]):
        start = message.rfind("\n", 0, box) + 1
        inside = {clean(one) for one in _boxes(message[start:].split("\n")[0]) or [_braced(message, box + len("\\boxed{"))]}
        return inside.pop() if len(inside) == 1 else ""
    found = marked or bare
    if found is None:
        return ""
    lines = [line for line in message[found.end():].split("\n", 2)[:2] if clean(line)]
    return clean(lines[0]) if lines else ""


def clean(text: str) -> str:
    """An answer without what models put around it, its white space in single blanks; "" if it is too long for one."""
    if len(text) > MAX_ANSWER + 1000:  # bounded before anything looks at it twice
        return ""
    text = " ".join(text.split())
    before = None
    while text != before:
        before = text
        text = text.strip("*_ ").removesuffix(".").strip("*_ ")
        for left, right in (("$", "$"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("\\(", "\\)"), ("\\[", "\\]")):
            inner = text[len(left): len(text) - len(right)]
            if len(text) > len(left) + len(right) - 1 and text.startswith(left) and text.endswith(right) and left not in inner:
                text = inner
        if (match := _WRAPPED.match(text)) and len(inner := _braced(text, match.end())) == len(text) - match.end() - 1:
            text = inner
    return text if len(text) <= MAX_ANSWER else ""


def _boxes(line: str) -> list[str]:
    """What the boxes of a line hold; none where one does not end in it."""
    starts = [match.end() for match in re.finditer(r"\\boxed\{", line)]
    found = [_braced(line, start) for start in starts]
    return found if all(found) else []


def _braced(text: str, start: int) -> str:
    """From `start` up to the brace that closes it; "" where none does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return ""


def _text(message, answer: str, facts: Mapping) -> Verdict:
    """The same words; the case of letters does not count, nor brackets around the one letter of an option."""
    found = final_answer(message)
    option = re.fullmatch(r"\(([A-Z])\)", answer)
    said, wanted = (found.strip("()[]"), option[1]) if option else (found, clean(answer))
    return judged(found, said.casefold() == wanted.casefold())


def _number(message, answer: str, facts: Mapping) -> Verdict:
    """The same exact number: `1,234.50`, `3/4`, `$18`, `18 dollars`, `\\frac{3}{4}`, and `50%` where the answer is one."""
    found = final_answer(message)
    text = found.replace("−", "-").replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").replace("\\!", "")
    text = re.sub(r"\\[dt]?frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}", r"\1/\2", text)
    text = re.sub(r"(?<=[\d%]) (?!or$|and$|to$)[a-zA-Z]+\Z", "", text)  # a unit
    text = re.sub(r"\A([+-]?) ?\$ ?", r"\1", text).removesuffix("%" if answer.endswith("%") else "").strip()
    value = number(re.sub(r"\A([+-]?)\.(?=\d)", r"\g<1>0.", text))
    return judged(found, value is not None and value == number(answer.removesuffix("%")))


def _choice(message, answer: str, facts: Mapping) -> Verdict:
    """The letter of an option, `B`, `(B)`, `B.` or `Option B`, alone or with that option's own text behind it."""
    found = final_answer(message)
    match = _LETTER.fullmatch(clean(found.replace("*", "")))
    if match is None:
        return judged(found, False)
    letter, rest = match.group(1).upper(), clean(match.group(2) or "")
    options = facts.get("options", ())
    index = ord(letter) - ord("A")
    own = options[index] if index < len(options) else ""
    return judged(found, letter == answer and (not rest or rest.casefold() == clean(own).casefold()))


def _game24(message, answer: str, facts: Mapping) -> Verdict:
    """An expression over each of the four numbers once that makes 24, in exact fractions; `= 24` may stand beside it."""
    found = final_answer(message)
    text = found
    if len(text) <= MAX_EXPRESSION:
        for sign, plain in SIGNS.items():
            text = text.replace(sign, plain)
        text = re.sub(r"(?<=[\d)]) ?x ?(?=[\d(])", "*", text)
        text = text.removesuffix("24").rstrip().removesuffix("=") if re.search(r"= ?24\Z", text) else re.sub(r"\A24 ?=", "", text)
    result = evaluate(text)
    if result is None:
        return judged(found, False)
    value, used = result
    return judged(found, value == GOAL and sorted(used) == sorted(facts["numbers"]))


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """Value of an expression of whole numbers, `+ - * /` and brackets, and the numbers in it; None for anything else.

    No power and no unary sign, so values stay small: of `n` numbers of 9 digits, at most `9 n`. At most 20 brackets deep.
    """
    depths = itertools.accumulate({"(": 1, ")": -1}.get(letter, 0) for letter in text[: MAX_EXPRESSION + 1])
    if len(text) > MAX_EXPRESSION or max(depths, default=0) > MAX_DEPTH:
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
    symbol, equals, value = found.rpartition("=")
    text = value if re.fullmatch(r" ?[a-zA-Z] ?", symbol) else found  # `x = 5` for 5, but not `8 = 5`
    strange = [mark for mark in (*FALSE_IN_LATEX, "=", "%", "\\{", "[") if mark in text and mark not in answer]
    if not text or strange:  # it reads `\ne 7` as 7, and a set as a tuple
        return judged(found, False)
    try:
        sides = [parse(f"${side}$", parsing_timeout=None) for side in (answer, text)]
        right = equal(*sides, float_rounding=12, timeout_seconds=None)
    except Exception:  # it raises whatever sympy does
        right = False
    return judged(found, right)


def _code(message, answer: str, facts: Mapping) -> Verdict:
    """A program passes the tests in a cage: the last fenced block of Python that defines a function, or all of a message without
    such blocks.

    `facts["before"]` is what it goes on from (HumanEval's prompt), which a message that repeats it need not have. Programs that
    name ways to their judge are wrong.
    """
    if not isinstance(message, str) or len(message) > MAX_CHARACTERS or not message.strip():
        return MALFORMED
    program = program_of(message, facts.get("name"))
    before, name = facts.get("before", ""), facts.get("name")
    if not program.strip():
        return MALFORMED
    if _PRYING.search(program):
        return judged(program, False)
    if before and name and re.search(rf"^def {re.escape(name)}\b", program, re.MULTILINE):  # it still needs imports and helpers
        program = before.rstrip() + "\n    pass\n\n" + program
    elif before:
        first = next(line for line in program.split("\n") if line.strip())
        program = before + (program if first[0] in " \t" else textwrap.indent(program, "    "))
    first = [line for line in program.split("\n") if line.startswith("from __future__ ")]
    program = "\n".join([*first, *(line for line in program.split("\n") if line not in first)])
    return judged(program, run_caged([program, *facts["tests"]], seconds=facts.get("seconds", 5.0)))


def program_of(message: str, name: str | None = None) -> str:
    """The program in a message: of its fenced blocks of Python, or of no language, the last that defines `name`, else the last
    with a definition, else the last; the whole message where it has none."""
    blocks, inside, mark = [], None, ""
    for line in message.split("\n"):
        fence = _FENCE.fullmatch(line)
        if inside is None and fence:
            mark, inside = fence[1], []
            wanted = fence[2].lower() in ("", "py", "python", "python3")
        elif inside is not None and fence and not fence[2] and fence[1].startswith(mark):
            blocks += ["\n".join(inside)] if wanted else []
            inside = None
        elif inside is not None:
            inside.append(line.rstrip("\r"))
    if inside is not None and wanted:  # cut off before the end
        blocks.append("\n".join(inside))
    blocks = [textwrap.dedent(block) if not name or "def " in block else block for block in blocks]
    named = [block for block in blocks if name and re.search(rf"^\s*def {re.escape(name)}\b", block, re.MULTILINE)]
    defining = [block for block in blocks if re.search(r"^\s*(def|class|\w+ *=) *", block, re.MULTILINE)]
    return (named or defining or blocks or [message])[-1]


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
