"""A batch in parts: the same episodes and verdicts, and verifiers at work while the device writes what comes later."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import parse
from neuromas_jax.rollout import no_interventions
from neuromas_jax.tasks import FileTask, Verdict
from neuromas_jax.train import run as train_run
from neuromas_jax.train.batches import next_batch
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.run import Compiled, Parts, make_run
from neuromas_jax.train.sampling import sample_and_judge
from tests.tiny import random_bank, tiny_config, tokenizer


@pytest.fixture
def made(monkeypatch):
    backbone = init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0))
    monkeypatch.setattr(train_run, "load_parts", lambda *_: Parts(backbone, tokenizer(), ""))

    def make(parts, options=None, task="listops", **rollout):
        family = dict(task=task, options=options or dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(13,),
                      message_tokens=4)
        config = parse(dict(families=dict(one=family), graph=dict(topology="2-1"),
                            rollout=dict(questions=4, group=3, parts=parts, **rollout)))
        return make_run(config, "one", "graph")

    return make


def sampled(run, compiled=None):
    graph = run.method.graph
    questions, batch, *_ = next_batch(run.task, 0, 4, graph, tokenizer(), (13,), "error")
    keep = no_interventions(graph, 4, 3)
    keep = dataclasses.replace(keep, shown=keep.shown.at[2, 0, 1].set(False))  # one question whose readout hears one sender
    bank = random_bank(run.parts.backbone.config, 3, size=1.0)
    return sample_and_judge(compiled or Compiled(run), bank, questions, batch, keep, jax.random.key(7))


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_give_what_the_whole_batch_gives(made, parts):
    whole, verdicts = sampled(made(1))
    split, same = sampled(made(parts))
    assert same == verdicts and np.asarray(verdicts, object).shape[:2] == (4, 3)
    for mine, theirs in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert all(np.array_equal(mine.message, theirs.message) for mine, theirs in zip(split, whole))


def test_all_parts_are_with_the_device_before_the_first_verdict_is_asked_for(made):
    run, events = made(2), []
    compiled = Compiled(run)

    class Task:
        def start_all(self, messages, questions):
            events.append(f"start {len(messages)}")
            return lambda: events.append("wait") or [Verdict(0.0, "wrong", "")] * len(messages)

    class Watched:
        def __init__(self):
            self.run = dataclasses.replace(run, task=Task())

        def rollout(self, *arguments):
            events.append("device")
            return compiled.rollout(*arguments)

    watched = Watched()
    questions, batch, *_ = next_batch(run.task, 0, 4, run.method.graph, tokenizer(), (13,), "error")
    sample_and_judge(watched, run.new_bank(0), questions, batch, no_interventions(run.method.graph, 4, 3), jax.random.key(0))
    assert events == ["device", "device", "start 6", "start 6", "wait", "wait"]


def test_slow_verdicts_are_not_waited_for_until_they_are_needed(made, tmp_path, monkeypatch):
    """Evaluation asks the device for all batches before it waits for the first verdict of code."""
    rows = [dict(question=f"[MAX {n} 2 ]", tests=["assert largest(1, 2) == 2"]) for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = made(1, dict(path=str(tmp_path / "rows.jsonl"), verifier="code", evaluation_only=True), "jsonl")
    compiled, events = Compiled(run), []
    start_all = FileTask.start_all

    def started(self, *arguments):
        events.append("start")
        waits = start_all(self, *arguments)
        return lambda: events.append("wait") or waits()

    monkeypatch.setattr(FileTask, "start_all", started)
    scores = evaluate(compiled, run.new_bank(0), list(run.task.questions("test")), jax.random.key(0))
    assert events == ["start", "start", "wait", "wait"] and (scores.n, scores.right) == (8, 0)


def test_parts_must_divide_the_batch(made):
    with pytest.raises(ValueError, match="rollout.parts is 3, which does not divide a batch of 4 questions"):
        made(3)
    with pytest.raises(ValueError, match="microbatch 4 does not divide a batch of 2 questions"):
        made(2, microbatch=4)
