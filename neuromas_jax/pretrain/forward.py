"""The decoder's forward pass for whole documents, with its loss: the same numbers as `Backbone`, laid out for speed on a CPU.

Matrix products over flat rows, layers written out one after another, and the last feed-forward and the logits only where
a target counts: the backward pass takes a quarter of the time that the general path takes here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone.attention import MASKED
from neuromas_jax.backbone.architecture import DecoderConfig
from neuromas_jax.backbone.norm import rms_norm
from neuromas_jax.backbone.rotary import rotary_angles, rotate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
    """Documents of one static length `T`, right-padded, and the `P` places where a target counts.

    tokens: int32 [rows, T]. lengths: int32 [rows], real tokens. where: int32 [P], flat positions (row * T + t) from which
    the next token is foretold. targets: int32 [P], that token. weights: float32 [P], 0 for unused places.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    where: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def target_logits(params: dict, config: DecoderConfig, part: Part) -> jax.Array:
    """Next-token logits float32 [P, V] at the places `part.where`."""
    rows, length = part.tokens.shape
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    shared = heads // kv_heads
    positions = jnp.arange(length, dtype=jnp.int32)
    cos, sin = (x[0, 0] for x in rotary_angles(positions[None, None], length, size, config.kinds[0]))  # [T, 1, H/2]
    # Right padding comes after every real token, so the causal mask already hides it.
    mask = positions[:, None] >= positions[None, :]
    hidden = params["embed"][part.tokens.reshape(-1)]
    for number in range(config.num_hidden_layers):
        weights = {name: stacked[number] for name, stacked in params["layers"].items()}
        x = rms_norm(hidden, weights["attn_norm"], config.rms_norm_eps)
        q = rms_norm((x @ weights["q"]).reshape(rows, length, heads, size), weights["q_norm"], config.rms_norm_eps)
        k = rms_norm((x @ weights["k"]).reshape(rows, length, kv_heads, size), weights["k_norm"], config.rms_norm_eps)
        v = (x @ weights["v"]).reshape(rows, length, kv_heads, size)
        q, k = rotate(q, cos, sin) * size**-0.5, rotate(k, cos, sin)
        # [rows, T, K, r, H] -> [rows * K, r * T, H]: one batched product a head group
        q = q.reshape(rows, length, kv_heads, shared, size).transpose(0, 2, 3, 1, 4)
        q = q.reshape(rows * kv_heads, shared * length, size)
        k, v = (y.transpose(0, 2, 1, 3).reshape(rows * kv_heads, length, size) for y in (k, v))
        score = jnp.einsum("bth,bsh->bts", q, k).reshape(-1, shared, length, length)
        look = jax.nn.softmax(jnp.where(mask, score, MASKED), axis=-1).reshape(-1, shared * length, length)
        mixed = jnp.einsum("bts,bsh->bth", look, v).reshape(rows, kv_heads, shared, length, size)
        mixed = mixed.transpose(0, 3, 1, 2, 4).reshape(rows * length, heads * size)
        if number == config.num_hidden_layers - 1:
            mixed, hidden = mixed[part.where], hidden[part.where]
        hidden = hidden + mixed @ weights["o"]
        x = rms_norm(hidden, weights["mlp_norm"], config.rms_norm_eps)
        hidden = hidden + (jax.nn.silu(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]
    return rms_norm(hidden, params["final_norm"], config.rms_norm_eps) @ params["embed"].T


def summed_loss(params: dict, config: DecoderConfig, part: Part) -> jax.Array:
    """Sum over the part of weight times cross-entropy, in nats."""
    logits = target_logits(params, config, part)
    chosen = jnp.sum(logits * jax.nn.one_hot(part.targets, logits.shape[-1]), axis=-1)
    return jnp.sum((jax.nn.logsumexp(logits, axis=-1) - chosen) * part.weights)
