"""Accuracy over shapes of graphs and over numbers of trainable parameters."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuromas_jax.analysis import claim_plots as plots
from neuromas_jax.analysis.files import on_files
from neuromas_jax.analysis.outcomes import Outcome, pairs
from neuromas_jax.analysis.paired import Gap, paired_gap
from neuromas_jax.analysis.pooling import percent
from neuromas_jax.analysis.report import table
from neuromas_jax.analysis.verdict import Verdict, judge
from neuromas_jax.methods import family_graph


def test(name: str, claim, found: Sequence[Outcome], workdir: Path) -> Verdict:
    """Families that share a task are one grid of graphs, and `claim.pairs` names which of them are to be ahead of which.

    The claim holds on a task where every first of a pair is ahead of the second on the deepest trained depth; the tables show
    what each graph reaches at every depth, and each pair's gap, for it or against.
    """
    lines, won, finished = [], [], True
    for outcome in found:
        tasks: dict[str, list[str]] = {}
        for family, chosen in outcome.config.families.items():
            tasks.setdefault(chosen.task, []).append(family)
        for task, families in tasks.items():
            families = sorted(families, key=lambda one: family_graph(outcome.config, outcome.config.families[one])[0].size)
            rows, header, cells = grid(outcome, families, claim.method)
            if rows:
                lines += [f"### {outcome.name}: {task}", "", *table(header, rows)]
                path = plots.draw_grid(workdir / f"{name}_{outcome.name}_{task}.png", f"{task}: accuracy, %", *cells)
                lines += [f"![accuracy over graphs]({path.name})", ""]
            gaps = []
            for first, second in [pair for pair in claim.pairs if pair[0] in families]:
                answers = [outcome.answers(family, *outcome.target(family)).get(claim.method, {}) for family in (first, second)]
                ours, theirs = pairs(*answers)
                finished &= len(ours) == len(outcome.config.seeds)
                if ours:
                    gaps.append((first, second, paired_gap(ours, theirs)))
            if gaps:
                lines += table(["graph", "against", "gap, points", ""], [
                    [first, second, str(gap), "helps" if gap.above else "hurts" if gap.below else "no clear difference"]
                    for first, second, gap in gaps])
            if gaps and all(gap.above for _, _, gap in gaps):
                won.append(task)
    return Verdict(*judge(won, claim.families, finished, "Every first graph is ahead of the second on"), tuple(lines))


def grid(outcome: Outcome, families: list[str], method: str):
    """Rows of the table, its header, and (graphs, sets, shares) for the plot."""
    rows, shares = [], []
    sets = list(dict.fromkeys((record["set"].removeprefix(record["family"]), record["depth"])
                              for record in outcome.records if record["family"] in families))
    names = [f"depth {depth}" + (" (held out)" if suffix else "") if depth is not None else suffix for suffix, depth in sets]
    for family in families:
        target = outcome.answers(family, *outcome.target(family)).get(method, {})
        if not target:
            continue
        graph = family_graph(outcome.config, outcome.config.families[family])[0]
        own = [outcome.answers(family, suffix if depth is None else family + suffix, depth).get(method, {})
               for suffix, depth in sets]
        runs = [[record["accuracy"] for record in one.values()] for one in own]
        means = [np.mean(one) if one else np.nan for one in runs]
        shares.append((family, runs))
        rows.append([family, f"{graph}", graph.size, graph.rounds, *("–" if np.isnan(mean) else percent(mean) for mean in means),
                     ", ".join(percent(record["accuracy"]) for record in target.values())])
    header = ["family", "graph", "nodes", "rounds", *names, "by seed, deepest"]
    return rows, header, ([name for name, _ in shares], names, [runs for _, runs in shares])


def test_search(name: str, claim, found: Sequence[Outcome], workdir: Path) -> Verdict:
    """Graphs that a search found against the best that was set by hand, of as many calls and samples.

    The first experiment has the searches; the others have hand-set graphs, as families that share a task. The claim holds on a
    task where the searched graphs are at least as accurate as the best of them. Both sides answer the same questions; the
    searches may have seeds of their own.
    """
    searched, others = found[0], found[1:]
    lines, won, finished = [], [], True
    for family, chosen in searched.config.families.items():
        ours = searched.answers(family, *searched.target(family)).get(claim.method, {})
        calls = chosen.search.calls or family_graph(searched.config, chosen)[0].size
        alike = [(outcome, other) for outcome in others for other, settings in outcome.config.families.items()
                 if settings.task == chosen.task and family_graph(outcome.config, settings)[0].size == calls]
        by_hand = [outcome.answers(other, *outcome.target(other)).get("graph", {}) for outcome, other in alike]
        finished &= all(len(records) == len(outcome.config.seeds) for records, (outcome, _) in zip(by_hand, alike))
        finished &= len(ours) == len(searched.config.seeds)
        if not ours or not any(by_hand):
            continue
        rows, best = beside(ours, {f"{outcome.name}/{other}": records for (outcome, other), records in zip(alike, by_hand)})
        won += [family] * (best.mean >= 0)
        lines += [f"### {family}, graphs of {calls} calls", "", *table(BESIDE, rows)]
        for file, _ in searched.files(family):
            others_there = {f"{outcome.name}/{other}": outcome.answers(other, file, None).get("graph", {})
                            for outcome, other in alike}
            answered = searched.answers(family, file, None).get(claim.method, {})
            if answered and any(others_there.values()):
                lines += [f"The file {file}, which nothing was trained on:", "",
                          *table(BESIDE, beside(answered, others_there)[0])]
        for seed, cell in searched.trained(family, claim.method).items():
            lines += [f"- seed {seed}: " + "; ".join(
                f"step {one['step']}: {one['graph']} at {percent(one['accuracy'])} %, tried "
                + ", ".join(f"{two['graph']} ({two['candidate']}) "
                            + (f"{percent(two['accuracy'])} % after {two['steps']}" if two["accuracy"] >= 0 else "which diverged")
                            for two in one["trials"])
                + f", took {one['chosen']}" for one in cell.done["search"])]
        lines.append("")
    return Verdict(*judge(won, claim.families, finished, "At least as accurate as the best hand-set graph of as many calls on"),
                   tuple(lines))


BESIDE = ["graph", "accuracy %", "by seed", "gap, points"]


def beside(ours: dict[int, dict], rivals: dict[str, dict[int, dict]]) -> tuple[list, Gap]:
    """Rows of searched graphs and of those set by hand, and the gap to the best of the latter. Seeds of one side mean nothing to
    the other, so they are paired in their order."""
    def row(title, records, gap):
        shares = [record["accuracy"] for record in records.values()]
        return [title, percent(np.mean(shares)), ", ".join(map(percent, shares)), str(gap)]

    rows, gaps = [row(f"searched: {', '.join(dict.fromkeys(one['topology'] for one in ours.values()))}", ours, "–")], {}
    for title, records in rivals.items():
        if records:
            count = min(len(ours), len(records))
            gap = paired_gap(list(ours.values())[:count], list(records.values())[:count])
            rows.append(row(title, records, gap))
            gaps[np.mean([record["accuracy"] for record in records.values()])] = gap
    return rows, gaps[max(gaps)]


def test_parameters(name: str, claim, found: Sequence[Outcome], workdir: Path) -> Verdict:
    """Experiments differ in the adapters' rank.

    The claim holds on a family where the method is ahead of each rival at every number of trainable parameters.
    """
    families = list(dict.fromkeys(family for outcome in found for family in outcome.config.families))
    lines, won, finished = [], [], True
    for family in families:
        rows, curves, ahead = [], {}, []
        for outcome in found:
            if family not in outcome.config.families:
                continue
            answers = outcome.answers(family, *outcome.target(family))
            for method in (claim.method, *claim.over):
                ours, theirs = pairs(answers.get(claim.method, {}), answers.get(method, {}))
                whole = len(theirs) == len(outcome.config.seeds)
                finished &= whole
                if not theirs:
                    ahead.append(False)
                    continue
                shares, count = [record["accuracy"] for record in theirs], theirs[0]["trainable_parameters"]
                gap = paired_gap(ours, theirs) if method != claim.method else None
                ahead += [whole and gap.above] if gap else []
                curves.setdefault(method, []).append((count, shares))
                rows.append([outcome.config.adapters.rank, method, f"{count:,}", percent(np.mean(shares)),
                             ", ".join(map(percent, shares)), str(gap or "–")])
        if not rows:
            continue
        lines += [f"### {family}", "", *table(["rank", "method", "parameters", "accuracy %", "by seed", "gap, points"], rows)]
        path = plots.draw_parameters(workdir / f"{name}_{family}.png", f"{family}: accuracy against trainable parameters", curves)
        lines += [f"![accuracy against parameters]({path.name})", ""]
        for outcome in [one for one in found if family in one.config.families]:
            lines += on_files(claim, [outcome], family, f", at rank {outcome.config.adapters.rank}")
        won += [family] * (bool(ahead) and all(ahead))
    return Verdict(*judge(won, claim.families, finished, "Ahead of each rival at every number of parameters on"), tuple(lines))
