"""The pretraining loop: documents in, an ordinary Hugging Face folder out. Running it again goes on from the last checkpoint."""

import collections
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from optax import contrib

from neuromas_jax.backbone.architecture import DecoderConfig
from neuromas_jax.backbone.decoder import Backbone, init_backbone
from neuromas_jax.backbone.huggingface import save_backbone
from neuromas_jax.files import written_whole
from neuromas_jax.pretrain.batches import DROPPED_ROWS, WRITTEN_ROWS, BatchMaker, QuestionSource, ahead
from neuromas_jax.pretrain.documents import DocumentWriter, Mixture
from neuromas_jax.pretrain.forward import Part, summed_loss, target_logits
from neuromas_jax.pretrain.numbers import place_numbers
from neuromas_jax.pretrain.skills import SkillTest
from neuromas_jax.pretrain.vocabulary import build_tokenizer, save_tokenizer, vocabulary_texts
from neuromas_jax.tasks import FAMILIES
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.text.tokenizer import load_tokenizer
from neuromas_jax.train.metrics import cut_log

CHECKPOINT, LOG, EXPORT = "checkpoint.npz", "log.jsonl", "export"
KEYS = (
    "seed", "decoder", "families", "mixture", "extra_depths", "extra_share", "options", "vocabulary_questions", "steps", "batch",
    "lengths", "learning_rate", "warmup", "b2", "weight_decay", "clip", "log_every", "test_every", "checkpoint_every",
    "skill_questions",
)
REFUSED_SAMPLE = 20_000  # questions of each family whose refused draws are counted for the record


def make_optimizer(config) -> optax.GradientTransformation:
    """Muon for the decoder layers' matrices, Adam for embedding and norms; warm-up and cosine to zero, decay for matrices alone.

    Muon's steps are scaled to the size of Adam's (0.2 in root mean square), so that one learning rate serves both: Liu et al.,
    Muon is Scalable for LLM Training (arXiv 2502.16982).
    """

    def stacked(params):
        """Layers are stacked along the first axis: each [fan_in, fan_out] slice is a matrix of its own."""
        return jax.tree.map(lambda x: contrib.MuonDimensionNumbers(1, 2) if x.ndim == 3 else None, params)

    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup, config.steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        contrib.muon(schedule, weight_decay=config.weight_decay, adam_b2=config.b2, consistent_rms=0.2,
                     adam_learning_rate=schedule, muon_weight_dimension_numbers=stacked),
    )


def make_step(optimizer: optax.GradientTransformation):
    """`(backbone, moments, parts) -> (backbone, moments, loss)`: one update on the mean loss of all parts together."""

    def mean_loss(params, config, parts):
        return sum(summed_loss(params, config, part) for part in parts)

    def step(backbone, moments, parts):
        loss, gradient = jax.value_and_grad(mean_loss)(backbone.params, backbone.config, parts)
        updates, moments = optimizer.update(gradient, moments, backbone.params)
        return dataclasses.replace(backbone, params=optax.apply_updates(backbone.params, updates)), moments, loss

    return jax.jit(step, donate_argnums=(0, 1))


@jax.jit
def _predict(backbone: Backbone, part: Part):
    return jnp.argmax(target_logits(backbone.params, backbone.config, part), axis=-1)


def train(config, workdir: str | Path) -> dict:
    """Trains to `config.steps` and exports to `workdir/export`. Returns what `skills.json` holds.

    Raises ValueError for a key that is unknown or missing, where the workdir holds a run of another config, or where the
    loss stops being finite.
    """
    for key in set(config) ^ set(KEYS):
        raise ValueError(f"config key {key!r} is {'unknown' if key in config else 'missing'}; "
                         f"a pretraining config has exactly {', '.join(KEYS)}")
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    _check_same_config(config, workdir)
    tasks = {name: FAMILIES[name]() for name in config.families}
    every_family = [make() for make in FAMILIES.values()]
    save_tokenizer(build_tokenizer(vocabulary_texts(every_family, config.vocabulary_questions)), workdir / "tokenizer")
    tokenizer = load_tokenizer(workdir / "tokenizer")
    writer = DocumentWriter(tokenizer, PromptTemplate(), Mixture(**config.mixture))
    source = QuestionSource(
        dict(config.families), {name: tuple(d) for name, d in config.extra_depths.items()}, config.extra_share, config.options)
    maker = BatchMaker(source, writer, config.batch, tuple(config.lengths), config.seed)
    test = SkillTest(tasks, writer, config.skill_questions, config.lengths[-1])
    sizes = DecoderConfig(vocab_size=tokenizer.vocab_size, **config.decoder)
    backbone = place_numbers(init_backbone(sizes, jax.random.key(config.seed)), tokenizer)
    optimizer = make_optimizer(config)
    moments = optimizer.init(backbone.params)
    first, seconds, counts = 0, 0.0, collections.Counter()
    if (workdir / CHECKPOINT).exists():
        (backbone, moments), first, seconds, counts = _restore(workdir / CHECKPOINT, (backbone, moments))
        cut_log(workdir / LOG, first)  # the run writes the records after the checkpoint again
        logging.info("going on from step %d", first)
    logging.info("%d parameters, vocabulary %d, rows %s of lengths %s",
                 backbone.size, tokenizer.vocab_size, maker.shape, maker.lengths)
    step_fn = make_step(optimizer)
    started, tokens, losses = time.perf_counter() - seconds, 0, []
    window, table = time.perf_counter(), {}
    for step, parts in enumerate(ahead(maker, first, config.steps), first + 1):
        backbone, moments, loss = step_fn(backbone, moments, parts)
        losses.append(loss)
        counts.update(maker.counts.pop(step - 1))
        tokens += sum(int(part.lengths.sum()) for part in parts)
        if step % config.log_every and step != config.steps:
            continue
        mean = float(np.mean([float(loss) for loss in losses]))
        if not np.isfinite(mean):
            raise ValueError(f"loss {mean} before step {step}; "
                             "lower learning_rate or clip and give another --workdir")
        now = time.perf_counter()
        record = {"step": step, "loss": round(mean, 4), "tokens_per_second": round(tokens / (now - window)),
                  "seconds": round(now - started)}
        if step % config.test_every == 0 or step == config.steps:
            table = test.accuracy(lambda part: np.asarray(_predict(backbone, part)))
            record["skills"] = table
        with open(workdir / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        logging.info("%s", record)
        if step % config.checkpoint_every == 0 or step == config.steps:
            _save(workdir / CHECKPOINT, (backbone, moments), step, now - started, counts)
            _export(backbone, workdir)
        window, tokens, losses = time.perf_counter(), 0, []
    return _finish(config, workdir, backbone, source, counts, test, table, time.perf_counter() - started)


def _finish(config, workdir, backbone, source, counts, test, table, seconds) -> dict:
    folder = _export(backbone, workdir)
    refused = {name: task.count_refused("train", REFUSED_SAMPLE) for name, task in source.tasks.items()}
    summary = {
        "seed": config.seed, "steps": config.steps, "parameters": backbone.size, "seconds": round(seconds),
        "documents": config.steps * config.batch,
        WRITTEN_ROWS: counts[WRITTEN_ROWS], DROPPED_ROWS: counts[DROPPED_ROWS],
        "evaluation_rows_refused_by_generators": {"first_questions": REFUSED_SAMPLE, **refused},
        "skill_questions": config.skill_questions, "skill_test": test.fingerprint(), "skills": table,
    }
    (folder / "skills.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _export(backbone: Backbone, workdir: Path) -> Path:
    folder = workdir / EXPORT
    save_backbone(backbone, folder, extra={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((workdir / "tokenizer" / name).read_bytes())
    (folder / "pretrain_log.jsonl").write_bytes((workdir / LOG).read_bytes())
    return folder


def _check_same_config(config, workdir: Path) -> None:
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
    path = workdir / "config.json"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{workdir} holds a run of another config ({path}); choose another --workdir or give the same config")
    path.write_text(text)


def _save(path: Path, state, step: int, seconds: float, counts: collections.Counter) -> None:
    """All leaves of the state and the counts in one npz, which appears whole or not at all."""
    leaves = {f"leaf{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state))}
    with written_whole(path) as temporary:
        np.savez(temporary, step=step, seconds=seconds, counts=json.dumps(counts), **leaves)


def _restore(path: Path, like):
    """The state with the arrays of the file, the step, the seconds spent so far, and the counts of what was dropped."""
    with np.load(path) as stored:
        leaves = [jnp.asarray(stored[f"leaf{number}"]) for number in range(len(jax.tree.leaves(like)))]
        counts = collections.Counter(json.loads(str(stored["counts"])))
        return jax.tree.unflatten(jax.tree.structure(like), leaves), int(stored["step"]), float(stored["seconds"]), counts
