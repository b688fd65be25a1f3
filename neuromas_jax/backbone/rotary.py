"""Rotary position embedding (Su et al. 2021), plain or stretched for longer contexts."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from neuromas_jax.backbone.architecture import Kind, RopeScaling
from neuromas_jax.parallel.rules import looked_up


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Angles per position, `[H/2]`."""
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return plain
    if not scaling.high:
        return plain / scaling.factor
    turns = scaling.original * plain / (2 * np.pi)  # of a frequency over the positions of the first training
    kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return plain * (kept + (1 - kept) / scaling.factor)


def rotary_angles(positions: Int[Array, "B g T"], longest: int, head_dim: int, kind: Kind):
    """Cosine and sine `[B, g, T, 1, H/2]` for positions below `longest`.

    Looked up in a table: the sines of a position are the same in every row.
    """
    angles = np.outer(np.arange(longest), frequencies(head_dim, kind.theta, kind.scaling))
    places = jnp.clip(positions, 0, longest - 1)[..., None]  # padding before the first token stands at -1
    return tuple(looked_up(jnp.asarray(part(angles), jnp.float32), places) for part in (np.cos, np.sin))


def rotate(x: Float[Array, "... K H"], cos: Array, sin: Array) -> Float[Array, "... K H"]:
    """Rotary embedding in the half-split layout of Hugging Face checkpoints."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
