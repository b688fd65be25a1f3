"""What a test of a claim returns."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim holds: "holds", "does not hold", or "unfinished" while results are missing; why, in a sentence; and the
    Markdown lines that show it."""

    word: str
    why: str
    lines: tuple[str, ...]


def judge(won: list[str], needed: int, finished: bool, rule: str) -> tuple[str, str]:
    """The word and the reason for a claim that must hold in `needed` places, and did in those of `won`; where results are
    missing, it is unfinished."""
    won = list(dict.fromkeys(won))
    where = ", ".join(won) or "none"
    word = "unfinished" if not finished else "holds" if len(won) >= needed else "does not hold"
    return word, f"{rule}: {where} ({len(won)} of {needed} asked for)."
