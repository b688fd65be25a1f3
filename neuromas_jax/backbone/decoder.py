"""A decoder-only transformer of the Qwen3 kind, read by many adapters at once.

`Decoder` is a Flax NNX module that holds parameters and has a pure `__call__`. The rest of the project sees `Backbone`: the
same parameters as a plain pytree with the sizes as static data, so that `jit`, `vmap`, `grad` and Orbax take it as it is.

The decoder reads one block of tokens for `B` questions times `G` episodes, after any number of blocks that were read before
(`past`). A past block with a group axis of 1 is shared by the whole group: it was read once and is never copied G times.
"""

import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30  # finite, so that a row that may look nowhere (padding) gives numbers, never nan
UNROLL = 4  # a scan over so few layers is unrolled: on a CPU the backward pass takes two thirds of the time
LINEAR_SITES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder, with the names of a Hugging Face `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    tie_word_embeddings: bool = True
    model_type: str = "qwen3"
    dtype: str = "float32"

    def site_shape(self, site: str) -> tuple[int, int]:
        """(in, out) of a linear site, one of `LINEAR_SITES`."""
        width, queries = self.hidden_size, self.num_attention_heads * self.head_dim
        keys, inner = self.num_key_value_heads * self.head_dim, self.intermediate_size
        return {
            "q": (width, queries), "k": (width, keys), "v": (width, keys), "o": (queries, width),
            "gate": (width, inner), "up": (width, inner), "down": (inner, width),
        }[site]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KV:
    """Keys and values of one block. `g` is `G`, or 1 where the block is shared by the group."""

    k: Float[Array, "L B g T K H"]
    v: Float[Array, "L B g T K H"]
    valid: Bool[Array, "B g T"]


class DecoderLayers(nnx.Module):
    """All decoder layers, stacked on a leading axis `L`."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        depth, width, dtype = config.num_hidden_layers, config.hidden_size, jnp.dtype(config.dtype)
        for site in LINEAR_SITES:
            fan_in, fan_out = config.site_shape(site)
            draw = jax.random.normal(rngs.params(), (depth, fan_in, fan_out), jnp.float32) * fan_in**-0.5
            setattr(self, site, nnx.Param(draw.astype(dtype)))
        for name, size in (("q_norm", config.head_dim), ("k_norm", config.head_dim), ("attn_norm", width), ("mlp_norm", width)):
            setattr(self, name, nnx.Param(jnp.ones((depth, size), dtype)))

    def stacked(self) -> dict[str, Array]:
        names = (*LINEAR_SITES, "q_norm", "k_norm", "attn_norm", "mlp_norm")
        return {name: getattr(self, name)[...] for name in names}


class Decoder(nnx.Module):
    """Parameters and the forward pass. Nothing is written in `__call__`."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        shape, dtype = (config.vocab_size, config.hidden_size), jnp.dtype(config.dtype)
        self.embed = nnx.Param((jax.random.normal(rngs.params(), shape, jnp.float32) * 0.02).astype(dtype))
        self.layers = DecoderLayers(config, rngs)
        self.final_norm = nnx.Param(jnp.ones((config.hidden_size,), dtype))
        if not config.tie_word_embeddings:
            head = jax.random.normal(rngs.params(), shape[::-1], jnp.float32) * config.hidden_size**-0.5
            self.lm_head = nnx.Param(head.astype(dtype))

    def __call__(self, tokens, valid, start, past=(), adapter=None, scale=1.0, remat=False):
        """See `Backbone.__call__`."""
        config = self.config
        positions = start[..., None] + jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1
        cos, sin = rotary_angles(positions, config.head_dim, config.rope_theta)
        causal = jnp.tril(jnp.ones((tokens.shape[-1],) * 2, bool)) & valid[:, :, None, :]
        hidden = self.embed[...].at[tokens].get(mode="clip")

        def layer(hidden, inputs):
            weights, factors, past_kv = inputs

            def linear(site, x):
                flat = x.reshape(-1, x.shape[-1])  # plain matrix products: their backward pass on a CPU is 2-3 times as fast
                y = flat @ weights[site]
                if factors is not None and site in factors:
                    low = flat @ factors[site]["a"].astype(x.dtype)
                    y = y + jnp.asarray(scale, x.dtype) * (low @ factors[site]["b"].astype(x.dtype))
                return y.reshape(*x.shape[:-1], -1)

            def heads(x, count):
                return x.reshape(*x.shape[:-1], count, config.head_dim)

            x = rms_norm(hidden, weights["attn_norm"], config.rms_norm_eps)
            q = rms_norm(heads(linear("q", x), config.num_attention_heads), weights["q_norm"], config.rms_norm_eps)
            k = rms_norm(heads(linear("k", x), config.num_key_value_heads), weights["k_norm"], config.rms_norm_eps)
            v = heads(linear("v", x), config.num_key_value_heads)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            blocks = [(pk, pv, block.valid[:, :, None, :]) for (pk, pv), block in zip(past_kv, past)]
            mixed = attend(q, [*blocks, (k, v, causal)])
            hidden = hidden + linear("o", mixed.reshape(*mixed.shape[:-2], -1))
            x = rms_norm(hidden, weights["mlp_norm"], config.rms_norm_eps)
            hidden = hidden + linear("down", jax.nn.silu(linear("gate", x)) * linear("up", x))
            return hidden, (k, v)

        inputs = (self.layers.stacked(), adapter, [(block.k, block.v) for block in past])
        layer = jax.checkpoint(layer) if remat else layer
        hidden, (k, v) = jax.lax.scan(layer, hidden, inputs, unroll=config.num_hidden_layers <= UNROLL)
        return rms_norm(hidden, self.final_norm[...], config.rms_norm_eps), KV(k, v, valid)

    def logits(self, hidden):
        """See `Backbone.logits`."""
        head = self.embed[...].T if self.config.tie_word_embeddings else self.lm_head[...]
        return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)


@functools.lru_cache(maxsize=None)
def _graphdef(config: DecoderConfig):
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Backbone:
    """A frozen decoder: `params` is a nested dict of arrays, `config` is static. With `remat`, a backward pass computes each
    decoder layer again instead of keeping its inner values: a third more time, a fraction of the memory.

    >>> backbone = init_backbone(config, jax.random.key(0))
    >>> hidden, kv = backbone(tokens, valid, start)       # a block shared by the group: tokens [B, 1, T]
    >>> hidden, _ = backbone(more, valid, start, (kv,))   # G episodes go on from it: tokens [B, G, T]
    """

    params: dict[str, Any]
    config: DecoderConfig = dataclasses.field(metadata=dict(static=True))
    remat: bool = dataclasses.field(default=False, metadata=dict(static=True))

    def __call__(
        self,
        tokens: Int[Array, "B g T"],
        valid: Bool[Array, "B g T"],
        start: Int[Array, "B g"],
        past: tuple[KV, ...] = (),
        adapter: dict | None = None,
        scale: float = 1.0,
    ) -> tuple[Float[Array, "B g T D"], KV]:
        """Reads one block of tokens.

        Args:
          tokens: token ids; padding anywhere, marked by `valid`.
          valid: which tokens are real. Padding is never looked at and takes no position.
          start: position of the first real token: how many real tokens the past blocks hold.
          past: blocks read before, each with group axis `g` or 1; all their valid tokens are visible.
          adapter: one node's LoRA factors `{site: {"a": [L, in, R], "b": [L, R, out]}}`, or None for the bare backbone.
          scale: LoRA scale, alpha / rank.

        Returns:
          Hidden states after the final norm, and the block's own keys and values.
        """
        return nnx.merge(_graphdef(self.config), self.params)(tokens, valid, start, past, adapter, scale, self.remat)

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Next-token logits in float32. Call it on the positions you need: `[rows, T, V]` is the largest array of all."""
        return nnx.merge(_graphdef(self.config), self.params).logits(hidden)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(x.size for x in jax.tree.leaves(self.params))


def init_backbone(config: DecoderConfig, key) -> Backbone:
    """A backbone with random weights."""
    _, state = nnx.split(Decoder(config, nnx.Rngs(params=key)))
    return Backbone(nnx.to_pure_dict(state), config)


def rms_norm(x: Float[Array, "... D"], weight: Float[Array, "D"], eps: float) -> Float[Array, "... D"]:
    """Root-mean-square norm, statistics in float32 (Zhang and Sennrich 2019)."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return weight * wide.astype(x.dtype)


def rotary_angles(positions: Int[Array, "B g T"], head_dim: int, theta: float):
    """Cosine and sine `[B, g, T, 1, H/2]` of the rotary embedding (Su et al. 2021), in float32."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "... K H"], cos: Array, sin: Array) -> Float[Array, "... K H"]:
    """Rotary embedding in the half-split layout of Hugging Face checkpoints."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def attend(q: Float[Array, "B G T Q H"], blocks: list[tuple[Array, Array, Array]]) -> Float[Array, "B G T Q H"]:
    """Softmax attention of grouped queries over several blocks of keys.

    Each block is `(k [B, g, S, K, H], v, mask [B, g, T or 1, S])`. A block with g = 1 < G is used by the whole group in one
    matrix product per question; one softmax runs over all blocks together.
    """
    batch, group, length, queries, head_dim = q.shape
    kv_heads = blocks[0][0].shape[-2]
    q = q.reshape(batch, group, length, kv_heads, queries // kv_heads, head_dim) * jnp.asarray(head_dim**-0.5, q.dtype)
    scores = []
    for k, _, mask in blocks:
        if k.shape[1] == 1:
            score = jnp.einsum("bgtkrh,bskh->bkgrts", q, k[:, 0], preferred_element_type=jnp.float32)
        else:
            score = jnp.einsum("bgtkrh,bgskh->bkgrts", q, k, preferred_element_type=jnp.float32)
        scores.append(jnp.where(mask[:, None, :, None], score, MASKED))
    top = functools.reduce(jnp.maximum, [score.max(axis=-1, keepdims=True) for score in scores])
    top = jax.lax.stop_gradient(top)
    weights = [jnp.exp(score - top) for score in scores]
    total = sum(weight.sum(axis=-1) for weight in weights)  # [B, K, G, r, T]
    mixed = jnp.zeros((), jnp.float32)
    for weight, (_, v, _) in zip(weights, blocks):
        weight = weight.astype(q.dtype)
        if v.shape[1] == 1:
            part = jnp.einsum("bkgrts,bskh->bgtkrh", weight, v[:, 0], preferred_element_type=jnp.float32)
        else:
            part = jnp.einsum("bkgrts,bgskh->bgtkrh", weight, v, preferred_element_type=jnp.float32)
        mixed = mixed + part
    mixed = mixed / jnp.transpose(total, (0, 2, 4, 1, 3))[..., None]
    return mixed.reshape(batch, group, length, queries, head_dim).astype(q.dtype)
