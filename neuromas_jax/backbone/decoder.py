"""A decoder-only transformer, read by many adapters at once. What families of models differ in is data (`architecture.py`).

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

from neuromas_jax.backbone.architecture import LINEAR_SITES, SAME_INPUT, DecoderConfig, Kind
from neuromas_jax.backbone.kernels import KERNELS
from neuromas_jax.backbone.norm import rms_norm
from neuromas_jax.backbone.rotary import rotary_angles, rotate
from neuromas_jax.parallel.rules import looked_up, reshaped, undivided

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_pytorch_tanh": jax.nn.gelu}  # the latter by its default, the tanh approximation
# So few layers are written out, not scanned: each then keeps a cache array of its own, which nothing slices, and its weights are
# not copied at every token: 18.3 s, not 31.8, for 16 layers on a CPU (`benchmarks/README.md`), and longer compiles.
UNROLL = 16


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
        depth, dtype = config.num_hidden_layers, jnp.dtype(config.dtype)
        for site in LINEAR_SITES:
            fan_in, fan_out = config.site_shape(site)
            draw = jax.random.normal(rngs.params(), (depth, fan_in, fan_out), jnp.float32) * fan_in**-0.5
            setattr(self, site, nnx.Param(draw.astype(dtype)))
        for name, size in config.vectors.items():
            one = 0.0 if name.endswith("_bias") or config.norm_from_one else 1.0
            setattr(self, name, nnx.Param(jnp.full((depth, size), one, dtype)))
        self.names = (*LINEAR_SITES, *config.vectors)

    def stacked(self) -> dict[str, Array]:
        return {name: getattr(self, name)[...] for name in self.names}


class Decoder(nnx.Module):
    """Parameters and the forward pass. Nothing is written in `__call__`."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.config = config
        shape, dtype = (config.vocab_size, config.hidden_size), jnp.dtype(config.dtype)
        self.embed = nnx.Param((jax.random.normal(rngs.params(), shape, jnp.float32) * 0.02).astype(dtype))
        self.layers = DecoderLayers(config, rngs)
        self.final_norm = nnx.Param(jnp.full((config.hidden_size,), 0.0 if config.norm_from_one else 1.0, dtype))
        if not config.tie_word_embeddings:
            head = jax.random.normal(rngs.params(), shape[::-1], jnp.float32) * config.hidden_size**-0.5
            self.lm_head = nnx.Param(head.astype(dtype))

    def __call__(self, tokens, valid, start, past=(), adapter=None, scale=1.0, cache=None, last=None, remat=False,
                 attention="xla"):
        """See `Backbone.__call__`."""
        config, length = self.config, tokens.shape[-1]
        last = length if last is None else min(last, length)
        positions = start[..., None] + jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1
        at, columns = 0, valid  # of this block: where it begins, and which columns are real
        if cache is not None:
            at, columns = cache.at, jax.lax.dynamic_update_slice_in_dim(cache.block.valid, valid, cache.at, axis=2)
        sights = [sight(config, kind, positions, [*(block.valid for block in past), columns], at) for kind in config.kinds]
        hidden = looked_up(self.embed[...], tokens)
        if config.embed_scale != 1:
            hidden = hidden * jnp.asarray(config.embed_scale, hidden.dtype)

        def layer(last, hidden, weights, factors, past_kv, cached, seen):
            """One decoder layer: hidden states of the last columns, all keys and values, and those with the cache before them."""
            (cos, sin, masks), weights = seen, undivided(weights)

            def norm(x, name):
                return rms_norm(x, weights[name], config.rms_norm_eps, config.norm_from_one)

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
                parts = [part + weights[f"{site}_bias"] if site in config.biases else part for site, part in zip(sites, parts)]
                return [part.reshape(*x.shape[:-1], -1) for part in parts]

            def ending(x):
                return x[:, :, length - last :]

            def heads(x):
                """[B, g, T, K * H] -> [B, g, T, K, H]"""
                return reshaped(x, *x.shape[:-1], -1, config.head_dim)

            def turned(x, name, cos, sin):
                return rotate(norm(heads(x), name) if config.qk_norm else heads(x), cos, sin)

            x = norm(hidden, "attn_norm")
            if last == length:
                q, k, v = linear(x, "q", "k", "v")
            else:
                (q,), (k, v) = linear(ending(x), "q"), linear(x, "k", "v")
            q, k, v = turned(q, "q_norm", ending(cos), ending(sin)), turned(k, "k_norm", cos, sin), heads(v)
            q, k, v = jnp.swapaxes(q, 2, 3), jnp.moveaxis(k, 2, 4), jnp.swapaxes(v, 2, 3)
            masks = [mask if mask.shape[2] == 1 else ending(mask) for mask in masks]
            whole = (k, v) if cached is None else [x[0] for x in put([x[None] for x in cached], (k[None], v[None]), 0, at)]
            mixed = attend(q, [(*kv, mask) for kv, mask in zip([*past_kv, whole], masks)], config.query_scale)
            hidden = ending(hidden)
            (out,) = linear(reshaped(jnp.swapaxes(mixed, 2, 3), *hidden.shape[:-1], -1), "o")
            hidden = hidden + (norm(out, "attn_post_norm") if config.post_norms else out)
            gate, up = linear(norm(hidden, "mlp_norm"), "gate", "up")
            (out,) = linear(ACTIVATIONS[config.activation](gate) * up, "down")
            return hidden + (norm(out, "mlp_post_norm") if config.post_norms else out), (k, v), whole

        attend = KERNELS[attention if cache is None else "xla"]  # a cache is read by single tokens
        layer = jax.checkpoint(layer, static_argnums=0) if remat else layer
        stacked, cached = (self.layers.stacked(), adapter), None if cache is None else (cache.block.k, cache.block.v)
        if config.num_hidden_layers <= UNROLL:
            states = []
            for number in range(config.num_hidden_layers):
                inputs = [x[number] if isinstance(x, tuple) else jax.tree.map(lambda y: y[number], x) for x in stacked]
                pasts = [(block.k[number], block.v[number]) for block in past]
                mine = cached and (cached[0][number], cached[1][number])
                wanted = last if number == config.num_hidden_layers - 1 else length  # what nobody reads is not computed
                hidden, _, state = layer(wanted, hidden, *inputs, pasts, mine, sights[config.layer_kinds[number]])
                states.append(state)
            k, v = zip(*states)
        else:

            kinds = jnp.asarray(config.layer_kinds)
            stack = jax.tree.map(lambda *leaves: jnp.stack(jnp.broadcast_arrays(*leaves)), *sights)

            def scanned(carry, inputs):
                # As an output of the scan the cache would be written whole at every token; carried, it is not.
                hidden, cached = carry
                number, *inputs = inputs
                mine = cached and tuple(jax.lax.dynamic_index_in_dim(x, number, 0, False) for x in cached)
                seen = sights[0] if len(sights) == 1 else jax.tree.map(lambda x: x[kinds[number]], stack)
                hidden, new, _ = layer(length, hidden, *inputs, mine, seen)
                if cached is None:
                    return (hidden, None), new
                return (hidden, put(cached, [x[None] for x in new], number, at)), None

            numbers = jnp.arange(config.num_hidden_layers)
            (hidden, cached), new = jax.lax.scan(
                scanned, (hidden, cached), (numbers, *stacked, [(block.k, block.v) for block in past]))
            k, v = new if cached is None else cached
            hidden = hidden[:, :, length - last :]
        return rms_norm(hidden, self.final_norm[...], config.rms_norm_eps, config.norm_from_one), KV(k, v, columns)

    def logits(self, hidden, first=0, count=None):
        """See `Backbone.logits`."""
        tied = self.config.tie_word_embeddings
        head = undivided(self.embed[...] if tied else self.lm_head[...])
        if count is not None and count < self.config.vocab_size:
            head = jax.lax.dynamic_slice_in_dim(head, first, count, axis=0 if tied else 1)
        head = head.T if tied else head
        return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)


def sight(config: DecoderConfig, kind: Kind, positions: Int[Array, "B g T"], blocks: list[Array], at):
    """What the new tokens see in decoder layers of one kind.

    Args:
      config: of the decoder.
      kind: of its layers.
      positions: of the new tokens.
      blocks: which columns are real `[B, g or 1, S]`, in reading order; the last block has the new tokens, from column `at` on.
      at: see `blocks`.

    Returns:
      Cosine and sine of the positions, and per block which of its columns each new token may look at, `[B, g or 1, T or 1, S]`.
    """
    longest, columns = sum(valid.shape[-1] for valid in blocks), blocks[-1].shape[-1]
    causal = jnp.arange(columns) <= at + jnp.arange(positions.shape[-1])[:, None]
    masks = [*(valid[:, :, None, :] for valid in blocks[:-1]), causal & blocks[-1][:, :, None, :]]
    if 0 < kind.window < longest:
        first, near = 0, []
        for valid, mask in zip(blocks, masks):
            places = first + jnp.cumsum(valid, axis=-1) - 1
            near.append(mask & (positions[..., None] - places[:, :, None, :] < kind.window))
            first = first + valid.sum(axis=-1, keepdims=True)
        masks = near
    return (*rotary_angles(positions, longest, config.head_dim, kind), tuple(masks))


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
    decoder layer again instead of keeping its inner values: a third more time, a fraction of the memory. `attention` is one of
    `kernels.KERNELS`.

    >>> backbone = init_backbone(config, jax.random.key(0))
    >>> hidden, kv = backbone(tokens, valid, start)       # a block shared by the group: tokens [B, 1, T]
    >>> hidden, _ = backbone(more, valid, start, (kv,))   # G episodes go on from it: tokens [B, G, T]
    """

    params: dict[str, Any]
    config: DecoderConfig = dataclasses.field(metadata=dict(static=True))
    remat: bool = dataclasses.field(default=False, metadata=dict(static=True))
    attention: str = dataclasses.field(default="xla", metadata=dict(static=True))

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
        decoder = nnx.merge(_graphdef(self.config), self.params)
        return decoder(tokens, valid, start, past, adapter, scale, cache, last, self.remat, self.attention)

    def logits(self, hidden: Float[Array, "... D"], first: int | Array = 0, count: int | None = None) -> Float[Array, "... P"]:
        """Next-token logits in float32, of all ids or of `count` from `first` on. Call it on the positions you need:
        `[rows, T, V]` is the largest array of all."""
        return nnx.merge(_graphdef(self.config), self.params).logits(hidden, first, count)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(x.size for x in jax.tree.leaves(self.params))


def abstract_params(config: DecoderConfig) -> dict[str, Any]:
    """Shapes and types of `Backbone.params`."""
    return jax.eval_shape(lambda: init_backbone(config, jax.random.key(0)).params)


def init_backbone(config: DecoderConfig, key) -> Backbone:
    """A backbone with random weights."""
    _, state = nnx.split(Decoder(config, nnx.Rngs(params=key)))
    return Backbone(nnx.to_pure_dict(state), config)
