"""Reading a batch a few questions at a time: the working set stays small, the result is the same to rounding.

A microbatch bounds what prefill and backward pass hold at once. It is the knob that trades time for memory on an
accelerator; on a CPU a few questions were measured to be faster than all and than one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from neuromas_jax.backbone.decoder import KV
from neuromas_jax.graph import TextGraph
from neuromas_jax.parallel.rules import join, on_mesh, split

CPU_TOKENS = 512
QUESTIONS = 1  # axis of the questions in every array of a rollout, `[N, B, ...]`; keys and values have theirs 5 from the end


def check_microbatch(microbatch: int, questions: int) -> None:
    """Raises ValueError where the questions of a batch do not fall into microbatches of this size."""
    if not 1 <= microbatch <= questions or questions % microbatch:
        raise ValueError(
            f"microbatch {microbatch} does not divide a batch of {questions} questions; take one of {_divisors(questions)}")


def default_microbatch(questions: int, group: int, graph: TextGraph) -> int:
    """The whole batch on an accelerator. On a CPU as many questions as have `CPU_TOKENS` tokens in inboxes and messages of one
    node: 4 of 8 episodes where four senders and the reader write 2 tokens each, 1 where they write 16.
    """
    if jax.default_backend() != "cpu":
        return questions
    slots = [layer.width * (1 + layer.message_tokens) for layer in graph.layers]
    longest = max(layer.message_tokens + sum(slots[source] for source in layer.reads) for layer in graph.layers)
    fitting = [size for size in _divisors(questions) if size * group * longest <= CPU_TOKENS]
    return max(fitting, default=1)


def _divisors(questions: int) -> list[int]:
    return [size for size in range(1, questions + 1) if questions % size == 0]


def map_questions(function: Callable, microbatch: int, *args: Any) -> Any:
    """`function(*args)`, computed on one microbatch after another. Both sides are trees of arrays `[N, B, ...]` and `KV`.

    The function must treat each question by itself.
    """
    batch = jax.tree.leaves(args[0])[0].shape[QUESTIONS]
    check_microbatch(microbatch, batch)
    if microbatch == batch:
        return function(*args)
    stacked = jax.lax.map(lambda start: function(*take_questions(args, start, microbatch)), jnp.arange(0, batch, microbatch))

    def joined(x, axis):
        """`[P, N, B / P, ...] -> [N, B, ...]`; `axis` is that of `B / P`."""
        return join(jnp.moveaxis(x, 0, axis if on_mesh() else axis - 1), axis - 1)

    return _map(joined, stacked, stacked=True)


def take_questions(tree: Any, start: jax.Array | int, size: int) -> Any:
    """The arrays of a microbatch of `size` questions, those from number `start` on.

    On a mesh the microbatch takes as many of every device: the questions `start / size`, that plus the number of microbatches,
    and so on. What adds up over all microbatches is the same.
    """

    def take(x, axis):
        if not on_mesh():
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis)
        return jax.lax.dynamic_index_in_dim(split(x, axis, size), start // size, axis + 1, keepdims=False)

    return _map(take, tree)


def _map(function: Callable, tree: Any, stacked: bool = False) -> Any:
    """Applies `function(array, axis of the questions)` to every array; `stacked` ones have one more axis in front."""

    def one(x):
        if not isinstance(x, KV):
            return function(x, QUESTIONS + stacked)
        k, v = jax.tree.map(lambda y: function(y, y.ndim - 5), (x.k, x.v))
        return KV(k, v, one(x.valid))

    return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, KV))
