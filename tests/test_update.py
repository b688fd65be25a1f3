"""The pure update: who moves, who does not, by how much, and what the loss is divided by."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from neuromas_jax.backbone.adapters import init_bank
from neuromas_jax.rl import Objective, Optimizer, advantages, init_learner, update
from neuromas_jax.rl.credit import leave_one_out
from neuromas_jax.rl.objective import layer_loss
from neuromas_jax.rl.scores import token_scores
from neuromas_jax.rl.update import learn, loss_of_bank
from neuromas_jax.rollout import LayerEpisodes, Sampling
from tests.tiny import for_all, tiny_config

REWARDS = jnp.asarray([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
SAME = jnp.asarray([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
OPTIMIZER = Optimizer(clip=0.05)
PLAIN = Objective()
step = jax.jit(update, static_argnums=(0, 1, 2))


@pytest.fixture(scope="module")
def world(scene):
    """A scene and a learner that has moved once, so that no moment is zero."""
    found = scene()
    state = init_learner(OPTIMIZER, found.bank)
    state = dataclasses.replace(state, learning_rate=jnp.asarray([1e-2, 1e-3, 3e-3]))
    moved, metrics = step(PLAIN, OPTIMIZER, found.program, found.backbone, state, found.episodes, REWARDS)
    return found, state, moved, metrics


def take(world, state, rewards=REWARDS, episodes=None, objective=PLAIN):
    scene = world[0]
    return step(objective, OPTIMIZER, scene.program, scene.backbone, state,
                scene.episodes if episodes is None else episodes, rewards)


def rows(tree, slot):
    return [np.asarray(x[slot]) for x in jax.tree.leaves(tree)]


def equal(one, two):
    return all((x == y).all() for x, y in zip(one, two, strict=True))


def counts(state):
    return next(x for x in jax.tree.leaves(state.moments) if x.dtype == jnp.int32)


def test_groups_without_variance_change_nothing_at_all(world):
    _, _, moved, _ = world
    assert all(np.abs(x).max() > 0 for x in rows(moved.moments, 0))  # stale moments that would move the slot
    after, metrics = take(world, moved, SAME)
    assert equal(jax.tree.leaves(after), jax.tree.leaves(moved))
    assert not np.asarray(metrics.moved).any() and float(metrics.informative) == 0


def test_the_gradient_is_that_of_the_credit_which_the_objective_names(world):
    scene, state, _, _ = world
    gradient = jax.jit(jax.grad(lambda bank, weights: loss_of_bank(
        PLAIN, scene.program, scene.backbone, bank, scene.episodes, for_all(weights, scene.program))[0]))
    norms = []
    for credit in ("leave_one_out", "grpo", "batch_mean"):
        _, metrics = take(world, state, objective=Objective(credit=credit))
        weights = advantages(credit, REWARDS[None], (0,), jnp.ones((1, *REWARDS.shape), bool))[0]
        want = jax.vmap(optax.global_norm)(gradient(scene.bank, weights))
        np.testing.assert_allclose(metrics.gradient_norm, want, rtol=1e-4)
        norms.append(np.asarray(want))
    for one, other in itertools.combinations(norms, 2):
        assert np.abs(one / other - 1).min() > 0.01  # so that none passes for another


def test_a_slot_without_a_live_row_does_not_change_bit_for_bit(world):
    scene, _, moved, _ = world
    first = scene.episodes[0]
    silent = dataclasses.replace(first, fired=first.fired.at[1].set(False), live=first.live.at[1].set(False),
                                 log_probs=first.log_probs.at[1].set(0))
    after, metrics = take(world, moved, episodes=(silent, scene.episodes[1]))
    assert metrics.moved.tolist() == [True, False, True]
    for part in ("bank", "moments"):
        assert equal(rows(getattr(after, part), 1), rows(getattr(moved, part), 1))
        assert not equal(rows(getattr(after, part), 0), rows(getattr(moved, part), 0))
    assert counts(after).tolist() == [2, 1, 2]


def test_a_node_that_fired_only_in_masked_groups_does_not_move(world):
    scene, _, moved, _ = world
    first = scene.episodes[0]
    silent = dataclasses.replace(first, fired=first.fired.at[1, 0].set(False), live=first.live.at[1, 0].set(False))
    after, metrics = take(world, moved, jnp.asarray([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), (silent, scene.episodes[1]))
    assert metrics.moved.tolist() == [True, False, True]
    assert equal(rows(after.bank, 1), rows(moved.bank, 1))


def test_every_slot_steps_as_optax_would_alone(world):
    """Clip, moments and learning rate by vmap, two steps, against one ordinary optimizer per slot."""
    scene, state, moved, metrics = world
    credit = for_all(leave_one_out(REWARDS[None], (0,), None)[0], scene.program)
    gradient = jax.jit(jax.grad(lambda bank: loss_of_bank(PLAIN, scene.program, scene.backbone, bank, scene.episodes, credit)[0]))
    second, _ = take(world, moved)
    norms = np.asarray(metrics.gradient_norm)
    clips = norms > OPTIMIZER.clip
    assert clips.any(), norms
    for slot, rate in enumerate(state.learning_rate):
        alone = optax.chain(optax.clip_by_global_norm(OPTIMIZER.clip),
                            optax.adam(float(rate), OPTIMIZER.b1, OPTIMIZER.b2, OPTIMIZER.eps))
        bank = jax.tree.map(lambda x: x[slot], scene.bank)
        moments, before = alone.init(bank), state
        for after in (moved, second):
            direction = jax.tree.map(lambda x: x[slot], gradient(before.bank))
            np.testing.assert_allclose(optax.global_norm(direction), norms[slot], rtol=1e-4) if before is state else None
            steps, moments = alone.update(direction, moments)
            want = optax.apply_updates(bank, steps)
            size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(steps))
            for got, new, old in zip(rows(after.bank, slot), jax.tree.leaves(want), jax.tree.leaves(bank)):
                np.testing.assert_allclose(got - np.asarray(old), new - old, atol=0.02 * size)
            bank, before = jax.tree.map(lambda x: x[slot], after.bank), after


def test_a_step_makes_better_episodes_more_likely(world):
    scene, state, _, metrics = world
    small = dataclasses.replace(state, learning_rate=jnp.full((3,), 1e-3))
    nearer, first = take(world, small)
    _, second = take(world, nearer)
    np.testing.assert_array_less(np.asarray(second.loss), np.asarray(first.loss))  # every node's own


def test_spare_ranks_stay_zero(scene):
    found = scene()
    bank = init_bank(found.backbone.config, (2, 3, 1), jax.random.key(0))  # B zero at birth
    state = init_learner(OPTIMIZER, bank)
    for _ in range(3):
        state, _ = step(PLAIN, OPTIMIZER, found.program, found.backbone, state, found.episodes, REWARDS)
    for slot, rank in enumerate((2, 3, 1)):
        for pair in state.bank.values():
            assert (np.asarray(pair["a"][slot, ..., rank:]) == 0).all()
            assert (np.asarray(pair["b"][slot, :, rank:]) == 0).all()
            assert (np.asarray(pair["b"][slot, :, :rank]) != 0).any()


def regularised(world, **weights):
    """(sums before, sums after) one step of the optional terms alone: no group has variance."""
    scene, state, _, _ = world
    objective = Objective(**weights)
    state = dataclasses.replace(state, learning_rate=jnp.full((3,), 1e-3))
    after, first = take(world, state, SAME, objective=objective)
    assert np.asarray(first.moved).all()
    _, second = take(world, after, SAME, objective=objective)
    return first.layers, second.layers


def test_entropy_bonus_raises_entropy(world):
    for before, after in zip(*regularised(world, entropy_bonus=0.1)):
        np.testing.assert_array_less(np.asarray(before.entropy), np.asarray(after.entropy))


def test_kl_penalty_brings_adapters_back_to_the_bare_backbone(world):
    scene, state, _, _ = world
    objective = Objective(kl_penalty=0.1)
    for before, after in zip(*regularised(world, kl_penalty=0.1)):
        assert (np.asarray(before.kl) > 1e-3).all()
        np.testing.assert_array_less(np.asarray(after.kl), np.asarray(before.kl))
    born = dataclasses.replace(state, bank=jax.tree.map(jnp.zeros_like, state.bank))
    _, metrics = take(world, born, SAME, objective=objective)
    for sums in metrics.layers:
        np.testing.assert_allclose(sums.kl, 0, atol=1e-4)
    np.testing.assert_allclose(metrics.gradient_norm, 0, atol=1e-4)


def layer(live, message, vocabulary=5):
    """Episodes of a layer with these live tokens, and random distributions over them."""
    shape = live.shape
    empty = jnp.zeros((*shape[:2], 1, 0), jnp.int32)
    log_probs = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(0).normal(size=(*shape, vocabulary)), jnp.float32))
    own = jnp.zeros((*shape[:3], 0), jnp.int32)
    episodes = LayerEpisodes(empty, empty.astype(bool), own, own.astype(bool), jnp.asarray(message), jnp.asarray(live),
                             jnp.zeros(shape, jnp.float32), jnp.asarray(live[..., 0]))
    return log_probs, episodes


def scored(log_probs, episodes, bare=None):
    def part(x):
        return lambda first, count: jax.lax.dynamic_slice_in_dim(x, first, count, axis=-1)

    return token_scores(part(log_probs), log_probs.shape[-1], episodes.message, Sampling(0), None if bare is None else part(bare))


def test_the_loss_is_divided_by_a_constant():
    """By questions times episodes: not by message length, not by how many tokens are live, not by the number of nodes."""
    rng = np.random.default_rng(1)
    shape = 3, 2, 2, 4
    live = np.ones(shape, bool)
    live[:, :, 1, 2:] = False
    message = rng.integers(0, 5, shape).astype(np.int32)
    credit = rng.normal(size=shape[:3]).astype(np.float32)
    log_probs, episodes = layer(live, message)
    chosen = np.take_along_axis(np.asarray(log_probs), message[..., None], -1)[..., 0]
    loss, sums = layer_loss(PLAIN, scored(log_probs, episodes), episodes, jnp.asarray(credit))
    np.testing.assert_allclose(loss, -(chosen * live * credit[..., None]).sum((1, 2, 3)) / 4, rtol=1e-5)
    assert sums.tokens.tolist() == live.sum((1, 2, 3)).tolist()

    # one token less in one episode takes away that token's own term and leaves all other terms as they were
    shorter = live.copy()
    shorter[0, 0, 0, 3] = False
    cut = dataclasses.replace(episodes, live=jnp.asarray(shorter))
    less, _ = layer_loss(PLAIN, scored(log_probs, cut), cut, jnp.asarray(credit))
    np.testing.assert_allclose(less[0] - loss[0], chosen[0, 0, 0, 3] * credit[0, 0, 0] / 4, rtol=1e-4)
    np.testing.assert_array_equal(less[1:], loss[1:])

    # every token twice: twice the sum, as a sum over tokens must be
    def twice(x):
        return jnp.concatenate([x, x], axis=3)

    doubled = dataclasses.replace(
        episodes, message=twice(episodes.message), live=twice(episodes.live), log_probs=twice(episodes.log_probs))
    both = scored(twice(log_probs), doubled)
    np.testing.assert_allclose(layer_loss(PLAIN, both, doubled, jnp.asarray(credit))[0], 2 * loss, rtol=1e-5)

    # a node's loss is the same in a layer of one
    alone = jax.tree.map(lambda x: x[:1], episodes)
    first = scored(log_probs[:1], alone)
    np.testing.assert_allclose(layer_loss(PLAIN, first, alone, jnp.asarray(credit[:1]))[0], loss[:1], rtol=1e-6)


def test_optional_terms_by_hand():
    live = np.ones((1, 1, 2, 2), bool)
    live[0, 0, 1, 1] = False
    log_probs, episodes = layer(live, np.zeros(live.shape, np.int32))
    bare, _ = layer(live, np.zeros(live.shape, np.int32))
    bare = jax.nn.log_softmax(bare * 0.5)
    nothing = jnp.zeros((1, 1, 2))
    p = np.exp(np.asarray(log_probs))
    entropy = (-(p * np.asarray(log_probs)).sum(-1) * live).sum()
    kl = ((p * np.asarray(log_probs - bare)).sum(-1) * live).sum()
    assert kl > 0
    loss, sums = layer_loss(Objective(entropy_bonus=0.3, kl_penalty=0.7), scored(log_probs, episodes, bare), episodes, nothing)
    np.testing.assert_allclose(loss, [-0.3 * entropy / 2 + 0.7 * kl / 2], rtol=1e-5)
    np.testing.assert_allclose([sums.entropy[0], sums.kl[0]], [entropy, kl], rtol=1e-5)


def test_an_entropy_floor_pulls_up_what_is_under_it_and_nothing_else():
    live = np.ones((2, 1, 2, 2), bool)
    log_probs, episodes = layer(live, np.zeros(live.shape, np.int32))
    nothing, rule = jnp.zeros((2, 1, 2)), Objective(entropy_floor=1.2, floor_weight=0.5)
    entropy = -(np.exp(log_probs) * np.asarray(log_probs)).sum(-1).mean((1, 2, 3))
    low, high = sorted(entropy)
    rule = dataclasses.replace(rule, entropy_floor=float(low + high) / 2)
    loss, _ = layer_loss(rule, scored(log_probs, episodes), episodes, nothing, jnp.ones(2))
    np.testing.assert_allclose(loss, 0.5 * np.maximum((low + high) / 2 - entropy, 0), rtol=1e-4, atol=1e-7)
    assert (np.asarray(loss) == 0).tolist() == (entropy == high).tolist()
    spared, _ = layer_loss(rule, scored(log_probs, episodes), episodes, nothing, jnp.zeros(2))
    assert spared.tolist() == [0, 0]


def test_the_floor_is_for_the_nodes_that_the_objective_names(world):
    scene, state, _, _ = world
    rule = Objective(entropy_floor=50.0, floor_weight=1.0, floor_nodes=(1,))
    _, metrics = take(world, state, SAME, objective=rule)
    assert (np.asarray(metrics.loss) > 0).tolist() == [False, True, False]


def test_an_invalid_step_costs_the_node_that_took_it_and_no_other(world):
    scene, state, _, _ = world
    invalid = jnp.zeros((3, *REWARDS.shape), bool).at[1, 0, 0].set(True)
    rule = Objective(invalid_penalty=0.25)
    _, plain = take(world, state)
    after, metrics = jax.jit(update, static_argnums=(0, 1, 2))(
        rule, OPTIMIZER, scene.program, scene.backbone, state, scene.episodes, REWARDS, invalid)
    assert (np.asarray(metrics.loss) == np.asarray(plain.loss)).tolist() == [True, False, True]


def test_a_held_slot_does_not_move_and_the_others_move_as_they_would(world):
    _, state, moved, _ = world
    held = dataclasses.replace(moved, learning_rate=moved.learning_rate.at[1].set(0.0))
    after, metrics = take(world, held)
    free, _ = take(world, moved)
    assert metrics.moved.tolist() == [True, False, True]
    for part in ("bank", "moments"):
        assert equal(rows(getattr(after, part), 1), rows(getattr(moved, part), 1))
        assert equal(rows(getattr(after, part), 0), rows(getattr(free, part), 0))


def test_credit_may_differ_from_node_to_node(world):
    """Ones for one node alone: the likelihood of what it wrote, which moves its slot and no other."""
    scene, state, _, _ = world
    shape = (3, *REWARDS.shape)
    credit = jnp.zeros(shape).at[1].set(1.0)
    after, metrics = jax.jit(learn, static_argnums=(0, 1, 2))(
        PLAIN, OPTIMIZER, scene.program, scene.backbone, state, scene.episodes, credit, credit > 0)
    assert metrics.moved.tolist() == [False, True, False]
    written = scene.episodes[0].log_probs[1].sum() / REWARDS.size
    np.testing.assert_allclose(metrics.loss, [0, -written, 0], rtol=1e-4)
    assert equal(rows(after.bank, 0), rows(state.bank, 0)) and not equal(rows(after.bank, 1), rows(state.bank, 1))


def test_a_new_learner_has_one_optimizer_per_slot():
    state = init_learner(Optimizer(learning_rate=0.5), init_bank(tiny_config(num_hidden_layers=1), (2, 2), jax.random.key(0)))
    assert state.learning_rate.tolist() == [0.5, 0.5] and counts(state).tolist() == [0, 0]
