"""Prefill and decode of one graph layer: every node, question and episode in one loop on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neuromas_jax.backbone.adapters import Adapters
from neuromas_jax.backbone.decoder import KV, Backbone, Cache
from neuromas_jax.parallel.rules import constrain, on_mesh, typed_axes
from neuromas_jax.rollout.distribution import Sampling, draw, masked_logits
from neuromas_jax.rollout.microbatch import map_questions


def count(valid: Bool[Array, "... T"]) -> Int[Array, "..."]:
    return valid.sum(axis=-1, dtype=jnp.int32)


def reader(backbone: Backbone, scale: float):
    """The decoder mapped over nodes: each has its own adapter and rows, the backbone is shared.

    `read(adapters, tokens [N, B, g, T], valid, start, past, cache, last)` gives hidden states and keys and values; adapters of
    None are the bare backbone. A cache is carried as `carried` makes it.
    """

    def read(adapters, tokens, valid, start, past, cache=None, last=None):
        cached, at = (None, None) if cache is None else (cache.block, cache.at)  # all nodes write at the same column

        def node(adapter, tokens, valid, start, past, cached):
            return backbone(tokens, valid, start, past, adapter, scale, None if cached is None else Cache(cached, at), last)

        if tokens.shape[0] == 1:
            hidden, kv = node(*jax.tree.map(lambda x: x[0], (adapters, tokens, valid, start, past)), cached)
            return constrain(hidden[None], None, "question"), kv if cached else laid(jax.tree.map(lambda x: x[None], kv))
        mapped = jax.vmap(node, spmd_axis_name="node" if on_mesh() and not typed_axes() else None)
        hidden, kv = mapped(*jax.tree.map(lambda x: constrain(x, "node"), (adapters, tokens, valid, start, past, cached)))
        return constrain(hidden, "node", "question"), laid(kv)

    return read


def laid(kv: KV) -> KV:
    """Keys and values `[N, (L,) B, g, K, ...]` of nodes as the mesh has them."""

    def one(x):
        return constrain(x, "node", *[None] * (x.ndim - 6), "question", None, "kv_heads")

    return KV(jax.tree.map(one, kv.k), jax.tree.map(one, kv.v), constrain(kv.valid, "node", "question"))


def _per_episode(kv: KV, group: int) -> KV:
    """A copy for each of `group` episodes of a block that they share."""
    k, v = jax.tree.map(lambda x: jnp.broadcast_to(x, (*x.shape[:-4], group, *x.shape[-3:])), (kv.k, kv.v))
    return KV(k, v, jnp.broadcast_to(kv.valid, (*kv.valid.shape[:-2], group, kv.valid.shape[-1])))


def carried(kv: KV) -> KV:
    """Keys and values of N nodes as a decoding loop carries them: those of a single node without their first axis.

    With an axis of one, XLA copies the whole cache four times per written token on a CPU (jax 0.10.2).
    """
    return jax.tree.map(lambda x: x[0], kv) if kv.valid.shape[0] == 1 else kv


def prefill(
    backbone: Backbone,
    adapters: Adapters,
    scale: float,
    microbatch: int,
    tokens: Int[Array, "N B g T"],
    valid: Bool[Array, "N B g T"],
    start: Int[Array, "N B g"],
    past: tuple[KV, ...],
) -> tuple[Float[Array, "N B g 1 D"], KV]:
    """Reads a block of all nodes, `microbatch` questions at a time: the last hidden state `[N, B, g, 1, D]`, keys and values."""

    def read(*block):
        return reader(backbone, scale)(adapters, *block, last=1)

    return map_questions(read, microbatch, tokens, valid, start, past)


def sample_layer(
    backbone: Backbone,
    adapters: Adapters,
    scale: float,
    shared: tuple[Array, KV],
    own: tuple[Array, Array],
    forced: tuple[Array, Array, Array],
    uniforms: Float[Array, "N B G M"],
    greedy: bool,
    sampling: Sampling,
    microbatch: int,
) -> tuple[Int[Array, "N B G M"], Bool[Array, "N B G M"], Array]:
    """Writes the messages of one layer's nodes.

    The shared block was read once per question; the own block is read once per episode; then tokens are sampled until every
    row has ended. The loop stands outside and `vmap` over nodes inside its body: a vmapped `while_loop` would select the whole
    cache at every step.

    Args:
      backbone: the frozen decoder.
      adapters: the layer's rows of the bank `[N, L, ...]`, or of merged weights `[N, in, out]`.
      scale: LoRA scale.
      shared: last hidden state `[N, B, 1, 1, D]` of the shared block, and its keys and values.
      own: tokens `[N, B, G, To]` and their mask; To = 0 in a layer without an inbox.
      forced: (where `[N, B, G]`, ids `[N, B, G, M]`, length `[N, B, G]`): rows that write a given message.
      uniforms: one number per row and position; their last axis is the message length M.
      greedy: take the most likely tokens instead of samples.
      sampling: the one distribution.
      microbatch: questions whose own blocks are read at a time.

    Returns:
      Message ids, which of them are live, and the log-probability of each live one.
    """
    nodes, batch, group, own_tokens = own[0].shape
    message_tokens = uniforms.shape[-1]
    read = reader(backbone, scale)
    hidden, shared_kv = shared
    before = jnp.broadcast_to(count(shared_kv.valid), (nodes, batch, group))  # real tokens read so far, per row
    if own_tokens:
        with jax.named_scope("prefill"):
            hidden, local = prefill(backbone, adapters, scale, microbatch, *own, before, (shared_kv,))
        before = before + count(own[1])
    else:  # an own block of no tokens
        local = _per_episode(shared_kv.columns(0), group)
    local = carried(local.columns(own_tokens + message_tokens - 1))
    forced_rows, forced_ids, forced_length = forced

    def write(position, hidden):
        """Samples the token at `position` from the last hidden state `[N, B, 1 or G, 1, D]`."""
        scores = masked_logits(constrain(backbone.logits(hidden[..., -1, :]), "node", "question", None, "vocab"), sampling)
        scores = jnp.broadcast_to(scores, (nodes, batch, group, scores.shape[-1]))
        token, normalise = draw(scores, jax.lax.dynamic_index_in_dim(uniforms, position, 3, False), greedy)
        given = jnp.where(position < forced_length, jax.lax.dynamic_index_in_dim(forced_ids, position, 3, False), sampling.end_id)
        token = jnp.where(forced_rows, given, token)
        return token, normalise(jnp.take_along_axis(scores, token[..., None], axis=-1)[..., 0])

    with jax.named_scope("decode"):
        first, first_log_prob = write(jnp.int32(0), hidden)
    rest = ((0, 0),) * 3 + ((0, message_tokens - 1),)
    tokens, scores = jnp.pad(first[..., None], rest), jnp.pad(first_log_prob[..., None], rest)
    live = constrain(jnp.pad(jnp.ones((nodes, batch, group, 1), bool), rest), "node", "question")

    def unfinished(carry):
        position, _, _, _, ended, _ = carry
        return (position < message_tokens) & ~jnp.all(ended)

    def step(carry):
        position, tokens, scores, live, ended, local = carry
        last = jax.lax.dynamic_slice_in_dim(tokens, position - 1, 1, axis=3)
        going = ~ended[..., None]
        hidden, local = read(adapters, last, going, before + position - 1, (shared_kv,), Cache(local, own_tokens + position - 1))
        token, log_prob = write(position, hidden)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, jnp.where(ended, 0, token)[..., None], position, axis=3)
        scores = jax.lax.dynamic_update_slice_in_dim(scores, jnp.where(ended, 0.0, log_prob)[..., None], position, axis=3)
        live = jax.lax.dynamic_update_slice_in_dim(live, going, position, axis=3)
        return position + 1, tokens, scores, live, ended | (token == sampling.end_id), local

    ended = first == sampling.end_id
    with jax.named_scope("decode"):
        _, tokens, scores, live, _, _ = jax.lax.while_loop(unfinished, step, (jnp.int32(1), tokens, scores, live, ended, local))
    return tokens, live, scores
