"""Training in stages: what is carried is bit-equal, new nodes start as their rule says, a kill changes nothing, and the lineage
says what was done (design claim 5)."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import parse
from neuromas_jax.experiments.cells import Cell, identity, read_done
from neuromas_jax.experiments.check import check
from neuromas_jax.experiments.training import do_cell
from neuromas_jax.graph import text_graph
from neuromas_jax.graph.growth import edit, plan
from neuromas_jax.graph.lineage import lineage_tree
from neuromas_jax.rl import Objective
from neuromas_jax.rollout import no_interventions
from neuromas_jax.tasks import Task, Verdict
from neuromas_jax.train import checkpoint, loop, run as train_run, stages
from neuromas_jax.train.batches import next_batch
from neuromas_jax.train.imitate import forced
from neuromas_jax.train.loop import init_state
from neuromas_jax.train.metrics import read_metrics
from neuromas_jax.train.run import Parts, compiled_for
from neuromas_jax.train.stages import find_parent, read_stored, stage_runs
from tests.tiny import tiny_config, tokenizer

EASY, HARD = dict(depths=(1,), weights=(1.0,)), dict(depths=(2,), weights=(1.0,))
STEPS = 2


@pytest.fixture(scope="module", autouse=True)
def tiny_parts():
    """A random backbone; half of its answers count as right, by the length of the message."""
    backbone = init_backbone(tiny_config(vocab_size=tokenizer().vocab_size, num_hidden_layers=1), jax.random.key(0))
    backbone = dataclasses.replace(backbone, params={**backbone.params, "embed": backbone.params["embed"] * 20})
    parts = Parts(backbone, tokenizer(), "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_run, "load_parts", lambda *_: parts)
        patch.setattr(Task, "verify", lambda self, message, question: Verdict(float(len(message) % 2), "right", "-"))
        yield


def configure(second=None, third=None, slots="per_node", methods=("grown",), init_from="", **family):
    front = dict(place="front")
    chain = (
        dict(topology="1", steps=STEPS, options=EASY),
        dict(topology="2-1", steps=STEPS, options=EASY, growth={**front, **(second or {})}),
        dict(steps=STEPS, growth={**front, **(third or {})}),
    )
    return parse(dict(
        families=dict(listops={**dict(
            buckets=(24,), options={**HARD, "held_out_depth": 3}, topology="2-2-1", stages=chain), **family}),
        graph=dict(slots=slots), methods=methods, adapters=dict(rank=2), rollout=dict(questions=4, group=4), init_from=init_from,
        training=dict(evaluate_every=1, checkpoint_every=1, influence_every=100, validation_questions=4), test_questions=2))


def grow(config, workdir, method="grown", steps=3 * STEPS, rate=2e-3):
    do_cell(Cell("listops", method, 0, rate, steps), "train", config, workdir)
    return workdir / "train" / "listops" / f"{method}_seed0"


def stored(config, folder, number, name, step, method="grown"):
    """The state of a checkpoint of a stage, and what it says of itself."""
    runs, _ = stage_runs(config, "listops", method, 0, 2e-3)
    place = folder / f"stage{number}_{name}" / "checkpoints"
    return checkpoint.load(place, step, init_state(runs[number], 0)), checkpoint.describe(place, step)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_parts):
    workdir = tmp_path_factory.mktemp("grown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEEP", 9)
        return workdir, grow(configure(), workdir)


def leaves(tree, rows):
    return [np.asarray(x)[np.asarray(rows)] for x in jax.tree.leaves(tree)]


def same(first, second):
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_every_stage_starts_with_the_slots_of_the_one_before(finished):
    config, (_, folder) = configure(), finished
    names = ("1", "2-1", "2-2-1")
    for number, (old, new) in enumerate([((0,), (2,)), ((0, 1, 2), (2, 3, 4))]):
        before, _ = stored(config, folder, number, names[number], STEPS)
        after, _ = stored(config, folder, number + 1, names[number + 1], 0)
        for part in ("bank", "moments"):
            assert same(leaves(getattr(before.learner, part), old), leaves(getattr(after.learner, part), new))
        assert not leaves(after.learner.bank["q"]["b"], [0, 1])[0].any()  # new nodes: B is zero
        trained, _ = stored(config, folder, number + 1, names[number + 1], STEPS)
        assert not same(leaves(trained.learner.bank, new), leaves(after.learner.bank, new))
        assert not same(leaves(trained.learner.bank, [0, 1]), leaves(after.learner.bank, [0, 1]))


def test_the_lineage_travels_in_the_checkpoint_and_prints_as_a_tree(finished):
    config, (_, folder) = configure(), finished
    _, said = stored(config, folder, 2, "2-2-1", STEPS)
    first, second = said["lineage"]
    assert (first["parent_graph"], first["graph"], second["parent_graph"], second["graph"]) == ("1", "2-1", "2-1", "2-2-1")
    assert (first["samples"], second["samples"]) == (STEPS * 16, 2 * STEPS * 16)
    assert first["parent"] == f"stage0_1/step_{STEPS:06d}"
    assert first["edits"] == ["Deepen(at=0, width=2, message_tokens=2, reads=None, bypass=False)"]
    assert all(0 <= one[when] <= 1 for one in (first, second) for when in ("before", "after")) and first["questions"] == 4
    done = read_done(folder)
    assert done["lineage"] == said["lineage"] and done["samples"] == 3 * STEPS * 16 and done["steps"] == 3 * STEPS
    tree = lineage_tree(done["lineage"], done["samples"], 0.5)
    assert tree.splitlines()[0] == f"1  from stage0_1/step_{STEPS:06d}" and "└─ 2-1  Deepen; new zero_b, place front" in tree
    assert "   └─ 2-2-1  Deepen" in tree and f"now {3 * STEPS * 16} samples, accuracy 50.0 %" in tree
    assert lineage_tree([]) == "grown from nothing"


def test_metrics_of_all_stages_are_one_log(finished):
    _, (_, folder) = configure(), finished
    records = read_metrics(folder)
    assert [(record["stage"], record["step"]) for record in records] == [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]
    assert all("stage_accuracy" in record for record in records[:4]) and "stage_accuracy" not in records[-1]


@pytest.mark.parametrize("stage, step", [(0, 1), (1, 0), (1, 1), (2, 0)])
def test_a_kill_in_any_stage_changes_nothing(finished, tmp_path, monkeypatch, stage, step):
    """What a killed process leaves is the newest checkpoint of some stage and nothing of the stages after it."""
    config, (_, folder) = configure(), finished
    copy = tmp_path / "train" / "listops" / "grown_seed0"
    shutil.copytree(folder, copy)
    (copy / "done.json").unlink()
    names = ("1", "2-1", "2-2-1")
    for number in range(stage + 1, 3):
        shutil.rmtree(copy / f"stage{number}_{names[number]}")
    for place in (copy / f"stage{stage}_{names[stage]}" / "checkpoints").iterdir():
        if int(place.name[5:]) > step:
            shutil.rmtree(place)
    assert grow(config, tmp_path) == copy
    assert (copy / "adapters.safetensors").read_bytes() == (folder / "adapters.safetensors").read_bytes()
    assert read_done(copy)["lineage"] == read_done(folder)["lineage"]


def test_rules_reach_the_run(tmp_path, monkeypatch):
    """Held slots stay for their steps, moments start afresh, the floor is for new nodes, and hidden edges are hidden."""
    monkeypatch.setattr(checkpoint, "KEEP", 9)
    rules = dict(hold=1, moments="fresh", hide=1.0, hide_steps=100)
    config = dataclasses.replace(configure(second=rules), objective=Objective(entropy_floor=9.0, floor_weight=0.1))
    runs, _ = stage_runs(config, "listops", "grown", 0)
    assert [run.objective.floor_nodes for run in runs] == [None, (0, 1), (0, 1)]
    anew, _ = stage_runs(config, "listops", "grown_anew", 0)
    scheduled, _ = stage_runs(config, "listops", "graph_schedule", 0)
    assert {run.objective.floor_nodes for run in (*anew, *scheduled)} == {None}  # nothing is carried, or nothing grows
    shown = []
    rollout = train_run.Compiled.rollout
    monkeypatch.setattr(train_run.Compiled, "rollout", lambda self, bank, batch, keep, key: (
        shown.append(np.asarray(keep.shown)) or rollout(self, bank, batch, keep, key)))
    folder = grow(config, tmp_path)
    states = [stored(config, folder, 1, "2-1", step)[0] for step in range(STEPS + 1)]
    assert not any(x.any() for x in leaves(states[0].learner.moments, [2]))
    held, thawed = (same(leaves(states[step].learner.bank, [2]), leaves(states[0].learner.bank, [2])) for step in (1, 2))
    assert held and not thawed
    assert not same(leaves(states[1].learner.bank, [0]), leaves(states[0].learner.bank, [0]))
    hidden = [one for one in shown if one.shape[0] == 3][0]
    assert not hidden[2, :2].any() and hidden[:2].all() and hidden[2, 2].all()  # the readout's two new senders


def test_new_edges_are_those_into_carried_nodes():
    old, target = text_graph("2-1"), text_graph("4-2-1")
    grown = edit(old, *plan(old, target, "front"))
    found = stages.new_edges(grown, old)
    assert {(int(reader), int(sender)) for reader, sender in np.argwhere(found)} == {(4, k) for k in range(4)} | {
        (5, k) for k in range(4)}


@pytest.mark.parametrize("rule, place", [("relay", "middle"), ("distilled", "front")])
def test_imitation_raises_the_likelihood_of_the_teacher_s_messages_and_moves_new_slots_alone(tmp_path, monkeypatch, rule, place):
    monkeypatch.setattr(checkpoint, "KEEP", 9)
    chain = (dict(topology="2-1", steps=6), dict(steps=1, growth=dict(new=rule, imitate=20, place=place)))
    config = configure(topology="2-2-1", stages=chain)
    runs, _ = stage_runs(config, "listops", "grown", 0, 0.02)
    folder = grow(config, tmp_path, steps=7, rate=0.02)
    parent, _ = stored(config, folder, 0, "2-1", 6)
    state, said = stored(config, folder, 1, "2-2-1", 0)
    new = [2, 3] if place == "middle" else [0, 1]
    old = [slot for slot in range(5) if slot not in new]
    assert same(leaves(state.learner.bank, old), leaves(parent.learner.bank, [0, 1, 2]))
    assert said["lineage"][0]["samples"] == (6 + 2 * 20) * 16
    # how likely the teacher's messages are before and after
    compiled = compiled_for(runs[1])
    grown = edit(text_graph("2-1", 2), *plan(runs[0].method.graph, runs[1].method.graph, place))
    taught = stages.teachers(grown, rule)
    assert taught == ({2: 0, 3: 1} if rule == "relay" else {0: 0, 1: 1})
    run = runs[1]
    _, batch, _, _ = next_batch(run.task, 10**6, 4, run.method.graph, run.parts.tokenizer, run.family.buckets, "error")
    keep, key = no_interventions(run.method.graph, 4, 4), jax.random.key(3)
    scores = []
    for bank in (fresh_bank(run, state, new), state.learner.bank):
        source = compiled.rollout(bank, batch, keep, key) if rule == "relay" else compiled_for(runs[0]).rollout(
            parent.learner.bank, batch, no_interventions(runs[0].method.graph, 4, 4), key)
        episodes = compiled.rollout(bank, batch, forced(keep, source, taught), key)
        layer = episodes[1 if place == "middle" else 0]
        scores.append(float(layer.log_probs.sum()))
    assert scores[1] > scores[0] + 1.0, scores


def fresh_bank(run, state, new):
    """The state's bank with the new slots as at birth."""
    born = run.new_bank(0)
    return jax.tree.map(lambda now, start: now.at[jnp.asarray(new)].set(start[jnp.asarray(new)]), state.learner.bank, born)


def test_a_relay_in_front_has_nothing_to_pass_on():
    chain = (dict(topology="2-1", steps=1), dict(steps=1, growth=dict(new="relay", imitate=1, place="front")))
    with pytest.raises(ValueError, match="node 0 of 2-2-1 is in the first layer and reads no message to pass on"):
        stage_runs(configure(stages=chain), "listops", "grown", 0)


def test_a_stage_that_stalls_gives_its_steps_to_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "stalled", lambda folder, patience: patience and len(read_metrics(folder)) >= 1)
    chain = (dict(topology="2-1", steps=4, stall=1), dict(steps=1, growth=dict(place="front")))
    folder = grow(configure(topology="2-2-1", stages=chain), tmp_path, steps=5)
    assert [(one["stage"], one["step"]) for one in read_metrics(folder)] == [(0, 1), (1, 2), (1, 3), (1, 4), (1, 5)]
    assert read_done(folder)["lineage"][0]["samples"] == 16


def test_stalling_is_no_gain_of_a_point_over_the_best_before(tmp_path):
    def after(*accuracies):
        records = [json.dumps({"step": step, "accuracy": one}) for step, one in enumerate(accuracies)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(records) + "\n")
        return loop.stalled(tmp_path, 2)

    assert not after(0.1, 0.1) and after(0.1, 0.1, 0.105) and not after(0.1, 0.1, 0.12) and not after(0.1, 0.12, 0.12)
    assert not loop.stalled(tmp_path, 0)


def test_a_kept_bank_serves_the_smaller_graph_too(tmp_path):
    """Rows keep their places while the graph grows: the parent's programs take the grown bank and are not compiled again."""
    config = configure(slots="kept")
    runs, _ = stage_runs(config, "listops", "grown", 0, 2e-3)
    assert [run.method.slots for run in runs] == [(0,), (1, 2, 0), (3, 4, 1, 2, 0)]
    assert {run.method.ranks for run in runs} == {(2,) * 5} and runs[0].trainable_parameters * 5 == runs[2].trainable_parameters
    folder = grow(config, tmp_path)
    first, _ = stored(config, folder, 0, "1", STEPS)
    born = runs[0].new_bank(0)
    assert same(leaves(first.learner.bank, [1, 2, 3, 4]), leaves(born, [1, 2, 3, 4]))  # rows without a node do not move
    last, _ = stored(config, folder, 2, "2-2-1", STEPS)
    parent = compiled_for(runs[0])
    compiled = dict(parent._programs)
    questions = loop.distinct_questions(runs[0].task, "validation", None, 4)
    loop.evaluate(parent, last.learner.bank, questions, jax.random.key(0))
    assert dict(parent._programs).keys() == compiled.keys()


@pytest.mark.parametrize("method, expected", [
    ("graph_schedule", [("2-2-1", (1,)), ("2-2-1", (1,)), ("2-2-1", (2,))]), ("graph_mixed", [("2-2-1", (1, 2))]),
    ("graph_tied", [("2-2-1", (2,))]), ("grown_anew", [("1", (1,)), ("2-1", (1,)), ("2-2-1", (2,))]),
    ("parent_trained_on", [("1", (1,)), ("2-1", (1,)), ("2-1", (2,))]),
])
def test_what_growth_is_compared_with(method, expected):
    runs, _ = stage_runs(configure(methods=(method,)), "listops", method, 0)
    assert [(str(run.method.graph), run.task.depths) for run in runs] == expected
    if method == "graph_mixed":
        np.testing.assert_allclose(runs[0].task.weights, (2 / 3, 1 / 3))
    if method == "graph_tied":
        assert runs[0].method.slots == (0, 0, 1, 1, 2) and sum(runs[0].method.ranks) >= 10


def test_a_schedule_carries_every_slot_and_a_new_start_none(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "KEEP", 9)
    config = configure(methods=("graph_schedule", "parent_trained_on", "grown_anew"))
    folder = grow(config, tmp_path, "graph_schedule")
    before, _ = stored(config, folder, 0, "2-2-1", STEPS, "graph_schedule")
    after, said = stored(config, folder, 1, "2-2-1", 0, "graph_schedule")
    assert same(leaves(before.learner.bank, range(5)), leaves(after.learner.bank, range(5)))
    assert said["lineage"][0]["edits"] == [] and said["lineage"][0]["before"] == said["lineage"][0]["after"]
    folder = grow(config, tmp_path, "parent_trained_on")
    before, _ = stored(config, folder, 1, "2-1", STEPS, "parent_trained_on")
    after, said = stored(config, folder, 2, "2-1", 0, "parent_trained_on")
    assert same(leaves(before.learner.bank, range(3)), leaves(after.learner.bank, range(3))) and said["lineage"][1]["edits"] == []
    folder = grow(config, tmp_path, "grown_anew")
    after, said = stored(config, folder, 2, "2-2-1", 0, "grown_anew")
    assert not after.learner.bank["q"]["b"].any() and said["lineage"][-1]["anew"]


# From a stored parent.


def test_growing_from_a_workdir_leaves_out_what_the_parent_has(finished, tmp_path):
    workdir, _ = finished
    parent = tmp_path / "parent"
    chain = (dict(topology="1", steps=2, options=EASY), dict(steps=2, growth=dict(place="front")))
    short = configure(topology="2-1", stages=chain)
    made = grow(short, parent, steps=4)
    config = configure(init_from=str(parent))
    check(config, tmp_path / "child")
    runs, found = stage_runs(config, "listops", "grown", 0)
    assert [str(run.method.graph) for run in runs] == ["2-2-1"] and found.samples == 4 * 16
    folder = grow(config, tmp_path / "child")  # of six steps, four are those of the stages that the parent stands for
    before, _ = stored(short, made, 1, "2-1", 2)
    place = folder / "stage0_2-2-1" / "checkpoints"
    done = read_done(folder)
    assert done["samples"] == (4 + STEPS) * 16 and [one["graph"] for one in done["lineage"]] == ["2-1", "2-2-1"]
    assert [one["step"] for one in read_metrics(folder)] == [1, 2]
    assert str(made) in done["lineage"][1]["parent"]
    said = checkpoint.describe(place, checkpoint.steps(place)[-1])
    assert said["lineage"] == done["lineage"]
    first = checkpoint.load(place, checkpoint.steps(place)[0], init_state(runs[0], 0))
    assert first.learner.bank["q"]["a"].shape[0] == 5 and before.learner.bank["q"]["a"].shape[0] == 3
    assert identity(config, "listops", "grown", 0) != identity(configure(), "listops", "grown", 0)


def test_parents_are_found_by_workdir_cell_and_folder(finished):
    workdir, folder = finished
    places = {find_parent(path, "listops", 0) for path in (workdir, folder, folder / "stage2_2-2-1")}
    assert places == {folder / "stage2_2-2-1" / "checkpoints"}


@pytest.mark.parametrize("damage, message", [
    ("missing", "holds no checkpoint of family 'listops' and seed 0; give the workdir of an experiment"),
    ("metadata", "cannot be read|does not say which graph it holds"),
    ("backbone", "was trained with another backbone: it has 'other', this run has 'tiny'; grow with that of the parent"),
    ("finished", "holds the graph 2-2-1 already, to which families.listops grows; give a bigger topology"),
])
def test_bad_parents_are_refused_before_any_compile(finished, tmp_path, monkeypatch, damage, message):
    workdir, _ = finished
    copy = tmp_path / "copy"
    if damage != "missing":
        shutil.copytree(workdir, copy)
    if damage == "metadata":
        for path in copy.glob("train/listops/grown_seed0/stage2_2-2-1/checkpoints/*/*METADATA*"):
            path.write_text("{")
    if damage == "backbone":
        describe = checkpoint.describe
        monkeypatch.setattr(checkpoint, "describe", lambda *a: {**describe(*a), "backbone": "other"})
    monkeypatch.setattr(train_run.Compiled, "_call", None)
    topology = "2-2-1" if damage == "finished" else "2-2-2-1"
    config = configure(init_from=str(copy), topology=topology, stages=(dict(steps=1, growth=dict(place="front")),))
    with pytest.raises(ValueError, match=message):
        check(config, tmp_path / "child")


def test_damaged_arrays_of_a_parent_are_named(finished, tmp_path):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "copy")
    for path in (tmp_path / "copy").glob("train/listops/grown_seed0/stage2_2-2-1/checkpoints/*/*/d/*"):
        path.write_bytes(b"")
    config = configure(init_from=str(tmp_path / "copy"), topology="2-2-2-1", stages=(dict(steps=1, growth=dict(place="front")),))
    with pytest.raises(checkpoint.CheckpointError, match="is damaged"):
        grow(config, tmp_path / "child", steps=1)


def test_only_what_growing_needs_is_read(finished, monkeypatch):
    workdir, folder = finished
    config = configure(init_from=str(workdir), topology="2-2-2-1", stages=(dict(steps=1, growth=dict(place="front")),))
    runs, found = stage_runs(config, "listops", "grown", 0)
    asked = []
    load = checkpoint.ocp.load
    monkeypatch.setattr(checkpoint.ocp, "load", lambda path, like: asked.append(like) or load(path, like))
    parent = stages.load_parent(found, runs[0], compiled_for)
    assert asked[0].key is checkpoint.SKIPPED and asked[0].step is checkpoint.SKIPPED
    state, _ = stored(configure(), folder, 2, "2-2-1", STEPS)
    assert same(leaves(parent.learner.bank, range(5)), leaves(state.learner.bank, range(5)))
    assert parent.cursor == int(state.cursor)


@pytest.mark.parametrize("changes, message", [
    (dict(stages=()), "method 'grown' needs the stages of growth"),
    (dict(stages=(dict(topology="2-1", steps=1),)), "the last of families.listops.stages has the graph 2-1"),
    (dict(stages=(dict(topology="3-2-2-1", steps=1), dict(steps=1))), "a graph grows, it does not shrink"),
])
def test_stages_that_do_not_lead_to_the_family_s_graph_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        stage_runs(configure(**changes), "listops", "grown", 0)


def test_a_file_has_no_depths_to_mix():
    config = parse(dict(
        families=dict(bbh=dict(options=dict(file="navigate"), topology="2-1", buckets=(200,),
                               stages=(dict(topology="1", steps=1), dict(steps=1, growth=dict(place="front"))))),
        methods=("graph_mixed",)))
    with pytest.raises(ValueError, match="'bbh' is a file without any"):
        stage_runs(config, "bbh", "graph_mixed", 0)


def test_a_stored_parent_says_what_it_is(finished):
    _, folder = finished
    runs, _ = stage_runs(configure(), "listops", "grown", 0)
    found = read_stored(runs[0], folder / "stage1_2-1" / "checkpoints")
    assert str(found.run.method.graph) == "2-1" and found.step == STEPS and found.samples == 2 * STEPS * 16
    assert found.run.method.graph == runs[1].method.graph and found.lineage[0]["graph"] == "2-1"
