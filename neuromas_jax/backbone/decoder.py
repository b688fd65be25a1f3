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
import numpy as np

from neuromas_jax.backbone.attention import attend
from neuromas_jax.backbone.norm import rms_norm

UNROLL = 12  # so few layers are written out, not scanned: each then keeps a cache array of its own, which nothing slices
LINEAR_SITES = ("q", "k", "v", "o", "gate", "up", "down")
SAME_INPUT = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))


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

    def training_flops(self, read: int, written: int) -> float:
        """Floating point operations of sampling and one policy gradient step: linear maps and vocabulary head alone.

        Two per weight and token for the sampler, two for the learner's pass and two for its way back, since frozen weights need
        no gradient of their own. Attention, adapters and norms are left out: a few percent where messages are short.

        Args:
          read: prompt tokens; a block that a group shares counts once.
          written: message tokens, the only ones that meet the head.
        """
        linear = self.num_hidden_layers * sum(fan_in * fan_out for fan_in, fan_out in map(self.site_shape, LINEAR_SITES))
        return 6.0 * (linear * (read + written) + self.vocab_size * self.hidden_size * written)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KV:
    """Keys and values of one block, stacked over decoder layers, or one array per layer where the layers are written out.

    `g` is `G`, or 1 where the block is shared by the group. Keys stand in columns: small products on a CPU then need no copy.
    """

    k: Float[Array, "L B g K H T"] | tuple[Float[Array, "B g K H T"], ...]
    v: Float[Array, "L B g K T H"] | tuple[Float[Array, "B g K T H"], ...]
    valid: Bool[Array, "B g T"]

    def columns(self, count: int) -> "KV":
        """This block with its first `count` columns, or with empty ones behind it."""

        def fit(x, axis):
            x = jax.lax.slice_in_dim(x, 0, min(count, x.shape[axis]), axis=axis)
            return jnp.pad(x, [(0, count - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])

        k, v = (jax.tree.map(lambda x: fit(x, x.ndim + axis), part) for part, axis in ((self.k, -1), (self.v, -2)))
        return KV(k, v, fit(self.valid, self.valid.ndim - 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """A block with room for more: the tokens read next are written into its columns from `at` on, and look at those before."""

    block: KV
    at: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Merged:
    """The weights of one decoder layer with an adapter added to them, for nodes that only read and write.

    `weights` maps the sites that read the same input, such as "q+k+v", to their matrices side by side `[in, out + out + out]`;
    sites without an adapter are not there.
    """

    weights: dict[str, Float[Array, "*N in out"]]

    def linear(self, config: DecoderConfig, x: Float[Array, "_rows _in"], sites: tuple[str, ...]) -> list[Array] | None:
        """Products `[rows, out]` of sites that read `x` and stand side by side; None where they have no adapter."""
        joined = next(group for group in SAME_INPUT if set(sites) <= set(group))
        name = "+".join(joined)
        if name not in self.weights:
            return None
        widths = {site: config.site_shape(site)[1] for site in joined}
        first = sum(widths[site] for site in joined[: joined.index(sites[0])])
        ends = np.cumsum([widths[site] for site in sites])
        whole = x @ self.weights[name][:, first : first + ends[-1]]
        return jnp.split(whole, ends[:-1], axis=-1)


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

    def __call__(self, tokens, valid, start, past=(), adapter=None, scale=1.0, cache=None, last=None, remat=False):
        """See `Backbone.__call__`."""
        config, length = self.config, tokens.shape[-1]
        last = length if last is None else min(last, length)
        positions = start[..., None] + jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1
        at, columns = 0, valid  # of this block: where it begins, and which columns are real
        if cache is not None:
            at, columns = cache.at, jax.lax.dynamic_update_slice_in_dim(cache.block.valid, valid, cache.at, axis=2)
        longest = sum(block.valid.shape[-1] for block in past) + columns.shape[-1]
        cos, sin = rotary_angles(positions, longest, config.head_dim, config.rope_theta)
        causal = (jnp.arange(columns.shape[-1]) <= at + jnp.arange(length)[:, None]) & columns[:, :, None, :]
        hidden = self.embed[...].at[tokens].get(mode="clip")

        def layer(last, hidden, weights, factors, past_kv, cached):
            """One decoder layer: hidden states of the last columns, all keys and values, and those with the cache before them."""

            def linear(x, *sites):
                """Sites that read the same input: their low-rank factors A, narrow as they are, share one product.

                The weights do not: joining them here would copy the whole layer at every decoded token (`Merged` ones are joined
                before).
                """
                flat = x.reshape(-1, x.shape[-1])  # plain matrix products: their backward pass on a CPU is 2-3 times as fast
                parts = factors.linear(config, flat, sites) if isinstance(factors, Merged) else None
                parts = parts or [flat @ weights[site] for site in sites]
                own = [site for site in sites if isinstance(factors, dict) and site in factors]
                if own:
                    low = flat @ jnp.concatenate([factors[site]["a"] for site in own], axis=-1).astype(x.dtype)
                    for site, mine in zip(own, jnp.split(jnp.asarray(scale, x.dtype) * low, len(own), axis=-1)):
                        parts[sites.index(site)] += mine @ factors[site]["b"].astype(x.dtype)
                return [part.reshape(*x.shape[:-1], -1) for part in parts]

            def ending(x):
                return x[:, :, length - last :]

            def heads(x, norm=None, turn=()):
                """[B, g, T, K * H] -> [B, g, T, K, H], normed and turned where there is a norm."""
                x = x.reshape(*x.shape[:-1], -1, config.head_dim)
                return x if norm is None else rotate(rms_norm(x, weights[norm], config.rms_norm_eps), *turn)

            x = rms_norm(hidden, weights["attn_norm"], config.rms_norm_eps)
            if last == length:
                q, k, v = linear(x, "q", "k", "v")
            else:
                (q,), (k, v) = linear(ending(x), "q"), linear(x, "k", "v")
            q, k, v = heads(q, "q_norm", (ending(cos), ending(sin))), heads(k, "k_norm", (cos, sin)), heads(v)
            q, k, v = jnp.swapaxes(q, 2, 3), jnp.moveaxis(k, 2, 4), jnp.swapaxes(v, 2, 3)
            blocks = [(pk, pv, block.valid[:, :, None, :]) for (pk, pv), block in zip(past_kv, past)]
            whole = (k, v) if cached is None else [x[0] for x in put([x[None] for x in cached], (k[None], v[None]), 0, at)]
            mixed = attend(q, [*blocks, (*whole, ending(causal))])
            hidden = ending(hidden)
            (out,) = linear(jnp.swapaxes(mixed, 2, 3).reshape(*hidden.shape[:-1], -1), "o")
            hidden = hidden + out
            gate, up = linear(rms_norm(hidden, weights["mlp_norm"], config.rms_norm_eps), "gate", "up")
            (out,) = linear(jax.nn.silu(gate) * up, "down")
            return hidden + out, (k, v), whole

        layer = jax.checkpoint(layer, static_argnums=0) if remat else layer
        stacked, cached = (self.layers.stacked(), adapter), None if cache is None else (cache.block.k, cache.block.v)
        if config.num_hidden_layers <= UNROLL:
            states = []
            for number in range(config.num_hidden_layers):
                inputs = [x[number] if isinstance(x, tuple) else jax.tree.map(lambda y: y[number], x) for x in stacked]
                pasts = [(block.k[number], block.v[number]) for block in past]
                mine = cached and (cached[0][number], cached[1][number])
                wanted = last if number == config.num_hidden_layers - 1 else length  # what nobody reads is not computed
                hidden, _, state = layer(wanted, hidden, *inputs, pasts, mine)
                states.append(state)
            k, v = zip(*states)
        else:

            def scanned(carry, inputs):
                # As an output of the scan the cache would be written whole at every token; carried, it is not.
                hidden, cached = carry
                number, *inputs = inputs
                mine = cached and tuple(jax.lax.dynamic_index_in_dim(x, number, 0, False) for x in cached)
                hidden, new, _ = layer(length, hidden, *inputs, mine)
                if cached is None:
                    return (hidden, None), new
                return (hidden, put(cached, [x[None] for x in new], number, at)), None

            numbers = jnp.arange(config.num_hidden_layers)
            (hidden, cached), new = jax.lax.scan(
                scanned, (hidden, cached), (numbers, *stacked, [(block.k, block.v) for block in past]))
            k, v = new if cached is None else cached
            hidden = hidden[:, :, length - last :]
        return rms_norm(hidden, self.final_norm[...], config.rms_norm_eps), KV(k, v, columns)

    def logits(self, hidden):
        """See `Backbone.logits`."""
        head = self.embed[...].T if self.config.tie_word_embeddings else self.lm_head[...]
        return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)


def _putter(axis: int):
    """`write(whole, part, layer, at)` along `axis`, see `put`.

    Mapped over nodes that all write at the same column it stays a slice update; JAX's own rule would make it a scatter.
    """

    def slice_update(whole, part, layer, at):
        start = [0] * whole.ndim
        start[-6], start[axis] = layer, at
        return jax.lax.dynamic_update_slice(whole, part, start)

    write = jax.custom_batching.custom_vmap(slice_update)

    @write.def_vmap
    def write_of_nodes(size, mapped, whole, part, layer, at):
        if mapped == [True, True, False, False]:
            return write(whole, part, layer, at), True
        axes = [0 if one else None for one in mapped]
        return jax.vmap(slice_update, in_axes=axes, axis_size=size)(whole, part, layer, at), True

    return write


_put_keys, _put_values = _putter(-1), _putter(-2)


def put(cached, new, layer: Int[Array, ""] | int, at: Int[Array, ""]):
    """A cache `(keys [*N, L, B, g, K, H, S], values [*N, L, B, g, K, S, H])` with new ones written into one layer from column
    `at` on: `[*N, 1, B, g, K, H, T]` and `[*N, 1, B, g, K, T, H]`."""
    return _put_keys(cached[0], new[0], layer, at), _put_values(cached[1], new[1], layer, at)


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
        adapter: dict | tuple[Merged, ...] | None = None,
        scale: float = 1.0,
        cache: Cache | None = None,
        last: int | None = None,
    ) -> tuple[Float[Array, "B g t D"], KV]:
        """Reads one block of tokens.

        Args:
          tokens: token ids; padding anywhere, marked by `valid`.
          valid: which tokens are real. Padding is never looked at and takes no position.
          start: position of the first real token: how many real tokens were read before this block, in `past` and the cache.
          past: blocks read before, each with group axis `g` or 1; all their valid tokens are visible.
          adapter: one node's LoRA factors `{site: {"a": [L, in, R], "b": [L, R, out]}}`, None for the bare
            backbone, or what `adapters.merge` made of them.
          scale: LoRA scale, alpha / rank; merged weights hold it already.
          cache: a block that these tokens continue, after the past ones; its columns before `at` are visible where valid.
          last: hidden states of the `last` last columns come back, by default of all (t = T). A prompt needs its last one alone:
            of the other columns the final layer then computes keys and values only.

        Returns:
          Hidden states of the last columns after the final norm, and the keys and values of this block, or of the cache with
          this block in it.
        """
        return nnx.merge(_graphdef(self.config), self.params)(tokens, valid, start, past, adapter, scale, cache, last, self.remat)

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


def rotary_angles(positions: Int[Array, "B g T"], longest: int, head_dim: int, theta: float):
    """Cosine and sine `[B, g, T, 1, H/2]` of the rotary embedding (Su et al. 2021), for positions below `longest`.

    Looked up in a table: the sines of a position are the same in every row.
    """
    angles = np.outer(np.arange(longest), theta ** (-np.arange(0, head_dim, 2) / head_dim))
    places = jnp.clip(positions, 0, longest - 1)[..., None]  # padding before the first token stands at -1
    return jnp.asarray(np.cos(angles), jnp.float32)[places], jnp.asarray(np.sin(angles), jnp.float32)[places]


def rotate(x: Float[Array, "... K H"], cos: Array, sin: Array) -> Float[Array, "... K H"]:
    """Rotary embedding in the half-split layout of Hugging Face checkpoints."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
