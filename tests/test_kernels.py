"""Fused attention kernels give what XLA's own attention gives, forward and backward: layouts anywhere, kernels where they run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import init_backbone, kernels
from neuromas_jax.backbone.attention import attend
from neuromas_jax.backbone.kernels import check_attention, cudnn, splash
from tests.tiny import tiny_config


def scene(dtype="float32", size=8, past=(5,), own=6, queries=6, heads=4, kv_heads=2, batch=2, group=3):
    """Random queries and blocks: shared ones with padding in front, then an own block of every episode with padding in it."""
    rng = np.random.default_rng(0)
    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)
    blocks = []
    for length in past:
        valid = jnp.asarray(np.arange(length) >= rng.integers(0, 3, (batch, 1, 1)))
        blocks.append((draw(batch, 1, kv_heads, size, length), draw(batch, 1, kv_heads, length, size), valid[:, :, None]))
    mask = jnp.asarray(rng.random((batch, group, own)) < 0.8).at[..., 0].set(True)[:, :, None] & jnp.tri(own, dtype=bool)
    blocks.append((draw(batch, group, kv_heads, size, own), draw(batch, group, kv_heads, own, size), mask[:, :, own - queries :]))
    return draw(batch, group, heads, queries, size), blocks, draw(batch, group, heads, queries, size)


def both_ways(function, q, blocks, weights, scale):
    """Output, and gradients to queries, keys and values."""
    def total(q, keys_values):
        out = function(q, [(*kv, mask) for kv, (_, _, mask) in zip(keys_values, blocks)], scale).reshape(q.shape)
        return (out.astype(jnp.float32) * weights).sum(), out
    gradient, out = jax.jit(jax.grad(total, (0, 1), has_aux=True))(q, [(k, v) for k, v, _ in blocks])
    return [out, *jax.tree.leaves(gradient)]


SCENES = {
    "a prompt read once": dict(past=(), own=7, queries=7, group=1), "messages after it": {}, "their last tokens": dict(queries=2),
    "two blocks before": dict(past=(3, 5)), "as many heads of keys": dict(kv_heads=4),
    "more than a tile": dict(past=(100,), own=150, queries=140, batch=1, group=2),
}
KERNELS = {"splash": functools.partial(splash, interpret=True), "cudnn": functools.partial(cudnn, implementation="xla")}


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", SCENES)
def test_a_kernel_gives_what_attend_gives(kernel, name, scale):
    q, blocks, weights = scene(**SCENES[name])
    for mine, wanted in zip(both_ways(KERNELS[kernel], q, blocks, weights, scale), both_ways(attend, q, blocks, weights, scale)):
        np.testing.assert_allclose(mine, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SCENES)
def test_cudnn_itself_on_a_gpu(name):
    """In bfloat16, against float32: as near as XLA's own attention in bfloat16 is, within a half."""
    q, blocks, weights = scene(size=64, **SCENES[name])
    exact = both_ways(attend, q, blocks, weights, None)
    q, blocks = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.bfloat16), (q, blocks))
    mine, plain = both_ways(cudnn, q, blocks, weights, None), both_ways(attend, q, blocks, weights, None)
    for one, other, wanted in zip(mine, plain, exact):
        allowed = 1.5 * np.abs(np.asarray(other, np.float32) - wanted).max() + 1e-2 * np.abs(wanted).max()
        np.testing.assert_allclose(np.asarray(one, np.float32), wanted, rtol=0, atol=allowed)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_decoder_reads_by_the_kernel_that_it_names(kernel, monkeypatch):
    """A prompt and then what the episodes wrote; real columns' hidden states agree with those by XLA, and the kernel was used."""
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        return KERNELS[kernel](*arguments, **options)

    monkeypatch.setitem(kernels.KERNELS, kernel, kernels._whole(counted))
    plain = init_backbone(tiny_config(num_hidden_layers=2), jax.random.key(0))
    named = dataclasses.replace(plain, attention=kernel)
    rng = np.random.default_rng(1)
    prompt, message = (jnp.asarray(rng.integers(3, 20, shape)) for shape in ((2, 1, 6), (2, 3, 4)))
    seen = jnp.asarray(np.arange(6) >= np.asarray([[[2]], [[0]]]))
    wrote = jnp.asarray(np.arange(4) < rng.integers(1, 5, (2, 3, 1)))
    found = []
    for backbone in (plain, named):
        first, kv = backbone(prompt, seen, jnp.zeros((2, 1), jnp.int32))
        more, _ = backbone(message, wrote, jnp.broadcast_to(seen.sum(-1), (2, 3)), (kv,), last=3)
        found.append((jnp.where(seen[..., None], first, 0), jnp.where(wrote[..., 1:, None], more, 0)))
    for mine, wanted in zip(found[1], found[0]):
        np.testing.assert_allclose(mine, wanted, rtol=2e-4, atol=2e-5)
    assert len(calls) == 4  # two blocks by two layers


@pytest.mark.parametrize("name, changes, platform, message", [
    ("flash", {}, None, "config.attention is 'flash'; allowed: xla, cudnn, splash"),
    ("cudnn", dict(dtype="bfloat16"), "cpu", "runs on a gpu alone, and JAX's backend is cpu; set config.attention='xla'"),
    ("splash", {}, "gpu", "runs on a tpu alone, and JAX's backend is gpu"),
    ("cudnn", {}, "gpu", "takes bfloat16 or float16 and heads of a multiple of 8, and the backbone has float32"),
    ("splash", dict(windows=(4, 0)), "tpu", "has layers with a sliding window"),
])
def test_a_kernel_that_cannot_serve_is_refused(name, changes, platform, message):
    with pytest.raises(ValueError, match=message):
        check_attention(name, tiny_config(num_hidden_layers=2, **changes), platform)
