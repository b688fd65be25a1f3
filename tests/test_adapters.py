"""A vmapped layer equals a Python loop over its nodes, forward and gradient. And the bank's own rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import init_backbone
from neuromas_jax.backbone.adapters import bank_parameters, default_merge, init_bank, merge, take_slots
from neuromas_jax.backbone.architecture import LINEAR_SITES, SAME_INPUT
from neuromas_jax.backbone.decoder import UNROLL
from neuromas_jax.rollout.sampler import reader
from tests.tiny import random_bank, tiny_config

SCALE = 2.0
CONFIG = tiny_config()


@pytest.fixture(scope="module")
def backbone():
    return init_backbone(CONFIG, jax.random.key(0))


@pytest.mark.parametrize("slots", [(1, 2), (0, 0, 1), (2, 0, 2)])
def test_vmapped_layer_equals_a_loop_over_nodes(backbone, slots):
    bank = random_bank(CONFIG, 3)
    draw = iter(jax.random.split(jax.random.key(3), 3))
    rows = (len(slots), 2, 2, 5)  # nodes, questions, episodes, tokens
    tokens = jax.random.randint(next(draw), rows, 0, CONFIG.vocab_size)
    valid = jnp.arange(5) >= jax.random.randint(next(draw), (*rows[:3], 1), 0, 4)  # ragged
    start = jnp.zeros(rows[:3], jnp.int32)
    weight = jax.random.normal(next(draw), (*rows, CONFIG.hidden_size)) * valid[..., None]

    def vmapped(bank):
        hidden, _ = reader(backbone, SCALE)(take_slots(bank, slots), tokens, valid, start, ())
        return (hidden * weight).sum(), hidden

    def loop(bank):
        hidden = []
        for n, slot in enumerate(slots):
            adapter = {site: {name: value[slot] for name, value in pair.items()} for site, pair in bank.items()}
            hidden.append(backbone(tokens[n], valid[n], start[n], (), adapter, SCALE)[0])
        return (jnp.stack(hidden) * weight).sum(), jnp.stack(hidden)

    (_, got), got_gradient = jax.jit(jax.value_and_grad(vmapped, has_aux=True))(bank)
    (_, want), want_gradient = jax.jit(jax.value_and_grad(loop, has_aux=True))(bank)
    np.testing.assert_allclose(got * valid[..., None], want * valid[..., None], atol=2e-5)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * scale), got_gradient, want_gradient)
    for slot in {0, 1, 2} - set(slots):  # a slot that no node uses gets no gradient
        assert all((np.asarray(x[slot]) == 0).all() for x in jax.tree.leaves(got_gradient))


@pytest.mark.parametrize("sites", [LINEAR_SITES, ("q", "down"), ("v", "up", "o")])
@pytest.mark.parametrize("slots", [(1, 2), (2, 0, 2), (0,)])
def test_merged_adapters_say_what_adapters_say(backbone, slots, sites):
    """Rows of merged weights, all columns and the last one alone, against the same rows with their adapters apart."""
    bank = {site: pair for site, pair in random_bank(CONFIG, 3).items() if site in sites}
    tokens = jax.random.randint(jax.random.key(3), (len(slots), 2, 2, 5), 0, CONFIG.vocab_size)
    rows = tokens, jnp.ones_like(tokens, bool), jnp.zeros(tokens.shape[:3], jnp.int32), ()
    merged = merge(backbone, bank, SCALE)
    assert set(merged[0].weights) == {"+".join(group) for group in SAME_INPUT if set(group) & set(sites)}
    for last in (None, 1):
        want, want_kv = reader(backbone, SCALE)(take_slots(bank, slots), *rows, last=last)
        got, got_kv = reader(backbone, SCALE)(take_slots(merged, slots), *rows, last=last)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), (got, got_kv), (want, want_kv))


def test_weights_are_merged_where_that_is_sound(monkeypatch):
    deep, narrow = dict(num_hidden_layers=UNROLL + 1), dict(dtype="bfloat16")
    cases = [({}, 7, True), (narrow, 7, False), (deep, 7, False), ({}, 10**6, False)]
    for backend in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        for changes, nodes, sound in cases:
            assert default_merge(tiny_config(**changes), nodes) == (sound and backend == "cpu"), (backend, changes, nodes)


@pytest.mark.parametrize("changes, said", [
    (dict(dtype="bfloat16"), "2 layers of bfloat16"), (dict(num_hidden_layers=UNROLL + 1), f"{UNROLL + 1} layers")])
def test_adapters_are_not_merged_where_they_would_be_lost(changes, said):
    config = tiny_config(**changes)
    with pytest.raises(ValueError, match=f"{said}.*at most {UNROLL} of float32.*merge=False"):
        merge(init_backbone(config, jax.random.key(0)), random_bank(config, 1), SCALE)


def test_take_slots_gives_the_rows_of_the_slots():
    bank = {"q": {"a": jnp.arange(4.0)[:, None, None, None], "b": jnp.arange(4.0)[:, None, None, None]}}
    for slots in ((0, 1, 2, 3), (1, 2), (3,), (2, 0, 2), (0, 0), (3, 2)):
        assert take_slots(bank, slots)["q"]["a"].ravel().tolist() == list(slots)


def test_a_new_bank_leaves_the_backbone_as_it_is(backbone):
    adapter = jax.tree.map(lambda x: x[0], init_bank(CONFIG, (2,), jax.random.key(0)))
    tokens = jnp.arange(6, dtype=jnp.int32)[None, None]
    arguments = tokens, jnp.ones_like(tokens, bool), jnp.zeros((1, 1), jnp.int32), ()
    np.testing.assert_allclose(backbone(*arguments, adapter, SCALE)[0], backbone(*arguments)[0], atol=1e-5)


def test_a_slot_starts_from_the_key_and_its_number_alone():
    small, large = (init_bank(CONFIG, (3,) * slots, jax.random.key(4)) for slots in (2, 5))
    for site in small:
        np.testing.assert_array_equal(small[site]["a"], large[site]["a"][:2])
        assert (np.asarray(large[site]["a"][0]) != np.asarray(large[site]["a"][1])).any()


def test_spare_ranks_are_zero_and_not_counted():
    bank = init_bank(CONFIG, (2, 3, 1), jax.random.key(0))
    for slot, rank in enumerate((2, 3, 1)):
        for pair in bank.values():
            used = np.abs(np.asarray(pair["a"][slot])).max(axis=(0, 1)) > 0
            assert used.tolist() == [r < rank for r in range(3)]
    full = sum(x[0].size for x in jax.tree.leaves(init_bank(CONFIG, (1,), jax.random.key(0))))
    assert bank_parameters(CONFIG, (2, 3, 1)) == 6 * full


def test_bad_ranks_and_sites_are_named():
    with pytest.raises(ValueError, match=r"ranks \(2, 0\).*rank 1 or more"):
        init_bank(CONFIG, (2, 0), jax.random.key(0))
    with pytest.raises(ValueError, match="'key'; allowed are q, k, v"):
        init_bank(CONFIG, (2,), jax.random.key(0), sites=("q", "key"))


def test_training_operations_are_six_for_each_weight_and_token():
    config = tiny_config()  # 2 layers of width 32, 4 heads of 8 over 2 keys, 48 inside
    linear = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48)
    assert config.training_flops(10, 0) == 6 * linear * 10
    assert config.training_flops(10, 3) == 6 * (linear * 13 + config.vocab_size * 32 * 3)
