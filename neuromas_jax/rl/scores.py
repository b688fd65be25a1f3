"""What a loss needs of the distribution behind each written token, summed over the vocabulary a part at a time.

A real model has 150,000 words or more: their log-probabilities at every message position are the largest array of an update. Here
no array is wider than `PART` of them, forward or backward; a small vocabulary is one part.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from neuromas_jax.backbone.norm import row_sum
from neuromas_jax.rollout.distribution import FORBIDDEN, Sampling, masked_logits

PART = 8192  # ids of the vocabulary that are looked at together

Logits = Callable[[int | Array, int], Float[Array, "*R P"]]
"""`(first, count) -> logits [*R, count]` of so many ids from `first` on."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """Of every message token: its log-probability, the entropy of the distribution that it was drawn from, and the divergence
    KL(adapted || bare backbone) of that distribution; nought where no bare one was asked for. Nats."""

    log_prob: Float[Array, "*R"]
    entropy: Float[Array, "*R"]
    kl: Float[Array, "*R"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Sums:
    """Over the ids seen so far, relative to the largest score `top`: of e = exp(score - top), of e (score - top), and of
    e (score - bare score); the score of the chosen id; and top and sum of the bare scores."""

    top: Array
    total: Array
    weighted: Array
    crossed: Array
    chosen: Array
    bare_top: Array
    bare_total: Array


def token_scores(
    logits: Logits, vocabulary: int, tokens: Int[Array, "*R"], sampling: Sampling, bare: Logits | None = None,
    part: int | None = None,
) -> Scores:
    """Scores of `tokens`, differentiable in whatever `logits` closes over.

    Args:
      logits: of the learner.
      vocabulary: number of ids.
      tokens: what was written.
      sampling: the one distribution.
      bare: logits of the bare backbone, for the divergence.
      part: most ids at a time, `PART` by default.
    """
    size = min(part or PART, vocabulary)
    low, zero = (jnp.full_like(tokens, value, jnp.float32) for value in (FORBIDDEN, 0))

    def add(sums: _Sums, number) -> tuple[_Sums, None]:
        first = jnp.minimum(number * size, vocabulary - size)  # the last part begins earlier, and leaves out what was seen
        fresh = first + jnp.arange(size) >= number * size

        def scores_of(logits):
            return jnp.where(fresh, masked_logits(logits(first, size), sampling, first, vocabulary), FORBIDDEN)

        def risen(top, scores):
            return jax.lax.stop_gradient(jnp.maximum(top, scores.max(axis=-1)))  # a shift that changes nothing

        scores = scores_of(logits)
        top = risen(sums.top, scores)
        fallen, chances, above = sums.top - top, jnp.exp(scores - top[..., None]), scores - top[..., None]
        kept = jnp.exp(fallen)
        place = tokens - first
        here = (tokens >= number * size) & (place < size)
        chosen = jnp.take_along_axis(scores, jnp.clip(place, 0, size - 1)[..., None], axis=-1)[..., 0]
        crossed, bare_top, bare_total = sums.crossed, sums.bare_top, sums.bare_total
        if bare is not None:
            others = scores_of(bare)
            crossed = kept * crossed + row_sum(chances, scores - others)
            bare_top = risen(sums.bare_top, others)
            bare_total = jnp.exp(sums.bare_top - bare_top) * bare_total + jnp.exp(others - bare_top[..., None]).sum(axis=-1)
        return _Sums(
            top, kept * sums.total + chances.sum(axis=-1),
            kept * (sums.weighted + fallen * sums.total) + row_sum(chances, above), crossed,
            sums.chosen + jnp.where(here, chosen, 0.0), bare_top, bare_total), None

    sums = _Sums(low, zero, zero, zero, zero, low, zero)
    count = -(-vocabulary // size)
    if count == 1:
        sums, _ = add(sums, 0)
    else:  # the way back looks at each part again instead of keeping it
        sums, _ = jax.lax.scan(jax.checkpoint(add), sums, jnp.arange(count))
    whole = jnp.log(sums.total)
    kl = zero
    if bare is not None:
        kl = sums.crossed / sums.total - (sums.top - sums.bare_top) - (whole - jnp.log(sums.bare_total))
    return Scores(sums.chosen - sums.top - whole, whole - sums.weighted / sums.total, kl)
