"""Training in stages: each stage's graph grows out of the one before, and a lineage record tells how (`graph.lineage`)."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone.adapters import Bank
from neuromas_jax.config import Config
from neuromas_jax.files import write_records
from neuromas_jax.graph import TextGraph, graph_of
from neuromas_jax.graph.growth import Edit, Grown, edit, plan
from neuromas_jax.methods import Method, Stage, make_method
from neuromas_jax.parallel.place import shardings
from neuromas_jax.rl import LearnerState
from neuromas_jax.rl.growth import SlotOrigins, grow_learner, slot_origins
from neuromas_jax.train import checkpoint
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.imitate import imitate, teachers
from neuromas_jax.train.loop import Start, TrainState, description, init_state, train, with_reference
from neuromas_jax.train.metrics import read_metrics
from neuromas_jax.train.run import Compiled, Run, make_run, make_stage_run

INHERITING = ("grown", "grown_anew")  # the methods that `init_from` is for


@dataclasses.dataclass(frozen=True)
class Parent:
    """A trained graph to grow from.

    Attributes:
      compiled: its programs.
      learner: adapters, moments.
      cursor: number of the next training question.
      samples: episodes spent on it, by all its ancestors too.
      lineage: of its own.
      source: its checkpoint.
    """

    compiled: Compiled
    learner: LearnerState
    cursor: int
    samples: int
    lineage: list
    source: str


@dataclasses.dataclass(frozen=True)
class Stored:
    """A checkpoint to grow from, before any of its arrays is read.

    Attributes:
      run: what it holds, as a run of one stage.
      folder, step: where it lies.
      samples: episodes spent on it and its ancestors.
      lineage: of its own.
      fingerprint: of all that it belongs to.
    """

    run: Run
    folder: Path
    step: int
    samples: int
    lineage: list
    fingerprint: str


def stage_runs(
    config: Config, family: str, method: str, seed: int, learning_rate: float | None = None
) -> tuple[list[Run], Stored | None]:
    """The stages that a method has left to train, and what the first of them grows from.

    With `config.init_from` the stages up to the one whose graph the stored parent has are left out.

    Raises:
      ValueError: a graph that cannot grow into that of the next stage, or nothing is left to do.
      CheckpointError: there is nothing to grow from.
    """
    stages = make_method(method, config, config.families[family]).stages
    runs = [make_run(config, family, method, learning_rate, number) for number in range(len(stages))]
    stored = None
    if config.init_from and method in INHERITING:
        stored = read_stored(runs[0], find_parent(Path(config.init_from), family, seed))
        had = [number for number, run in enumerate(runs) if run.method.graph == stored.run.method.graph]
        runs = runs[had[-1] + 1 :] if had else runs
        if not runs:
            raise ValueError(f"{stored.folder} holds the graph {stored.run.method.graph} already, to which families.{family} "
                             "grows; give a bigger topology")
    for number, (old, run) in enumerate(zip([stored.run if stored else None, *runs], runs)):
        growth = run.method.stages[0].growth
        if old is None:
            continue
        _, grown = grown_graph(old, run)
        slot_origins(grown, old.method.slots, run.method.slots, len(run.method.ranks))
        if growth.new == "relay":
            teachers(grown, growth.new)
        if run.objective.floor_weight and old.method.graph != run.method.graph and not run.method.stages[0].anew:
            # Settled nodes need no floor, nor does a readout.
            read = tuple(node for node in grown.new if node < grown.graph.size - grown.graph.layers[-1].width)
            runs[number] = dataclasses.replace(run, objective=dataclasses.replace(run.objective, floor_nodes=read))
    return runs, stored


def train_stages(
    stages: Sequence[Compiled], folder: Path, seed: int, steps: int, title: str, parent: Parent | None = None
) -> tuple[TrainState, Parent]:
    """Trains a method's stages one after another, going on from whatever is there.

    Each stage has a folder `stage<number>_<graph>` of its own; `metrics.jsonl` joins their records, with steps counted from the
    first stage on.

    Args:
      stages: programs of each stage.
      folder: of the cell.
      seed: of all stages.
      steps: of all stages together; what a stage that stalls leaves over goes to the last one.
      title: of the progress bar.
      parent: what the first stage grows from; None where it starts from nothing.

    Returns:
      The last state, and the same as something to grow from: with samples spent and lineage.

    Raises:
      CheckpointError, NonFinite: as `train.loop.train`.
    """
    spent, state, joined = 0, None, []
    for number, compiled in enumerate(stages):
        run = compiled.run
        place = folder / f"stage{number}_{run.method.graph}"
        most = steps - spent if number == len(stages) - 1 else min(run.method.stages[0].steps, steps - spent)
        named = f"{title} {run.method.graph}"
        if parent is None:
            start = None
            state = train(compiled, place, seed, most, named)
        else:
            start = resumed_start(parent, compiled, place, seed) or new_start(parent, compiled, place, seed, number)
            state = train(compiled, place, seed, most, named, start)
        records = [{**record, "step": spent + record["step"], "stage": number} for record in read_metrics(place)]
        joined += records
        write_records(folder / "metrics.jsonl", joined)
        done = int(state.step)
        spent += done
        batch = run.config.rollout.questions * run.config.rollout.group
        born = start.lineage[-1]["samples"] if start else 0
        parent = Parent(compiled, state.learner, int(state.cursor), born + done * batch, start.lineage if start else [],
                        f"{place.name}/step_{done:06d}")
    return state, parent


def grown_graph(parent: Run, child: Run) -> tuple[tuple[Edit, ...], Grown]:
    """The edits from a run's graph to that of the next stage. Raises ValueError where there are none."""
    growth = child.method.stages[0].growth
    edits = plan(parent.method.graph, child.method.graph, growth.place)
    return edits, edit(parent.method.graph, *edits)


def new_edges(grown: Grown, old: TextGraph) -> np.ndarray:
    """`[reader, sender]`: edges into nodes that were there before which they did not have; nodes of the new graph."""
    had = {(node, sender) for number in range(old.rounds) for node, row in zip(old.nodes(number), old.edge_mask(number))
           for sender, kept in zip(old.senders(number), row) if kept}
    found = np.zeros((grown.graph.size,) * 2, bool)
    for number in range(grown.graph.rounds):
        for node, row in zip(grown.graph.nodes(number), grown.graph.edge_mask(number)):
            for sender, kept in zip(grown.graph.senders(number), row):
                was = (grown.origin[node], grown.origin[sender])
                found[node, sender] = kept and was[0] is not None and was not in had
    return found


def expected_record(parent: Parent, child: Run) -> dict:
    """The parts of a lineage record that nothing needs to be run for."""
    edits, _ = grown_graph(parent.compiled.run, child)
    stage, config = child.method.stages[0], child.config
    # The teacher's pass and the forced one of each step of imitation.
    imitation = 2 * stage.growth.imitate * config.rollout.questions * config.rollout.group
    return {"graph": str(child.method.graph), "parent_graph": str(parent.compiled.run.method.graph), "parent": parent.source,
            "edits": [repr(one) for one in edits], "growth": dataclasses.asdict(stage.growth), "anew": stage.anew,
            "samples": parent.samples + imitation}


def make_start(parent: Parent, child: Run, state: TrainState, lineage: list) -> Start:
    _, grown = grown_graph(parent.compiled.run, child)
    origins = slot_origins(grown, parent.compiled.run.method.slots, child.method.slots, len(child.method.ranks))
    growth = child.method.stages[0].growth
    if child.method.stages[0].anew:
        origins = dataclasses.replace(origins, carried=(None,) * len(origins.carried))
    return Start(state, lineage, growth, origins, new_edges(grown, parent.compiled.run.method.graph))


def resumed_start(parent: Parent, compiled: Compiled, folder: Path, seed: int) -> Start | None:
    """The start of a stage that has a checkpoint already, None where it has none.

    Raises:
      CheckpointError: the checkpoint grew out of something else.
    """
    stored = checkpoint.newest(folder / "checkpoints", lambda step: checkpoint.describe(folder / "checkpoints", step))
    if stored is None:
        return None
    stored = stored.get("lineage") or [{}]
    wanted = [*parent.lineage, expected_record(parent, compiled.run)]
    static = [{name: record.get(name) for name in want} for record, want in zip(stored, wanted)]
    if checkpoint.fingerprint({"": static}) != checkpoint.fingerprint({"": json.loads(json.dumps(wanted))}):
        raise checkpoint.CheckpointError(f"{folder} grew out of another graph or by other rules: it has {static[-1]}, this run "
                                         f"has {wanted[-1]}; give another --workdir, or the config that made it")
    like = init_state(compiled.run, seed)
    return make_start(parent, compiled.run, like, stored)


def new_start(parent: Parent, compiled: Compiled, folder: Path, seed: int, number: int) -> Start:
    """Grows the parent, lets new nodes imitate, measures before and after, and saves the state as the stage's step 0."""
    run, old = compiled.run, parent.compiled.run
    stage = run.method.stages[0]
    _, grown = grown_graph(old, run)
    origins = slot_origins(grown, old.method.slots, run.method.slots, len(run.method.ranks))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 5), number)  # purpose: growth
    fresh = run.new_bank((seed + (number + 1) * 2**20) % 2**32)  # not the rows that the parent was born with
    if stage.anew:
        learner = dataclasses.replace(init_state(run, seed).learner, bank=fresh)
    else:
        learner = grown_learner(compiled, parent.learner, fresh, origins, key)
    questions = distinct_questions(run.target, "validation", None, run.config.training.validation_questions)
    before = evaluate(parent.compiled, parent.learner.bank, questions, key, task=run.target).accuracy
    cursor = parent.cursor
    if stage.growth.imitate and not stage.anew:
        learner, cursor = imitate(parent.compiled, parent.learner.bank, compiled, learner, grown, origins, cursor, key)
    learner = with_reference(run, learner)
    after = evaluate(compiled, learner.bank, questions, key, task=run.target).accuracy
    record = {**expected_record(parent, run), "before": before, "after": after, "questions": len(questions)}
    lineage = json.loads(json.dumps([*parent.lineage, record]))
    state = TrainState(learner, jax.random.fold_in(jax.random.key(seed), number + 16), jnp.int32(0), jnp.int32(cursor))
    state = compiled.everywhere(state)
    checkpoint.save(folder / "checkpoints", 0, state, description(run, seed, lineage))
    return make_start(parent, run, state, lineage)


def grown_learner(compiled: Compiled, old: LearnerState, fresh: Bank, origins: SlotOrigins, key: jax.Array) -> LearnerState:
    """`grow_learner` for a run. On a mesh the learner before and the one after both lie as the run's programs take them, so that
    no device has more than its part of either."""
    run = compiled.run

    def grow(old, fresh, key):
        return grow_learner(run.optimizer, old, fresh, origins, run.method.stages[0].growth, key)

    if compiled.mesh is None:
        return grow(old, fresh, key)
    placed = [compiled.placed(x) for x in (old, fresh, key)]
    where = shardings(jax.eval_shape(grow, *placed), compiled.mesh, compiled.rules)
    return jax.jit(grow, out_shardings=where)(*placed)


def find_parent(path: Path, family: str, seed: int) -> Path:
    """The folder of checkpoints that `init_from` means: a workdir's cell of the family and seed, a cell, or the folder itself.

    Raises:
      CheckpointError: there is none.
    """
    cells = [path, *sorted(path.glob(f"train/{family}/grown_seed{seed}")), *sorted(path.glob(f"train/{family}/graph_seed{seed}"))]
    for cell in cells:
        stages = sorted(cell.glob("stage*_*/checkpoints"), key=lambda one: int(one.parent.name[5:].split("_")[0]))
        for folder in (cell, cell / "checkpoints", *reversed(stages)):
            if checkpoint.steps(folder):
                return folder
    raise checkpoint.CheckpointError(
        f"init_from {str(path)!r} holds no checkpoint of family {family!r} and seed {seed}; give the workdir of an experiment "
        f"that trained graph or grown there, or the folder of one of its cells, such as {path}/train/{family}/graph_seed{seed}")


def load_parent(stored: Stored, run: Run, programs: Callable[[Run], Compiled]) -> Parent:
    """A stored parent with its arrays, read straight to where the run that grows has them: on a mesh each device its own part of
    every slot's adapters and moments. Nothing else of the checkpoint is read.

    Args:
      stored: see `read_stored`.
      run: of the first stage, which grows.
      programs: `Run -> Compiled`.

    Raises:
      CheckpointError: it is damaged.
    """
    shapes = jax.eval_shape(lambda: init_state(stored.run, 0))
    like = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
                        shapes, programs(run).lying(shapes))
    skipped = checkpoint.SKIPPED
    with of_parent():
        loaded = checkpoint.load(stored.folder, stored.step, dataclasses.replace(like, key=skipped, step=skipped))
    return Parent(programs(stored.run), loaded.learner, int(loaded.cursor), stored.samples, stored.lineage,
                  str(stored.folder / f"step_{stored.step:06d}"))


@contextlib.contextmanager
def of_parent():
    """A block that reads a parent, of which no older checkpoint is taken unasked: it would be another parent."""
    try:
        yield
    except checkpoint.Damaged as error:
        raise checkpoint.CheckpointError(f"{error}; remove that folder to grow from an older one, or give another init_from"
                                         ) from error


def read_stored(run: Run, folder: Path) -> Stored:
    """The newest checkpoint of a folder as something that a run could grow from. No array is read.

    Raises:
      CheckpointError: it cannot be read, does not say what it holds, or is of another backbone, prompt or adapters.
    """
    step = checkpoint.steps(folder)[-1]
    with of_parent():
        stored = checkpoint.describe(folder, step)
    place = folder / f"step_{step:06d}"
    try:
        graph = stored["graph"]
        stage = Stage(graph_of(graph["layers"]), tuple(graph["slots"]), tuple(graph["ranks"]))
        lineage, config = stored["lineage"], stored["config"]
        batch = config["rollout"]["questions"] * config["rollout"]["group"]
        had = {"backbone": stored["backbone"], "adapters": config["adapters"], "prompt": config["prompt"]}
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{place} does not say which graph it holds ({error!r}), so nothing can grow from it; "
                                         "give another init_from") from error
    mine = description(run, 0)
    has = {"backbone": mine["backbone"], "adapters": mine["config"]["adapters"], "prompt": mine["config"]["prompt"]}
    for name in had:
        if checkpoint.fingerprint({"": had[name]}) != checkpoint.fingerprint({"": has[name]}):
            raise checkpoint.CheckpointError(f"{place} was trained with another {name}: it has {had[name]!r}, this run has "
                                             f"{has[name]!r}; grow with that of the parent, or give another init_from")
    samples = step * batch + (lineage[-1]["samples"] if lineage else 0)
    method = Method("graph", (stage,), "graph")
    return Stored(make_stage_run(run.config, run.family, method, run.optimizer.learning_rate), folder, step, samples, lineage,
                  checkpoint.fingerprint({**stored, "step": step}))
