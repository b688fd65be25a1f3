"""Do gold answers of the published sets verify, and the next row's not? `python -m benchmarks.gold --data=DIR [--sets=scan]`.

`DIR` holds a folder a set, as `docs/datasets.md` names them (`arc` for both of ARC, `mbpp` for both of MBPP). All rows of all
splits are judged, programs in the cage; prints a line a set, and ends with status 1 if a verdict is not as it should be.
"""

import argparse
from fractions import Fraction
import itertools
from pathlib import Path
import sys

from neuromas_jax.tasks import BENCHMARKS, Question, benchmark
from neuromas_jax.tasks.benchmarks import read_records

FOLDERS = {"arc_challenge": "arc", "arc_easy": "arc", "mbpp_sanitized": "mbpp"}
PROGRAMS = ("canonical_solution", "code")  # fields of a set's own programs


def make_24(numbers) -> str:
    """An expression that makes 24, by trying all. Raises StopIteration where there is none."""
    def ways(values):
        if len(values) == 1:
            yield values[0]
        for (i, (x, a)), (j, (y, b)) in itertools.permutations(enumerate(values), 2):
            rest = [pair for k, pair in enumerate(values) if k not in (i, j)]
            for sign, z in (("+", x + y), ("-", x - y), ("*", x * y), ("/", x / y if y else None)):
                if z is not None:
                    yield from ways([*rest, (z, f"({a} {sign} {b})")])
    return next(text for value, text in ways([(Fraction(n), str(n)) for n in numbers]) if value == 24)


def programs(name: str, folder: Path) -> dict[str, str]:
    """Question -> the set's own program."""
    found, stems = {}, {stem for names in BENCHMARKS[name].files.values() for stem in names}
    for path in folder.iterdir():
        if path.name.partition(".")[0] in stems:
            for _, record in read_records(path):
                row = BENCHMARKS[name].row(record) if any(field in record for field in PROGRAMS) else None
                if row is not None:
                    found[row["question"]] = next(record[field] for field in PROGRAMS if field in record)
    return found


def said(name: str, folder: Path, rows: list[Question]) -> list[str]:
    """The gold answer of every row, as a model would give it."""
    verifier = BENCHMARKS[name].verifier
    if verifier == "code":
        known = programs(name, folder)
        return [known[row.text] for row in rows]
    return [f"Answer: {make_24(dict(row.given)['numbers']) if verifier == 'game24' else row.answer}" for row in rows]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", required=True, type=Path)
    arguments.add_argument("--sets", default=",".join(BENCHMARKS))
    given = arguments.parse_args()
    total, faults = 0, 0
    for name in given.sets.split(","):
        folder = given.data / FOLDERS.get(name, name)
        task = benchmark(name, folder)
        rows = [row for split in task.rows.values() for row in split]
        gold = said(name, folder, rows)
        right = task.verify_all(gold, rows)
        others = gold[1:] + gold[:1]
        wrong = [verdict for verdict, other, own in zip(task.verify_all(others, rows), others, gold) if other != own]
        good, bad = sum(verdict.reward for verdict in right), sum(verdict.reward for verdict in wrong)
        print(f"{name}: gold right {good:.0f} of {len(rows)}; the next row's, where it is another, right {bad:.0f} of "
              f"{len(wrong)}", flush=True)
        total, faults = total + len(rows), faults + len(rows) - good + bad
    print(f"all: {total} rows, {faults:.0f} verdicts not as they should be")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
