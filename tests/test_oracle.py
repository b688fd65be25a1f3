"""The real program equals the oracle of `tests/reference.py`: prompts, tokens, log-probabilities, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.graph import node_slots, text_graph
from neuromas_jax.rl.update import loss_of_bank
from neuromas_jax.rl import Objective
from neuromas_jax.rollout import rollout as graph_rollout
from neuromas_jax.rollout import blank_nodes, make_program, make_sampling, no_interventions, shuffle_questions
from neuromas_jax.tasks import make_task
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.train.batches import pad_questions, question_ids
from tests import reference
from tests.tiny import TEXTS, encode_questions, for_all, random_bank, tiny_backbone, tokenizer

rollout = jax.jit(graph_rollout, static_argnums=(0, 6))

GRAPHS = {
    "4-2-1": (dict(topology="4-2-1", message_tokens=4), "per_node"),
    "lengths": (dict(topology="2-1-1", message_tokens=(3, 5, 4), reads="all"), "shared"),
    "edges": (dict(topology="2-2-1", message_tokens=4, edges=(None, ((True, False), (True, True)), None)), "per_layer"),
    "single": (dict(topology="1", message_tokens=6), "per_node"),
    "parts": (dict(topology="2-1-1", message_tokens=3, view=("share", "common", "all")), "per_node"),
}


def build(name, group=2, merge=False, **sampling):
    options, sharing = GRAPHS[name]
    graph = text_graph(**options)
    backbone = tiny_backbone()
    program = make_program(
        graph, node_slots(graph, sharing), PromptTemplate(), tokenizer(),
        make_sampling(tokenizer(), backbone.config.vocab_size, **sampling), group, 1, merge=merge,
    )
    return program, backbone, random_bank(backbone.config, max(program.slots) + 1)


def oracle_episodes(
    program, backbone, bank, questions, key, as_read=lambda b, g: lambda node, message: message, greedy=False, seen=None
):
    """seen: `seen(b, view, share)` gives the text of a question that a node sees; all of it by default."""
    found = {}
    for b in range(questions.tokens.shape[1]):
        ids = np.asarray(questions.tokens[0, b])[np.asarray(questions.valid[0, b])]
        for g in range(program.group):
            found[b, g] = reference.run(
                program, PromptTemplate(), tokenizer(), backbone, bank,
                lambda view, share: ids if seen is None else tokenizer().encode(seen(b, view, share)),
                int(questions.index[b]), g, key, as_read(b, g), greedy)
    return found


def check_equal(program, episodes, found):
    for (b, g), written in found.items():
        for node, (prompt, message, scores) in written.items():
            number, place = program.graph.place(node)
            layer = jax.tree.map(lambda x: np.asarray(x[place, b]), episodes[number])
            ids = [*layer.shared[0][layer.shared_valid[0]], *layer.own[g][layer.own_valid[g]]]
            assert ids == prompt, f"prompt of node {node}"
            assert list(layer.message[g][layer.live[g]]) == message, f"message of node {node}"
            np.testing.assert_allclose(layer.log_probs[g][layer.live[g]], scores, atol=2e-4)


@pytest.mark.parametrize("name, merge", [
    ("4-2-1", False), ("4-2-1", True), ("lengths", True), ("edges", False), ("single", False), ("single", True)])
def test_program_equals_oracle(name, merge):
    program, backbone, bank = build(name, merge=merge)
    questions = encode_questions(TEXTS[:2])
    key = jax.random.key(7)
    episodes = rollout(program, backbone, bank, questions, no_interventions(program.graph, 2, program.group), key)
    found = oracle_episodes(program, backbone, bank, questions, key)
    check_equal(program, episodes, found)
    credit = jnp.asarray([[1.0, -1.0], [-1.0, 1.0]])  # of leave-one-out, where one of two episodes earned 1
    (loss, _), gradient = jax.jit(jax.value_and_grad(
        lambda bank: loss_of_bank(Objective(), program, backbone, bank, episodes, for_all(credit, program)), has_aux=True))(bank)
    numbers = {place: float(credit[place]) for place in found}
    want, want_gradient = jax.value_and_grad(lambda bank: reference.loss(program, backbone, bank, found, numbers))(bank)
    np.testing.assert_allclose(loss, want, rtol=1e-4)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient))
    jax.tree.map(lambda got, expected: np.testing.assert_allclose(got, expected, atol=2e-4 * scale), gradient, want_gradient)


def test_greedy_equals_oracle():
    program, backbone, bank = build("4-2-1", group=1)
    questions = encode_questions(TEXTS[:2])
    episodes = rollout(program, backbone, bank, questions, no_interventions(program.graph, 2, 1), jax.random.key(0), True)
    check_equal(program, episodes, oracle_episodes(program, backbone, bank, questions, jax.random.key(0), greedy=True))


def test_views_of_a_question_in_parts_equal_oracle():
    """Two nodes see two parts each, one what is common, the readout all; ids as training and evaluation make them."""
    program, backbone, bank = build("parts")
    task = make_task("parts")
    asked = [task.generate("train", index, 3) for index in range(2)]
    assert [len(question.parts) for question in asked] == [4, 4]
    questions = pad_questions([question_ids(q, program.graph, tokenizer(), (40,)) for q in asked], (3, 5), (40,))

    def seen(b, view, share):
        common, a, b_, c, d = asked[b].text.split(" ; ")
        return {("share", 0): f"{common} ; {a} ; {c}", ("share", 1): f"{common} ; {b_} ; {d}", ("common", 0): common,
                ("all", 0): asked[b].text}[view, share]

    key = jax.random.key(11)
    episodes = rollout(program, backbone, bank, questions, no_interventions(program.graph, 2, program.group), key)
    check_equal(program, episodes, oracle_episodes(program, backbone, bank, questions, key, seen=seen))


def test_interventions_equal_oracle():
    """Blanked and shuffled messages, as the oracle does them by hand."""
    program, backbone, bank = build("4-2-1")
    questions, key = encode_questions(TEXTS[:2]), jax.random.key(3)
    keep = no_interventions(program.graph, 2, 2)
    blanked = rollout(program, backbone, bank, questions, blank_nodes(keep, [1, 4]), key)
    check_equal(program, blanked, oracle_episodes(
        program, backbone, bank, questions, key, lambda b, g: lambda node, message: [] if node in (1, 4) else message))

    plain = rollout(program, backbone, bank, questions, keep, key)
    shuffled = rollout(program, backbone, bank, questions, shuffle_questions(keep), key)

    def other(b, g):
        def as_read(node, message):
            number, place = program.graph.place(node)
            source = shuffled[number]
            ids = np.asarray(source.message[place, 1 - b, g])[np.asarray(source.live[place, 1 - b, g])]
            return [token for token in ids if token != program.sampling.end_id]

        return as_read

    check_equal(program, shuffled, oracle_episodes(program, backbone, bank, questions, key, other))
    np.testing.assert_array_equal(plain[0].message, shuffled[0].message)  # the first layer reads no messages
    assert (np.asarray(plain[1].own) != np.asarray(shuffled[1].own)).any()


def test_replaced_and_forced_messages():
    program, backbone, bank = build("4-2-1")
    questions, key = encode_questions(TEXTS[:2]), jax.random.key(3)
    keep = no_interventions(program.graph, 2, 2)
    ids = tokenizer().encode("A 7")
    given = keep.given.at[:, :, :, : len(ids)].set(jnp.asarray(ids))
    length = keep.given_length + len(ids)
    forced = rollout(program, backbone, bank, questions, dataclasses.replace(
        keep, force=keep.force.at[2].set(True), given=given, given_length=length), key)
    assert (np.asarray(forced[0].message[2, ..., :3]) == [*ids, program.sampling.end_id]).all()
    replaced = rollout(program, backbone, bank, questions, dataclasses.replace(
        keep, replace=keep.replace.at[2].set(True), given=given, given_length=length), key)
    np.testing.assert_array_equal(replaced[1].own, forced[1].own)  # readers find the same either way
    plain = rollout(program, backbone, bank, questions, keep, key)
    np.testing.assert_array_equal(replaced[0].message, plain[0].message)  # what the node itself wrote is untouched
