"""Attention by a library's fused kernel, where `attention.attend` is XLA's own: `config.attention` names one.

A fused kernel never writes the scores of a row to memory, and takes one block of keys for every row. So what a group shares is
copied for each of its episodes here, which `attend` does not do: a kernel pays where prompts and messages are long against the
group. Decoding, one query at a time, is bound by reading keys and stays with `attend`.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from neuromas_jax.backbone.architecture import DecoderConfig
from neuromas_jax.backbone.attention import Block, attend
from neuromas_jax.parallel.rules import mesh_size, on_mesh

LANES = 128  # splash reads queries and keys in tiles of so many at least
TILES = (512, 256, LANES)


def cudnn(q: Float[Array, "B G Q T H"], blocks: list[Block], scale: float | None = None, implementation: str = "cudnn"):
    """`attend` by cuDNN's flash attention, in bfloat16 or float16 on an NVIDIA GPU: `jax.nn.dot_product_attention`.

    Where each query may look is a bias of `[rows, T, S]`. `implementation` "xla" has the same layout anywhere.
    """
    k, v, mask = _joined(q, blocks)
    length, seen = q.shape[3], k.shape[3]
    even = -(-length // 2) * 2, -(-seen // 2) * 2  # cuDNN's backward pass with a bias takes no odd lengths
    q = _fit(_rows(q), 2, even[0])
    k, v = _fit(_rows(k), 2, even[1]), _fit(_rows(v), 2, even[1])
    mask = _fit(_fit(mask.reshape(-1, 1, *mask.shape[2:]), 3, even[1]), 2, even[0])
    turned = [jnp.swapaxes(x, 1, 2) for x in (q, k, v)]  # rows, length, heads, head size
    out = jax.nn.dot_product_attention(*turned, mask=mask, scale=scale, implementation=implementation)
    return jnp.swapaxes(out, 1, 2)[:, :, :length]


def splash(q: Float[Array, "B G Q T H"], blocks: list[Block], scale: float | None = None, interpret: bool = False):
    """`attend` by Pallas's splash attention, on a TPU. Only for layers that look at all positions: it takes the causal order of
    columns and which of them are real, and leaves out tiles that no query may look at. `interpret` runs it anywhere, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes, CausalMask, MultiHeadMask, SegmentIds, make_splash_mha)

    k, v, mask = _joined(q, blocks)
    real = mask[:, :, -1]  # the last query looks at every real column
    length, seen = q.shape[3], k.shape[3]
    tall, wide = (-(-count // LANES) * LANES for count in (length, seen))
    high, long = (next(tile for tile in TILES if count % tile == 0) for count in (tall, wide))
    blocks_of = BlockSizes(block_q=high, block_kv=long, block_kv_compute=long, block_q_dkv=high, block_kv_dkv=long,
                           block_kv_dkv_compute=long, block_q_dq=high, block_kv_dq=long)
    q = q * jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, q.dtype)

    def own(q, k, v, real):
        """The rows and heads of one device."""
        rows, heads = q.shape[:2], q.shape[2]
        causal = MultiHeadMask([CausalMask((tall, wide), offset=seen - length)] * heads)
        kernel = make_splash_mha(causal, head_shards=1, q_seq_shards=1, interpret=interpret, block_sizes=blocks_of)
        real = _fit(real.reshape(-1, seen), 1, wide)
        # Padding is another segment than what is real; a query that is padding itself gives a number that nobody reads.
        segments = SegmentIds(jnp.ones((len(real), tall), jnp.int32), real.astype(jnp.int32))
        out = jax.vmap(kernel)(_fit(_rows(q), 2, tall), _fit(_rows(k), 2, wide), _fit(_rows(v), 2, wide), segments)
        return out[:, :, :length].reshape(*rows, heads, length, -1)

    if on_mesh():  # XLA cannot divide a kernel by itself
        over = "data" if q.shape[0] % mesh_size("data") == 0 else None
        spec = PartitionSpec(over, None, "model")
        own = jax.shard_map(own, in_specs=(spec, spec, spec, PartitionSpec(over)), out_specs=spec, check_vma=False)
    return own(q, k, v, real)


def _rows(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _fit(x: Array, axis: int, count: int) -> Array:
    """Empty entries behind the others of an axis, `count` in all."""
    return jnp.pad(x, [(0, count - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])


def _joined(q: Array, blocks: list[Block]) -> tuple[Float[Array, "B G K S H"], Float[Array, "B G K S H"], Bool[Array, "B G T S"]]:
    """All blocks of keys as one for each episode."""
    group, length = q.shape[1], q.shape[3]

    def each(x):
        return jnp.broadcast_to(x, (x.shape[0], group, *x.shape[2:]))

    keys = jnp.concatenate([each(jnp.swapaxes(k, 3, 4)) for k, _, _ in blocks], axis=3)
    values = jnp.concatenate([each(v) for _, v, _ in blocks], axis=3)
    masks = [jnp.broadcast_to(each(mask), (*each(mask).shape[:2], length, mask.shape[3])) for _, _, mask in blocks]
    return keys, values, jnp.concatenate(masks, axis=3)


def _whole(kernel: Callable) -> Callable:
    @functools.wraps(kernel)
    def attention(q, blocks, scale=None):
        if q.shape[3] == 1:  # bound by reading keys
            return attend(q, blocks, scale)
        return kernel(q, blocks, scale).reshape(q.shape)

    return attention


KERNELS: dict[str, Callable] = {"xla": attend, "cudnn": _whole(cudnn), "splash": _whole(splash)}
PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}


def check_attention(name: str, config: DecoderConfig, platform: str | None = None) -> None:
    """Raises ValueError for an unknown kernel, or one that cannot serve this decoder, or this platform where one is given."""
    if name not in KERNELS:
        raise ValueError(f"config.attention is {name!r}; allowed: {', '.join(KERNELS)}")
    if platform and PLATFORMS.get(name, platform) != platform:
        raise ValueError(f"config.attention is {name!r}, which runs on a {PLATFORMS[name]} alone, and JAX's backend is "
                         f"{platform}; set config.attention='xla'")
    if name == "cudnn" and (config.dtype not in ("bfloat16", "float16") or config.head_dim % 8):
        raise ValueError(f"config.attention is 'cudnn', which takes bfloat16 or float16 and heads of a multiple of 8, and the "
                         f"backbone has {config.dtype} and heads of {config.head_dim}; set config.attention='xla'")
    if name == "splash" and any(config.windows):
        raise ValueError(f"config.attention is 'splash', and {config.model_type} has layers with a sliding window, which it "
                         "cannot follow over padding; set config.attention='xla'")
