"""Credit: rules by hand, masking of groups that all earned the same."""

import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.rl import credit
from neuromas_jax.rl.credit import CREDIT, check_credit, informative

def of(rule, rewards):
    """A rule for one node that fired in every episode."""
    earned = jnp.asarray(rewards)[None]
    return np.asarray(CREDIT[rule](earned, (0,), jnp.ones(earned.shape, bool)))[0]


def advantages(rule, rewards):
    earned = jnp.asarray(rewards)[None]
    return credit.advantages(rule, earned, (0,), jnp.ones(earned.shape, bool))[0]


REWARDS = jnp.asarray([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])


def test_leave_one_out_by_hand():
    # the first episode earned 1, the mean of the other three is 0; the second earned 0, the others' mean is 1/3
    expected = [[1, -1 / 3, -1 / 3, -1 / 3], [2 / 3, 2 / 3, -2 / 3, -2 / 3]]
    np.testing.assert_allclose(of("leave_one_out", REWARDS[:2]), expected, rtol=1e-6)


def test_leave_one_out_equals_a_loop():
    rewards = np.random.default_rng(0).random((3, 5)).astype(np.float32)
    want = [[row[g] - np.delete(row, g).mean() for g in range(5)] for row in rewards]
    np.testing.assert_allclose(of("leave_one_out", rewards), want, atol=1e-6)


def test_grpo_by_hand():
    # mean 1/4 and deviation sqrt(3)/4; then mean 1/2 and deviation 1/2
    np.testing.assert_allclose(of("grpo", REWARDS[:2]), [[3**0.5, *[-(3**-0.5)] * 3], [1, 1, -1, -1]], rtol=1e-4)


def test_batch_mean_by_hand():
    np.testing.assert_allclose(of("batch_mean", [[1.0, 0.0], [1.0, 1.0]]), [[0.25, -0.75], [0.25, 0.25]])


@pytest.mark.parametrize("rule", CREDIT)
def test_groups_without_variance_are_masked(rule):
    np.testing.assert_array_equal(informative(REWARDS), [True, True, False, False])
    found = np.asarray(advantages(rule, REWARDS))
    assert (found[2:] == 0).all() and (found[:2] != 0).all() and np.isfinite(found).all()


@pytest.mark.parametrize("rule", CREDIT)
def test_a_constant_added_to_all_rewards_changes_nothing(rule):
    np.testing.assert_allclose(advantages(rule, REWARDS + 3), advantages(rule, REWARDS), atol=1e-5)


def test_unknown_rules_and_small_groups_are_refused():
    with pytest.raises(ValueError, match="'mean'.*allowed are leave_one_out, grpo, batch_mean, dr_mas, critic"):
        check_credit("mean", 8)
    for rule in CREDIT:
        with pytest.raises(ValueError, match=f"credit '{rule}' .*group is 1; set it to 2 or more"):
            check_credit(rule, 1)
        check_credit(rule, 2)


def test_a_group_of_one_would_learn_nothing():
    """Why it is refused: the mask leaves no advantage, even for the rule that compares across questions."""
    alone = jnp.asarray([[1.0], [0.0], [1.0]])
    assert (of("batch_mean", alone) != 0).all() and not np.asarray(advantages("batch_mean", alone)).any()


def test_dr_mas_is_grpo_where_every_agent_fires_once_and_earns_the_reward():
    earned, fired = jnp.broadcast_to(REWARDS, (3, *REWARDS.shape)), jnp.ones((3, *REWARDS.shape), bool)
    found = [np.asarray(credit.advantages(rule, earned, (0, 1, 2), fired)) for rule in ("grpo", "dr_mas")]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    np.testing.assert_allclose(found[0][0], advantages("grpo", REWARDS), rtol=1e-5)


def test_dr_mas_by_hand_where_agents_earn_unlike():
    """Agent 0 loses 0.1 in one episode; agent 1 fires twice, and in the last episode not at all."""
    rewards = np.asarray([1.0, 0.0, 0.0])
    earned = np.stack([rewards - [0, 0.1, 0], rewards, rewards])[:, None].astype(np.float32)
    fired = np.ones((3, 1, 3), bool)
    fired[1:, 0, 2] = False
    found = np.asarray(credit.dr_mas(jnp.asarray(earned), (0, 1, 1), jnp.asarray(fired)))
    first, second = np.asarray([1.0, -0.1, 0.0]), np.asarray([1.0, 0.0])  # what each agent's fired steps earned
    np.testing.assert_allclose(found[0, 0], (first - first.mean()) / first.std(), rtol=1e-4)
    np.testing.assert_allclose(found[1, 0, :2], (second - second.mean()) / second.std(), rtol=1e-4)
    pooled = np.asarray([1.0, -0.1, 0.0, 1.0, 0.0, 1.0, 0.0])
    common = np.asarray(credit.grpo(jnp.asarray(earned), (0, 1, 1), jnp.asarray(fired)))
    np.testing.assert_allclose(common[0, 0], (first - pooled.mean()) / pooled.std(), rtol=1e-4)
