"""The central critic: advantages by hand, a value that is learned, and an update that uses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.rl import Objective, Optimizer, init_critic, init_learner, update
from neuromas_jax.rl.critic import DECAY, DISCOUNT, criticise, layer_advantages, prompt_features, values
from neuromas_jax.rl.learner import message_states

REWARDS = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])


def test_advantages_run_backwards_through_the_layers():
    value = jnp.asarray([0.2, 0.5, 0.7]).reshape(3, 1, 1)
    found = np.asarray(layer_advantages(value, jnp.asarray([[1.0]])))[:, 0, 0]
    last = 1 - 0.7
    middle = DISCOUNT * 0.7 - 0.5 + DISCOUNT * DECAY * last
    first = DISCOUNT * 0.5 - 0.2 + DISCOUNT * DECAY * middle
    np.testing.assert_allclose(found, [first, middle, last], rtol=1e-5)


def test_a_new_critic_has_no_opinion():
    critic = init_critic(8, jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (2, 3, 4, 8))
    assert not np.asarray(values(critic.params, features)).any()
    found = layer_advantages(jnp.zeros((2, 2, 3)), REWARDS)
    np.testing.assert_allclose(found, jnp.stack([DISCOUNT * DECAY * REWARDS, REWARDS]))


@pytest.fixture(scope="module")
def world(scene):
    scene = scene()
    return scene, init_critic(scene.backbone.config.hidden_size, jax.random.key(3))


def test_features_are_the_bare_backbones_view_of_each_layers_prompts(world):
    scene, _ = world
    found = prompt_features(scene.program, scene.backbone, scene.episodes)
    states = message_states(scene.program, scene.backbone, None, scene.episodes)
    want = jnp.stack([layer[..., 0, :].mean(axis=0) for layer in states])
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_the_critic_learns_what_episodes_earn(world):
    scene, critic = world
    step = jax.jit(criticise, static_argnums=0)
    first = None
    for _ in range(300):
        credit, critic = step(scene.program, scene.backbone, critic, scene.episodes, REWARDS)
        first = credit if first is None else first
    features = prompt_features(scene.program, scene.backbone, scene.episodes)
    error = np.abs(np.asarray(values(critic.params, features))[-1] - np.asarray(REWARDS)).mean()
    assert error < 0.5 * np.abs(np.asarray(REWARDS) - REWARDS.mean()).mean()
    assert credit.shape == (3, *REWARDS.shape) and np.isfinite(credit).all()
    np.testing.assert_allclose([first.mean(), first.std()], [0, 1], atol=0.2)
    np.testing.assert_array_equal(credit[0], credit[1])  # nodes of one layer share the critic's view


def test_an_update_steps_adapters_and_critic(world):
    scene, critic = world
    state = init_learner(Optimizer(), scene.bank, critic)
    after, metrics = jax.jit(update, static_argnums=(0, 1, 2))(
        Objective(credit="critic"), Optimizer(), scene.program, scene.backbone, state, scene.episodes, REWARDS)
    assert np.asarray(metrics.moved).all()
    assert np.asarray(after.critic.params["out"]).any() and not np.asarray(state.critic.params["out"]).any()
