"""What stops a training and what is refused by it: nothing that was saved is lost, and no question is ever cut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import parse
from neuromas_jax.graph import text_graph
from neuromas_jax.rl import UpdateMetrics
from neuromas_jax.tasks import make_task
from neuromas_jax.train import checkpoint
from neuromas_jax.train import run as train_run
from neuromas_jax.train.batches import TooLong, next_batch, question_ids
from neuromas_jax.train.loop import NonFinite, check_finite, train
from neuromas_jax.train.run import Compiled, Parts, make_run
from tests.tiny import contents, tiny_config, tokenizer


@pytest.fixture(scope="module")
def compiled():
    """A tiny run on one node, whose programs are compiled once for the tests below."""
    config = parse(dict(
        families=dict(listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(5, 13))),
        graph=dict(topology="1"), rollout=dict(questions=2, group=2), test_questions=4,
        training=dict(steps=2, checkpoint_every=1, evaluate_every=100, validation_questions=2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_run, "load_parts", lambda *_: Parts(
            init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0)), tokenizer(), ""))
        return Compiled(make_run(config, "listops", "graph"))


def diverged(bank):
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), bank)


def overflowing(bank):
    """The loss stays as it is, since B is zero; the gradient of B is past the largest number."""
    return {site: {"a": jnp.full_like(pair["a"], 1e30), "b": jnp.zeros_like(pair["b"])} for site, pair in bank.items()}


@pytest.mark.parametrize("poison, what", [
    (diverged, "the loss of node 0 .* is nan"), (overflowing, "the gradient of node 0 .* is inf")])
def test_what_is_not_finite_stops_and_keeps_the_last_checkpoint(compiled, tmp_path, monkeypatch, poison, what):
    train(compiled, tmp_path, 0, 1)
    before, update = contents(tmp_path / "checkpoints"), compiled.update

    def poisoned(state, episodes, rewards, bucket, invalid):
        different = jnp.zeros_like(rewards).at[:, 0].set(1.0)  # else there is nothing to learn, and no gradient
        return update(dataclasses.replace(state, bank=poison(state.bank)), episodes, different, bucket)

    monkeypatch.setattr(compiled, "update", poisoned)
    with pytest.raises(NonFinite, match=f"step 2: {what}; the last good checkpoint is kept: "
                                        "lower the learning rate or optimizer.clip and give another --workdir") as stopped:
        train(compiled, tmp_path, 0, 2)
    assert "(layer 1, slot 0)" in str(stopped.value)
    assert contents(tmp_path / "checkpoints") == before and checkpoint.steps(tmp_path / "checkpoints") == [1]


@pytest.mark.parametrize("node, slot, where", [(1, 1, "node 1 .layer 1, slot 1."), (2, 0, "node 2 .layer 2, slot 0.")])
def test_the_node_that_is_not_finite_is_named(compiled, node, slot, where):
    """In a graph of several nodes, whose slots stand in another order."""
    stage = dataclasses.replace(compiled.run.method.stages[0], graph=text_graph("2-1", 2), slots=(2, 1, 0))
    run = dataclasses.replace(compiled.run, method=dataclasses.replace(compiled.run.method, stages=(stage,)))
    fine = UpdateMetrics(jnp.ones(3), jnp.ones(3), jnp.ones(3, bool), (), jnp.ones(()))
    check_finite(run, fine, 7)
    for numbers, name in ((dataclasses.replace(fine, loss=fine.loss.at[node].set(jnp.nan)), "loss"),
                          (dataclasses.replace(fine, gradient_norm=fine.gradient_norm.at[slot].set(jnp.inf)), "gradient")):
        with pytest.raises(NonFinite, match=f"step 7: the {name} of {where} is (nan|inf); "):
            check_finite(run, numbers, 7)


def test_all_nodes_of_a_shared_slot_are_named(compiled):
    stage = dataclasses.replace(compiled.run.method.stages[0], graph=text_graph("2-1", 2), slots=(0, 1, 1))
    run = dataclasses.replace(compiled.run, method=dataclasses.replace(compiled.run.method, stages=(stage,)))
    numbers = UpdateMetrics(jnp.ones(3), jnp.asarray([1.0, jnp.nan]), jnp.ones(2, bool), (), jnp.ones(()))
    with pytest.raises(NonFinite, match="gradient of node 1 .layer 1, slot 1, shared with node 2. is nan"):
        check_finite(run, numbers, 7)


def test_a_checkpoint_past_the_steps_asked_for_is_refused_and_left_as_it_is(compiled, tmp_path):
    train(compiled, tmp_path, 0, 2)
    before = contents(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="step_000002 was trained for 2 steps, this config asks for 1; "
                                                         "give another --workdir, or as many steps"):
        train(compiled, tmp_path, 0, 1)
    assert contents(tmp_path) == before and int(train(compiled, tmp_path, 0, 2).step) == 2


@pytest.mark.parametrize("changes, name", [
    (dict(config=dict(rollout=dict(temperature=0.5))), "config"),
    (dict(graph="2-1"), "graph"),
    (dict(graph="1", slots="shared", rank=2), "config"),
])
def test_a_workdir_of_another_run_is_refused_and_left_as_it_is(compiled, tmp_path, changes, name):
    train(compiled, tmp_path, 0, 1)
    before = contents(tmp_path)
    run = compiled.run
    values = dict(
        families=dict(listops=dataclasses.asdict(run.family)), graph=dict(topology=changes.get("graph", "1")),
        rollout=dataclasses.asdict(run.config.rollout), training=dataclasses.asdict(run.config.training), test_questions=4,
        adapters=dict(rank=changes.get("rank", 4)))
    for section, fields in changes.get("config", {}).items():
        values[section] = {**values[section], **fields}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_run, "load_parts", lambda *_: run.parts)
        other = Compiled(make_run(parse(values), "listops", "graph"))
        patch.setattr(jax.stages.Lowered, "compile", lambda *_, **__: pytest.fail("it must be found before any compile"))
        with pytest.raises(checkpoint.CheckpointError,
                           match=f"step_000001 was made with another {name}: .*give another --workdir"):
            train(other, tmp_path, 0, 2)
        with pytest.raises(checkpoint.CheckpointError, match="another config.*'seed': 0.*'seed': 1"):
            train(compiled, tmp_path, 1, 2)
    assert contents(tmp_path) == before


def test_questions_too_long_are_an_error_or_counted_never_cut(compiled):
    run = compiled.run
    task = dataclasses.replace(run.task, depths=(1, 2), weights=(0.5, 0.5), held_out_depth=3)
    with pytest.raises(TooLong, match="has [0-9]+ tokens and the largest bucket is 5.*"
                                      "too_long='skip' to leave such questions out and count them"):
        next_batch(task, 0, 40, run.method.graph, run.parts.tokenizer, (5,), "error")
    questions, batch, cursor, skipped = next_batch(task, 0, 40, run.method.graph, run.parts.tokenizer, (5,), "skip")
    assert len(questions) == 40 and cursor == 40 + skipped and 5 < skipped < 100
    assert {question.depth for question in questions} == {1}
    assert (np.asarray(batch.valid).sum(axis=-1) == 4).all()  # [MAX, two digits, ]
    with pytest.raises(TooLong):  # every one is too long: an error all the same
        next_batch(task, 0, 2, run.method.graph, run.parts.tokenizer, (3,), "skip")


def test_what_is_too_long_does_not_depend_on_what_the_nodes_see_of_it():
    """Else methods that see all of a question would be asked others than a graph whose nodes see shares."""
    task, words = make_task("parts"), tokenizer()
    question = task.generate("train", 0, task.depths[-1])
    shares, whole = (text_graph("4-2-1", 2, view=view) for view in (("share", "common", "common"), "all"))
    seen = max(len(words.encode(question.view(kind, share, shares.shares))) for kind, share in shares.views())
    assert seen < len(words.encode(question.text)) - 1
    for graph in (shares, whole):
        with pytest.raises(TooLong, match=f"has {len(words.encode(question.text))} tokens"):
            question_ids(question, graph, words, (seen + 1,))
