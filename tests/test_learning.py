"""Claim 11: the default graph learns to divide a problem within a fixed number of steps.

One shared adapter of equal total rank does not. Each has the learning rate that the reference run's sweep chose for it.
There, on the mixture of depths, after 80 of 200 steps the graph had 0.88 to 0.93 (three seeds; 0.95 to 0.98 at the end)
and the shared adapter of seed 0 had 0.61.
"""

import jax
import pytest

from neuromas_jax.config import parse
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.loop import train
from neuromas_jax.train.run import Compiled, make_run

STEPS = 80
RATES = {"graph": 2e-3, "graph_shared_adapter": 2e-3}


def accuracy(method, folder):
    """Depth-3 accuracy on 192 validation questions: (at birth, after training)."""
    config = parse(dict(
        families=dict(listops=dict(buckets=(24,))), rollout=dict(questions=32, group=8), adapters=dict(rank=4),
        training=dict(evaluate_every=1000, checkpoint_every=1000, validation_questions=16)))
    run = make_run(config, "listops", method, RATES[method])
    compiled = Compiled(run)
    questions = distinct_questions(run.task, "validation", 3, 192)
    before = evaluate(compiled, run.new_bank(0), questions, jax.random.key(0)).accuracy
    state = train(compiled, folder, 0, STEPS)
    return before, evaluate(compiled, state.learner.bank, questions, jax.random.key(0)).accuracy


@pytest.mark.slow
def test_the_default_graph_learns_and_a_shared_adapter_does_not(tmp_path):
    before, graph = accuracy("graph", tmp_path / "graph")
    _, shared = accuracy("graph_shared_adapter", tmp_path / "shared")
    print(f"depth 3: untrained {before:.3f}, graph {graph:.3f}, shared adapter {shared:.3f}")
    assert before < 0.4 and graph >= 0.7 and shared < 0.55
