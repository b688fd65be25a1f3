"""Sampler and learner agree on every node and length; a slot touches only its own nodes given fixed messages.

Decoding stops early.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.rl import Objective, written_log_probs
from neuromas_jax.rl.update import loss_of_bank
from neuromas_jax.rollout import no_interventions, other_episodes, replay, rollout, sampler
from neuromas_jax.rollout.distribution import log_distribution
from tests.conftest import make_scene, roll
from tests.tiny import for_all

learner = jax.jit(written_log_probs, static_argnums=0)
KEY = jax.random.key(5)


def lengths(episodes):
    return [np.asarray(layer.live).sum(-1) for layer in episodes]


def run(scene, interventions=None, bank=None, key=KEY):
    keep = scene.keep if interventions is None else interventions
    return roll(scene.program, scene.backbone, scene.bank if bank is None else bank, scene.questions, keep, key)


def forced_lengths(scene):
    """Every node forced: messages of 0 to M words, some ended by the end token and some cut."""
    shape = scene.keep.given_length.shape
    length = jnp.asarray(np.arange(np.prod(shape)).reshape(shape) % (scene.program.graph.message_tokens + 1), jnp.int32)
    sampling = scene.program.sampling
    words = [i for i in range(scene.backbone.config.vocab_size) if i not in sampling.forbidden and i != sampling.end_id]
    given = np.random.default_rng(0).choice(words, scene.keep.given.shape).astype(np.int32)
    forced = dataclasses.replace(
        scene.keep, force=jnp.ones_like(scene.keep.force), given=jnp.asarray(given), given_length=length)
    return forced, length


def full_forward(scene, episodes):
    """Log-probabilities of what was written, each node's prompt and message read in one pass, padded on the right, no cache."""
    @jax.jit
    def read(bank, slot, ids, valid):
        adapter = jax.tree.map(lambda x: x[slot], bank)
        hidden, _ = scene.backbone(ids, valid, jnp.zeros((len(ids), 1), jnp.int32), (), adapter, scene.program.lora_scale)
        return log_distribution(scene.backbone.logits(hidden), scene.program.sampling)

    found = []
    for number, layer in enumerate(episodes):
        layer = jax.tree.map(np.asarray, layer)
        scores = np.zeros(layer.log_probs.shape, np.float32)
        for n, node in enumerate(scene.program.graph.nodes(number)):
            _, batch, group, _ = layer.message.shape
            rows, starts = [], []
            for b in range(batch):
                for g in range(group):
                    prompt = [*layer.shared[n, b, 0][layer.shared_valid[n, b, 0]], *layer.own[n, b, g][layer.own_valid[n, b, g]]]
                    starts.append(len(prompt))
                    rows.append([*prompt, *layer.message[n, b, g][layer.live[n, b, g]]])
            ids = np.zeros((len(rows), 1, 48), np.int32)
            for row, filled in zip(rows, ids):
                filled[0, : len(row)] = row
            valid = np.arange(48) < np.asarray([len(row) for row in rows])[:, None, None]
            log_probs = np.asarray(read(scene.bank, scene.program.slots[node], ids, valid))
            for i, (row, start) in enumerate(zip(rows, starts)):
                for place in range(start, len(row)):
                    scores[n, i // group, i % group, place - start] = log_probs[i, 0, place - 1, row[place]]
        found.append(scores)
    return found


@pytest.mark.parametrize("slots, merge", [("per_node", False), ("per_node", True), ((0, 1, 0), True), ("per_layer", True)])
def test_learner_equals_sampler_for_every_node(scene, slots, merge):
    scene = scene(slots=slots, merge=merge)
    sampled = run(scene)
    written = np.concatenate([x.ravel() for x in lengths(sampled)])
    assert written.min() < scene.program.graph.message_tokens == written.max(), "the scene must hold ended and cut messages"
    assert all(((np.asarray(layer.live).sum(-1) > 0) == np.asarray(layer.fired)).all() for layer in sampled)
    for got, layer in zip(learner(scene.program, scene.backbone, scene.bank, sampled), sampled):
        np.testing.assert_allclose(got, layer.log_probs, atol=2e-5)
        assert (np.asarray(got)[~np.asarray(layer.live)] == 0).all()


@pytest.mark.parametrize("merge", [False, True])
def test_learner_equals_sampler_for_forced_messages(scene, merge):
    scene = scene(merge=merge)
    interventions, length = forced_lengths(scene)
    forced = run(scene, interventions)
    most = scene.program.graph.message_tokens
    np.testing.assert_array_equal(np.concatenate(lengths(forced)), np.minimum(np.asarray(length) + 1, most))  # with the end token
    for got, layer in zip(learner(scene.program, scene.backbone, scene.bank, forced), forced):
        np.testing.assert_allclose(got, layer.log_probs, atol=2e-5)


def test_cache_decode_equals_the_full_forward_on_ragged_lengths(scene):
    scene = scene()
    for episodes in (run(scene), run(scene, forced_lengths(scene)[0])):
        for got, layer in zip(full_forward(scene, episodes), episodes):
            np.testing.assert_allclose(layer.log_probs, got, atol=2e-5)


def test_replay_writes_and_scores_the_same(scene):
    scene = scene()
    first = run(scene)
    again = run(scene, replay(scene.keep, first), key=jax.random.key(99))
    for one, two in zip(first, again):
        np.testing.assert_array_equal(one.message, two.message)
        np.testing.assert_array_equal(one.live, two.live)
        np.testing.assert_array_equal(one.own, two.own)
        np.testing.assert_allclose(one.log_probs, two.log_probs, atol=1e-6)


@pytest.fixture(scope="module")
def gradients():
    def of(program, backbone, bank, episodes, credit):
        credit = for_all(credit, program)
        return jax.grad(lambda bank: loss_of_bank(Objective(), program, backbone, bank, episodes, credit)[0])(bank)

    return jax.jit(of, static_argnums=0)


@pytest.mark.parametrize("slots, merge", [("per_node", True), ("per_layer", False), ((0, 1, 0), True)])
def test_a_slot_touches_only_its_own_nodes(scene, gradients, slots, merge):
    """With every message forced: sampler, learner and gradients of the other slots stay as they were."""
    scene = scene(slots=slots, merge=merge)
    program, count = scene.program, max(scene.program.slots) + 1
    written = scene.episodes
    fixed = replay(scene.keep, written)
    credit = jnp.asarray(np.random.default_rng(1).normal(size=written[0].fired.shape[1:]), jnp.float32)

    def measure(bank):
        episodes = run(scene, fixed, bank)
        return ([np.concatenate([np.asarray(layer.log_probs) for layer in episodes]),
                 np.concatenate([np.asarray(x) for x in learner(program, scene.backbone, bank, written)])],
                gradients(program, scene.backbone, bank, written, credit))

    before, gradient = measure(scene.bank)
    for slot in range(count):
        changed = jax.tree.map(lambda x: x.at[slot].multiply(-1.5).at[slot].add(0.05), scene.bank)
        after, new_gradient = measure(changed)
        for old, new in zip(before, after):
            for node, own in enumerate(program.slots):
                if own == slot:
                    assert np.abs(old[node] - new[node]).max() > 1e-3
                else:
                    np.testing.assert_allclose(new[node], old[node], atol=1e-6)
        for old, new in zip(jax.tree.leaves(gradient), jax.tree.leaves(new_gradient)):
            others = [other for other in range(count) if other != slot]
            np.testing.assert_allclose(np.asarray(new)[others], np.asarray(old)[others], atol=1e-6)
        assert max(float(jnp.abs(x[slot] - y[slot]).max())
                   for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(new_gradient))) > 1e-4


def test_an_episode_does_not_depend_on_its_place_in_the_batch(scene):
    """Rows fold their own coordinates into the key: turning the batch round turns the episodes round."""
    scene = scene()
    plain = run(scene)
    turned = jax.tree.map(lambda x: x[::-1] if x.ndim == 1 else x[:, ::-1], scene.questions)
    other = roll(scene.program, scene.backbone, scene.bank, turned, scene.keep, KEY)
    for one, two in zip(plain, other):
        np.testing.assert_array_equal(one.message, two.message[:, ::-1])


def test_a_reader_finds_what_other_episodes_of_its_question_wrote(scene):
    """With groups of 3, of node 0 what the next episode wrote, of node 1 what the one after that did."""
    scene = scene()
    first, last = run(scene, other_episodes(scene.keep))
    end, prompt, count = scene.program.sampling.end_id, scene.program.prompts[1], set()
    for b, g in np.ndindex(2, 3):
        wanted = []
        for sender in (0, 1):
            other = (g + 1 + sender) % 3
            message = np.asarray(first.message[sender, b, other])[np.asarray(first.live[sender, b, other])]
            wanted += [*prompt.slots[sender], *message[message != end].tolist()]
            count.add((b, other, tuple(message.tolist())))
        assert np.asarray(last.own[0, b, g])[np.asarray(last.own_valid[0, b, g])].tolist() == [*wanted, *prompt.cue]
    assert len({message for *_, message in count}) > 6  # episodes do differ
    with pytest.raises(ValueError, match="groups of 3 or more, and these have 2"):
        other_episodes(no_interventions(scene.program.graph, 2, 2))


def test_decoding_stops_when_every_row_has_ended(monkeypatch):
    """Messages of at most 4 tokens, the end among them: the first token comes out of the prefill, every other one is a step."""
    scene, steps = make_scene(), []
    plain = sampler.reader

    def counted(*options):
        read = plain(*options)

        def reader(adapters, tokens, *rest, **options):
            if tokens.shape[-1] == 1:
                jax.debug.callback(lambda: steps.append(1))
            return read(adapters, tokens, *rest, **options)
        return reader

    monkeypatch.setattr(sampler, "reader", counted)
    word = next(i for i in range(scene.backbone.config.vocab_size)
                if i not in scene.program.sampling.forbidden and i != scene.program.sampling.end_id)
    run = jax.jit(functools.partial(rollout, scene.program))
    for words in (0, 1, 3, 4):
        forced = dataclasses.replace(
            scene.keep, force=jnp.ones_like(scene.keep.force), given=jnp.full_like(scene.keep.given, word),
            given_length=jnp.full_like(scene.keep.given_length, words))
        episodes = run(scene.backbone, scene.bank, scene.questions, forced, KEY)
        jax.effects_barrier()
        assert {int(x.max()) for x in lengths(episodes)} == {min(words + 1, 4)}
        assert len(steps) == len(episodes) * (min(words + 1, 4) - 1)
        steps.clear()
