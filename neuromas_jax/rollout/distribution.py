"""The one distribution over next tokens that sampler, learner and KL all use."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from neuromas_jax.text.tokenizer import Tokenizer

FORBIDDEN = -1e30


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How messages are sampled; static under `jit`.

    Attributes:
      end_id: the token that ends a message. It is sampled and scored, and never travels along an edge.
      forbidden: ids that no message may hold: every added token but the end, and ids beyond the tokenizer's vocabulary.
      temperature: divides the logits.
    """

    end_id: int
    forbidden: tuple[int, ...] = ()
    temperature: float = 1.0


def make_sampling(tokenizer: Tokenizer, vocab_size: int, temperature: float = 1.0) -> Sampling:
    """Sampling rules for a tokenizer over a backbone with `vocab_size` logits.

    Raises:
      ValueError: temperature not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}; it must be above 0 (for the most likely token, evaluate greedily)")
    added = {token for token in tokenizer.added_ids if token != tokenizer.end_id}
    return Sampling(tokenizer.end_id, tuple(sorted(added | set(range(tokenizer.vocab_size, vocab_size)))), temperature)


def log_distribution(logits: Float[Array, "... V"], sampling: Sampling) -> Float[Array, "... V"]:
    """Log-probabilities of the next token; forbidden ids have probability zero."""
    return jax.nn.log_softmax(masked_logits(logits, sampling), axis=-1)


def masked_logits(
    logits: Float[Array, "... P"], sampling: Sampling, first: int | Array = 0, vocabulary: int | None = None
) -> Float[Array, "... P"]:
    """`log_distribution` before it is normalised: forbidden ids have the score `FORBIDDEN`. The logits are those of all ids, or
    of those from `first` on out of a `vocabulary`."""
    allowed = np.ones(vocabulary or logits.shape[-1], bool)
    allowed[list(sampling.forbidden)] = False
    part = jax.lax.dynamic_slice_in_dim(jnp.asarray(allowed), first, logits.shape[-1])
    return jnp.where(part, logits / sampling.temperature, FORBIDDEN)


def row_uniforms(
    key, nodes: int, questions: Int[Array, "B"], group: int, length: int, shared: Sequence[int] = ()
) -> Float[Array, "X B G M"]:
    """One uniform number per node, question, episode and position; `shared[node]` neighbouring episodes have the same ones.

    Each number folds its own coordinates into the key, so it does not depend on batch layout, mesh or process count. All are
    drawn at once: the generator's code then stands once in the compiled program.
    """

    def number(node, question, episode, position):
        row = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, node), question), episode)
        return jax.random.uniform(jax.random.fold_in(row, position), ())

    over_positions = jax.vmap(number, (None, None, None, 0))
    over_episodes = jax.vmap(over_positions, (None, None, 0, None))
    over_questions = jax.vmap(over_episodes, (None, 0, None, None))
    over_nodes = jax.vmap(over_questions, (0, None, 0, None))
    episodes = jnp.arange(group) // jnp.asarray(tuple(shared) or (1,) * nodes)[:, None]
    return over_nodes(jnp.arange(nodes), questions, episodes, jnp.arange(length))


def draw(
    scores: Float[Array, "N B G V"], uniform: Float[Array, "N B G"], greedy: bool
) -> tuple[Int[Array, "N B G"], Callable[[Array], Array]]:
    """The next token of every row: the most likely one if `greedy`, else a sample by inverting the cumulative distribution.

    The inversion runs over blocks of the vocabulary, then inside one block, since a running sum over the whole vocabulary is the
    slowest part of a small model's step.

    Args:
      scores: of `masked_logits`.
      uniform: where in the cumulative distribution the sample lies.
      greedy: see above.

    Returns:
      Token ids, and the function from a token's score `[N, B, G]` to its log-probability, as `log_distribution` has it: the
      sums of the inversion serve it too, so that nothing runs over the vocabulary twice.
    """
    vocabulary = scores.shape[-1]
    root = int(np.ceil(vocabulary**0.5))
    # Blocks of equal size near the root where the vocabulary divides so: padding the last would cost more than the sum.
    width = next((size for size in range(root, 4 * root) if vocabulary % size == 0), root)
    spare = -vocabulary % width
    top = scores.max(axis=-1)
    padded = jnp.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, spare)], constant_values=FORBIDDEN)
    chances = jnp.exp(padded - top[..., None]).reshape(*scores.shape[:-1], -1, width)
    blocks = chances.sum(axis=-1)
    total = blocks.sum(axis=-1)

    def normalise(score):
        return score - top - jnp.log(total)

    if greedy:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32), normalise
    threshold = uniform * total
    block, below = _invert(blocks, threshold)
    inside = jnp.take_along_axis(chances, block[..., None, None], axis=-2)[..., 0, :]
    # By rounding, the sum before a block can lie past a threshold that fell on it; from 0 on, no chance of zero is taken.
    return block * width + _invert(inside, jnp.maximum(threshold - below, 0))[0], normalise


def _invert(chances: Float[Array, "... V"], threshold: Float[Array, "..."]) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """First index whose running sum passes the threshold (0 or more), never one of chance zero; and the sum before it."""
    running = jnp.cumsum(chances, axis=-1)
    numbers = jnp.arange(chances.shape[-1], dtype=jnp.int32)
    last_possible = jnp.max(jnp.where(chances > 0, numbers, 0), axis=-1)  # rounding may carry the threshold past the end
    index = jnp.minimum(jnp.sum(running <= threshold[..., None], axis=-1, dtype=jnp.int32), last_possible)
    before = jnp.take_along_axis(running - chances, index[..., None], axis=-1)[..., 0]
    return index, before
