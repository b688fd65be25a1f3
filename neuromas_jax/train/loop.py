"""The training loop, read from top to bottom: questions, rollout, verdicts, update, numbers, checkpoint."""

import contextlib
import dataclasses
import json
from pathlib import Path
import re
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone.peft import WEIGHTS
from neuromas_jax.files import append_text, write_text
from neuromas_jax.rl import CREDIT, CRITIC, LearnerState, UpdateMetrics, advantages, init_critic, init_learner
from neuromas_jax.rl.malt import MALT
from neuromas_jax.rl.growth import Growth, SlotOrigins, hidden_share, slot_rates
from neuromas_jax.rollout import Episodes, Interventions, no_interventions
from neuromas_jax.tasks import FileTask, Verdict
from neuromas_jax.train import checkpoint, preemption
from neuromas_jax.train.batches import distinct_questions, next_batch
from neuromas_jax.train.evaluate import evaluate, message_texts, states, truncated
from neuromas_jax.train.metrics import Metrics, read_metrics
from neuromas_jax.train.profile import Profile
from neuromas_jax.train.run import Compiled, Run
from neuromas_jax.train.sampling import sample_and_judge
from neuromas_jax.train.verdicts import start_verdicts


# Seeds start so far apart in the training split, more than any run takes. A family's split has no end; a number has 32 bits,
# so there are so many starts, after which seeds share questions again.
SEED_STRIDE, SEED_STARTS = 10_000_000, 214


class NonFinite(FloatingPointError):
    """The loss or a gradient is not a finite number. The last good checkpoint is kept."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a stage of growth starts; a run that starts from nothing has none.

    Attributes:
      state: before the stage's first step.
      lineage: records of all growth so far, oldest first; see `graph.lineage`.
      growth: rules of this stage.
      origins: where its slots came from.
      new_edges: `[reader, sender]`, edges into carried nodes that were not there before.
    """

    state: "TrainState"
    lineage: list
    growth: Growth
    origins: SlotOrigins
    new_edges: np.ndarray

    def rates(self, rate: float, step: int) -> np.ndarray:
        """Learning rate of every slot in the step after `step` steps."""
        return slot_rates(self.growth, self.origins, rate, step)

    def hidden(self, keep: Interventions, key: jax.Array, step: int) -> Interventions:
        """New edges hidden for a share of the questions, in all of a question's episodes alike, so that a group differs in what
        is written alone."""
        share = hidden_share(self.growth, step)
        if not share:
            return keep
        _, _, batch, _ = keep.shown.shape
        drawn = jax.random.uniform(key, (*self.new_edges.shape, batch, 1)) < share
        return dataclasses.replace(keep, shown=keep.shown & ~(drawn & self.new_edges[..., None, None]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a checkpoint holds. The next step is a function of this and the config alone.

    Attributes:
      learner: adapters, moments, learning rates.
      key: the run's key; each use folds in its purpose and step.
      step: steps done.
      cursor: number of the next training question; starts at `first_question`.
    """

    learner: LearnerState
    key: jax.Array
    step: jax.Array
    cursor: jax.Array


def first_question(task, seed: int) -> int:
    """Number of the first training question of a seed, so that seeds differ in what they see and not only in adapters.

    A file's rows are finite: there a seed starts at the beginning of a pass of its own, with all rows in another order.
    """
    start = seed % SEED_STARTS * SEED_STRIDE
    rows = len(task.questions("train")) if isinstance(task, FileTask) else 1
    return start - start % max(rows, 1)


def init_state(run: Run, seed: int) -> TrainState:
    """The state before the first step, a function of the run and its seed. Raises ValueError for a task without training rows."""
    critic = None
    if run.objective.credit == CRITIC:
        key = jax.random.fold_in(jax.random.key(seed), 6)  # purpose: critic
        critic = init_critic(run.parts.backbone.config.hidden_size, key)
    learner = with_reference(run, init_learner(run.optimizer, run.new_bank(seed), critic))
    return TrainState(learner, jax.random.key(seed), jnp.int32(0), jnp.int32(first_question(run.target, seed)))


def with_reference(run: Run, learner: LearnerState) -> LearnerState:
    """The learner at the start of a phase that learns from what its first adapters write; any other as it is."""
    if run.objective.credit not in MALT:
        return learner
    return dataclasses.replace(learner, reference=jax.tree.map(jnp.copy, learner.bank))  # an update donates the bank


def system(run: Run) -> dict:
    """What adapters are at home in, as plain JSON: another graph, scale or prompt would make another system of them."""
    graph = {**dataclasses.asdict(run.method.graph), "slots": run.method.slots, "ranks": run.method.ranks}
    for name, value in (("finals", run.method.stages[0].finals), ("tree", run.program.tree)):
        if value:
            graph[name] = value
    prompt = {**dataclasses.asdict(run.config.prompt), "tokens_per_fact": run.family.tokens_per_fact}
    if not prompt["end"]:
        del prompt["end"]
    if run.method.learns != "adapters":
        graph["learns"] = run.method.learns
    adapters = dataclasses.asdict(run.config.adapters)
    del adapters["start"]  # what they began with is no part of where they are at home
    return json.loads(json.dumps({"graph": graph, "adapters": adapters, "prompt": prompt}))


def description(run: Run, seed: int, lineage: list = ()) -> dict:
    """What a checkpoint belongs to; `lineage` tells of the growth that led to it.

    Left out: steps and cadence, since a run may be made longer; what only trades time for memory; what only evaluation reads;
    and entropy floor and penalty where there is none.
    """
    config = dataclasses.asdict(run.config)
    kept = {"rollout": config["rollout"], "objective": dataclasses.asdict(run.objective)}
    for name in ("microbatch", "parts", "update_nodes"):
        del kept["rollout"][name]
    unused = () if run.objective.floor_weight else ("entropy_floor", "floor_weight", "floor_nodes")
    for name in (*unused, *([] if run.objective.invalid_penalty else ["invalid_penalty"])):
        del kept["objective"][name]
    family = {name: getattr(run.family, name) for name in ("task", "buckets")}
    family["options"] = {**run.family.options, **dict(run.method.stages[0].options)}
    home = system(run)
    graph = home.pop("graph")
    text = {**home, **kept, "optimizer": dataclasses.asdict(run.optimizer), "family": family, "seed": seed}
    data = run.task.checksum() if isinstance(run.task, FileTask) else None
    if run.config.adapters.start:
        text["start"] = [f"{zlib.crc32((Path(one) / WEIGHTS).read_bytes()):08x}" for one in run.config.adapters.start]
    return {"backbone": run.parts.fingerprint, "config": json.loads(json.dumps(text)), "data": data, "graph": graph,
            "lineage": list(lineage)}


def train(
    compiled: Compiled, folder: Path, seed: int, steps: int, title: str = "train", start: Start | None = None,
    patience: int | None = None,
) -> TrainState:
    """Trains to `steps`, going on from the folder's newest checkpoint if there is one.

    Writes `checkpoints/`, `metrics.jsonl`, `events/` and `episodes.txt` into the folder.

    Args:
      compiled: programs of the run.
      folder: where everything is written.
      seed: of adapters, questions and sampling.
      steps: of training.
      title: of the progress bar.
      start: of a stage of growth; without it the run starts from nothing.
      patience: after how many validations without a gain training ends early, 0 for never; the method's own by default.

    Raises:
      NonFinite: with the step and the node; checkpoints are left as they are.
      preemption.Preempted: SIGTERM came, and the step after which it was heard is saved.
      checkpoint.CheckpointError: the folder holds another run's checkpoint, one past `steps`, or none that is whole.
    """
    run, training = compiled.run, compiled.run.config.training
    batch_size, group = run.config.rollout.questions, run.config.rollout.group
    state = start.state if start else init_state(run, seed)
    belongs = description(run, seed, start.lineage if start else [])
    found = checkpoint.restore(folder / "checkpoints", compiled.everywhere(state), belongs, steps)
    state = found or state
    validation = distinct_questions(run.target, "validation", None, training.validation_questions)
    own = distinct_questions(run.task, "validation", None, training.validation_questions)
    keep = no_interventions(run.method.graph, batch_size, group)
    folder.mkdir(parents=True, exist_ok=True)
    metrics, profile = Metrics(folder, int(state.step), steps, title), Profile(folder, training.profile_steps)
    cut_episodes(folder / "episodes.txt", int(state.step))
    window, patience = Window(), run.method.stages[0].stall if patience is None else patience
    over = stalled(folder, patience)
    with preemption.training(), contextlib.closing(metrics), contextlib.closing(profile):
        while int(state.step) < steps and not over:
            step = int(state.step)
            profile.before(step + 1)
            key = jax.random.fold_in(state.key, 2)  # purpose: rollout
            learner = state.learner
            # 1. questions and what the graph writes
            questions, batch, cursor, skipped = next_batch(
                run.task, int(state.cursor), batch_size, run.method.graph, run.parts.tokenizer,
                run.family.buckets, run.config.rollout.too_long)
            if start:  # young graphs: slots held, edges hidden
                rates = start.rates(run.optimizer.learning_rate, step)
                learner = dataclasses.replace(learner, learning_rate=jnp.asarray(rates))
                shown = start.hidden(keep, jax.random.fold_in(jax.random.fold_in(state.key, 4), step), step)  # purpose: edges
            started, compiled_before = time.perf_counter(), sum(compiled.compile_seconds.values())
            # 2. with verdicts, on the host
            episodes, verdicts = sample_and_judge(
                compiled, learner.acting, questions, batch, shown if start else keep, jax.random.fold_in(key, step))
            rewards = np.asarray([[verdict.reward for verdict in row] for row in verdicts], np.float32)
            invalid = invalid_messages(run, episodes, questions) if run.objective.invalid_penalty else None
            # 3. one step of policy gradient on all nodes
            learner, numbers = compiled.update(learner, episodes, jnp.asarray(rewards), batch.tokens.shape[-1], invalid)
            numbers = jax.device_get(numbers)
            state = TrainState(learner, state.key, jnp.int32(step + 1), jnp.int32(cursor))
            check_finite(run, numbers, step + 1)
            # 4. numbers
            compile_seconds = sum(compiled.compile_seconds.values())
            window.add(episodes, rewards, time.perf_counter() - started - (compile_seconds - compiled_before), skipped)
            last = step + 1 == steps
            if (step + 1) % training.evaluate_every == 0 or last or step == 0:
                record = {"step": step + 1, **window.take(), "compile_seconds": round(compile_seconds, 2)}
                influence = (step + 1) % (training.influence_every or training.evaluate_every) == 0 or last
                record["nodes"] = node_numbers(compiled, state.learner.bank, episodes, numbers, validation, state.key, influence)
                record["accuracy"] = record["nodes"].pop("accuracy")
                if run.task is not run.target:
                    record["stage_accuracy"] = evaluate(compiled, state.learner.bank, own, state.key).accuracy
                metrics.write(record)
                write_episodes(run, folder / "episodes.txt", step + 1, questions, episodes, verdicts, rewards)
                window.accuracy = record["accuracy"]
                over = stalled(folder, patience)
            metrics.progress(
                accuracy=f"{window.accuracy:.2f}", reward=f"{rewards.mean():.2f}", tokens_per_s=f"{window.speed:.0f}")
            # 5. checkpoint
            told = preemption.asked()
            if (step + 1) % training.checkpoint_every == 0 or last or over or told:
                checkpoint.save(folder / "checkpoints", step + 1, compiled.everywhere(state), belongs)
            if told:
                raise preemption.Preempted(f"told to end, and saved step {step + 1} in {folder}")
    return state


def invalid_messages(run: Run, episodes: Episodes, questions) -> jax.Array:
    """Nodes that wrote what nobody can read, `[X, B, G]`: those who are asked for the answer gave none, the others no fact."""
    graph, end_id = run.method.graph, run.program.sampling.end_id
    known = frozenset(fact.label for question in questions for fact in question.facts)
    rows = []
    for number, layer in enumerate(episodes):
        answers = number == graph.rounds - 1 or number in run.method.stages[0].finals
        for node in message_texts(run.parts.tokenizer, end_id, layer):
            if not answers:
                rows.append([[not states(text, known) for text in row] for row in node])
                continue
            verdicts = iter(start_verdicts(run.task, [text for row in node for text in row],
                                           [question for question, row in zip(questions, node) for _ in row])())
            rows.append([[next(verdicts).outcome == "malformed" for _ in row] for row in node])
    return jnp.asarray(rows)


def stalled(folder: Path, patience: int, gain: float = 0.01) -> bool:
    """Whether the last `patience` validations of a stage's own questions were all less than a point above the best before; never
    with a patience of 0."""
    if not patience:
        return False
    found = [record.get("stage_accuracy", record["accuracy"]) for record in read_metrics(folder)]
    return len(found) > patience and max(found[-patience:]) < max(found[:-patience]) + gain


@dataclasses.dataclass
class Window:
    """Sums over the steps since the last record, or since a resumed run's checkpoint."""

    tokens: int = 0
    read: int = 0
    seconds: float = 0.0
    reward: float = 0.0
    rows: int = 0
    skipped: int = 0
    steps: int = 0
    accuracy: float = 0.0  # the last one measured, for the progress bar
    speed: float = 0.0

    def add(self, episodes: Episodes, rewards: np.ndarray, seconds: float, skipped: int) -> None:
        tokens = sum(int(np.asarray(layer.live).sum()) for layer in episodes)
        self.read += sum(int(np.asarray(mask).sum()) for layer in episodes for mask in (layer.shared_valid, layer.own_valid))
        self.tokens, self.seconds, self.skipped = self.tokens + tokens, self.seconds + seconds, self.skipped + skipped
        self.reward, self.rows = self.reward + float(rewards.sum()), self.rows + rewards.size
        self.speed, self.steps = tokens / seconds, self.steps + 1

    def take(self) -> dict:
        """Means of the window and how many steps they are of; it starts afresh."""
        record = {
            "reward": self.reward / self.rows, "tokens_per_second": self.tokens / self.seconds,
            "tokens": self.tokens,
            "read_tokens": self.read, "seconds": round(self.seconds, 2), "skipped_questions": self.skipped, "steps": self.steps,
        }
        self.tokens, self.read, self.seconds, self.reward, self.rows, self.skipped, self.steps = 0, 0, 0.0, 0.0, 0, 0, 0
        return record


def check_finite(run: Run, numbers: UpdateMetrics, step: int) -> None:
    """Raises NonFinite naming the step and the first node whose loss or slot gradient is not finite.

    A slot's gradient is the sum over its nodes, so it is said of all of them.
    """
    slots = run.method.slots
    for node, slot in enumerate(slots):
        for name, value in (("loss", numbers.loss[node]), ("gradient", numbers.gradient_norm[slot])):
            if not np.isfinite(value):
                others = [str(other) for other, its in enumerate(slots) if its == slot and other != node]
                shared = f", shared with node {', '.join(others)}" if others and name == "gradient" else ""
                raise NonFinite(
                    f"step {step}: the {name} of node {node} "
                    f"(layer {run.method.graph.place(node)[0] + 1}, slot {slot}{shared}) is {value}; "
                    "the last good checkpoint is kept: lower the learning rate or optimizer.clip and give another --workdir"
                )


def node_numbers(
    compiled: Compiled, bank, episodes: Episodes, numbers: UpdateMetrics, validation, key, influence: bool = True
) -> dict:
    """Per node: gradient norm, entropy, message length and truncation in the last batch; format rate, commonest message and label
    on validation, and with `influence` how far accuracy falls there when its message is blanked."""
    run = compiled.run
    graph, end_id = run.method.graph, run.program.sampling.end_id
    scores = evaluate(compiled, bank, validation, key)
    blanked = blanked_losses(compiled, bank, scores.asked, key) if influence else [None] * graph.size
    sums = [np.concatenate([getattr(layer, name) for layer in numbers.layers])
            for name in ("tokens", "entropy", "kl", "log_prob_gap")]
    tokens, entropy, kl, gap = sums
    length = np.concatenate([np.asarray(layer.live).sum(-1).mean((1, 2)) for layer in episodes])
    cut = np.concatenate([truncated(layer, end_id).mean((1, 2)) for layer in episodes])
    return {
        "accuracy": scores.accuracy,
        "gradient_norm": [float(numbers.gradient_norm[slot]) for slot in run.method.slots],
        "entropy": (entropy / np.maximum(tokens, 1)).tolist(),
        "kl": (kl / np.maximum(tokens, 1)).tolist(),
        "sampler_gap": gap.tolist(),
        "message_tokens": length.tolist(),
        "truncated": cut.tolist(),
        "format_rate": list(scores.node_format),
        "top_message": [text for text, _ in scores.top_messages],
        "top_message_share": [share for _, share in scores.top_messages],
        "label": [text for text, _ in scores.top_labels],
        "label_share": [share for _, share in scores.top_labels],
        "blanked_loss": blanked,
        "informative_groups": float(numbers.informative),
    }


def blanked_losses(compiled: Compiled, bank, asked, key) -> list[float | None]:
    """Per node the accuracy that is lost where its message is blanked, on a batch's worth of these questions, which all fit; None
    for readouts."""
    run = compiled.run
    graph, subset = run.method.graph, asked[: run.config.rollout.questions]
    senders = graph.size - graph.layers[-1].width
    kept = evaluate(compiled, bank, subset, key).accuracy
    losses = [kept - evaluate(compiled, bank, subset, key, blanked=node).accuracy for node in range(senders)]
    return losses + [None] * (graph.size - senders)


def write_episodes(
    run: Run, path: Path, step: int, questions, episodes: Episodes, verdicts: list[list[Verdict]], rewards, count: int = 2
) -> None:
    """Appends a few whole episodes as readable text: question, each node's prompt tail and message, answer, reward, advantage.

    They are the first episodes of the batch's first `count` questions, whatever they earned.
    """
    tokenizer, graph, end_id = run.parts.tokenizer, run.method.graph, run.program.sampling.end_id
    earned = jnp.asarray(rewards)[None]  # as a node earned that lost nothing; a critic's view would need its state
    rule = run.objective.credit if run.objective.credit in CREDIT else "batch_mean"
    credit = np.asarray(advantages(rule, earned, (0,), jnp.ones(earned.shape, bool)))[0]
    texts = [text for layer in episodes for text in message_texts(tokenizer, end_id, layer)]
    lines = []
    for b in range(min(count, len(questions))):
        g, group = 0, len(rewards[b])
        verdict = verdicts[b][g]
        lines += [f"== step {step}, question {questions[b].index}, episode {g} of {group} (the first, whatever it earned)",
                  f"question: {questions[b].text}"]
        for node in range(graph.size):
            number, place = graph.place(node)
            layer = episodes[number]
            tail = np.asarray(layer.own[place, b, g])[np.asarray(layer.own_valid[place, b, g])]
            if not len(tail):
                tail = np.asarray(layer.shared[place, b, 0])[np.asarray(layer.shared_valid[place, b, 0])][-5:]
            lines.append(f"  node {node} (layer {number + 1}): "
                         f"...{tokenizer.decode(tail, keep_added=True)} -> {texts[node][b][g]}")
        lines += [f"answer: {verdict.answer!r} ({verdict.outcome}; gold {questions[b].answer!r})",
                  f"reward {rewards[b, g]:g}, advantage {credit[b, g]:+.3f}; the group earned {rewards[b].mean():.2f}", ""]
    append_text(path, "\n".join(lines) + "\n")


def cut_episodes(path: Path, step: int) -> None:
    """Drops the episodes after `step`, which a resumed run writes again, and one that was cut off as it was written."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    text = text[: text.rfind("\n\n") + 2] if "\n\n" in text else ""  # a whole episode ends with an empty line
    later = (found.start() for found in re.finditer(r"^== step (\d+), ", text, re.MULTILINE) if int(found.group(1)) > step)
    write_text(path, text[: next(later, len(text))])
