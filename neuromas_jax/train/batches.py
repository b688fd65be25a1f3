"""Questions as ids: tokenised once per view, left-padded to the smallest bucket that holds the whole batch."""

import collections
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from neuromas_jax.graph import TextGraph
from neuromas_jax.rollout import Questions
from neuromas_jax.tasks import FileTask, Question
from neuromas_jax.text.tokenizer import Tokenizer


class TooLong(ValueError):
    """A question does not fit into the largest bucket."""


def question_ids(question: Question, graph: TextGraph, tokenizer: Tokenizer, buckets: Sequence[int]) -> list[list[int]]:
    """Ids of one question, one list per distinct view of the graph.

    Raises:
      TooLong: the whole question is longer than the largest bucket, whatever the views show of it: methods that see more of it
        and less are asked the same questions. Questions are never cut.
      ValueError: a node sees less than all of a question that has no parts.
    """
    views = graph.views()
    partial = [kind for kind, _ in views if kind != "all"]
    if partial and not question.parts:
        raise ValueError(
            f"the family's view is {partial[0]!r}, but question {question.index} has no parts: {question.text[:80]!r}; "
            "set families.<name>.view to 'all', or take a task whose questions come in parts, such as 'parts'"
        )
    ids = [tokenizer.encode(question.view(kind, share, graph.shares)) for kind, share in views]
    longest = max(map(len, [*ids, tokenizer.encode(question.text)] if partial else ids))
    if longest > buckets[-1]:
        raise TooLong(
            f"question {question.index} has {longest} tokens and the largest bucket is {buckets[-1]}: {question.text[:80]!r}; "
            "add a larger bucket, or set rollout.too_long='skip' to leave such questions out and count them"
        )
    return ids


def pad_questions(rows: Sequence[list[list[int]]], numbers: Sequence[int], buckets: Sequence[int]) -> Questions:
    """A batch from the ids of its questions (`question_ids`) and a number for each, which seeds its episodes.

    In training that is its number in the stream of training questions, in evaluation its place among the questions asked.
    """
    longest = max(len(ids) for row in rows for ids in row)
    bucket = next(bucket for bucket in buckets if bucket >= longest)
    tokens = np.zeros((len(rows[0]), len(rows), bucket), np.int32)
    valid = np.zeros(tokens.shape, bool)
    for b, row in enumerate(rows):
        for view, ids in enumerate(row):
            tokens[view, b, bucket - len(ids) :] = ids
            valid[view, b, bucket - len(ids) :] = True
    return Questions(jnp.asarray(tokens), jnp.asarray(valid), jnp.asarray(numbers, jnp.int32))


def next_batch(task, cursor: int, count: int, graph, tokenizer, buckets, too_long: str):
    """`count` training questions from `cursor` on.

    Each of many processes makes the whole batch, and the mesh takes its part: the bucket, what is skipped and with it the next
    cursor depend on the lengths of all questions, and so are the same for any number of processes, without a message between
    them. What it costs each host and step is `count` questions generated and tokenised once per view, once more where a view
    shows a part, with 5 bytes for each of views x `count` x bucket tokens; more processes do not make it less.

    Returns:
      The questions, their batch, the cursor after them, and how many were skipped as too long.

    Raises:
      TooLong: with too_long="error"; or with "skip" if 1,000 questions in a row are too long.
    """
    found, rows, numbers, skipped = [], [], [], 0
    while len(found) < count:
        question = task.generate("train", cursor)
        cursor += 1
        try:
            rows.append(question_ids(question, graph, tokenizer, buckets))
            found.append(question)
            numbers.append(cursor - 1)
        except TooLong:
            if too_long == "error":
                raise
            skipped += 1
            if skipped >= 1000 and not found:
                raise
    return found, pad_questions(rows, numbers, buckets), cursor, skipped


def distinct_questions(task, split: str, depth: int | None, count: int) -> list[Question]:
    """Up to `count` different questions of a split: small families repeat prompts, and a repeated prompt is no new evidence.

    A file gives its first `count` rows as they are.
    """
    if isinstance(task, FileTask):
        return list(task.questions(split, depth))[:count]
    found = collections.OrderedDict()
    for index in range(8 * count):
        question = task.generate(split, index, depth)
        found.setdefault(question.text, question)
        if len(found) == count:
            break
    return list(found.values())
