"""Scores of written tokens, a part of the vocabulary at a time: the same numbers and gradients, and never a wide array."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone.adapters import init_bank
from neuromas_jax.backbone.decoder import init_backbone
from neuromas_jax.rl import Objective, Optimizer, init_learner, scores, update
from neuromas_jax.rl.scores import token_scores
from neuromas_jax.rollout import LayerEpisodes, Sampling, log_distribution
from tests.tiny import tiny_config

SAMPLING = Sampling(2, (0, 5, 22), 0.7)


def whole(logits, tokens, bare):
    """As one would write it with the vocabulary at hand."""
    mine, other = log_distribution(logits, SAMPLING), log_distribution(bare, SAMPLING)
    chances = jnp.exp(mine)
    return (jnp.take_along_axis(mine, tokens[..., None], -1)[..., 0], -(chances * jnp.where(chances > 0, mine, 0)).sum(-1),
            (chances * jnp.where(chances > 0, mine - other, 0)).sum(-1))


@pytest.mark.parametrize("part", [4, 8, 23, 100])  # the vocabulary of 23 is no multiple of the first two
def test_parts_of_the_vocabulary_add_up(part):
    rng = np.random.default_rng(0)
    logits, bare = (jnp.asarray(rng.normal(0, 8, (3, 4, 23)), jnp.float32) for _ in range(2))
    tokens = jnp.asarray([[1, 2, 3, 4], [6, 7, 8, 9], [19, 20, 21, 18]])
    weights = jnp.asarray(rng.normal(size=(3, 3, 4)), jnp.float32)

    def parts(logits):
        def cut(x):
            return lambda first, count: jax.lax.dynamic_slice_in_dim(x, first, count, axis=-1)

        found = token_scores(cut(logits), 23, tokens, SAMPLING, cut(bare), part)
        return found.log_prob, found.entropy, found.kl

    def total(function):
        def weighed(logits):
            found = jnp.stack(function(logits))
            return (weights * found).sum(), found

        return jax.jit(jax.value_and_grad(weighed, has_aux=True))(logits)

    (_, mine), slope = total(parts)
    (_, wanted), wanted_slope = total(lambda logits: whole(logits, tokens, bare))
    np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(slope, wanted_slope, rtol=1e-4, atol=2e-5)
    assert np.all(np.asarray(slope)[..., [0, 5, 22]] == 0)
    assert np.all(np.asarray(token_scores(lambda first, count: logits[..., first : first + count], 23, tokens, SAMPLING).kl) == 0)


def test_no_array_of_an_update_is_as_wide_as_a_real_vocabulary(scene, monkeypatch):
    """The compiled update of a graph whose words are 151,936, as Qwen's are: its temporaries, read from the compiler, are smaller
    than the logits at its message positions; with the whole vocabulary as one part they are not."""
    found = scene()
    rows, words = 64, 151_936
    graph = found.program.graph

    def temporary(part):
        monkeypatch.setattr(scores, "PART", part)
        config = tiny_config(vocab_size=words)
        backbone = jax.eval_shape(lambda: init_backbone(config, jax.random.key(0)))
        state = jax.eval_shape(lambda: init_learner(Optimizer(), init_bank(config, (4,) * graph.size, jax.random.key(0))))
        episodes = jax.eval_shape(lambda: tuple(wider(layer, rows) for layer in found.episodes))
        rewards = jax.ShapeDtypeStruct((2, rows), jnp.float32)
        program = jax.jit(functools.partial(update, Objective(entropy_bonus=0.1), Optimizer(), found.program))
        return program.lower(backbone, state, episodes, rewards).compile().memory_analysis().temp_size_in_bytes

    length = found.episodes[0].message.shape[-1]
    logits = graph.layers[0].width * found.program.microbatch * rows * length * words * 4
    assert temporary(8192) < logits < temporary(words)


def wider(layer: LayerEpisodes, group: int) -> LayerEpisodes:
    """The same episodes with a group of so many."""
    return jax.tree.map(lambda x: x if x.shape[2] == 1 else jnp.resize(x, (*x.shape[:2], group, *x.shape[3:])), layer)
