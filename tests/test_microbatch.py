"""Microbatches and scanned layers are ways to compute: messages, gradients and numbers stay what they are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import decoder, init_backbone
from neuromas_jax.graph import node_slots, text_graph
from neuromas_jax.rl import Objective, Optimizer, init_learner, update
from neuromas_jax.rollout import make_program, no_interventions, rollout
from neuromas_jax.rollout.microbatch import check_microbatch, default_microbatch, map_questions, take_questions
from neuromas_jax.text.prompt import PromptTemplate
from tests.tiny import TEXTS, encode_questions, few_words, random_bank, tiny_config, tokenizer

BATCH, GROUP = 4, 3
REWARDS = jnp.asarray([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 1]])


@pytest.fixture(scope="module")
def run():
    """`run(microbatch)`: episodes of a graph with ragged prompts and early ends, and the update on them.

    `scanned` tells apart what a test ran after it patched the decoder.
    """
    graph, config = text_graph("3-2-1", 4, reads="all"), tiny_config()  # three: no whole number of twos
    backbone, bank = init_backbone(config, jax.random.key(0)), random_bank(config, graph.size)
    sampling = few_words(config.vocab_size)  # so that draws stay clear of the rounding between words
    objective, optimizer = Objective(entropy_bonus=0.01, kl_penalty=0.1), Optimizer(eps=1e-4)  # or Adam enlarges rounding

    @functools.cache
    def both(microbatch, remat=False, scanned=False, nodes=0):
        program = make_program(graph, node_slots(graph), PromptTemplate(), tokenizer(), sampling, GROUP, microbatch,
                               merge=not scanned, update_nodes=nodes)
        frozen = dataclasses.replace(backbone, remat=remat)
        keep = no_interventions(graph, BATCH, GROUP)
        texts = [TEXTS[i % len(TEXTS)] for i in range(BATCH)]
        # Functions of their own, or the trace of an earlier call would serve this one, whatever was patched since.
        episodes = jax.jit(lambda *args: rollout(program, *args))(
            frozen, bank, encode_questions(texts), keep, jax.random.key(1))
        learn = jax.jit(lambda *args: update(objective, optimizer, program, *args))
        return episodes, *learn(frozen, init_learner(optimizer, bank), episodes, REWARDS)

    return both


def assert_same(one, two):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if jnp.issubdtype(x.dtype, jnp.floating):
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5)
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("microbatch", [1, 2])
def test_microbatches_give_what_the_whole_batch_gives(run, microbatch):
    whole, parts = run(BATCH), run(microbatch)
    assert np.asarray(whole[2].gradient_norm).min() > 1e-3, "a gradient of zero compares nothing"
    assert_same(parts, whole)


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_a_few_nodes_at_a_time_give_the_gradient_of_all(run, nodes):
    assert_same(run(2, nodes=nodes), run(2))


def test_scanned_layers_give_what_layers_written_out_give(run, monkeypatch):
    written_out = run(2)
    monkeypatch.setattr(decoder, "UNROLL", 0)
    scanned, scan = [], jax.lax.scan
    monkeypatch.setattr(jax.lax, "scan", lambda body, *args: scanned.append(body.__name__) or scan(body, *args))
    assert_same(run(2, scanned=True), written_out)
    assert "scanned" in scanned


def test_recomputed_layers_give_the_same_update(run):
    """`Backbone.remat` trades time for memory and nothing else."""
    assert_same(run(1, remat=True), run(1))


def test_questions_are_cut_and_joined_where_they_stand():
    x = jnp.arange(3 * 4 * 2).reshape(3, 4, 2)
    kv = decoder.KV(jnp.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5, 1, 1, 1)[:, :, :, :1], None, None)
    kv = dataclasses.replace(kv, k=jnp.swapaxes(kv.k, 0, 1), v=jnp.swapaxes(kv.k, 0, 1), valid=x > 3)  # k [N, L, B, g, K, T, H]
    mapped = map_questions(lambda x, kv: (x, kv), 2, x, kv)
    assert_same(mapped, (x, kv))
    part, part_kv = take_questions((x, kv), 2, 2)
    assert (part == x[:, 2:]).all() and (part_kv.k == kv.k[:, :, 2:]).all() and (part_kv.valid == kv.valid[:, 2:]).all()


def test_a_microbatch_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"microbatch 3 does not divide a batch of 16.*\[1, 2, 4, 8, 16\]"):
        check_microbatch(3, 16)


@pytest.mark.parametrize("message_tokens, group, size", [(2, 8, 4), (2, 4, 8), (16, 8, 1), ((4, 4, 2), 8, 2)])
def test_the_default_is_a_few_questions_on_a_cpu_and_all_elsewhere(message_tokens, group, size):
    """4 senders of 1 + 2 tokens and a message of 2 are 14 tokens, 112 for 8 episodes: 4 questions stay within 512 tokens."""
    graph = text_graph("4-2-1", message_tokens)
    assert default_microbatch(32, group, graph) == (size if jax.default_backend() == "cpu" else 32)
    assert default_microbatch(3, 8, text_graph("4-2-1", 2)) == 3
