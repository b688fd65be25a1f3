"""Is one method ahead of all others? Accuracy side by side at what each costs, and paired gaps."""

from collections.abc import Sequence
import dataclasses
from pathlib import Path

from neuromas_jax.analysis import claim_plots as plots
from neuromas_jax.analysis.outcomes import Outcome, pairs
from neuromas_jax.analysis.paired import paired_gap
from neuromas_jax.analysis.pooling import percent
from neuromas_jax.analysis.report import table
from neuromas_jax.analysis.verdict import Verdict, judge
from neuromas_jax.config import Config


def test(name: str, claim, found: Sequence[Outcome], workdir: Path) -> Verdict:
    """The claim holds where the gap to every method of `claim.over` lies above zero on a family's deepest trained depth.

    It must do so on as many families as asked for, and in every experiment that has the family. Real files are shown beside them.
    Experiments that differ in seeds and methods alone are one: a gap is over the seeds that both methods have.
    """
    lines, results, finished = [], {}, True
    for outcome in found:
        for family in outcome.config.families:
            alike = [one for one in found if family in one.config.families and recipe(one, family) == recipe(outcome, family)]
            if outcome is not alike[0]:
                continue
            rivals = [method for method in claim.over if method in outcome.config.methods]
            for number, (name_of, depth) in enumerate([outcome.target(family), *outcome.files(family)]):
                answers = together(alike, family, name_of, depth)
                title = f"{outcome.name}: {name_of}" + ("" if depth is None else f", depth {depth}")
                rows, ahead, points = compare(claim.method, rivals, [m for m in claim.controls if m in answers], answers)
                whole = all(len(answers.get(m, ())) == sum(len(one.config.seeds) for one in alike if m in one.config.methods)
                            for m in (claim.method, *rivals))
                finished &= whole
                if number == 0 and whole:
                    results.setdefault(outcome.name, {})[family] = bool(ahead) and all(ahead)
                if rows:
                    lines += [f"### {title}", "", *table(HEADER, rows)]
                if number == 0 and len(points) > 1:
                    path = plots.draw_rounds(workdir / f"{name}_rounds_{outcome.name}_{family}.png", title, points)
                    lines += [f"![accuracy against rounds]({path.name})", ""]
            methods = (claim.method, *rivals, *(method for method in claim.controls if method in outcome.config.methods))
            lines += plots.budgets(workdir / f"{name}_{outcome.name}_{family}", family, alike, methods)
    families = dict.fromkeys(family for ahead in results.values() for family in ahead)
    won = [family for family in families if all(ahead.get(family, True) for ahead in results.values())]
    word, why = judge(won, claim.families, finished, "The interval lies above zero against every rival on")
    if len(results) > 1:
        each = [f"{one} {', '.join(family for family in ahead if ahead[family]) or 'none'}" for one, ahead in results.items()]
        why += f" A family counts where it does so in every experiment that has it; alone: {'; '.join(each)}."
    return Verdict(word, why, tuple(lines))


def recipe(outcome: Outcome, family: str) -> Config:
    """What an experiment does with a family, whatever the seeds and methods."""
    families = {family: outcome.config.families[family]}
    return dataclasses.replace(outcome.config, families=families, order=(), methods=(), seeds=())


def together(alike: Sequence[Outcome], family: str, name: str, depth: int | None) -> dict[str, dict[int, dict]]:
    """Records of one evaluation set by method and seed, of all experiments. Raises ValueError where two have one cell."""
    found: dict[str, dict[int, dict]] = {}
    for outcome in alike:
        for method, records in outcome.answers(family, name, depth).items():
            if twice := found.setdefault(method, {}).keys() & records.keys():
                raise ValueError(f"experiments {', '.join(one.name for one in alike)} all have {method!r} on {family!r} with "
                                 f"seed {min(twice)}; give each seeds of its own")
            found[method] |= records
    return found


HEADER = ["method", "accuracy %", "by seed", "calls", "rounds", "tokens", "parameters", "samples", "gap, points"]


def compare(method: str, rivals: list[str], controls: list[str], answers: dict) -> tuple[list, list[bool], list]:
    """Rows of the table, whether the method is ahead of each rival, and (method, rounds, accuracies) for the plot."""
    rows, ahead, points = [], [], []
    for other in (method, *rivals, *controls):
        records = list(answers.get(other, {}).values())
        if not records:
            ahead += [False] * (other in rivals)
            continue
        shares = [record["accuracy"] for record in records]
        one = records[0]
        gap = "–"
        if other != method and answers.get(method):
            ours, theirs = pairs(answers[method], answers[other])
            found = paired_gap(ours, theirs) if ours else None
            gap = str(found) if found else "–"
            ahead += [bool(found and found.above)] * (other in rivals)
        mean = sum(shares) / len(shares)
        points.append((other, one["rounds"], shares))
        samples = one.get("samples")
        rows.append([other + (" (control)" if other in controls else ""), percent(mean), ", ".join(map(percent, shares)),
                     one["calls"], one["rounds"], f"{sum(r['tokens'] for r in records) / len(records):.1f}",
                     f"{one['trainable_parameters']:,}", "–" if samples is None else f"{samples:,}", gap])
    return rows, ahead, points
