"""The quickstart's graph learns to divide a problem within a fixed number of steps.

One shared adapter of equal total rank does not. In the reference run, which trains both at swept rates, the graph has
learned with every seed and the shared adapter with none (results/reference/report.md).
"""

import runpy
from pathlib import Path

import jax
import pytest

from neuromas_jax.config import parse
from neuromas_jax.train import run as train_run
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.loop import train
from neuromas_jax.train.run import Compiled, make_run

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.py"


def accuracy(method, folder):
    """Depth-3 accuracy on 192 validation questions, at birth and after training; the largest entry of B, which is born zero."""
    config = runpy.run_path(str(QUICKSTART))["get_config"]()
    config.training.update(evaluate_every=1000, checkpoint_every=1000, validation_questions=16)
    config = parse(config)
    run = make_run(config, "listops", method, config.learning_rate.get(method, config.learning_rate["default"]))
    compiled = Compiled(run)
    questions = distinct_questions(run.task, "validation", 3, 192)
    before = evaluate(compiled, run.new_bank(0), questions, jax.random.key(0)).accuracy
    state = train(compiled, folder, config.seeds[0], config.training.steps)
    moved = min(float(abs(pair["b"]).max()) for pair in state.learner.bank.values())
    return before, evaluate(compiled, state.learner.bank, questions, jax.random.key(0)).accuracy, moved


@pytest.mark.slow
def test_the_quickstarts_graph_learns_and_a_shared_adapter_does_not(tmp_path, monkeypatch, optimized):
    monkeypatch.setattr(train_run, "COMPILER_OPTIONS", optimized)
    before, graph, _ = accuracy("graph", tmp_path / "graph")
    _, shared, moved = accuracy("graph_shared_adapter", tmp_path / "shared")
    print(f"depth 3: untrained {before:.3f}, graph {graph:.3f}, shared adapter {shared:.3f}")
    assert before < 0.4 and graph >= 0.9 and shared < 0.55
    assert moved > 0.01, "the shared adapter must have been trained"
