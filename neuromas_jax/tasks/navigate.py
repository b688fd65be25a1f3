"""Step-following in the wording of BBH navigate: does a walk return to its start?

Two kinds of walk: `Always face forward.` with `Take 3 steps left.`, and `Take 3 steps.` with `Turn around.`; both set
out facing north. Half of the answers are built to be Yes; most of the rest are near misses (one leg changed), so that
neither the parity of the steps nor one balanced axis gives the answer away. A partial solution helps: one axis off
balance decides No. Wording after Suzgun et al., BIG-Bench Hard (2022).
"""

import re

from neuromas_jax.tasks.types import Fact, Question, Task

HEAD = "If you follow these instructions, do you return to the starting point?"
FORWARD = "Always face forward."
TAIL = "\nOptions:\n- Yes\n- No"
NAMES = ("north", "east", "south", "west")
SIDES = ("forward", "right", "backward", "left")  # in the order of NAMES
TURNS = {"right": 1, "around": 2, "left": 3}
MAX_STEPS, MAX_TOTAL = 10, 99
YES = 0.5
NEAR_MISS = 0.75  # share of near misses among the walks that are to end elsewhere
# Share of walks with turns, by depth; 0.5 from 4 on. Two such instructions never lead back, and three do in ten prompts.
TURNING = {2: 0.0, 3: 0.25}
STEP = 0.5  # share of steps among the instructions of a walk with turns
FORM = f"`{HEAD}`, then `{FORWARD}` and `Take 3 steps left.`, or `Take 3 steps.` and `Turn around.`, then the options"

_INSTRUCTION = re.compile(r"Take (\d{1,3}) steps?(?: (forward|right|backward|left))?\.|Turn (right|around|left)\.")

# A walk is a list of legs. facing forward: (steps, direction 0-3). with turns: (steps, 0), or (0, turn 1-3).


def _totals(legs, turning: bool) -> list[int]:
    """Steps taken towards north, east, south and west."""
    totals, heading = [0, 0, 0, 0], 0
    for steps, way in legs:
        if not turning:
            totals[way] += steps
        elif steps:
            totals[heading] += steps
        else:
            heading = (heading + way) % 4
    return totals


def _returns(totals) -> bool:
    return totals[0] == totals[2] and totals[1] == totals[3]


def _random_walk(rng, count: int, turning: bool):
    if not turning:
        return [(1 + int(rng.random() * MAX_STEPS), int(rng.random() * 4)) for _ in range(count)]
    while True:
        legs = [(1 + int(rng.random() * MAX_STEPS), 0) if rng.random() < STEP else (0, 1 + int(rng.random() * 3))
                for _ in range(count)]
        if any(steps for steps, _ in legs):
            return legs


def _closed_walk(rng, count: int, turning: bool):
    """A random walk whose last leg on each axis is changed so that it ends at the start."""
    while True:
        legs = _random_walk(rng, count, turning)
        heading, off, last = 0, [0, 0], [None, None]  # by axis: north-south, east-west
        for number, (steps, way) in enumerate(legs):
            if turning and not steps:
                heading = (heading + way) % 4
                continue
            way = heading if turning else way
            off[way % 2] += -steps if way >= 2 else steps
            last[way % 2] = (number, steps, way)
        if all(axis is None or _balance(legs, turning, axis, off[axis[2] % 2]) for axis in last):
            if not turning:  # the order of turns matters, that of sideways steps does not: hide the changed leg
                rng.shuffle(legs)
            return legs


def _balance(legs, turning: bool, axis, off: int) -> bool:
    """Change the leg `axis` = (number, steps, way) so that its axis comes out at zero; False where no leg can."""
    number, steps, way = axis
    needed = (off - (-steps if way >= 2 else steps)) * (1 if way >= 2 else -1)  # steps to take towards `way`
    if not turning and needed < 0:
        way, needed = (way + 2) % 4, -needed
    if not 1 <= needed <= MAX_STEPS:
        return False
    legs[number] = (needed, 0 if turning else way)
    return True


def _near_miss(rng, count: int, turning: bool):
    """A closed walk with one leg changed: mostly by an even number of steps, or in its direction or turn."""
    legs = _closed_walk(rng, count, turning)
    number = int(rng.random() * count)
    steps, way = legs[number]
    if steps and (turning or rng.random() < 0.6):
        change = 2 * rng.randint(1, 4) if rng.random() < 0.85 else 1 + 2 * rng.randint(0, 3)
        steps += change if rng.random() < 0.5 else -change
    elif steps:
        way = (way + rng.randint(1, 3)) % 4
    else:
        way = 1 + (way - 1 + rng.randint(1, 2)) % 3
    legs[number] = (steps, way)
    return legs if 1 <= steps <= MAX_STEPS or (turning and not legs[number][0] and way) else None


def draw(rng, depth: int, wanted: str) -> str:
    """A walk of `depth` instructions with the answer `wanted`."""
    turning = rng.random() < TURNING.get(depth, 0.5)
    yes = wanted == "Yes"
    near = rng.random() < NEAR_MISS
    while True:
        make = _closed_walk if yes else _near_miss if near else _random_walk
        legs = make(rng, depth, turning)
        if legs is None:
            continue
        totals = _totals(legs, turning)
        if max(totals) <= MAX_TOTAL and _returns(totals) == yes:
            break
    return f"{HEAD} {' '.join(_words(legs, turning))}{TAIL}"


def _words(legs, turning: bool):
    if not turning:
        yield FORWARD
    for steps, way in legs:
        if steps:
            side = "" if turning else f" {SIDES[way]}"
            yield f"Take {steps} step{'' if steps == 1 else 's'}{side}."
        else:
            yield f"Turn {'right' if way == 1 else 'around' if way == 2 else 'left'}."


def read(text: str) -> Question:
    """The question with its facts; raises ValueError on a text of another form."""
    body = text.strip()
    if not body.startswith(HEAD) or not body.endswith(TAIL):
        raise _unreadable(text)
    body = body[len(HEAD): -len(TAIL)].strip()
    turning = not body.startswith(FORWARD)
    body = body if turning else body[len(FORWARD):].strip()
    legs, at = [], 0
    for match in _INSTRUCTION.finditer(body):
        steps, side, turn = match.groups()
        if body[at: match.start()].strip() or turning != (side is None) or (steps is not None and int(steps) == 0):
            raise _unreadable(text)
        legs.append((0, TURNS[turn]) if turn else (int(steps), SIDES.index(side) if side else 0))
        at = match.end()
    if not legs or body[at:].strip():
        raise _unreadable(text)
    totals = _totals(legs, turning)
    answer = "Yes" if _returns(totals) else "No"
    facts = [Fact(name, str(total)) for name, total in zip(NAMES, totals)]
    facts.append(Fact("across", str(abs(totals[1] - totals[3])), ("east", "west")))
    facts.append(Fact("along", str(abs(totals[0] - totals[2])), ("north", "south")))
    facts.append(Fact("answer", answer, ("across", "along")))
    return Question(text, answer, len(legs), facts=tuple(facts))


def _unreadable(text: str) -> ValueError:
    return ValueError(f"cannot read {text[:200]!r} as navigate; the form is {FORM}")


def make(depths=(2, 3, 4, 5, 6, 7, 8), weights=(1,) * 7, held_out_depth=10) -> Task:
    """Walks; depth is the number of instructions, `Always face forward.` not counted."""
    return Task("navigate", tuple(depths), tuple(weights), held_out_depth, (2, 12), 0.5, True, draw, read,
                (("Yes", YES), ("No", 1 - YES)))
