"""Verdicts on messages. Every function here is total: any object gives a Verdict, in time linear in a bounded text."""

import re
from dataclasses import dataclass
from fractions import Fraction

# A message is tens of tokens; what is longer than this was not written by a node and is not searched.
MAX_CHARACTERS = 20_000
MAX_DIGITS = 64

_ANSWER = re.compile(r"(?:^|(?<=\s))answer(?=\s|$)")
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+))?(?:/(\d+))?", re.ASCII)


@dataclass(frozen=True)
class Verdict:
    """reward 1.0 or 0.0; outcome `right`, `wrong` or `malformed`; answer: the extracted text, "" if there is none."""

    reward: float
    outcome: str
    answer: str


MALFORMED = Verdict(0.0, "malformed", "")


def extract(message) -> str:
    """What follows the last word `answer`, stripped; "" for none, for anything but text and for text that is too long."""
    if not isinstance(message, str) or len(message) > MAX_CHARACTERS:
        return ""
    end = -1
    for match in _ANSWER.finditer(message):
        end = match.end()
    return message[end:].strip() if end >= 0 else ""


def number(text: str) -> Fraction | None:
    """The exact value of `-1,234.50` or `3/4`; None for anything else, and past 64 digits."""
    if len(text) > MAX_DIGITS:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, whole, decimals, below = match.groups()
    if below is not None and (decimals is not None or int(below) == 0):
        return None
    value = Fraction(int(whole.replace(",", "")), int(below or 1))
    if decimals:
        value += Fraction(int(decimals), 10 ** len(decimals))
    return -value if sign == "-" else value


def verify_text(message, answer: str) -> Verdict:
    """Right when the extracted text is `answer`, to the letter."""
    found = extract(message)
    return judged(found, found == answer)


def judged(found: str, right: bool) -> Verdict:
    """The verdict on an extracted text; without any it is malformed."""
    if not found:
        return MALFORMED
    # Lone surrogates compare well but cannot be written to a log.
    shown = found.encode("utf-8", "replace").decode("utf-8")
    return Verdict(1.0, "right", shown) if right else Verdict(0.0, "wrong", shown)
