"""Graphs: what may be written, what is refused and how, slots, views, printing and drawing."""

import pytest

from neuromas_jax.graph import Layer, TextGraph, node_slots, text_graph
from neuromas_jax.text.prompt import PromptTemplate, layer_prompts
from tests.tiny import tokenizer


@pytest.mark.parametrize("written", ["1", "4-2-1", "2-2-1", "16-8-4-1", "12-1"])
def test_a_graph_prints_as_it_is_written(written):
    graph = text_graph(written)
    assert str(graph) == written and text_graph(str(graph)) == graph
    assert hash(graph) == hash(text_graph(written)) and graph.size == sum(map(int, written.split("-")))


@pytest.mark.parametrize("wrong", [
    "2--1", "0-1", "1-x", "", "-1", "1-", "4-0", "1 -1", "01-1", "4,2,1", "1.5-1", "\u0664-1", "2-1\n", 421, None, ["4", "1"],
])
def test_what_is_no_graph_is_refused_with_an_example(wrong):
    with pytest.raises(ValueError) as error:
        text_graph(wrong)
    assert repr(wrong) in str(error.value) and "'4-2-1'" in str(error.value)


def test_places_nodes_and_senders():
    graph = text_graph("4-2-1", reads=((), (0,), (0, 1)))
    assert [graph.place(node) for node in range(7)] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0)]
    assert list(graph.nodes(1)) == [4, 5] and graph.senders(2) == (0, 1, 2, 3, 4, 5) and graph.senders(0) == ()
    assert (graph.rounds, graph.token_budget, graph.message_tokens) == (3, 7 * 16, 16)
    with pytest.raises(ValueError, match="node 7 .*allowed are 0 to 6"):
        graph.place(7)


def test_which_layers_are_read():
    assert [layer.reads for layer in text_graph("2-2-1").layers] == [(), (0,), (1,)]
    assert [layer.reads for layer in text_graph("2-2-1", reads="all").layers] == [(), (0,), (0, 1)]
    assert [layer.reads for layer in text_graph("2-2-1", reads=((), (0,), (0, 1))).layers] == [(), (0,), (0, 1)]


@pytest.mark.parametrize("reads, message", [
    (((), (1,), (1,)), "layer 1 of 2-2-1 reads layer 1, itself or a later one; allowed are 0 to 0"),
    (((), (2,), (1,)), "layer 1 of 2-2-1 reads layer 2, itself or a later one"),
    (((0,), (0,), (1,)), "layer 0 of 2-2-1 reads layer 0.*none .the first layer reads only the question"),
    (((), (-1,), (1,)), "reads layer -1"),
    (((), (), (0, 1)), "layer 1 of 2-2-1 reads no layer.*one of 0 to 0"),
    (((), (0,), (0,)), "no layer of 2-2-1 reads layer 1; its messages would reach nobody"),
    (((), (0,), (1, 0)), "each earlier layer once, in increasing order"),
    (((), (0,), (0, 0, 1)), "each earlier layer once, in increasing order"),
    (((), (0,)), "reads has 2 entries for the 3 layers"),
    ("next", "'next'; allowed are 'previous', 'all'"),
])
def test_bad_reads_are_named(reads, message):
    with pytest.raises(ValueError, match=message):
        text_graph("2-2-1", reads=reads)


def test_edges_are_masks_within_what_is_read():
    graph = text_graph("2-2-1", edges=(None, ((1, 0), (1, 1)), None))
    assert graph.edge_mask(1) == ((True, False), (True, True)) and graph.edge_mask(2) == ((True, True),)
    assert "(3 of 4 edges)" in graph.draw()


@pytest.mark.parametrize("edges", [((True, False),), ((True,), (True,)), ((True, False), (True,)), ((True, True),) * 3])
def test_edges_of_another_shape_are_refused(edges):
    with pytest.raises(ValueError, match="layer 1 of 2-2-1 has edges of shape .*needed are 2 rows of 2 senders"):
        text_graph("2-2-1", edges=(None, edges, None))


def test_other_bad_layers_are_named():
    with pytest.raises(ValueError, match="message_tokens 1; 2 or more"):
        text_graph("2-1", message_tokens=(4, 1))
    with pytest.raises(ValueError, match="view 'half'; allowed are all, share, common"):
        text_graph("2-1", view="half")
    with pytest.raises(ValueError, match="view has 1 entries for the 2 layers"):
        text_graph("2-1", view=("share",))
    with pytest.raises(ValueError, match="at least one layer"):
        TextGraph(())
    with pytest.raises(ValueError, match="width 0"):
        TextGraph((Layer(0, 4),))
    with pytest.raises(ValueError, match="every layer of 2-1 has the view 'common'"):
        text_graph("2-1", view="common")


def test_edges_that_leave_a_node_alone_are_refused():
    with pytest.raises(ValueError, match="layer 1 of 2-2-1: the edges of node 3 are all False.*read one of 0, 1"):
        text_graph("2-2-1", edges=(None, ((1, 1), (0, 0)), None))
    with pytest.raises(ValueError, match="no node of 2-2-1 reads node 0, so its messages would reach nobody"):
        text_graph("2-2-1", edges=(None, ((0, 1), (0, 1)), None))
    text_graph("2-2-1", reads=((), (0,), (0, 1)), edges=(None, ((0, 1), (0, 1)), None))  # the readout hears node 0


def test_views_are_listed_once():
    assert text_graph("4-2-1").views() == (("all", 0),)
    graph = text_graph("3-2-1", view=("share", "common", "all"))
    assert graph.views() == (("share", 0), ("share", 1), ("share", 2), ("common", 0), ("all", 0))
    assert [graph.view_of(node) for node in (1, 3, 4, 5)] == [("share", 1), ("common", 0), ("common", 0), ("all", 0)]


def test_slot_maps():
    graph = text_graph("4-2-1")
    assert node_slots(graph) == (0, 1, 2, 3, 4, 5, 6)
    assert node_slots(graph, "per_layer") == (0, 0, 0, 0, 1, 1, 2)
    assert node_slots(graph, "shared") == (0,) * 7
    assert node_slots(graph, [0, 1, 0, 1, 2, 2, 0]) == (0, 1, 0, 1, 2, 2, 0)


@pytest.mark.parametrize("slots, message", [
    ((0, 1), "the slot map has 2 entries; 4-2-1 has 7 nodes, so give 7 slot numbers"),
    ((0,) * 8, "the slot map has 8 entries"),
    ((0, 0, 0, 0, 0, 0, 2), "leaves slots out; number them 0 to 1"),
    ((-1, 0, 0, 0, 0, 0, 0), "leaves slots out"),
    ("per_edge", "'per_edge'; allowed are per_node, per_layer, shared, or one slot number per node"),
])
def test_bad_slot_maps_are_named(slots, message):
    with pytest.raises(ValueError, match=message):
        node_slots(text_graph("4-2-1"), slots)


def test_drawing_tells_what_every_layer_reads_and_writes():
    lines = text_graph("4-2-1", message_tokens=(2, 3, 4), reads="all", view=("share", "all", "all")).draw().splitlines()
    assert len(lines) == 3 and "[0] [1] [2] [3]" in lines[0] and "question (share)" in lines[0] and "writes 2 tokens" in lines[0]
    assert lines[1].strip().startswith("layer 2") and "question + layer 1;" in lines[1] and "[4] [5]" in lines[1]
    assert lines[2].strip().startswith("readout 3") and "question + layer 1 + layer 2; writes 4 tokens" in lines[2]


def test_a_tree_deals_senders_out_in_order():
    graph = text_graph("4-2-1", edges="tree")
    assert graph.edge_mask(1) == ((True, True, False, False), (False, False, True, True)) and graph.layers[2].edges is None
    assert text_graph("5-2-1", edges="tree").edge_mask(1) == ((True, True, True, False, False), (False, False, False, True, True))
    wide = text_graph("2-4-1", edges="tree")  # fewer senders than nodes: each sender has several readers
    assert wide.edge_mask(1) == ((True, False), (True, False), (False, True), (False, True))
    assert text_graph("4-2-1", edges="all") == text_graph("4-2-1")
    with pytest.raises(ValueError, match="edges='ring'; allowed are 'all', 'tree', 'window:k'"):
        text_graph("4-2-1", edges="ring")


def test_height_counts_layers_from_the_readout():
    """A node keeps such a tag when a layer is put in front of it."""
    template = PromptTemplate(tag="<node> {height} {index}")
    short, long = (layer_prompts(text_graph(name), template, tokenizer()) for name in ("2-1", "4-2-1"))
    assert [tokenizer().decode(prompt.tails[0], keep_added=True).split("<note>")[0].strip() for prompt in long] == [
        "<node> 3 1", "<node> 2 1", "<node> 1 1"]
    assert long[2].tails == short[1].tails and long[1].tails[1] == short[0].tails[1][: len(long[1].tails[1])]


def test_wide_layers_in_a_short_form():
    assert str(text_graph("16-..-1")) == "16-8-4-2-1" and str(text_graph("8-..-2-1-1")) == "8-4-2-1-1"
    assert str(text_graph("2-..-16-1")) == "2-4-8-16-1" and str(text_graph("4-..-2-1")) == "4-2-1"
    assert text_graph("512-..-1-1").size == 1024
    for wrong in ("..-2", "4-..", "4-..-..-1", "4--1"):
        with pytest.raises(ValueError, match="is not a graph; write the width of each layer"):
            text_graph(wrong)


@pytest.mark.parametrize("edges", ["tree", "window:3", "random:3", "random:3:7"])
@pytest.mark.parametrize("topology", ["16-8-1", "64-16-4-1", "8-8-8-2", "4-8-1"])
def test_patterns_keep_inboxes_short_and_leave_nobody_unread(topology, edges):
    """No edge is drawn twice, and the same words give the same edges."""
    graph = text_graph(topology, edges=edges)  # refuses a sender without a reader, a reader without a sender
    assert graph == text_graph(topology, edges=edges)
    for number, layer in enumerate(graph.layers[1:], 1):
        senders, longest = len(graph.senders(number)), max(map(len, graph.inboxes(number)))
        read = sum(map(len, graph.inboxes(number)))
        if edges == "tree":
            assert read == max(senders, layer.width) or layer.width == 1
        else:  # three each, and what else nobody would read
            assert read <= 3 * layer.width + max(senders - 3 * layer.width, 0) + 3
            assert longest <= max(3, -(-senders // layer.width) + 3)


def test_seeds_of_random_edges_differ():
    graphs = {text_graph("32-16-1", edges=f"random:2:{seed}") for seed in range(5)}
    assert len(graphs) == 5 and text_graph("32-16-1", edges="random:2") in graphs


@pytest.mark.parametrize("edges", ["window", "window:0", "random:2:x", "tree:2", "random:2:1:3", "window:-1"])
def test_a_pattern_that_there_is_not_is_refused(edges):
    with pytest.raises(ValueError, match="allowed are 'all', 'tree', 'window:k', 'random:k' and 'random:k:seed'"):
        text_graph("4-2-1", edges=edges)
