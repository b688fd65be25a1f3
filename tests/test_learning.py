"""The quickstart's graph learns to divide a problem within a fixed number of steps.

One shared adapter of equal total rank does not. In the reference run, which trains both at swept rates, the graph has
learned with every seed and the shared adapter with none (results/reference/report.md).
"""

import runpy
import statistics
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


STEPS = 150  # as many as in the reference run


def trained(method, folder):
    """`accuracy(seed)` after training: depth 3, on 192 validation questions; and that at birth, and the largest entry of B."""
    config = runpy.run_path(str(QUICKSTART))["get_config"]()
    config.training.update(evaluate_every=1000, checkpoint_every=1000, validation_questions=16)
    config = parse(config)
    run = make_run(config, "listops", method, config.learning_rate.get(method, config.learning_rate["default"]))
    compiled = Compiled(run)
    questions = distinct_questions(run.task, "validation", 3, 192)

    def accuracy(seed):
        bank = train(compiled, folder / str(seed), seed, STEPS).learner.bank
        moved = min(float(abs(pair["b"]).max()) for pair in bank.values())
        assert moved > 0.01, "the adapters must have been trained"
        return evaluate(compiled, bank, questions, jax.random.key(0)).accuracy

    return accuracy, evaluate(compiled, run.new_bank(0), questions, jax.random.key(0)).accuracy


@pytest.mark.slow
def test_the_quickstarts_graph_learns_and_a_shared_adapter_does_not(tmp_path, monkeypatch, optimized):
    """The median of three seeds: about one in three stops at a division of the problem that is not right (see the README)."""
    monkeypatch.setattr(train_run, "COMPILER_OPTIONS", optimized)
    graph, before = trained("graph", tmp_path / "graph")
    found = [graph(0), graph(1)]
    if min(found) < 0.9 <= max(found):  # two that agree decide
        found.append(graph(2))
    shared = trained("graph_shared_adapter", tmp_path / "shared")[0](0)
    print(f"depth 3: untrained {before:.3f}, graph {found}, shared adapter {shared:.3f}")
    assert before < 0.4 and statistics.median(found) >= 0.9 and shared < 0.55
