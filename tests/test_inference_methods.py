"""Methods without training do what their sources say, on hand-made cases: who reads whom, who answers, what counts."""

from types import SimpleNamespace

import numpy as np
import pytest

from neuromas_jax.config import parse
from neuromas_jax.graph import text_graph
from neuromas_jax.methods import FROZEN, make_method, selforg
from neuromas_jax.methods.inference import random_graph
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.run import make_run
from tests.test_evaluate import KEY, Scripted, ask
from tests.tiny import tokenizer


def method(name, topology="4-2-1", **family):
    config = parse(dict(families=dict(listops=dict(message_tokens=2, **family)), graph=dict(topology=topology)))
    return make_method(name, config, config.families["listops"])


@pytest.mark.parametrize("name, topology, calls, rounds, finals", [
    ("direct", "1", 1, 1, ()), ("self_consistency", "1", 7, 1, ()),
    ("self_refine", "1-1-1-1-1-1-1", 7, 7, (0, 2, 4)), ("debate", "3-3", 6, 2, (0,)),
    ("mixture_of_agents", "3-3-1", 7, 3, (0, 1)), ("selforg", "4-1-1-1", 7, 4, (0, 1, 2)),
])
def test_calls_and_rounds(name, topology, calls, rounds, finals):
    made = method(name)
    assert (str(made.graph), made.calls, made.rounds, made.stages[0].finals) == (topology, calls, rounds, finals)
    assert made.trained_as is None and set(made.slots) == {0}
    assert made.sampled == (name in ("debate", "mixture_of_agents", "selforg"))


def test_self_refine_rewrites_the_last_answer_by_its_critique():
    """Answer, critique that reads it, new answer that reads both, ...; an even number of calls leaves the last critique out."""
    assert [layer.reads for layer in method("self_refine").graph.layers] == [
        (), (0,), (0, 1), (2,), (2, 3), (4,), (4, 5)]
    assert method("self_refine", "2-1-1").calls == 3 and method("self_refine", "3-2-1").calls == 5

    def say(node, place, number, episode, read):
        if node % 2:
            return "A 1" if read == ["answer 5"] else "B 1"  # the critique finds the mistake
        return "answer 7" if read == ["answer 5", "A 1"] else "answer 5" if node == 0 else read[0]

    scores = evaluate(Scripted("self_refine", say, "4-2-1"), None, ask("7"), KEY)
    assert scores.right == 1 and scores.tokens == 7 * 3


def test_debaters_read_each_other_and_the_majority_of_the_last_round_counts():
    """Two of three start wrong; each goes with the largest answer that it reads, and one stays stubborn."""
    def say(node, place, number, episode, read):
        if node < 3:
            return ("answer 9", "answer 4", "answer 4")[node]
        assert read == ["answer 9", "answer 4", "answer 4"]
        return "answer 4" if node == 4 else max(read)

    compiled = Scripted("debate", say, "4-2-1")
    scores = evaluate(compiled, None, ask("9"), KEY)
    assert scores.right == 1 and scores.format_rate == 1 and scores.top_answer_share == 1
    assert len(scores.node_format) == 6


def test_the_aggregator_of_a_mixture_has_the_last_word():
    def say(node, place, number, episode, read):
        assert len(read) == (0 if node < 3 else 3)
        return f"answer {node}"

    scores = evaluate(Scripted("mixture_of_agents", say, "4-2-1"), None, ask("6"), KEY)
    assert scores.right == 1


def test_self_consistency_counts_the_majority_of_sampled_calls():
    answers = ("answer 1", "answer 2", "answer 2")
    compiled = Scripted("self_consistency", lambda node, place, number, episode, read: answers[episode], "2-1")
    assert evaluate(compiled, None, ask("2"), KEY).right == 1
    direct = Scripted("direct", lambda node, place, number, episode, read: "answer 1", "2-1")
    assert evaluate(direct, None, ask("2"), KEY).right == 0 and [call.group for call in direct.calls] == [1]


SIDES = {"5": (1, 0, 0), "7": (0.8, 0.6, 0), "3": (0, 0, 1), "9": (0.95, 0.31, 0)}  # vectors of values; other words have none


def organised(say):
    """SelfOrg with four agents and places 4 to 6, over a table in which values are as alike as `SIDES` says."""
    compiled = Scripted("selforg", say, "4-2-1")
    table = np.zeros((tokenizer().vocab_size, 3))
    for value, vector in SIDES.items():
        table[tokenizer().encode(value)[0]] = vector
    compiled.run.parts.backbone = SimpleNamespace(params={"embed": table})
    return compiled


def test_agents_read_stronger_ones_that_are_like_them():
    """The mean leans to 9: it is the strongest. 5 and 7 are like it and weaker; 3 is like nobody. 5 and 7 are alike as well."""
    vectors = np.asarray([SIDES[value] for value in "5793"]) / 1.0
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    order, edges = selforg.who_reads_whom(vectors)
    assert order.tolist() == [2, 1, 0, 3] or order.tolist() == [2, 0, 1, 3]
    first, second = order[1:3]
    assert edges[first].nonzero()[0].tolist() == [2] and sorted(edges[second].nonzero()[0].tolist()) == sorted([2, first])
    assert not edges[2].any() and not edges[3].any()
    # The second to answer again reads the newest answer of the first one: place 0 of the line, node 4.
    assert selforg.senders_of(order, edges) == [[2], [2, 4], []]
    same, none = selforg.who_reads_whom(np.asarray([[1.0, 0]] * 3))
    assert not none.any() and selforg.senders_of(same, none) == [[], []]  # consensus: nobody answers again


def test_selforg_answers_again_and_takes_the_answer_in_the_middle():
    """5, 5, 7, 3: only the third is like stronger ones, reads both and says 9; 5 is nearest to the weighted mean of 5 5 9 3."""
    def say(node, place, number, episode, read):
        if node < 4:
            return f"answer {'5573'[node]}"
        return "answer 9" if node == 5 and read == ["answer 5", "answer 5"] else "answer 3"

    scores = evaluate(organised(say), None, ask("5", "9"), KEY)
    assert scores.correct == (True, False) and scores.tokens == 5 * 3  # four answers and one again, each with its end token
    assert scores.top_messages[5] == ("answer 9", 1.0)


@pytest.mark.parametrize("name, topology, least", [
    ("debate", "2-1", 6), ("mixture_of_agents", "1-1", 3), ("self_refine", "1-1", 3)])
def test_graphs_with_too_few_calls_are_named(name, topology, least):
    with pytest.raises(ValueError, match=f"method '{name}' makes {least} calls or more"):
        method(name, topology)


@pytest.mark.parametrize("name", FROZEN)
def test_those_who_answer_are_asked_for_the_final_answer(name):
    config = parse(dict(families=dict(listops=dict(buckets=(24, 48))), methods=(name,), graph=dict(topology="4-2-1")))
    run = make_run(config, "listops", name)
    cues = [run.parts.tokenizer.decode(prompt.cue, keep_added=True).split()[0] for prompt in run.program.prompts]
    last = len(cues) - 1
    assert cues == ["<final>" if n == last or n in run.method.stages[0].finals else "<note>" for n in range(last + 1)]


@pytest.mark.parametrize("topology", ["4-2-1", "2-1", "1", "8-4-2-1", "1-1-1-1"])
@pytest.mark.parametrize("seed", range(5))
def test_a_random_graph_has_as_many_nodes_and_rounds(topology, seed):
    graph = text_graph(topology, 2)
    made = random_graph(graph, seed)
    assert (made.size, made.rounds, made.layers[-1].width) == (graph.size, graph.rounds, 1)
    assert made == random_graph(graph, seed)


def test_random_graphs_differ():
    assert len({random_graph(text_graph("4-2-1", 2), seed) for seed in range(8)}) > 4
