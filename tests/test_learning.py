"""Claim 11: the default graph learns to divide a problem within a fixed number of steps; one shared adapter of equal total rank does not.

Each has the learning rate that the reference run's sweep chose for it. There, on the mixture of depths after 50 steps, the graph had
0.94 to 0.98 (four seeds) and the shared adapter 0.70 to 0.73 (three seeds; 0.59 at the graph's rate).
"""

import jax
import pytest

from neuromas_jax.config import parse
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.loop import train
from neuromas_jax.train.run import Compiled, make_run

STEPS = 50
RATES = {"graph": 3e-3, "graph_shared_adapter": 3e-4}


def accuracy(method, folder):
    """Depth-3 accuracy on 192 validation questions: (at birth, after training)."""
    config = parse(dict(
        families=dict(listops=dict(buckets=(24,))), rollout=dict(questions=16, group=8), adapters=dict(rank=4),
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
    assert before < 0.6 and graph >= 0.85 and shared < 0.65
