"""What each method runs: equal total rank, equal budgets of calls or tokens, also where messages are of unequal length."""

import pytest

from neuromas_jax.config import parse
from neuromas_jax.methods import FROZEN, ROLES, TRAINED, WHOLE, check_methods, make_method
from tests.tiny import PLAIN

CHAIN = ((), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5))
GRAPH = "4-2-1", ((), (0,), (1,))
SINGLE = "1", ((),)
RANK = 3


def methods(message_tokens, topology="4-2-1", names=PLAIN, **graph):
    config = parse(dict(families=dict(listops=dict(message_tokens=message_tokens)), adapters=dict(rank=RANK),
                        graph=dict(topology=topology, **graph)))
    return {name: make_method(name, config, config.families["listops"]) for name in names}


def lengths(method):
    return tuple(layer.message_tokens for layer in method.graph.layers)


def test_names():
    assert len(PLAIN) == 10 and set(WHOLE) == {*PLAIN, *FROZEN, *ROLES, "graph_random", "gptswarm"}
    assert {name: method.name for name, method in methods(6).items()} == {name: name for name in PLAIN}


@pytest.mark.parametrize("message_tokens", [6, (8, 8, 2)])
def test_graphs_reads_and_rounds(message_tokens):
    found = {name: (str(method.graph), tuple(layer.reads for layer in method.graph.layers))
             for name, method in methods(message_tokens).items()}
    assert found == {
        "graph": GRAPH, "graph_untrained": GRAPH, "graph_shared_adapter": GRAPH, "graph_blanked": GRAPH, "graph_shuffled": GRAPH,
        "graph_other_episode": GRAPH,
        "single_equal_parameters": SINGLE, "single_equal_tokens": SINGLE, "vote_equal_tokens": SINGLE,
        "chain_equal_calls": ("1-1-1-1-1-1-1", CHAIN),
    }
    for name, method in methods(message_tokens).items():
        assert method.rounds == (7 if name.startswith("chain") else 3 if name.startswith("graph") else 1), name


@pytest.mark.parametrize("message_tokens, written, votes", [
    (6, (6, 6, 6), 7), ((8, 8, 2), (8, 8, 2), 7), ((5, 4, 3), (5, 4, 3), 7), ((4, 2, 8), (4, 2, 8), 4),
])
def test_budgets_of_calls_and_tokens(message_tokens, written, votes):
    made = methods(message_tokens)
    first, second, last = written
    budget, longest = 4 * first + 2 * second + last, max(written)
    for name, method in made.items():
        if name.startswith("graph"):
            assert (lengths(method), method.calls, method.votes) == (written, 7, 1), name
    single, tokens, chain, vote = (made[name] for name in (
        "single_equal_parameters", "single_equal_tokens", "chain_equal_calls", "vote_equal_tokens"))
    assert (lengths(single), single.calls, single.votes) == ((longest,), 1, 1)
    assert (lengths(tokens), tokens.calls, tokens.votes) == ((budget,), 1, 1)
    assert (lengths(chain), chain.calls, chain.votes) == ((first,) * 4 + (second,) * 2 + (last,), 7, 1)
    assert (lengths(vote), vote.calls, vote.votes) == ((longest,), votes, votes)
    for method in (made["graph"], tokens, chain):
        assert method.graph.token_budget == budget
    assert budget <= votes * vote.graph.token_budget < budget + longest  # the first whole number of votes that reaches it


@pytest.mark.parametrize("sharing, slots", [("per_node", (0, 1, 2, 3, 4, 5, 6)), ("per_layer", (0, 0, 0, 0, 1, 1, 2)),
                                            ("shared", (0,) * 7), ((0, 1, 0, 1, 2, 2, 0), (0, 1, 0, 1, 2, 2, 0))])
def test_slots_and_equal_total_rank(sharing, slots):
    count = len(set(slots))
    for name, method in methods((8, 8, 2), slots=sharing).items():
        assert sum(method.ranks) == RANK * count, name
        if name.startswith("graph") and name != "graph_shared_adapter":
            assert (method.slots, method.ranks) == (slots, (RANK,) * count), name
        else:
            assert (method.slots, method.ranks) == ((0,) * method.graph.size, (RANK * count,)), name


def test_whose_adapters_are_used_and_what_is_done_to_messages():
    made = methods(6)
    assert {name: method.trained_as for name, method in made.items()} == {
        "graph": "graph", "graph_untrained": None, "graph_shared_adapter": "graph_shared_adapter", "graph_blanked": "graph",
        "graph_shuffled": "graph", "graph_other_episode": "graph", "single_equal_parameters": "single_equal_parameters",
        "single_equal_tokens": "single_equal_tokens", "chain_equal_calls": "chain_equal_calls",
        "vote_equal_tokens": "single_equal_parameters",
    }
    assert [name for name in TRAINED if name in PLAIN] == list(name for name, method in made.items() if method.trained_as == name)
    for name, method in made.items():
        changed = {"graph_blanked": "blanked", "graph_shuffled": "shuffled", "graph_other_episode": "other_episode"}
        assert method.messages == changed.get(name, "kept"), name
        if method.trained_as:  # its adapters fit, node for node
            owner = made[method.trained_as]
            assert owner.trained_as == owner.name
            assert (owner.graph, owner.slots, owner.ranks) == (method.graph, method.slots, method.ranks)


def test_reads_edges_and_views_are_the_graphs_own():
    config = parse(dict(
        families=dict(parts=dict(message_tokens=4, view=("share", "common", "all"))),
        graph=dict(topology="2-2-1", reads="all", edges=(None, ((True, False), (True, True)), None))))
    for name in PLAIN:
        graph = make_method(name, config, config.families["parts"]).graph
        if name.startswith("graph"):
            assert [layer.reads for layer in graph.layers] == [(), (0,), (0, 1)], name
            assert [layer.view for layer in graph.layers] == ["share", "common", "all"], name
            assert graph.edge_mask(1) == ((True, False), (True, True)), name
        else:  # one agent sees all of the question and all that it wrote
            assert {layer.view for layer in graph.layers} == {"all"} and {layer.edges for layer in graph.layers} == {None}, name


def test_unknown_and_repeated_methods_are_refused():
    check_methods(PLAIN)
    with pytest.raises(ValueError, match="unknown method 'solo'; allowed are graph, graph_untrained, .*vote_equal_tokens"):
        check_methods(("graph", "solo"))
    with pytest.raises(ValueError, match="unknown method 'solo'; allowed are graph"):
        methods(6, names=("solo",))
    with pytest.raises(ValueError, match=r"methods \('graph', 'graph'\); name one or more, each once"):
        check_methods(("graph", "graph"))
    with pytest.raises(ValueError, match=r"methods \(\); name one or more"):
        check_methods(())


@pytest.mark.parametrize("name", PLAIN)
def test_a_wide_readout_is_refused(name):
    with pytest.raises(ValueError, match="'4-2' ends in a layer of 2 nodes.*the last layer must have one node, such as '4-2-1'"):
        methods(6, "4-2", names=(name,))


def test_a_family_may_have_a_graph_of_its_own():
    config = parse(dict(families=dict(listops=dict(), modular=dict(topology="2-2-1")), graph=dict(topology="4-2-1")))
    made = {name: make_method("chain_equal_calls", config, family) for name, family in config.families.items()}
    assert {name: method.calls for name, method in made.items()} == {"listops": 7, "modular": 5}
    config = parse(dict(families=dict(listops=dict(), modular=dict(reads="previous")), graph=dict(topology="2-2-1", reads="all")))
    made = {name: make_method("graph", config, family).graph for name, family in config.families.items()}
    assert {name: graph.layers[-1].reads for name, graph in made.items()} == {"listops": (0, 1), "modular": (1,)}
