"""Automated growth: measured signals decide when a graph grows, and trials decide where (ours; future work in the paper).

    train the start until it stalls, or for `every` steps
    while a bigger graph fits the calls, and steps for trials are left:
        candidates = what the signals allow
        train each for a few steps from the same parent
        go on, as before, with the best of them, an earlier one where they differ by no more than noise

Everything counts: the steps of trials that lost are gone from the budget. Signals are those of the last record of
`metrics.jsonl`: saturation (no gain over the last validations) asks for growth, which does not wait for it longer than `every`
steps, since a small graph that goes on to learn a little spends the steps that a larger one needs; blanked influence and the
diversity of labels say whether a layer would have use for more nodes.

Steps are small, since a short trial says what helps now and not what leaves calls for later: a layer in front twice as wide won
such trials and then had no call left for depth. What adds depth comes first, and accuracies after a short trial are mostly noise:
so a later one is taken only where it is ahead by more than that (`choose`).
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from pathlib import Path

from absl import logging

from neuromas_jax.files import write_records
from neuromas_jax.graph import TextGraph
from neuromas_jax.graph.growth import Deepen, Edit, Rewire, Widen, edit
from neuromas_jax.methods import Method, Stage, family_graph
from neuromas_jax.rl.growth import Growth
from neuromas_jax.train import checkpoint
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import UNLABELLED
from neuromas_jax.train.loop import NonFinite, TrainState, train
from neuromas_jax.train.metrics import read_metrics
from neuromas_jax.train.run import Compiled, Run, make_stage_run
from neuromas_jax.train.stages import Parent, new_start, resumed_start

USED = 0.01  # accuracy that blanking a node must cost, for its layer to be worth widening
LOSS = 0.05  # accuracy that the best trial may lose; where it loses more the graph stays as it is


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A bigger graph: what it is called, the edits that lead there, and where new layers go."""

    name: str
    edits: tuple[Edit, ...]
    place: str


def signals(graph: TextGraph, record: dict) -> list[dict]:
    """Per hidden layer: the least influence of its nodes, and how many of them write about something of their own.

    Args:
      graph: that was measured.
      record: of `metrics.jsonl`, one with influence.
    """
    nodes, found = record["nodes"], []
    for number in range(graph.rounds - 1):
        rows = graph.nodes(number)
        labels = {nodes["label"][node] for node in rows} - set(UNLABELLED)
        influence = [nodes["blanked_loss"][node] for node in rows]
        known = [one for one in influence if one is not None]
        found.append({"influence": min(known) if known else None, "diversity": len(labels) / len(rows)})
    return found


def candidates(graph: TextGraph, calls: int, measured: Sequence[dict]) -> list[Candidate]:
    """Bigger graphs of at most so many calls that the signals allow, in the order in which they are tried.

    - "front": a layer in front, as wide as the first one, or as fits.
    - "wider k": half as many nodes more in layer k, if every node of it matters and says something of its own.
    - "middle": a layer before the readout, as wide as the one before it.
    - "edges": every layer reads all before it.
    """
    left, found = calls - graph.size, []
    hidden = graph.layers[:-1]
    if left >= 1:
        width = min(left, hidden[0].width if hidden else 2)
        found.append(Candidate("front", (Deepen(0, width, bypass=False),), "front"))
        for number, (layer, one) in enumerate(zip(hidden, measured)):
            more = min(left, max(1, layer.width // 2))
            if one["diversity"] == 1 and one["influence"] is not None and one["influence"] >= USED:
                found.append(Candidate(f"wider {number}", (Widen(number, more),), "middle"))
        if hidden and left >= hidden[-1].width:
            found.append(Candidate("middle", (Deepen(graph.rounds - 1, hidden[-1].width, bypass=False),), "middle"))
    dense = tuple(Rewire(number, tuple(range(number)), None) for number in range(1, graph.rounds)
                  if graph.layers[number].reads != tuple(range(number)) or graph.layers[number].edges is not None)
    if dense and graph.rounds > 2:
        found.append(Candidate("edges", dense, "middle"))
    return found


def choose(accuracies: Sequence[float], least: float, questions: int) -> int | None:
    """The trial to go on with, by its place: each in turn replaces the best before it if it is ahead by more than noise.

    Noise is roughly a standard error of a difference, of smoothed shares and as if each trial had questions of its own. Trials
    below `least` are out; None if all are.

    >>> choose([0.02, 0.04, 0.12], 0.0, 128), choose([0.02, 0.04], 0.0, 128)
    (2, 0)
    """
    def variance(accuracy):
        share = (accuracy * questions + 1) / (questions + 2)
        return share * (1 - share) / questions

    best = None
    for place, accuracy in enumerate(accuracies):
        if accuracy < least:
            continue
        if best is None or accuracy - accuracies[best] > math.sqrt(variance(accuracy) + variance(accuracies[best])):
            best = place
    return best


def searched_run(like: Run, graph: TextGraph, growth: Growth | None = None) -> Run:
    """A run of the method "searched" with this graph, a slot per node; `growth` if it grew out of another one."""
    ranks = (like.config.adapters.rank,) * graph.size
    stage = Stage(graph, tuple(range(graph.size)), ranks, growth=growth, stall=like.family.search.stall)
    return make_stage_run(like.config, like.family, Method("searched", (stage,), "searched"), like.optimizer.learning_rate)


def search(
    run: Run, folder: Path, seed: int, steps: int, title: str, programs: Callable[[Run], Compiled]
) -> tuple[TrainState, Compiled, Parent, list[dict]]:
    """Searches from the run's graph; a second call goes on where the first one stopped, since decisions follow from what lies in
    the folder.

    Args:
      run: of the start.
      folder: of the cell.
      seed: of all trials.
      steps: of training in all, trials included.
      title: of the progress bar.
      programs: `Run -> Compiled`.

    Returns:
      The last state, its programs, the same as something to grow from, and a record of every decision.

    Raises:
      CheckpointError, NonFinite: as `train.loop.train`.
    """
    rule, batch = run.family.search, run.config.rollout.questions * run.config.rollout.group
    growing, calls = int(steps * rule.growing), rule.calls or family_graph(run.config, run.family)[0].size
    compiled, place, start = programs(run), folder / f"grown0_{run.method.graph}", None
    joined, decisions, before, number = [], [], 0, 0
    asked = len(distinct_questions(run.target, "validation", None, run.config.training.validation_questions))
    while True:
        # 1. Train until it stalls, or to the end where nothing will grow any more.
        last = number == rule.most or before + rule.trial >= growing
        most = (steps if last else growing) - before
        if rule.every and not last and compiled.run.method.graph.size < calls:
            most = min(most, rule.every)
        state = train(compiled, place, seed, most, f"{title} {place.name}", start, 0 if last else rule.stall)
        done, graph, records = int(state.step), compiled.run.method.graph, read_metrics(place)
        spent, now = before + done, records[-1]
        joined += [{**record, "step": before + record["step"], "stage": number} for record in records]
        write_records(folder / "metrics.jsonl", joined)
        parent = Parent(compiled, state.learner, int(state.cursor), spent * batch, start.lineage if start else [],
                        f"{place.name}/step_{done:06d}")
        if last:
            return state, compiled, parent, decisions
        # 2. A short trial of each candidate, from the same parent.
        measured = signals(graph, now)
        tried = candidates(graph, calls, measured)[: min(rule.tries or steps, max(0, (growing - spent) // rule.trial))]
        trials = [trial(parent, one, folder, seed, number + 1, title, programs) for one in tried]
        gains = [accuracy - now["accuracy"] for *_, accuracy in trials]
        best = choose([accuracy for *_, accuracy in trials], now["accuracy"] - LOSS, asked)
        decisions.append({
            "step": spent, "graph": str(graph), "accuracy": now["accuracy"], "signals": measured,
            "trials": [{"candidate": one.name, "graph": str(grown.run.method.graph), "accuracy": accuracy,
                        "gain_per_token": gain / grown.run.method.graph.token_budget}
                       for (one, grown, _, _, accuracy), gain in zip(trials, gains)],
            "chosen": "none" if best is None else tried[best].name})
        # 3. The winner goes on, its own steps counted in its folder; or the parent does, and nothing grows any more.
        number, before = number + 1, spent + rule.trial * (len(trials) - (best is not None))
        if best is not None:
            _, compiled, place, start, _ = trials[best]
        else:
            number, place = rule.most, folder / f"grown{number}_{graph}_none"
            compiled = programs(searched_run(run, graph, Growth()))
            start = resumed_start(parent, compiled, place, seed) or new_start(parent, compiled, place, seed, number)


def trial(parent: Parent, one: Candidate, folder: Path, seed: int, number: int, title: str, programs):
    """Grows a candidate out of the parent and trains it for the steps of a trial, unless that was done before.

    Returns:
      The candidate, its programs, its folder, its start, and validation accuracy at the end of the trial.
    """
    like = parent.compiled.run
    rule = like.family.search
    grown = edit(like.method.graph, *one.edits).graph
    compiled = programs(searched_run(like, grown, dataclasses.replace(rule.growth, place=one.place)))
    place = folder / f"grown{number}_{grown}_{one.name.replace(' ', '')}"
    start = resumed_start(parent, compiled, place, seed) or new_start(parent, compiled, place, seed, number)
    if checkpoint.steps(place / "checkpoints")[-1] < rule.trial:
        try:
            train(compiled, place, seed, rule.trial, f"{title} trial {place.name}", start, 0)
        except NonFinite as error:
            logging.warning("%s: %s; this candidate counts as the worst", place, error)
            return one, compiled, place, start, -1.0
    accuracy = next(record["accuracy"] for record in read_metrics(place) if record["step"] == rule.trial)
    return one, compiled, place, start, accuracy
