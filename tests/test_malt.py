"""MALT: trees of samples, values, preferences, and two phases of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.config import parse
from neuromas_jax.experiments.cells import Cell, read_done
from neuromas_jax.experiments.training import do_cell
from neuromas_jax.methods import make_method
from neuromas_jax.rl import malt
from neuromas_jax.rl.learner import written_log_probs
from neuromas_jax.rollout import make_program, no_interventions, rollout
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.train import loop
from neuromas_jax.train.run import make_run
from tests.tiny import TEXTS, encode_questions, few_words, random_bank, tiny_backbone, tiny_config, tokenizer


def configure(steps=6, **changes):
    return parse({**dict(families=dict(listops=dict(buckets=(24,), options=dict(depths=(1,), weights=(1.0,)))), methods=("malt",),
                         graph=dict(topology="2-1"), rollout=dict(questions=4, group=8),
                         training=dict(steps=steps, evaluate_every=2, checkpoint_every=2, validation_questions=4)), **changes})


def test_three_calls_two_phases_and_three_votes():
    config = configure(steps=7, adapters=dict(rank=4))
    made = make_method("malt", config, config.families["listops"])
    assert str(made.graph) == "1-1-1" and [layer.reads for layer in made.graph.layers] == [(), (0,), (0, 1)]
    assert (made.tree, made.votes, made.calls, sum(made.ranks)) == ((4, 2, 1), 3, 9, 12)
    assert [(stage.steps, dict(stage.objective)) for stage in made.stages] == [
        (3, {"credit": "malt_sft"}), (4, {"credit": "malt_dpo"})]
    assert make_run(config, "listops", "malt").answering.tree == ()  # votes at test time are samples of their own


@pytest.mark.parametrize("changes, message", [
    (dict(rollout=dict(group=6)), "as many branches at each of three calls, and rollout.group is 6; set it to 8 or 27"),
    (dict(steps=1), "has two phases, and trains for 1 step"),
])
def test_what_it_cannot_be_is_named(changes, message):
    config = configure(**changes)
    with pytest.raises(ValueError, match=message):
        make_method("malt", config, config.families["listops"])


@pytest.fixture(scope="module")
def tree():
    """A tree of 8 episodes a question, by a random backbone."""
    method = make_method("malt", configure(), configure().families["listops"])
    sampling = few_words(tiny_config().vocab_size)
    program = make_program(method.graph, method.slots, PromptTemplate(), tokenizer(), sampling, 8, 4, tree=method.tree)
    bank = random_bank(tiny_config(), 3)
    episodes = jax.jit(rollout, static_argnums=0)(
        program, tiny_backbone(), bank, encode_questions(TEXTS), no_interventions(method.graph, 4, 8), jax.random.key(3))
    return program, bank, episodes


def test_a_group_is_a_tree(tree):
    """Two first messages, two answers to each, two to each of those; every level really branches."""
    _, _, episodes = tree
    for number, block in enumerate((4, 2, 1)):
        message = np.asarray(episodes[number].message)[0].reshape(4, 8 // block, block, -1)
        assert (message == message[:, :, :1]).all()
        assert any(len(np.unique(one[:, 0], axis=0)) > 1 for one in message)
    siblings = np.asarray(episodes[2].message)[0].reshape(4, 4, 2, -1)
    assert (siblings[:, :, 0] != siblings[:, :, 1]).any()
    same_context = np.asarray(episodes[2].own)[0].reshape(4, 4, 2, -1)
    assert (same_context[:, :, 0] == same_context[:, :, 1]).all()


def test_a_message_is_worth_the_mean_of_what_follows():
    rewards = jnp.asarray([[1.0, 0, 1, 1, 0, 0, 0, 1]])
    worth = malt.values(rewards, np.asarray([4, 2, 1]))
    np.testing.assert_allclose(worth[0, 0], [0.75] * 4 + [0.25] * 4)
    np.testing.assert_allclose(worth[1, 0], [0.5, 0.5, 1, 1, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(worth[2, 0], rewards[0])
    np.testing.assert_allclose(malt.likelihood_credit(worth)[:, 0], [
        [1] * 4 + [0] * 4, [0, 0, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 0, 1]])


def test_preferences_are_between_siblings_that_answer_the_same():
    """A verifier is good above one half; a refiner's pairs have one right answer. Before any learning sigmoid is at 0."""
    rewards = jnp.asarray([[1.0, 0, 1, 1, 0, 0, 0, 1]])
    blocks = np.asarray([4, 2, 1])
    credit = malt.preference_credit(malt.values(rewards, blocks), jnp.zeros((3, 1, 8)), blocks)[:, 0]
    half = malt.BETA / 2
    np.testing.assert_allclose(credit[0], np.zeros(8))
    np.testing.assert_allclose(credit[1], np.asarray([-1, -1, 1, 1, 0, 0, 0, 0]) * half, rtol=1e-6)
    np.testing.assert_allclose(credit[2], np.asarray([1, -1, 0, 0, 0, 0, -1, 1]) * half, rtol=1e-6)
    learned = jnp.zeros((3, 1, 8)).at[2, 0, 0].set(20.0).at[2, 0, 7].set(-20.0)  # one pair is learned, one is upside down
    credit = malt.preference_credit(malt.values(rewards, blocks), learned, blocks)[2, 0]
    np.testing.assert_allclose(credit[:2], np.asarray([1, -1]) * malt.BETA * jax.nn.sigmoid(-20 * malt.BETA), rtol=1e-5)
    np.testing.assert_allclose(credit[6:], np.asarray([-1, 1]) * malt.BETA * jax.nn.sigmoid(20 * malt.BETA), rtol=1e-5)


def test_preference_credit_is_the_gradient_of_dpo(tree):
    """Against autodiff of -log sigmoid(beta (ratio_good - ratio_bad)) over the pairs, of a bank that has moved since it wrote."""
    program, bank, episodes = tree
    rewards = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 8)), jnp.float32)
    moved = random_bank(tiny_config(), 3, seed=5)
    credit, weight = malt.malt_credit("malt_dpo", program, tiny_backbone(), moved, episodes, rewards)
    assert weight.any() and not weight[0].any()
    worth = np.asarray(malt.values(rewards, malt.node_blocks(program)))

    def ratios(bank):
        now = written_log_probs(program, tiny_backbone(), bank, episodes)
        return jnp.concatenate([(one - layer.log_probs).sum(-1) for one, layer in zip(now, episodes)])

    def preferences(bank):
        ratio, total = ratios(bank), 0.0
        for node, step in ((1, 2), (2, 1)):
            for b in range(4):
                for g in range(0, 8, 2 * step):
                    first, second = worth[node, b, g] > 0.5, worth[node, b, g + step] > 0.5
                    if first != second:
                        gap = ratio[node, b, g] - ratio[node, b, g + step]
                        # Each message stands in `step` episodes, and its credit in all of them.
                        total -= step * jax.nn.log_sigmoid(malt.BETA * (gap if first else -gap))
        return total

    wanted = jax.jit(jax.grad(preferences))(moved)
    ours = jax.jit(jax.grad(lambda bank: -(credit * ratios(bank)).sum()))(moved)
    for want, have in zip(jax.tree.leaves(wanted), jax.tree.leaves(ours)):
        np.testing.assert_allclose(have, want, rtol=2e-3, atol=2e-5)


def test_ratios_are_nothing_under_the_bank_that_wrote(tree):
    program, bank, episodes = tree
    np.testing.assert_allclose(malt.log_ratio(program, tiny_backbone(), bank, episodes), 0, atol=2e-4)
    small = dataclasses.replace(program, microbatch=2)
    other = random_bank(tiny_config(), 3, seed=5)
    np.testing.assert_allclose(malt.log_ratio(small, tiny_backbone(), other, episodes),
                               malt.log_ratio(program, tiny_backbone(), other, episodes), rtol=1e-4, atol=1e-5)


def test_both_phases_train_and_the_first_ones_policy_writes(tmp_path, monkeypatch):
    """In each phase the episodes come from the adapters that it began with; the generator learns in the first one alone."""
    wrote = []
    acting = loop.LearnerState.acting.fget
    seen = property(lambda self: wrote.append(jax.device_get(acting(self))) or acting(self))
    monkeypatch.setattr(loop.LearnerState, "acting", seen)
    config = configure()
    cell = Cell("listops", "malt", 0, 2e-2, 6)
    do_cell(cell, "train", config, tmp_path)
    assert read_done(cell.folder(tmp_path, "train"))["samples"] == 6 * 32
    b = [one["q"]["b"] for one in wrote]
    assert len(b) == 6 and not b[0].any() and (b[1] == b[0]).all() and (b[2] == b[0]).all()  # the bare backbone
    assert b[3].any() and (b[4] == b[3]).all() and (b[5] == b[3]).all()  # what the supervised phase left
