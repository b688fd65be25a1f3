"""Softmax attention of grouped queries over several blocks of keys, with a backward pass that keeps no scores.

A block with a group axis of 1 was read once for all episodes of a question: its keys meet the queries of the whole group in one
matrix product. One softmax runs over all blocks together. The backward pass computes the weights again from the logarithm of
their sum (as Dao et al. 2022 do), so what is kept grows with the tokens and not with their square.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neuromas_jax.backbone.norm import row_sum
from neuromas_jax.parallel.rules import reshaped

MASKED = -1e30  # finite, so that a row that may look nowhere (padding) gives numbers, never nan

Block = tuple[Float[Array, "_B _g _K _H _S"], Float[Array, "_B _g _K _S _H"], Bool[Array, "_B _m _t _S"]]
"""Keys `[B, g, K, H, S]`, values `[B, g, K, S, H]`, and which of them each query may look at `[B, g, t, S]`.

`g` is the group or 1, also for the mask of a block that is shared; `t` the queries or 1.
"""


def attend(q: Float[Array, "B G Q T H"], blocks: list[Block], scale: float | None = None) -> Float[Array, "B G Q T H"]:
    """Attention of `Q` query heads over blocks of `K` key heads each; query head `i` reads key head `i // (Q / K)`.

    `scale` is what scores are multiplied by, `H ** -0.5` by default.

    >>> attend(q, [(shared_k, shared_v, valid[:, :, None]), (k, v, causal)])   # a prompt read once, then the episodes' own tokens
    """
    kv_heads, scale = blocks[0][0].shape[2], jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, q.dtype)
    rows = reshaped(q * scale, *q.shape[:2], kv_heads, -1, q.shape[-1])  # [B, G, K, r T, H]: heads of one key head side by side
    return reshaped(_attend(rows, tuple(blocks)), *q.shape)


def _together(x: Array) -> Array:
    """Rows of the whole group behind each other: `[B, G, K, X, *] -> [B, 1, K, G X, *]`."""
    x = jnp.swapaxes(x, 1, 2)
    return reshaped(x, x.shape[0], 1, x.shape[1], -1, *x.shape[4:])


def _apart(x: Array, group: int) -> Array:
    """Undoes `_together`."""
    return jnp.swapaxes(reshaped(x, x.shape[0], x.shape[2], group, -1, *x.shape[4:]), 1, 2)


def _split(q: Array, block: Block):
    """Ways into and out of a block's own layout: the identity, or rows of a group together."""
    group = q.shape[1]
    if block[0].shape[1] == group:
        return lambda x: x, lambda x: x
    return _together, functools.partial(_apart, group=group)


def _scores(q: Array, block: Block) -> Float[Array, "B g K X S"]:
    k, _, mask = block
    enter, _ = _split(q, block)
    scores = jnp.einsum("bgkxh,bgkhs->bgkxs", enter(q), k, preferred_element_type=jnp.float32)
    # One mask row serves the r query heads of a key head, and every episode that has none of its own.
    own = mask.shape[1] // k.shape[1]  # episodes that look at a shared block each in their own way, else 1
    seen = reshaped(scores, *scores.shape[:3], own, -1, *mask.shape[2:])
    mask = reshaped(mask, mask.shape[0], k.shape[1], 1, own, 1, *mask.shape[2:])
    return reshaped(jnp.where(mask, seen, MASKED), *scores.shape)


@jax.custom_vjp
def _attend(q, blocks):
    return _forward(q, blocks)[0]


def _forward(q, blocks):
    scores = [_scores(q, block) for block in blocks]
    ways = [_split(q, block) for block in blocks]
    top = functools.reduce(jnp.maximum, [leave(score.max(axis=-1)) for score, (_, leave) in zip(scores, ways)])
    total, mixed = 0.0, 0.0
    for score, (enter, leave), (_, v, _) in zip(scores, ways, blocks):
        weights = jnp.exp(score - enter(top)[..., None])
        total = total + leave(weights.sum(axis=-1))
        mixed = mixed + leave(jnp.einsum("bgkxs,bgksh->bgkxh", weights.astype(q.dtype), v, preferred_element_type=jnp.float32))
    out = (mixed / total[..., None]).astype(q.dtype)
    return out, (q, blocks, out, top + jnp.log(total))


def _backward(kept, d_out):
    q, blocks, out, log_total = kept
    slope = row_sum(d_out, out)
    d_q, d_blocks = 0.0, []
    for block in blocks:
        k, v, _ = block
        enter, leave = _split(q, block)
        rows, d_rows = enter(q), enter(d_out)
        weights = jnp.exp(_scores(q, block) - enter(log_total)[..., None])
        d_weights = jnp.einsum("bgkxh,bgksh->bgkxs", d_rows, v, preferred_element_type=jnp.float32)
        d_scores = (weights * (d_weights - enter(slope)[..., None])).astype(q.dtype)
        d_q = d_q + leave(jnp.einsum("bgkxs,bgkhs->bgkxh", d_scores, k, preferred_element_type=jnp.float32))
        d_k = jnp.einsum("bgkxs,bgkxh->bgkhs", d_scores, rows)
        d_v = jnp.einsum("bgkxs,bgkxh->bgksh", weights.astype(q.dtype), d_rows)
        d_blocks.append((d_k, d_v, None))
    return d_q.astype(q.dtype), tuple(d_blocks)


_attend.defvjp(_forward, _backward)
