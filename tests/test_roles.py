"""The team with roles: who reads whom, whose adapter, which credit, and a step of training."""

import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.config import parse
from neuromas_jax.methods import ROLES, make_method
from neuromas_jax.tasks import Question
from neuromas_jax.tasks.types import Fact
from neuromas_jax.train import loop
from neuromas_jax.train.run import make_run


def configure(topology="4-2-1", **changes):
    return parse(dict(families=dict(listops=dict(buckets=(24, 48))), methods=ROLES, graph=dict(topology=topology), **changes))


@pytest.mark.parametrize("topology, turns", [("4-2-1", 7), ("2-1", 3), ("2-1-1", 3), ("2-2-1", 5)])
def test_a_solver_then_verifiers_and_refiners_by_turns(topology, turns):
    config = configure(topology, adapters=dict(rank=4))
    made = make_method("roles_grpo", config, config.families["listops"])
    assert made.graph.size == made.rounds == turns and made.slots == (0, *[1, 2] * (turns // 2))
    assert sum(made.ranks) == 4 * sum(map(int, topology.split("-"))) and max(made.ranks) - min(made.ranks) <= 1
    assert made.stages[0].finals == tuple(range(0, turns - 1, 2))
    assert made.graph.layers[2].reads == (0, 1) and made.graph.layers[1].reads == (0,)


def test_too_small_a_graph_is_named():
    config = configure("1-1")
    with pytest.raises(ValueError, match="has a solver, a verifier and a refiner, and the graph 1-1 has 2 nodes"):
        make_method("roles_dr_mas", config, config.families["listops"])


def test_they_differ_in_credit_alone():
    runs = {name: make_run(configure(), "listops", name) for name in ROLES}
    assert {name: (run.objective.credit, run.objective.invalid_penalty) for name, run in runs.items()} == {
        "roles_grpo": ("grpo", 0.1), "roles_dr_mas": ("dr_mas", 0.1), "roles_critic": ("critic", 0.0)}
    assert runs["roles_grpo"].program == runs["roles_dr_mas"].program == runs["roles_critic"].program
    assert loop.description(runs["roles_grpo"], 0) != loop.description(runs["roles_dr_mas"], 0)


def test_what_nobody_can_read(monkeypatch):
    """Answers need a value after the word, notes a label and a value."""
    run = make_run(configure("2-1"), "listops", "roles_grpo")
    said = [["answer 3", "answer"], ["A 3", "3 A"], ["answer 4", "A 4"]]  # solver, verifier, refiner; two episodes
    monkeypatch.setattr(loop, "message_texts", lambda tokenizer, end, layer: [[said[layer]]])
    question = Question("[MAX 3 [MIN 1 4 ] ]", "3", 2, facts=(Fact("A", "1"), Fact("answer", "3", ("A",))))
    found = loop.invalid_messages(run, (0, 1, 2), [question])
    np.testing.assert_array_equal(found[:, 0], [[False, True], [False, True], [False, True]])
    assert found.dtype == jnp.bool_
