"""Does a grown graph learn better than the same graph from scratch, at equal total samples?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuromas_jax.analysis import claim_plots as plots
from neuromas_jax.analysis.files import on_files
from neuromas_jax.analysis.outcomes import Outcome, pairs
from neuromas_jax.analysis.paired import Gap, mean_interval, paired_gap, steps_to
from neuromas_jax.analysis.pooling import percent
from neuromas_jax.analysis.report import table
from neuromas_jax.analysis.verdict import Verdict, judge
from neuromas_jax.config import training_steps

POINTS = 0.10  # how far ahead a grown graph must end, or else
SHARE = 0.5  # which share of the best rival's samples it may need


def test(name: str, claim, found: Sequence[Outcome], workdir: Path) -> Verdict:
    """The claim holds on a family where the grown graph ends at least ten points above the best graph from scratch, or needs at
    most half of its samples to the threshold, with an interval that excludes no difference; over all experiments together, which
    are one per backbone."""
    families = list(dict.fromkeys(family for outcome in found for family in outcome.config.families))
    lines, won, finished = [], [], True
    for family in families:
        part, good, whole = of_family(name, claim, found, family, workdir)
        lines, finished = lines + part, finished and whole
        won += [family] * good
    return Verdict(*judge(won, claim.families, finished, "Ten points or half of the samples, over the best from scratch, on"),
                   tuple(lines))


def of_family(name: str, claim, found: Sequence[Outcome], family: str, workdir: Path) -> tuple[list[str], bool, bool]:
    """Lines of one family, whether the claim holds on it, and whether all results are there."""
    asked = [outcome for outcome in found if family in outcome.config.families]
    found = [outcome for outcome in asked if outcome.answers(family, *outcome.target(family)).get(claim.method)]
    if not found:
        return [], False, False
    depth = found[0].target(family)[1]
    rollout = found[0].config.rollout
    budget = training_steps(found[0].config, found[0].config.families[family]) * rollout.questions * rollout.group
    lines = [f"### {family}" + ("" if depth is None else f", depth {depth}") + f": {budget:,} episodes for every method", ""]
    threshold = claim.thresholds.get(family)
    gaps, rows, spans = {}, [], {}
    whole = len(found) == len(asked)
    for method in (claim.method, *claim.over, *claim.controls):
        first, second, strata = [], [], []
        for outcome in found:
            answers = outcome.answers(family, *outcome.target(family))
            ours, theirs = pairs(answers.get(claim.method, {}), answers.get(method, {}))
            strata.append(range(len(first), len(first) + len(ours)))
            first, second = first + ours, second + theirs
            expected = len(outcome.config.seeds) * (method in outcome.config.methods)
            whole &= method in claim.controls or len(ours) == expected
        if not first:
            continue
        if method != claim.method:
            gaps[method] = paired_gap(first, second, [list(one) for one in strata if len(one)])
        spans[method] = samples_to(found, family, method, threshold)
        shares = [record["accuracy"] for record in second]
        knobs = ", ".join(dict.fromkeys(knob(record) for record in second))
        rows.append([method + (" (control)" if method in claim.controls else ""), percent(np.mean(shares)),
                     ", ".join(map(percent, shares)), knobs, str(gaps.get(method, "–")), told(spans[method])])
    header = ["method", "accuracy %", "by seed", "rate, floor", f"{claim.method} − it, points",
              f"episodes to {percent(threshold)} %" if threshold else "episodes to a threshold"]
    lines += table(header, rows)
    rivals = {method: gap for method, gap in gaps.items() if method in claim.over}
    sooner, text = ratio(spans, claim.method, list(rivals), budget)
    best = min(rivals, key=lambda method: rivals[method].mean) if rivals else None
    good = bool(best) and whole and (clear(rivals[best]) or sooner)
    if best:
        lines += [f"Best from scratch: {best}. Gap {rivals[best]} points. {text}", ""]
    lines += learned(found, family, claim.method)
    lines += on_files(claim, found, family)
    methods = (claim.method, *claim.over, *claim.controls)
    lines += plots.budgets(workdir / f"{name}_{family}", family, found, methods)
    return lines, good, whole


def knob(record: dict) -> str:
    if record["learning_rate"] is None:
        return "–"
    return f"{record['learning_rate']:g}, {record.get('entropy_floor') or 0:g}"


def clear(gap: Gap) -> bool:
    return gap.mean >= POINTS and gap.above


def samples_to(found: Sequence[Outcome], family: str, method: str, threshold: float | None) -> list[int | None]:
    """Episodes of each cell until validation accuracy stays at the threshold; None where it never does."""
    if threshold is None:
        return []
    spans = []
    for outcome in found:
        episodes = outcome.config.rollout.questions * outcome.config.rollout.group
        for cell in outcome.trained(family, method).values():
            step = steps_to(cell.metrics, threshold)
            spans.append(None if step is None else step * episodes + cell.born(outcome.config))
    return spans


def told(spans: list[int | None]) -> str:
    return ", ".join("never" if span is None else f"{span:,}" for span in spans) or "–"


def ratio(spans: dict[str, list], method: str, rivals: list[str], budget: int) -> tuple[bool, str]:
    """Whether the method needs at most half of the best rival's samples, and the sentence that says so.

    A rival that never reached the threshold counts with the whole budget, which favours it.
    """
    ours = spans.get(method, [])
    if not ours or any(span is None for span in ours):
        return False, "It did not reach the threshold with every seed." if ours else ""
    capped = {rival: [budget if span is None else span for span in spans[rival]]
              for rival in rivals if len(spans.get(rival, ())) == len(ours)}
    if not capped:
        return False, ""
    best = min(capped, key=lambda rival: np.mean(capped[rival]))
    mean, low, high = mean_interval([one / other for one, other in zip(ours, capped[best])])
    never = sum(span is None for span in spans[best])
    return high < 1 and mean <= SHARE, (
        f"Share of the episodes that {best} needs to the threshold: {mean:.2f} [{low:.2f}, {high:.2f}]"
        + (f", where {never} of its {len(spans[best])} runs never got there and count with the whole budget." if never else "."))


def learned(found: Sequence[Outcome], family: str, method: str) -> list[str]:
    """Carried function against what is learned afterwards: accuracy on the target around each growth and at the end."""
    rows = []
    for outcome in found:
        for seed, cell in outcome.trained(family, method).items():
            lineage = cell.done.get("lineage", [])
            rows.append([outcome.name, seed, *(f"{percent(one['before'])} → {percent(one['after'])}" for one in lineage),
                         percent(cell.done["validation"])])
    if not rows or len(rows[0]) < 4 or len({len(row) for row in rows}) > 1:  # nothing grew, or each in its own way
        return []
    graphs = [one["graph"] for one in lineage]
    return ["Validation accuracy on the target right before and right after each growth, which is carried, and at the "
            "end, which is learned:", "",
            *table(["experiment", "seed", *(f"to {graph}" for graph in graphs), "end"], rows)]
