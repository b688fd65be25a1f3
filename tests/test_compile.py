"""What is compiled: how the program grows with the graph, that no `[rows, T, V]` is in it, one trace per bucket."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import init_backbone
from neuromas_jax.graph import node_slots, text_graph
from neuromas_jax.rl import Objective, Optimizer, init_learner, update
from neuromas_jax.rollout import make_program, make_sampling, no_interventions, rollout
from neuromas_jax.text.prompt import PromptTemplate
from tests.conftest import make_scene
from tests.tiny import TEXTS, encode_questions, random_bank, tiny_config, tokenizer

CONFIG = tiny_config(num_hidden_layers=1)


@functools.cache
def programs(topology, reads="previous", message_tokens=5, **options):
    """(rollout, update), lowered and not compiled."""
    graph = text_graph(topology, message_tokens, reads)
    program = make_program(
        graph, node_slots(graph), PromptTemplate(slot="<from1> {k}"),  # the tokenizer has labels of 16 senders, a layer has 64
        tokenizer(), make_sampling(tokenizer(), CONFIG.vocab_size), 3, 1, **options)
    backbone = init_backbone(CONFIG, jax.random.key(0))
    bank = random_bank(CONFIG, graph.size, rank=2)
    arguments = (backbone, bank, encode_questions(TEXTS[:2], bucket=24), no_interventions(graph, 2, 3),
                 jax.random.key(0))
    forward = jax.jit(functools.partial(rollout, program))
    episodes = jax.eval_shape(forward, *arguments)
    state = init_learner(Optimizer(), bank)
    learn = jax.jit(functools.partial(update, Objective(kl_penalty=0.1, entropy_bonus=0.1), Optimizer(), program))
    rewards = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    return forward.lower(*arguments), learn.lower(backbone, state, episodes, rewards)


def lowered(*arguments, **options):
    """Their StableHLO texts."""
    return [program.as_text() for program in programs(*arguments, **options)]


def lines(topology):
    return np.asarray([text.count("\n") for text in lowered(topology)])


def test_size_is_flat_in_width():
    """One layer of 64 nodes against one of 1; and, with readers, 64 senders against 2."""
    assert (lines("64") <= 1.1 * lines("1")).all(), (lines("64"), lines("1"))
    assert (lines("64-1") <= 1.01 * lines("2-1")).all(), (lines("64-1"), lines("2-1"))


def test_size_is_linear_in_depth():
    sizes = np.asarray([lines("-".join("1" * depth)) for depth in (2, 4, 6)])
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    assert (first > 0).all()
    np.testing.assert_allclose(second, first, rtol=0.05)


def shapes(text):
    """Shapes of all arrays of a StableHLO text."""
    return {tuple(map(int, found.split("x")[:-1])) for found in re.findall(r"tensor<((?:\d+x)+[a-z]\w*)>", text)}


@pytest.mark.parametrize("topology, reads", [("3-1", "previous"), ("2-1-1", "all")])
def test_no_logits_for_prompt_tokens(topology, reads):
    """Arrays over the vocabulary hold message positions only.

    No axis is as long as a prompt block, with or without the message.
    """
    message, vocabulary = 5, CONFIG.vocab_size
    graph = text_graph(topology, message, reads)
    for text in lowered(topology, reads):
        found = {shape for shape in shapes(text) if vocabulary in shape}
        assert found, "the search must find the logits"
        rows = 2 * 3 * max(layer.width for layer in graph.layers) * message  # of one layer's message tokens
        for shape in found:
            if np.prod(shape) == vocabulary * CONFIG.hidden_size:  # the embedding and its transpose
                continue
            assert np.prod(shape) <= vocabulary * rows, f"{shape} is larger than one layer's message logits"


def test_the_shared_block_is_read_once_for_a_group():
    """Design: shared work is done once, in prefill and in the update.

    A long question and short messages: if the block of 24 tokens and more were read by each of 3 episodes, some array would hold
    that many hidden states.
    """
    config, message, group = CONFIG, 2, 3
    for text in lowered("2-1", message_tokens=message):
        states = [np.prod(shape) // config.hidden_size for shape in shapes(text)
                  if shape[-1] == config.hidden_size and config.vocab_size not in shape]
        once = 3 * (1 + 24)  # rows of all three nodes for one question: start and question at least
        assert max(states) >= once, "the search must find the shared block's hidden states"
        assert max(states) < group * once, max(states)


PARTS = re.compile(r"(transpose\(jvp\(|jvp\(|)((rollout|update)/(merge|shared|credit|optimizer|layer\d+(/(prefill|decode))?)\b)")


def scopes(program):
    """Named parts of a lowered program, those of a gradient's two ways with "jvp(" and "transpose(jvp(" in front."""
    found = map(PARTS.search, re.findall(r'loc\("([^"]*)"', program.as_text(debug_info=True)))
    return {part[1] + part[2] for part in found if part}


def test_parts_of_the_programs_are_named():
    """For profiles: one name for each layer of the graph and each phase of it, none that rollout and update share."""
    rolled, learned = programs("2-1", merge=True)
    assert scopes(rolled) == {"rollout/merge", "rollout/shared", "rollout/layer0", "rollout/layer0/decode", "rollout/layer1",
                              "rollout/layer1/prefill", "rollout/layer1/decode"}
    ways = {f"{way}update/{part}" for way in ("jvp(", "transpose(jvp(") for part in ("shared", "layer0", "layer1")}
    assert scopes(learned) >= ways | {"update/credit", "update/optimizer"}
    assert not any("rollout" in name for name in scopes(learned))


def test_a_whole_graph_can_be_exported():
    """One XLA program: it is written to bytes, read back without its Python, and says the same."""
    scene = make_scene("2-1")
    leaves, tree = jax.tree.flatten((scene.backbone, scene.bank, scene.questions, scene.keep))

    def flat(key_data, *leaves):
        backbone, bank, questions, keep = jax.tree.unflatten(tree, leaves)
        key = jax.random.wrap_key_data(key_data)
        return jax.tree.leaves(rollout(scene.program, backbone, bank, questions, keep, key))

    arguments = (jax.random.key_data(jax.random.key(5)), *leaves)
    program = jax.export.deserialize(jax.export.export(jax.jit(flat))(*arguments).serialize())
    for written, expected in zip(program.call(*arguments), jax.tree.leaves(scene.episodes), strict=True):
        np.testing.assert_array_equal(written, expected)


def test_one_trace_per_bucket_over_a_run(tmp_path, monkeypatch):
    """Training, validation, per-node numbers and evaluation over three buckets compile every program once."""
    from neuromas_jax.config import parse
    from neuromas_jax.experiments.evaluation import evaluate_method, evaluation_sets
    from neuromas_jax.rollout import rollout as plain
    from neuromas_jax.train import run as train_run
    from neuromas_jax.train.loop import train
    from neuromas_jax.train.run import Compiled, Parts, make_run

    monkeypatch.setattr(train_run, "load_parts", lambda *_: Parts(init_backbone(CONFIG, jax.random.key(0)), tokenizer(), ""))
    traces = []
    monkeypatch.setattr(train_run, "rollout", lambda *given, **options: traces.append(options) or plain(*given, **options))
    monkeypatch.setattr(train_run, "update", lambda *arguments: traces.append("update") or update(*arguments))
    config = parse(dict(
        families=dict(listops=dict(options=dict(depths=(1, 2), weights=(0.7, 0.3), held_out_depth=3), buckets=(5, 13, 29))),
        graph=dict(topology="1"), rollout=dict(questions=2, group=2), test_questions=4,
        training=dict(steps=8, evaluate_every=3, checkpoint_every=100, validation_questions=6),
    ))
    compiled = Compiled(make_run(config, "listops", "graph"))
    state = train(compiled, tmp_path, 0, 8)
    trained = {(name, bucket) for name in ("rollout", "update") for bucket in (5, 13)}
    assert {key for key in compiled.compile_seconds if key[0] != "answer"} == trained, "the run must meet both buckets"
    evaluate_method(compiled, state.learner.bank, evaluation_sets(config, "listops"), "listops", 0, {})
    assert set(compiled.compile_seconds) == trained | {("answer", bucket) for bucket in (5, 13, 29)}
    assert len(traces) == len(compiled.compile_seconds) == 7
    assert traces.count({"greedy": True}) == 3 and traces.count({"greedy": False}) == 2  # answers are greedy, training samples
    assert all(seconds > 0 for seconds in compiled.compile_seconds.values())
