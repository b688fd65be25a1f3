"""Edits of graphs: what is carried, what is new, and who reads whom."""

from hypothesis import given, settings
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone.adapters import init_bank
from neuromas_jax.graph import node_slots, text_graph
from neuromas_jax.graph.growth import Deepen, Double, Rewire, Widen, edit, plan
from neuromas_jax.rl import Optimizer, init_learner
from neuromas_jax.rl.growth import Growth, grow_learner, hidden_share, slot_origins, slot_rates
from tests.tiny import tiny_config

OPTIMIZER = Optimizer()


def test_widening_appends_nodes_that_all_readers_hear():
    grown = edit(text_graph("2-1"), Widen(0, 2))
    assert str(grown.graph) == "4-1" and grown.origin == (0, 1, None, None, 2) and grown.like == (0, 1, 0, 1, 2)
    masked = edit(text_graph("2-2-1", edges=(None, ((1, 0), (0, 1)), None)), Widen(0))
    assert masked.graph.layers[1].edges == ((True, False, True), (False, True, True)) and masked.new == (2,)


def test_a_layer_between_takes_the_place_of_what_was_read_or_stands_beside_it():
    beside = edit(text_graph("2-1"), Deepen(1, 2))
    assert [layer.reads for layer in beside.graph.layers] == [(), (0,), (0, 1)] and beside.origin == (0, 1, None, None, 2)
    instead = edit(text_graph("2-1"), Deepen(1, 2, bypass=False))
    assert [layer.reads for layer in instead.graph.layers] == [(), (0,), (1,)]


def test_a_layer_in_front_is_read_by_the_first():
    grown = edit(text_graph("2-1", message_tokens=(4, 2)), Deepen(0, 3))
    assert str(grown.graph) == "3-2-1" and [layer.reads for layer in grown.graph.layers] == [(), (0,), (1,)]
    assert grown.origin == (None, None, None, 0, 1, 2) and grown.like == (0, 1, 0, 0, 1, 2)
    assert [layer.message_tokens for layer in grown.graph.layers] == [4, 4, 2]


def test_edits_count_layers_as_the_one_before_left_them():
    grown = edit(text_graph("1"), Deepen(0, 2), Widen(0, 2), Deepen(1, 2, bypass=False))
    assert str(grown.graph) == "4-2-1" and grown.origin == (*[None] * 6, 0) and grown.graph == text_graph("4-2-1")


def test_doubling_keeps_the_copies_apart():
    grown = edit(text_graph("2-1"), Double())
    assert str(grown.graph) == "4-2-1"
    assert grown.graph.layers[1].edges == ((True, True, False, False), (False, False, True, True))
    assert grown.like == (0, 1, 0, 1, 2, 2, 2) and grown.origin == (0, 1, None, None, 2, None, None)
    assert str(edit(grown.graph, Double()).graph) == "8-4-2-1"


@pytest.mark.parametrize("one, message", [
    (Widen(1), "widening layer 1 of 2-1; allowed are 0 to 0"), (Widen(0, 0), "widening layer 0 of 2-1 by 0; give 1 or more"),
    (Deepen(2), "a new layer at 2 of 2-1; allowed are 0 to 1"), (Rewire(5, (0,)), "rewiring layer 5 of 2-1; allowed are 0 to 1"),
])
def test_edits_that_cannot_be_are_named(one, message):
    with pytest.raises(ValueError, match=message):
        edit(text_graph("2-1"), one)


widths = st.lists(st.integers(1, 4), min_size=0, max_size=3)


@settings(max_examples=100, deadline=None)
@given(widths, widths, st.sampled_from(["middle", "front"]), st.sampled_from(["previous", "all"]), st.data())
def test_a_plan_leads_to_its_target(small, more, where, reads, data):
    """Every old node is carried into the layer that takes its layer's place, in order; all other nodes are new."""
    wider = [width + data.draw(st.integers(0, 3)) for width in small]
    target = wider + more if where == "middle" else more + wider
    start, end = (text_graph("-".join(map(str, [*layers, 1])), 4, reads) for layers in (small, target))
    grown = edit(start, *plan(start, end, where))
    assert grown.graph == end
    assert [node for node in grown.origin if node is not None] == list(range(start.size))
    offset = 0 if where == "middle" else len(more)
    for node, old in enumerate(grown.origin):
        if old is not None and old < start.size - 1:
            assert end.place(node)[0] == start.place(old)[0] + offset and end.place(node)[1] == start.place(old)[1]
    assert grown.origin[-1] == start.size - 1


def test_plans_that_shrink_are_refused():
    with pytest.raises(ValueError, match="a graph grows, it does not shrink"):
        plan(text_graph("4-2-1"), text_graph("2-1"))
    with pytest.raises(ValueError, match="layer 0 of 1-1 has width 1.*has 2; give it 2 nodes or more"):
        plan(text_graph("2-1"), text_graph("1-1"))
    with pytest.raises(ValueError, match="message_tokens 4, and the layer of 2-1 that takes its place has 2"):
        plan(text_graph("2-1", 2), text_graph("4-1", 4))


@pytest.fixture(scope="module")
def parent():
    """A learner of three slots whose every number is its own."""
    bank = init_bank(tiny_config(), (2, 2, 2), jax.random.key(0))
    learner = init_learner(OPTIMIZER, bank)
    leaves, tree = jax.tree.flatten(learner)
    return jax.tree.unflatten(tree, [x + jnp.arange(1, x.size + 1).reshape(x.shape).astype(x.dtype) for x in leaves])


def rows(tree, slot):
    return [np.asarray(x[slot]) for x in jax.tree.leaves(tree)]


def grown_learner(parent, new=Growth(), edits=(Widen(0, 2),)):
    grown = edit(text_graph("2-1"), *edits)
    slots = node_slots(grown.graph)
    fresh = init_bank(tiny_config(), (2,) * len(slots), jax.random.key(1))
    origins = slot_origins(grown, (0, 1, 2), slots)
    return origins, fresh, grow_learner(OPTIMIZER, parent, fresh, origins, new, jax.random.key(2))


@pytest.mark.parametrize("new", [Growth(), Growth("copy"), Growth("copy", 0.1)])
@pytest.mark.parametrize("edits", [(Widen(0, 2),), (Deepen(1, 2),), (Deepen(0, 1), Widen(1)), (Double(),)], ids=str)
def test_carried_slots_are_bit_equal_with_their_moments(parent, new, edits):
    origins, _, learner = grown_learner(parent, new, edits)
    assert sorted(slot for slot in origins.carried if slot is not None) == [0, 1, 2]
    for slot, old in enumerate(origins.carried):
        for part in ("bank", "moments") if old is not None else ():
            for after, before in zip(rows(getattr(learner, part), slot), rows(getattr(parent, part), old), strict=True):
                np.testing.assert_array_equal(after, before)


def test_new_slots_start_as_their_rule_says(parent):
    origins, fresh, born = grown_learner(parent)
    assert origins.carried == (0, 1, None, None, 2) and origins.like == (0, 1, 0, 1, 2)
    for mine, start in zip(rows(born.bank, 3), rows(fresh, 3), strict=True):
        np.testing.assert_array_equal(mine, start)
    assert all(not x.any() for x in rows(born.moments, 3))
    assert float(born.learning_rate[3]) == np.float32(OPTIMIZER.learning_rate)
    _, _, copied = grown_learner(parent, Growth("copy"))
    for mine, sibling in zip(rows(copied.bank, 3), rows(parent.bank, 1), strict=True):
        np.testing.assert_array_equal(mine, sibling)
    _, _, noisy = grown_learner(parent, Growth("copy", 0.1))
    for mine, sibling in zip(rows(noisy.bank, 3), rows(parent.bank, 1), strict=True):
        share = np.sqrt(((mine - sibling) ** 2).mean() / (sibling**2).mean())
        assert 0.05 < share < 0.15


def test_slots_may_be_untied_and_not_joined(parent):
    grown = edit(text_graph("2-1"), Widen(0, 2))
    assert slot_origins(grown, (0, 0, 1), (0, 1, 2, 3, 4)).carried == (0, 0, None, None, 1)
    assert slot_origins(grown, (0, 0, 1), (0, 0, 0, 0, 1)).carried == (0, 1)
    with pytest.raises(ValueError, match="slots 0 and 1 of the graph before would share slot 0 of 4-1"):
        slot_origins(grown, (0, 1, 2), (0, 0, 0, 0, 1))


@pytest.mark.parametrize("wrong, message", [
    (dict(new="clone"), "growth.new is 'clone'; allowed are zero_b, copy, relay, distilled"),
    (dict(place="left"), "growth.place is 'left'; allowed are middle, front, double"),
    (dict(new="copy", noise=-1.0), "growth.noise is -1.0; it must be 0 or more"), (dict(rate=2.0), "growth.rate is 2.0"),
    (dict(noise=0.1), "noise 0.1 is for new='copy', and new is 'zero_b'"),
    (dict(new="relay"), "new='relay' learns by imitation, and imitate is 0 steps"),
    (dict(imitate=3), "imitate 3 is for new='relay' or 'distilled'"), (dict(hide=0.5), "hide 0.5 and hide_steps 0 go together"),
])
def test_rules_that_cannot_be_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Growth(**wrong)


def test_moments_may_start_afresh(parent):
    _, _, learner = grown_learner(parent, Growth(moments="fresh"))
    assert not any(x.any() for x in jax.tree.leaves(learner.moments))
    for after, before in zip(rows(learner.bank, 0), rows(parent.bank, 0), strict=True):
        np.testing.assert_array_equal(after, before)


def test_carried_slots_are_held_then_thawed_at_a_rate_of_their_own():
    origins = slot_origins(edit(text_graph("2-1"), Widen(0)), (0, 1, 2), (0, 1, 2, 3))
    growth = Growth(hold=2, rate=0.5)
    np.testing.assert_allclose(slot_rates(growth, origins, 4e-3, 1), [0, 0, 4e-3, 0])
    np.testing.assert_allclose(slot_rates(growth, origins, 4e-3, 2), [2e-3, 2e-3, 4e-3, 2e-3])


def test_hidden_edges_are_annealed_to_none():
    growth = Growth(hide=0.8, hide_steps=4)
    np.testing.assert_allclose([hidden_share(growth, step) for step in (0, 1, 2, 4, 9)], [0.8, 0.6, 0.4, 0, 0])
    assert hidden_share(Growth(), 0) == 0


def test_a_bank_with_spare_rows_keeps_every_row_in_its_place(parent):
    """Nodes 0, 1, 2 keep their rows and the new one takes the next free row; a row without a node starts as a new one."""
    grown = edit(text_graph("2-1"), Widen(0))
    origins = slot_origins(grown, (0, 1, 2), (0, 1, 3, 2), 6)
    assert origins.carried == (0, 1, 2, None, None, None)
    assert slot_origins(grown, (0, 1, 2), (0, 1, 3, 2)).carried == (0, 1, 2, None)
