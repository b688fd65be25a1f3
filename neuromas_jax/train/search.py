"""Automated growth: signals tell when a graph grows and into what, and a race decides (ours; future work in the paper).

    train the start until it stalls, or for `every` steps
    while the graph can still grow, and steps for a race are left:
        plans = graphs that use the calls, as far as the signals allow
        race: train each for a few steps more, drop those that are clearly behind, again
        go on with the one that gained most for its tokens

A plan is a whole graph and no single edit, since what helps after a few steps is not what the calls are best spent on: a search
that took one small step at a time, each for what helped at once, ended with graphs that no further edit could mend. Which of two
graphs is better shows only after tens of steps, so the race costs what it needs: it is short where one graph is far ahead, and
where they are alike takes all steps that there are for growing, or its share of them where more than one race leads to all calls.
Everything counts: the steps of plans that lost are gone from the budget.

Signals: saturation (no gain over the last validations) asks for growth, which does not wait for it longer than `every` steps,
since a small graph that goes on to learn a little spends the steps that a larger one needs; blanked influence and the diversity
of labels say whether a layer would have use for more nodes; validation accuracy decides the race, and among those that it leaves
gain per token, which is accuracy where plans write as much.
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
from neuromas_jax.parallel.distributed import agreed
from neuromas_jax.rl.growth import Growth
from neuromas_jax.train import checkpoint
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import UNLABELLED, evaluate
from neuromas_jax.train.loop import NonFinite, Start, TrainState, blanked_losses, train
from neuromas_jax.train.metrics import read_metrics
from neuromas_jax.train.run import Compiled, Run, make_stage_run
from neuromas_jax.train.stages import Parent, new_start, resumed_start

USED = 0.01  # accuracy that blanking a node must cost, for its layer to be worth widening: any question of a batch
LOSS = 0.05  # accuracy that the best plan may lose against its parent; where it loses more the graph stays as it is
BEHIND = 2.0  # standard errors of a difference


@dataclasses.dataclass(frozen=True)
class Plan:
    """A graph to go on with: what it is called, the edits that lead there, and how: old and new slots, place of new layers."""

    name: str
    edits: tuple[Edit, ...]
    growth: Growth


@dataclasses.dataclass(frozen=True)
class Arm:
    """A plan in a race: its programs, its folder, and what it starts from."""

    plan: Plan
    compiled: Compiled
    place: Path
    start: Start


def signals(graph: TextGraph, labels: Sequence[str], losses: Sequence[float | None]) -> list[dict]:
    """Per hidden layer: the least influence of its nodes, and how many of them write about something of their own.

    Args:
      graph: that was measured.
      labels: per node the one that it writes most.
      losses: per node what blanking its message costs; None for a readout.
    """
    found = []
    for number in range(graph.rounds - 1):
        rows = graph.nodes(number)
        own = {labels[node] for node in rows} - set(UNLABELLED)
        influence = [losses[node] for node in rows]
        known = [one for one in influence if one is not None]
        found.append({"influence": min(known) if known else None, "diversity": len(own) / len(rows)})
    return found


def plans(graph: TextGraph, calls: int, growth: Growth, measured: Sequence[dict] = ()) -> list[Plan]:
    """Graphs to race: with as many calls as are allowed, but at most twice as many and one, since many new nodes at once get
    too little signal each.

    - "deep": layers in front, each as wide as the first one.
    - "tree": layers in front, each twice as wide as the one behind it.
    - "wide k": more nodes in layer k, the one of most influence of those whose nodes all matter and say something of their own.
    - "edges" where no call is left and some layer of three or more does not read all before it: then every layer does. It races
      against "stay", the graph as it is; slots of both go on as they were.

    A front layer that the calls cut short is as wide as fits. With seven calls 2-1 has 2-2-2-1, 4-2-1 and, if the signals allow,
    6-1.
    """
    left, width = min(calls, 2 * graph.size + 1) - graph.size, graph.layers[0].width
    if left > 0:
        front, wide = (dataclasses.replace(growth, place=place) for place in ("front", "middle"))
        found = [Plan("deep", fronts(left, width, 1), front), Plan("tree", fronts(left, 2 * width, 2), front)]
        useful = [(one["influence"], number) for number, one in enumerate(measured)
                  if one["diversity"] == 1 and one["influence"] is not None and one["influence"] >= USED]
        if useful:
            number = max(useful)[1]
            found.append(Plan(f"wide {number}", (Widen(number, left),), wide))
        return [one for number, one in enumerate(found) if one.edits not in [other.edits for other in found[:number]]]
    dense = tuple(Rewire(number, tuple(range(number)), None) for number in range(1, graph.rounds)
                  if graph.layers[number].reads != tuple(range(number)) or graph.layers[number].edges is not None)
    if not dense or graph.rounds < 3:
        return []
    return [Plan("stay", (), Growth()), Plan("edges", dense, Growth(hide=growth.hide, hide_steps=growth.hide_steps))]


def fronts(left: int, width: int, factor: int) -> tuple[Deepen, ...]:
    """Layers in front until no call is left: the first one so wide, each further one `factor` times as wide, the last as fits."""
    found = []
    while left:
        found.append(Deepen(0, min(left, width), bypass=False))
        left, width = left - found[-1].width, width * factor
    return tuple(found)


def behind(accuracy: float, best: float, questions: int) -> bool:
    """Whether an accuracy is behind by more than noise: `BEHIND` standard errors of a difference, of smoothed shares and as if
    each had questions of its own.

    >>> behind(0.4, 0.5, 128), behind(0.4, 0.6, 128)
    (False, True)
    """
    shares = [(max(0.0, one) * questions + 1) / (questions + 2) for one in (accuracy, best)]
    return best - accuracy > BEHIND * math.sqrt(sum(one * (1 - one) for one in shares) / questions)


def races(size: int, calls: int) -> int:
    """How many races lead to all calls, one at least; see `plans`.

    >>> races(3, 7), races(3, 15), races(7, 7)
    (1, 2, 1)
    """
    return 1 if 2 * size + 1 >= calls else 1 + races(2 * size + 1, calls)


def winner(names: Sequence[str], alive: Sequence[int], accuracies: Sequence[float], tokens: Sequence[int], before: float,
           questions: int) -> int | None:
    """Which arm to go on with, by its number: of those left that lost no more than `LOSS` the one that gained most for its
    tokens, or lost least; "edges" only if "stay" is behind. None if all lost more.

    Args:
      names: of the arms' plans.
      alive: numbers of those that are left.
      accuracies, tokens: of the arms; a graph's `token_budget`.
      before: accuracy of what they grew from.
      questions: that accuracies are measured on.
    """
    alive = [arm for arm in alive if accuracies[arm] >= before - LOSS]
    if len(alive) == 2 and names[alive[0]] == "stay" and not behind(accuracies[alive[0]], accuracies[alive[1]], questions):
        return alive[0]
    gained = [arm for arm in alive if accuracies[arm] > before]
    if gained:
        return max(gained, key=lambda arm: (accuracies[arm] - before) / tokens[arm])
    return max(alive, key=lambda arm: accuracies[arm], default=None)


def race(arms: int, trial: int, room: int, questions: int, run: Callable[[int, int], float]) -> tuple[list[int], list[tuple]]:
    """Trains some arms by turns and drops those that are behind, until one is left or no steps are.

    Args:
      arms: how many; those that the steps do not suffice for are left out, the last first.
      trial: steps of each turn.
      room: steps for all arms together.
      questions: that accuracies are measured on.
      run: `(arm, steps) -> accuracy`, with the arm trained until it has so many steps.

    Returns:
      The arms that are left, none that diverged (an accuracy below 0), and for each that ran its steps and its last accuracy.
    """
    alive, found = list(range(min(arms, room // trial))), [(0, 0.0)] * min(arms, room // trial)
    steps = 0
    while room >= trial * len(alive) and (len(alive) > 1 or alive and not steps):
        steps, room = steps + trial, room - trial * len(alive)
        for arm in alive:
            found[arm] = steps, run(arm, steps)
        best = max(found[arm][1] for arm in alive)
        alive = [arm for arm in alive if found[arm][1] >= 0 and not behind(found[arm][1], best, questions)]
    return alive, found


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
      seed: of all arms.
      steps: of training in all, those of plans that lost included.
      title: of the progress bar.
      programs: `Run -> Compiled`.

    Returns:
      The last state, its programs, the same as something to grow from, and a record of every decision.

    Raises:
      CheckpointError, NonFinite: as `train.loop.train`.
    """
    rule, batch = run.family.search, run.config.rollout.questions * run.config.rollout.group
    growing, calls = round(steps * rule.growing), rule.calls or family_graph(run.config, run.family)[0].size
    compiled, place, start = programs(run), folder / f"grown0_{run.method.graph}", None
    joined, decisions, before, had, number = [], [], 0, 0, 0
    validation = distinct_questions(run.target, "validation", None, run.config.training.validation_questions)
    while True:
        # 1. Train until it stalls, or to the end where nothing will grow any more; but leave a turn for each arm.
        graph = compiled.run.method.graph
        left = growing - rule.trial * len(plans(graph, calls, rule.growth)) - before
        last = number == rule.most or left < max(had, 1) or not plans(graph, calls, rule.growth)
        most = steps - before if last else left
        if rule.every and not last:
            most = max(had, min(most, rule.every))
        state = train(compiled, place, seed, most, f"{title} {place.name}", start, 0 if last else rule.stall)
        done, records = int(state.step), read_metrics(place)
        spent, now = before + done, records[-1]
        joined += [{**record, "step": before + record["step"], "stage": number} for record in records]
        write_records(folder / "metrics.jsonl", joined)
        parent = Parent(compiled, state.learner, int(state.cursor), spent * batch, start.lineage if start else [],
                        f"{place.name}/step_{done:06d}")
        if last:
            return state, compiled, parent, decisions
        # 2. A race of plans, from the same parent.
        asked = evaluate(compiled, state.learner.bank, validation, state.key).asked
        measured = signals(graph, now["nodes"]["label"], blanked_losses(compiled, state.learner.bank, asked, state.key))
        arms = [arm(parent, one, folder, seed, number + 1, programs) for one in plans(graph, calls, rule.growth, measured)]
        room = (growing - spent) // min(rule.most - number, races(graph.size, calls))
        alive, raced = race(len(arms), rule.trial, max(room, rule.trial * min(2, len(arms))), len(asked),
                            lambda one, least: train_arm(arms[one], least, rule.trial, seed, title))
        graphs = [one.compiled.run.method.graph for one in arms]
        best = winner([one.plan.name for one in arms], alive, [accuracy for _, accuracy in raced],
                      [one.token_budget for one in graphs], now["accuracy"], len(asked))
        decisions.append({
            "step": spent, "graph": str(graph), "accuracy": now["accuracy"], "signals": measured,
            "trials": [{"candidate": one.plan.name, "graph": str(tried), "steps": ran, "accuracy": accuracy,
                        "gain_per_token": (accuracy - now["accuracy"]) / tried.token_budget}
                       for one, tried, (ran, accuracy) in zip(arms, graphs, raced)],
            "chosen": "none" if best is None else arms[best].plan.name})
        # 3. The winner goes on, its own steps counted in its folder; or the parent does, and nothing grows any more.
        number, had = number + 1, 0 if best is None else raced[best][0]
        before = spent + sum(ran for ran, _ in raced) - had
        if best is not None:
            compiled, place, start = arms[best].compiled, arms[best].place, arms[best].start
        else:
            number, place = rule.most, folder / f"grown{number}_{graph}_none"
            compiled = programs(searched_run(run, graph, Growth()))
            start = resumed_start(parent, compiled, place, seed) or new_start(parent, compiled, place, seed, number)


def arm(parent: Parent, one: Plan, folder: Path, seed: int, number: int, programs: Callable[[Run], Compiled]) -> Arm:
    """Grows a plan out of the parent, unless that was done before."""
    like = parent.compiled.run
    grown = edit(like.method.graph, *one.edits).graph
    compiled = programs(searched_run(like, grown, one.growth))
    place = folder / f"grown{number}_{grown}_{one.name.replace(' ', '')}"
    start = resumed_start(parent, compiled, place, seed) or new_start(parent, compiled, place, seed, number)
    return Arm(one, compiled, place, start)


def train_arm(one: Arm, steps: int, trial: int, seed: int, title: str) -> float:
    """Trains an arm until it has so many steps, unless it has.

    Returns:
      The mean of its last two validations in a turn of `trial` steps, without that of its first step, when new nodes may have
      cost what they soon win back; -1 if it diverged.
    """
    if agreed(checkpoint.steps(one.place / "checkpoints"))[-1] < steps:
        try:
            train(one.compiled, one.place, seed, steps, f"{title} trial {one.place.name}", one.start, 0)
        except NonFinite as error:
            logging.warning("%s: %s; this plan counts as the worst", one.place, error)
            return -1.0
    records = [record for record in read_metrics(one.place) if steps - trial < record["step"] <= steps]
    found = [record["accuracy"] for record in records if record["step"] > 1 or steps == 1][-2:]
    return sum(found) / len(found)
