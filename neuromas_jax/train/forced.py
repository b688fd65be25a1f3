"""Forced choice: the readout's answer to a question with options is the letter to which it gives the largest probability.

All nodes before it write as ever. Then the readout is made to write `Answer: A`, `Answer: B`, ..., one option an episode of the
group, and the sum of its tokens' log-probabilities decides (as evaluation harnesses score multiple choice): a small model may
know more than it can say in the right form.
"""

from collections.abc import Sequence
import dataclasses

import jax.numpy as jnp
import numpy as np

from neuromas_jax.graph import TextGraph
from neuromas_jax.methods import Method
from neuromas_jax.rollout import Interventions, LayerEpisodes
from neuromas_jax.tasks import FileTask, Question
from neuromas_jax.tasks.benchmarks import LETTERS
from neuromas_jax.text.tokenizer import Tokenizer


def said(letter: str) -> str:
    return f"Answer: {letter}"


def option_counts(questions: Sequence[Question]) -> list[int]:
    return [len(dict(question.given).get("options", ())) for question in questions]


def check_forced(task, method: Method, tokenizer: Tokenizer, place: str) -> None:
    """Raises ValueError, naming the config's `place`, where a forced choice cannot be made."""
    if method.votes > 1 or method.organised:
        raise ValueError(f"config.{place}.forced_choice is True, and method {method.name!r} does more than one pass of a graph; "
                         "drop one of the two")
    if not isinstance(task, FileTask) or task.verifier != "choice":
        raise ValueError(f"config.{place}.forced_choice is True, and answers of task {task.name!r} are no letters of options; "
                         "drop it, or take a task with the verifier 'choice'")
    most = max(option_counts([question for rows in task.rows.values() for question in rows]))
    needed = max(len(tokenizer.encode(said(letter))) for letter in LETTERS[:most])
    room = method.graph.layers[-1].message_tokens
    if needed > room:
        raise ValueError(f"config.{place}.forced_choice needs {needed} tokens for {said(LETTERS[most - 1])!r}, and the readout "
                         f"writes {room}; raise {place}.message_tokens")


def force_letters(keep: Interventions, graph: TextGraph, tokenizer: Tokenizer) -> Interventions:
    """The readout writes one letter an episode: as many as the group has episodes."""
    group = keep.blank.shape[-1]
    ids = [tokenizer.encode(said(letter)) for letter in LETTERS[:group]]
    given = np.zeros((group, keep.given.shape[-1]), np.int32)
    for row, one in zip(given, ids):
        row[: len(one)] = one
    last = np.asarray(graph.nodes(graph.rounds - 1))
    return dataclasses.replace(
        keep, force=keep.force.at[last].set(True), given=keep.given.at[last].set(jnp.asarray(given)),
        given_length=keep.given_length.at[last].set(jnp.asarray([len(one) for one in ids], jnp.int32)))


def chosen_letters(answer: LayerEpisodes, keep: Interventions, graph: TextGraph, counts: Sequence[int]) -> list[str]:
    """The readout's choice for each of the first questions of a batch, among its own options, as it would write it.

    Args:
      answer: the readout's forced episodes, an option each.
      keep: what forced them, see `force_letters`.
      graph: whose readout it is.
      counts: options of each question.
    """
    lengths = np.asarray(keep.given_length[graph.size - 1])
    scores = np.asarray(answer.log_probs[0])  # [B, G, M]
    scores = np.where(np.arange(scores.shape[-1]) < lengths[..., None], scores, 0.0).sum(axis=-1)
    return [said(LETTERS[int(row[:count].argmax())]) for row, count in zip(scores, counts)]
