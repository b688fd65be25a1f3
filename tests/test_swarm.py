"""GPTSwarm: edges drawn per episode, learned by reward; nodes frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.config import parse
from neuromas_jax.graph import text_graph
from neuromas_jax.methods import make_method
from neuromas_jax.rl import Objective, Optimizer, init_learner, update
from neuromas_jax.rollout import make_program, no_interventions, rollout
from neuromas_jax.rollout.edges import allowed_edges, choose_edges, edge_bank, edge_log_prob, split_edges
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.train.run import make_run
from tests.tiny import TEXTS, encode_questions, few_words, random_bank, tiny_backbone, tiny_config, tokenizer

GROUP = 8


@pytest.fixture(scope="module")
def program():
    graph = text_graph("1-1-1", 2, "all")
    return make_program(graph, (0, 1, 2), PromptTemplate(), tokenizer(), few_words(tiny_config().vocab_size), GROUP, 4)


def run(program, bank, greedy=False, seed=0):
    keep = no_interventions(program.graph, len(TEXTS), GROUP)
    return jax.jit(rollout, static_argnums=(0, 6))(
        program, tiny_backbone(), bank, encode_questions(TEXTS), keep, jax.random.key(seed), greedy)


def bank_of(logits):
    return {"edges": {"logits": jnp.asarray(logits, jnp.float32)}}


def test_the_method_has_a_logit_for_each_pair_and_no_adapter():
    config = parse(dict(families=dict(listops=dict(buckets=(24,))), methods=("gptswarm",), graph=dict(topology="4-2-1")))
    run = make_run(config, "listops", "gptswarm", 1e-3)
    assert run.trainable_parameters == 21 and jax.tree.map(jnp.shape, run.new_bank(0)) == {"edges": {"logits": (7, 7)}}
    assert run.optimizer.learning_rate == pytest.approx(0.1) and run.objective.credit == "batch_mean"
    assert run.method.calls == 7 and run.method.stages[0].finals == (0, 1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="'gptswarm' learns edges, and the graph 1 has one node"):
        one = parse(dict(families=dict(listops=dict()), graph=dict(topology="1")))
        make_method("gptswarm", one, one.families["listops"])


def test_allowed_edges_are_those_of_the_graph():
    assert allowed_edges(text_graph("1-1-1", 2, "all")).astype(int).tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]


def test_half_of_all_edges_are_shown_at_first_and_none_when_greedy(program):
    episodes = run(program, edge_bank(3, 3))
    heard = np.concatenate([np.asarray(layer.heard).ravel() for layer in episodes])
    assert 0.3 < heard.mean() < 0.7
    assert not any(np.asarray(layer.heard).any() for layer in run(program, edge_bank(3, 3), greedy=True))


def test_a_sure_edge_is_the_given_graph(program):
    """Logits far from 0 give the graph that interventions give, token for token."""
    logits = np.full((3, 3), 50.0)
    logits[2, 0] = -50.0
    learned = run(program, bank_of(logits))
    keep = no_interventions(program.graph, len(TEXTS), GROUP)
    keep = jax.tree.map(lambda x: x, keep)
    given = jax.jit(rollout, static_argnums=0)(
        program, tiny_backbone(), {}, encode_questions(TEXTS),
        type(keep)(**{**vars(keep), "shown": keep.shown.at[2, 0].set(False)}), jax.random.key(0))
    for one, other in zip(learned, given):
        assert (np.asarray(one.message) == np.asarray(other.message)).all()
    assert np.asarray(learned[2].heard).reshape(-1, 2).tolist() == [[False, True]] * (len(TEXTS) * GROUP)


def test_edges_are_drawn_per_episode_and_do_not_depend_on_the_batch(program):
    logits = jnp.zeros((3, 3))
    index = jnp.arange(4)
    whole = choose_edges(program, logits, index, jax.random.key(1), False)
    part = choose_edges(program, logits, index[2:], jax.random.key(1), False)
    assert (np.asarray(whole[:, :, 2:]) == np.asarray(part)).all() and len(np.unique(np.asarray(whole[2, 0]))) == 2


def test_log_probability_of_edges(program):
    episodes = run(program, bank_of(np.log(3.0) * np.ones((3, 3))))  # p = 0.75
    found = edge_log_prob(program, 2, jnp.full((3, 3), jnp.log(3.0)), episodes[2])
    heard = np.asarray(episodes[2].heard)
    assert 0.6 < heard.mean() < 0.9
    np.testing.assert_allclose(found, np.where(heard, np.log(0.75), np.log(0.25)).sum(-1), rtol=1e-5)
    assert not np.asarray(edge_log_prob(program, 0, jnp.zeros((3, 3)), episodes[0])).any()


def test_reward_for_an_edge_raises_its_logit_and_no_other(program):
    """Episodes in which node 2 hears node 0 earn 1: that logit rises, the other three stay near where they are."""
    optimizer = Optimizer(learning_rate=0.1)
    state = init_learner(optimizer, edge_bank(3, 3))
    step = jax.jit(update, static_argnums=(0, 1, 2))
    for seed in range(25):
        episodes = run(program, state.bank, seed=seed)
        rewards = jnp.asarray(episodes[2].heard[0, :, :, 0], jnp.float32)
        state, metrics = step(Objective(credit="batch_mean"), optimizer, program, tiny_backbone(), state, episodes, rewards)
    logits = np.asarray(state.bank["edges"]["logits"])
    assert logits[2, 0] > 1.5 and abs(logits[1, 0]) < 1.2 and abs(logits[2, 1]) < 1.2
    assert not logits[0].any() and not logits[1, 1:].any() and logits[2, 2] == 0  # no such edge
    greedy = run(program, state.bank, greedy=True)
    assert np.asarray(greedy[2].heard)[..., 0].all()


def test_edges_and_adapters_can_be_learned_together(program):
    """A bank may hold both: adapters then move as well."""
    bank = random_bank(tiny_config(), 3) | edge_bank(3, 3)
    adapters, logits = split_edges(bank)
    assert set(adapters) == set(bank) - {"edges"} and logits.shape == (3, 3)
    optimizer = Optimizer(learning_rate=0.01)
    state = init_learner(optimizer, bank)
    episodes = run(program, bank)
    rewards = jnp.asarray(np.random.default_rng(0).integers(0, 2, (len(TEXTS), GROUP)), jnp.float32)
    after, _ = jax.jit(update, static_argnums=(0, 1, 2))(
        Objective(), optimizer, program, tiny_backbone(), state, episodes, rewards)
    assert (np.asarray(after.bank["edges"]["logits"])[1, 0] != 0) and (after.bank["q"]["b"] != bank["q"]["b"]).any()
