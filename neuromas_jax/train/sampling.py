"""Episodes of a training batch with their verdicts, which are found while the device samples on."""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp

from neuromas_jax.rollout import Episodes, Interventions, Questions, no_interventions
from neuromas_jax.rollout.microbatch import take_questions
from neuromas_jax.tasks import Question, Verdict
from neuromas_jax.train.evaluate import message_texts
from neuromas_jax.train.run import Compiled
from neuromas_jax.train.verdicts import start_verdicts


def sample_and_judge(
    compiled: Compiled, bank, questions: Sequence[Question], batch: Questions, keep: Interventions, key: jax.Array
) -> tuple[Episodes, list[list[Verdict]]]:
    """A training batch: its episodes, and a verdict per question and episode.

    With `rollout.parts` above 1 all parts are handed to the device at once. What the first one wrote goes to its verifier while
    the device writes the next; keys belong to questions, so the episodes are those of a batch in one part.

    Args:
      compiled: programs of the run.
      bank: adapters that write.
      questions, batch: what is asked, and its ids.
      keep: whose messages are shown; the rest of it as `no_interventions` has it.
      key: of the step.
    """
    run, group = compiled.run, compiled.run.config.rollout.group
    size = len(questions) // run.config.rollout.parts
    starts = range(0, len(questions), size)
    parts = [compiled.rollout(bank, *_part(run.method.graph, batch, keep, start, size, group), key) for start in starts]
    waiting = []
    for start, part in zip(starts, parts):
        texts = message_texts(run.parts.tokenizer, run.program.sampling.end_id, part[-1])[0]
        asked = [question for question in questions[start : start + size] for _ in range(group)]
        waiting.append(start_verdicts(run.task, [text for row in texts for text in row], asked))
    every = [verdict for verdicts in waiting for verdict in verdicts()]
    episodes = parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *parts)
    return episodes, [every[start : start + group] for start in range(0, len(every), group)]


def _part(graph, batch: Questions, keep: Interventions, start: int, size: int, group: int) -> tuple[Questions, Interventions]:
    """Some questions of a batch, and whose messages they show."""
    if size == batch.index.shape[0]:
        return batch, keep
    tokens, valid = take_questions((batch.tokens, batch.valid), start, size)
    return (Questions(tokens, valid, batch.index[start : start + size]),
            dataclasses.replace(no_interventions(graph, size, group), shown=keep.shown[:, :, start : start + size]))
