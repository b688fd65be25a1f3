"""The norm's own backward pass and the row sum equal what JAX derives from the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone.norm import rms_norm, row_sum


def plain(x, weight, eps):
    wide = x.astype(jnp.float32)
    return weight * (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)).astype(x.dtype)


@pytest.mark.parametrize("dtype, close", [("float32", 1e-5), ("bfloat16", 0.05)])
@pytest.mark.parametrize("shape", [(5,), (3, 2, 16), (2, 3, 4, 64)])
def test_norm_and_its_gradients(shape, dtype, close):
    x, slope = (2 * jax.random.normal(jax.random.key(i), shape).astype(dtype) for i in range(2))
    weight = (1 + 0.3 * jax.random.normal(jax.random.key(2), shape[-1:])).astype(dtype)
    mine, theirs = (jax.vjp(lambda x, weight: norm(x, weight, 1e-3), x, weight) for norm in (rms_norm, plain))
    for one, other in zip((mine[0], *mine[1](slope)), (theirs[0], *theirs[1](slope))):
        assert one.dtype == other.dtype == dtype
        one, other = np.float32(one), np.float32(other)
        np.testing.assert_allclose(one, other, rtol=close, atol=close * np.abs(other).max())


def test_norm_under_vmap_with_one_weight():
    x, weight = jax.random.normal(jax.random.key(0), (4, 3, 8)), jnp.arange(1.0, 9.0)
    np.testing.assert_allclose(jax.vmap(rms_norm, (0, None, None))(x, weight, 1e-6), plain(x, weight, 1e-6), rtol=1e-5)


def test_row_sum_is_in_float32_and_differentiable():
    x, y = (jax.random.normal(jax.random.key(i), (3, 4, 300)).astype(jnp.bfloat16) for i in range(2))
    expected = (np.float64(x) * np.float64(y)).sum(-1)
    assert row_sum(x, y).dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(row_sum)(x, y), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(jax.grad(lambda x: row_sum(x, y).sum())(x), y)
