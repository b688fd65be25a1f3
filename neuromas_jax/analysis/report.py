"""`report.md`: what came out of an experiment, with everything needed to doubt it."""

import dataclasses
import itertools
from pathlib import Path

from neuromas_jax.analysis import plots
from neuromas_jax.analysis.pooling import Pool, SetResults, between, difference, gather, percent
from neuromas_jax.config import Config, SweepConfig
from neuromas_jax.experiments.cells import Cell, read_done, sweep_cells, trained_methods
from neuromas_jax.files import write_text
from neuromas_jax.methods import METHODS, make_method
from neuromas_jax.graph.lineage import lineage_tree
from neuromas_jax.train.metrics import read_metrics

LEGEND = """\
- Accuracy is the mean over seeds; each seed's value stands beside it, so that the spread between seeds can be seen.
- The 95 % interval is that of the mean over seeds: Wilson's, for as many answers as the mean is worth, at most the questions of
  one seed (all seeds are asked the same), fewer where seeds differ (`analysis/pooling.py`). It covers the draw of questions and
  of training, not another backbone. Where nothing is trained, all seeds are one system and count once.
- `n`: questions per seed. `calls`, `rounds` (calls that must wait for each other) and `tokens` (written) are per question.
- `format`: answers that could be read. `top answer`: share of the most frequent answer.
- `truncated`: readout messages that hit their limit without an end token. A message of exactly one fact fills its limit, so
  for one-fact messages 100 % is normal and means nothing bad.
- Chance is a uniform guess, majority the most frequent answer of the set. The shallow rule is the best that looks only at the
  surface of a question (words, length, parity); it is fitted on other questions of the same kind, at a held-out depth too."""

SHORT = {
    "graph": "graph", "graph_untrained": "untrained", "graph_shared_adapter": "shared", "graph_blanked": "blanked",
    "graph_shuffled": "shuffled", "graph_other_episode": "other_episode", "single_equal_parameters": "single",
    "single_equal_tokens": "single_long", "chain_equal_calls": "chain", "vote_equal_tokens": "vote", "graph_random": "random",
    "graph_mixed": "mixed", "graph_schedule": "schedule", "graph_tied": "tied", "self_consistency": "sc",
    "mixture_of_agents": "moa",
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training left behind for one family.

    Attributes:
      metrics: records of `metrics.jsonl` by (method, seed).
      sweep: finished trials with their validation accuracy, by method.
      cost: what finished cells of training and sweep left in `done.json`, by method.
      episodes: the last two episodes of the graph's first seed, as text.
      lineages: of methods in stages, by (method, seed): how the graph grew, as text.
    """

    metrics: dict[tuple[str, int], list[dict]]
    sweep: dict[str, dict[Cell, float]]
    cost: dict[str, list[dict]]
    episodes: list[str]
    lineages: dict[tuple[str, int], str]

    def graph(self) -> dict[int, list[dict]]:
        """Metrics of the graph by seed."""
        return {seed: records for (method, seed), records in self.metrics.items() if method == "graph"}


def write_report(config: Config, workdir: Path, records: list[dict]) -> str:
    """Writes `report.md` and its plots into the workdir, and returns a short table for the terminal.

    Results may be partial: whatever is missing is left out.
    """
    sets = gather(records)
    lines = ["# Report", "", opening(config, records), "", "How to read the tables:", "", LEGEND, ""]
    for family in config.families:
        lines += family_section(config, workdir, family, [one for one in sets if one.family == family])
    write_text(workdir / "report.md", "\n".join(lines).rstrip() + "\n")
    return f"{terminal_table(sets)}\n\nReport: {workdir / 'report.md'}"


def opening(config: Config, records: list[dict]) -> str:
    seeds = sorted({record["seed"] for record in records})
    found = {(record.get("family"), record["method"], record["seed"]) for record in records}
    wanted = len(config.families) * len(config.methods) * len(config.seeds)

    def with_exceptions(general, field):
        own = [f"{getattr(family, field)} for {name}" for name, family in config.families.items() if getattr(family, field)]
        return f"{general} ({', '.join(own)})" if own else f"{general}"

    text = (f"Graph `{with_exceptions(config.graph.topology, 'topology')}` on the backbone `{config.backbone}`, "
            f"{with_exceptions(config.training.steps, 'steps')} training steps of {config.rollout.questions} questions x "
            f"{config.rollout.group} episodes, seeds {', '.join(map(str, seeds)) or 'none yet'}.")
    return text + (f" **Partial: {len(found)} of {wanted} evaluations are done.**" if len(found) < wanted else "")


def family_section(config: Config, workdir: Path, family: str, sets: list[SetResults]) -> list[str]:
    """Everything about one family; empty if there is nothing yet."""
    trained = read_trained(config, workdir, family)
    if not sets and not trained.metrics:
        return []
    lines = [f"## {family}", ""]
    if config.families[family].adapters:
        lines += [f"Nothing was trained here: the adapters come from `{config.families[family].adapters}`.", ""]
    for one in sets:
        lines += set_section(one)
    if sets:
        lines += picture(plots.draw_results(workdir / f"results_{family}.png", sets), f"results on {family}")
    lines += sweep_section(trained.sweep, config.sweep)
    lines += cost_section(trained.cost)
    if trained.metrics:
        lines += [f"### Training on {family}", ""]
        lines += picture(plots.draw_curves(workdir / f"curves_{family}.png", family, trained.metrics),
                         f"learning curves on {family}")
    if trained.lineages:
        lines += ["How the graphs grew. Accuracy is that on validation questions of the last stage's kind; samples are episodes, "
                  "all ancestors' included:", "", "```text"]
        lines += [f"{method}, seed {seed}: {tree}" for (method, seed), tree in trained.lineages.items()] + ["```", ""]
    if runs := trained.graph():
        graph = make_method("graph", config, config.families[family]).graph
        lines += labour(graph, runs)
        lines += picture(plots.draw_labels(workdir / f"labels_{family}.png", family, graph, runs),
                         f"label of each node over training on {family}")
        lines += ["The graph of the first seed at its last evaluation: in the circle the node's commonest label; "
                  "below it that label's share, the entropy of its tokens, and the change of accuracy when its message "
                  "is blanked, which also sets the width of its edges. "
                  f"The change is measured on {config.rollout.questions} validation questions, so it is coarse.", ""]
        lines += picture(plots.draw_graph(workdir / f"graph_{family}.png", family, graph, runs), f"the trained graph on {family}")
    if trained.episodes:
        lines += ["Two whole episodes of the graph from the end of training:", "",
                  "```text", "\n\n".join(trained.episodes), "```", ""]
    return lines


def read_trained(config: Config, workdir: Path, family: str) -> Trained:
    """Reads what lies under `train/` and `sweep/` of this config's cells; those without numbers yet are left out."""
    metrics, sweep, cost, episodes, lineages = {}, {}, {}, [], {}
    methods = sorted(trained_methods(config, family), key=METHODS.index)
    for method, seed in itertools.product(methods, config.seeds):
        folder = workdir / "train" / family / f"{method}_seed{seed}"
        if (folder / "metrics.jsonl").exists() and (found := read_metrics(folder)):
            metrics[method, seed] = found
        if done := read_done(folder):
            cost.setdefault(method, []).append(done)
            if done.get("lineage"):
                lineages[method, seed] = lineage_tree(done["lineage"], done["samples"], done["validation"])
        if method == "graph" and not episodes and (folder / "episodes.txt").exists():
            written = (folder / "episodes.txt").read_text(encoding="utf-8").split("== step ")[1:]
            episodes = ["== step " + text.strip() for text in written[-2:]]
    for cell in sweep_cells(config, family):
        if done := read_done(cell.folder(workdir, "sweep")):
            sweep.setdefault(cell.method, {})[cell] = done["validation"]
            if "diverged" not in done:
                cost.setdefault(cell.method, []).append(done)
    return Trained(metrics, sweep, cost, episodes, lineages)


def place(method: str) -> int:
    """Where a method stands in every table."""
    return METHODS.index(method) if method in METHODS else len(METHODS)


def picture(path: Path, text: str) -> list[str]:
    return [f"![{text}]({path.name})", ""]


def table(header: list[str], rows: list[list]) -> list[str]:
    """A Markdown table."""
    cells_of = [[str(cell).replace("|", "\\|") for cell in row] for row in [header, ["---"] * len(header), *rows]]
    return ["| " + " | ".join(row) + " |" for row in cells_of] + [""]


def same(pool: Pool, field: str, form=str) -> str:
    """The value that the seeds share, or all of them."""
    return ", ".join(dict.fromkeys("–" if record[field] is None else form(record[field]) for record in pool.records))


def set_section(one: SetResults) -> list[str]:
    """Table of one evaluation set, and the graph against each of the others."""
    facts = one.facts
    text = (f"n {facts['n']} per seed · chance {percent(facts['chance'])} % · majority {percent(facts['majority'])} % · "
            f"best shallow rule {percent(facts['shallow'])} %"
            + (f" ({facts['shallow_rule']})" if facts.get("shallow_rule") else ""))
    if facts.get("too_long"):
        text += f" · left out as too long: {facts['too_long']}"
    rows = []
    for pool in one.pools.values():
        rows.append([
            pool.method, same(pool, "topology"), same(pool, "calls"), same(pool, "rounds"), f"{pool.mean('tokens'):.1f}",
            same(pool, "trainable_parameters", "{:,}".format), same(pool, "learning_rate", "{:g}".format), percent(pool.mean()),
            ", ".join(percent(value) for value in pool.seeds().values()), between(*pool.interval),
            percent(pool.mean("format_rate")), percent(pool.mean("truncated")), percent(pool.mean("top_answer_share")),
        ])
    header = ["method", "topology", "calls", "rounds", "tokens", "parameters", "lr", "accuracy %", "by seed", "95 %", "format %",
              "truncated %", "top answer %"]
    return [f"### {one.title}", "", text, "", *table(header, rows), *comparison(one)]


def comparison(one: SetResults) -> list[str]:
    """The graph minus each other method."""
    graph = one.pools.get("graph")
    others = [pool for name, pool in one.pools.items() if name != "graph"]
    if not graph or not others:
        return []
    rows = []
    for pool in others:
        gap, low, high = difference(graph, pool)
        by_seed = [f"{100 * (value - pool.seeds()[seed]):+.1f}" for seed, value in graph.seeds().items() if seed in pool.seeds()]
        rows.append([f"graph − {pool.method}", f"{100 * gap:+.1f}", f"[{100 * low:+.1f}, {100 * high:+.1f}]",
                     ", ".join(by_seed) or "–", f"{same(graph, 'rounds')} against {same(pool, 'rounds')}"])
    return ["Differences in points, with Newcombe's 95 % interval from the two intervals above "
            "(as if the two sets of answers were independent):", "",
            *table(["difference", "points", "95 %", "by seed", "rounds"], rows)]


def sweep_section(sweep: dict[str, dict[Cell, float]], swept: SweepConfig) -> list[str]:
    """Validation accuracy of every trial; the chosen one is bold. A line for each method and entropy floor."""
    if not sweep:
        return []
    rates, floors, rows = sorted(swept.learning_rates), swept.entropy_floors or (None,), []
    for method in sorted(sweep, key=place):
        found = {(cell.learning_rate, cell.floor): accuracy for cell, accuracy in sweep[method].items()}
        whole = len(found) == len(rates) * len(floors)
        chosen = max(found, key=lambda knobs: (found[knobs], -knobs[0], -(knobs[1] or 0.0))) if whole else (None, None)
        for floor in floors:
            row = ["–" if (rate, floor) not in found else percent(found[rate, floor]) for rate in rates]
            mine = chosen[1] == floor
            at_edge = mine and len(rates) > 2 and chosen[0] in (rates[0], rates[-1])
            rows.append([method if floor is None else f"{method}, floor {floor:g}",
                         *(f"**{value}**" if (rate, floor) == chosen else value for rate, value in zip(rates, row)),
                         "unfinished" if not whole else "edge of the sweep" if at_edge else ""])
    return ["### Swept learning rates", "",
            "Validation accuracy (%) of the sweep, on a seed that is not reported; the rate in bold was taken. A trial that "
            "diverged counts as 0.", "",
            *table(["method", *(f"{rate:g}" for rate in rates), ""], rows)]


def cost_section(cost: dict[str, list[dict]]) -> list[str]:
    """Time and memory of sweep and training."""
    if not cost:
        return []
    rows = [[method, len(cost[method]), sum(done["steps"] for done in cost[method]),
             *(f"{sum(done[name] for done in cost[method]):.0f}" for name in ("run_seconds", "compile_seconds")),
             f"{max(done['peak_memory_gib'] for done in cost[method]):.2f}"] for method in sorted(cost, key=place)]
    return ["### What training cost", "",
            "Sweep and training together. Run: rollouts and updates alone. Compile: once in a process that needs the program, "
            "less where it is found in the cache. Memory: the most that a process held until then, whatever it did before.", "",
            *table(["method", "cells", "steps", "run, s", "compile, s", "peak memory, GiB"], rows)]


def labour(graph, runs: dict[int, list[dict]]) -> list[str]:
    """How many different labels the first layer writes, at the first and the last evaluation."""
    if graph.rounds == 1:
        return []

    def different(record):
        return len({record["nodes"]["label"][node] for node in graph.nodes(0)} - set(plots.UNLABELLED))

    counts = [f"seed {seed}: {different(records[0])} → {different(records[-1])}" for seed, records in runs.items()]
    return [f"Different labels among the {graph.layers[0].width} nodes of the first layer, "
            f"from the first evaluation to the last: {'; '.join(counts)}. "
            "In the pictures `empty` is a message without a word, `bare` one with a value and no label.", ""]


def terminal_table(sets: list[SetResults]) -> str:
    """Accuracy in percent, mean of seeds: a row per set, a column per method."""
    methods = list(dict.fromkeys(method for one in sets for method in one.pools))
    if not methods:
        return "No results yet."
    header = ["accuracy, %", "n", *(SHORT.get(method, method) for method in methods), "majority", "shallow"]
    rows = [[one.title, str(one.facts["n"]), *(percent(one.pools[m].mean()) if m in one.pools else "-" for m in methods),
             percent(one.facts["majority"]), percent(one.facts["shallow"])] for one in sets]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in [header, *rows])
