"""Experiments: which runs share programs, and how one goes on from what was published. Nothing is compiled here."""

import dataclasses
import json
import shutil

import pytest

from neuromas_jax.analysis.report import read_trained
from neuromas_jax.config import parse
from neuromas_jax.experiments import adapters, evaluation, run as experiment, training
from neuromas_jax.experiments.cells import identity, read_done, sweep_cells, train_cells, write_done
from neuromas_jax.experiments.check import check
from neuromas_jax.experiments.publish import publish
from neuromas_jax.train import run as train_run
from neuromas_jax.train.loop import NonFinite
from neuromas_jax.train.run import make_run

TINY = dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(16,))


def configure(**changes):
    values = dict(
        families=dict(listops=TINY, boolean={**TINY, "options": dict(depths=(4,), weights=(1.0,), held_out_depth=5)}),
        graph=dict(topology="2-1"), rollout=dict(questions=2, group=2), test_questions=2,
        training=dict(steps=1, validation_questions=2)) | changes
    if all("adapters" in family for family in values["families"].values()):
        del values["training"]  # it would not be used
    return parse(values)


def shared(first, second):
    return train_run.compiled_for(first)._programs is train_run.compiled_for(second)._programs


@pytest.fixture
def programs(monkeypatch):
    monkeypatch.setattr(train_run, "COMPILED", {})
    return make_run(configure(), "listops", "graph", 1e-3)


@pytest.mark.parametrize("changes", [
    dict(optimizer=dict(b1=0.5)), dict(optimizer=dict(b2=0.5)), dict(optimizer=dict(eps=1e-3)), dict(optimizer=dict(clip=9.0)),
    dict(remat=True), dict(objective=dict(kl_penalty=0.1)), dict(adapters=dict(rank=2)), dict(adapters=dict(scale=1.0)),
    dict(adapters=dict(sites=("q",))), dict(rollout=dict(questions=4, group=2)), dict(rollout=dict(questions=2, group=4)),
    dict(rollout=dict(questions=2, group=2, temperature=0.5)), dict(graph=dict(topology="2-1", slots="shared")),
], ids=str)
def test_runs_that_compile_to_something_else_do_not_share(programs, changes):
    assert not shared(programs, make_run(configure(**changes), "listops", "graph", 1e-3))


@pytest.mark.parametrize("changes, family, method, rate", [
    (dict(), "listops", "graph", 2e-3), (dict(seeds=(1,)), "listops", "graph", 1e-3), (dict(), "boolean", "graph", 1e-3),
    (dict(), "listops", "graph_blanked", 1e-3), (dict(training=dict(steps=9)), "listops", "graph", 1e-3),
    (dict(learning_rate=dict(default=0.5)), "listops", "graph", 1e-3),
])
def test_seeds_rates_and_families_share(programs, changes, family, method, rate):
    assert shared(programs, make_run(configure(**changes), family, method, rate))


def test_equal_programs_on_banks_of_unequal_rank_do_not_share(programs):
    """The same one call, with an adapter of the total rank of three slots and of one."""
    three, one = (make_run(configure(graph=dict(topology="2-1", slots=slots)), "listops", "single_equal_parameters")
                  for slots in ("per_node", "shared"))
    assert three.program == one.program and not shared(three, one)


@pytest.mark.parametrize("most, left", [("4", 1), ("5", 1), ("6", 2)])
def test_programs_are_dropped_before_the_system_has_no_maps_left(programs, monkeypatch, tmp_path, most, left):
    monkeypatch.setattr(train_run, "MAPS", tmp_path / "maps")
    monkeypatch.setattr(train_run, "MOST_MAPS", tmp_path / "most")
    (tmp_path / "maps").write_text("one\ntwo\nthree\n")
    (tmp_path / "most").write_text(most)
    train_run.compiled_for(programs)
    train_run.compiled_for(make_run(configure(adapters=dict(rank=2)), "listops", "graph", 1e-3))
    assert len(train_run.COMPILED) == left


class Laboratory:
    """Runs an experiment with stand-ins for training and evaluation that write down what they did."""

    def __init__(self, monkeypatch):
        self.trained, self.evaluated = [], []
        monkeypatch.setattr(training, "do_cell", self.do_cell)
        monkeypatch.setattr(evaluation, "evaluate_method", self.evaluate_method)
        monkeypatch.setattr(experiment, "write_report", lambda *_: "")

    def do_cell(self, cell, stage, config, workdir):
        folder = cell.folder(workdir, stage)
        run = make_run(config, cell.family, cell.method, cell.learning_rate)
        checksum = adapters.save_adapters(folder / "adapters.safetensors", run.new_bank(cell.seed))
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        (folder / "episodes.txt").write_text(f"== step 1, question 0, {cell.seed}\n\n")
        write_done(folder, {
            "validation": 0.5, "learning_rate": cell.learning_rate, "steps": cell.steps, "adapters": checksum, "run_seconds": 1.0,
            "compile_seconds": 1.0, "peak_memory_gib": 1.0, "backbone": run.parts.fingerprint,
            "system": adapters.system_checksums(run),
            "made_with": identity(config, cell.family, cell.method, cell.seed, cell.learning_rate)})
        self.trained.append((stage, f"{cell.method}_seed{cell.seed}"))

    def evaluate_method(self, compiled, bank, sets, family, seed, spent):
        method = compiled.run.method.name
        self.evaluated.append(f"{method}_seed{seed}")
        return [{"method": method, "seed": seed, "accuracy": 0.5, "calls": compiled.run.method.calls}]

    def run(self, config, workdir):
        """What was trained and what was evaluated, in order of names."""
        self.trained, self.evaluated = [], []
        experiment.run_experiment(config, workdir)
        return sorted(self.trained), sorted(self.evaluated)


@pytest.fixture
def laboratory(monkeypatch):
    return Laboratory(monkeypatch)


METHODS = ("graph", "graph_blanked", "single_equal_parameters", "vote_equal_tokens")
CONFIG = configure(families=dict(listops=TINY), methods=METHODS, seeds=(0, 1),
                   sweep=dict(learning_rates=(1e-3,), seed=100, steps=1))


@pytest.fixture
def again(laboratory, tmp_path):
    """A copy of the published folder of a finished experiment."""
    trained, evaluated = laboratory.run(CONFIG, tmp_path / "work")
    assert len(trained) == 2 + 4 and len(evaluated) == 8
    publish(tmp_path / "work", tmp_path / "published")
    shutil.copytree(tmp_path / "published", tmp_path / "again")
    return tmp_path / "again"


def test_what_is_published(again):
    found = {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()}
    rivals = [name for name in found if "adapters" in name and "/graph_" not in name]
    assert not rivals and "train/listops/graph_seed1/adapters.safetensors" in found
    assert {"results.jsonl", "train/listops/single_equal_parameters_seed1/done.json",
            "sweep/listops/graph_seed100_lr0.001/done.json", "evaluation/listops/graph_seed0/done.json"} <= found
    assert not any(name.endswith("lock") or "/." in f"/{name}" for name in found)


def test_publishing_over_other_files_is_refused(again, tmp_path):
    (tmp_path / "package/train").mkdir(parents=True)
    (tmp_path / "package/train/loop.py").write_text("")
    with pytest.raises(ValueError, match="package holds other files and no results.jsonl.*give an empty folder"):
        publish(again, tmp_path / "package")
    assert (tmp_path / "package/train/loop.py").exists()


def test_publishing_over_a_workdir_or_beside_notes_loses_nothing(again, tmp_path):
    (tmp_path / "work/train/listops/graph_seed0").mkdir(parents=True, exist_ok=True)
    (tmp_path / "work/train/listops/graph_seed0/lock").touch()
    with pytest.raises(ValueError, match="work is the workdir of an experiment, whose checkpoints would be lost"):
        publish(again, tmp_path / "work")
    (tmp_path / "published/notes.md").write_text("mine")
    (tmp_path / "published/report.md").write_text("old")
    publish(again, tmp_path / "published")
    assert (tmp_path / "published/notes.md").exists() and not (tmp_path / "published/report.md").exists()


@pytest.mark.parametrize(
    "stage", ["train/listops/graph_seed0", "sweep/listops/graph_seed100_lr0.001", "evaluation/listops/graph_seed0"])
@pytest.mark.parametrize("text", ["", '{"steps": 1', "[]", '{"steps": "2"}'])
def test_a_damaged_record_is_named_before_anything_is_done(again, stage, text):
    (again / stage / "done.json").write_text(text)
    with pytest.raises(ValueError, match=f"{stage}/done.json is damaged .*; remove it to do that part of the experiment again"):
        check(CONFIG, again)


def test_more_votes_are_evaluated_again(laboratory, tmp_path):
    """The adapters of the one call are the same; how many votes are counted comes from the graph beside it."""
    def wide(topology):
        return dataclasses.replace(CONFIG, graph=dataclasses.replace(CONFIG.graph, topology=topology, slots="per_layer"),
                                   methods=("single_equal_parameters", "vote_equal_tokens"), seeds=(0,))

    assert laboratory.run(wide("2-1"), tmp_path)[1] == ["single_equal_parameters_seed0", "vote_equal_tokens_seed0"]
    assert laboratory.run(wide("4-1"), tmp_path) == ([], ["vote_equal_tokens_seed0"])


def test_a_trial_of_the_sweep_that_diverges_counts_as_the_worst(monkeypatch, tmp_path):
    def train(compiled, folder, seed, steps, title):
        raise NonFinite("step 3: the gradient of node 1 is nan")

    monkeypatch.setattr(training, "train", train)
    (cell,) = sweep_cells(dataclasses.replace(CONFIG, methods=("graph",)), "listops")
    training.work_through([(cell, "sweep")], CONFIG, tmp_path)
    done = read_done(cell.folder(tmp_path, "sweep"))
    assert done["validation"] == 0 and "node 1 is nan" in done["diverged"]
    with pytest.raises(NonFinite):
        training.do_cell(cell, "train", CONFIG, tmp_path)


def test_a_copy_of_a_published_experiment_is_finished(again, laboratory, tmp_path):
    assert laboratory.run(CONFIG, again) == ([], [])
    assert (again / "results.jsonl").read_bytes() == (tmp_path / "work/results.jsonl").read_bytes()
    # What the report's curves and episodes are drawn from.
    assert read_trained(CONFIG, again, "listops") == read_trained(CONFIG, tmp_path / "work", "listops")


def test_a_rival_without_adapters_is_trained_again_only_where_it_must_be_evaluated(again, laboratory):
    shutil.rmtree(again / "evaluation/listops/vote_equal_tokens_seed1")
    shutil.rmtree(again / "evaluation/listops/graph_blanked_seed0")
    assert laboratory.run(CONFIG, again) == (
        [("train", "single_equal_parameters_seed1")], ["graph_blanked_seed0", "vote_equal_tokens_seed1"])
    assert laboratory.run(CONFIG, again) == ([], [])


def test_other_test_questions_make_every_evaluation_anew(again, laboratory):
    trained, evaluated = laboratory.run(dataclasses.replace(CONFIG, test_questions=1), again)
    assert trained == [("train", f"single_equal_parameters_seed{seed}") for seed in (0, 1)] and len(evaluated) == 8


def test_a_family_may_have_training_steps_of_its_own(tmp_path):
    families = configure(families=dict(listops={**TINY, "steps": 3}, boolean=TINY)).families
    config = dataclasses.replace(configure(), families=families)
    steps = {name: {cell.steps for cell in train_cells(config, tmp_path, name)} for name in families}
    assert steps == {"listops": {3}, "boolean": {1}}
    found = [identity(one, "listops", "graph", 0) for one in (config, configure())]
    assert found[0] == found[1]  # so that a family can be made longer


def test_a_published_experiment_can_be_made_longer(again, laboratory):
    longer = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, steps=2))
    trained, _ = laboratory.run(longer, again)
    assert [name for stage, name in trained if stage == "train"] == [
        "graph_seed0", "graph_seed1", "single_equal_parameters_seed0", "single_equal_parameters_seed1"]
    assert "sweep" not in dict(trained)


def test_a_sweep_that_changed_is_refused_where_training_followed_the_earlier_one(again):
    wider = dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, learning_rates=(1e-3, 2e-3)))
    with pytest.raises(ValueError, match="the sweep of listops/graph has no finished trial at 0.002 for 1 steps, "
                                         "and .*graph_seed0 was trained at the rate that an earlier sweep chose; "
                                         "give another --workdir"):
        check(wider, again)


def test_the_report_shows_this_config_s_cells_alone(again):
    fewer = dataclasses.replace(CONFIG, methods=("graph",), seeds=(1,))
    assert set(read_trained(fewer, again, "listops").metrics) == {("graph", 1)}
    other = dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, learning_rates=(4e-3,)))
    assert read_trained(other, again, "listops").sweep == {}


@pytest.mark.parametrize("changes, named", [
    (dict(graph=dict(topology="1-1-1")), "config.graph"), (dict(adapters=dict(scale=1.0)), "config.adapters"),
    (dict(prompt=dict(tag="<node> {index} {layer}")), "config.prompt"),
])
def test_adapters_are_not_judged_in_another_system(again, changes, named):
    """They would fit: the shapes are the same."""
    borrowing = configure(families=dict(listops={**TINY, "adapters": str(again / "train/listops")}), methods=("graph",))
    check(borrowing, again.parent / "new")
    other = configure(families=dict(listops={**TINY, "adapters": str(again / "train/listops")}), methods=("graph",), **changes)
    with pytest.raises(ValueError, match=f"was trained with another {named} .*use the config that made it, or train again"):
        check(other, again.parent / "new")


def test_an_edited_file_is_another_task(tmp_path):
    """And is not taken for the one that was trained on."""
    path = tmp_path / "mine.jsonl"
    found = []
    for answer in ("5", "6"):
        rows = [{"question": f"[MAX {n % 10} {n // 10} ]", "answer": answer} for n in range(60)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = configure(families=dict(mine=dict(task="jsonl", options=dict(path=str(path)), buckets=(8,))))
        found.append(identity(config, "mine", "graph", 0))
    assert found[0] != found[1]


def test_what_only_evaluation_reads_does_not_make_another_run():
    found = [identity(configure(families=dict(boolean=dict(buckets=(12,), files=files))), "boolean", "graph", 0)
             for files in ((), ("boolean_expressions",))]
    assert found[0] == found[1]


def test_publishing_leaves_nothing_of_what_was_published_before(again, tmp_path):
    old = tmp_path / "published/train/listops/graph_seed9/done.json"
    old.parent.mkdir()
    old.write_text("{}")
    publish(tmp_path / "work", tmp_path / "published")
    assert not old.exists() and (tmp_path / "published/train/listops/graph_seed0/done.json").exists()
    with pytest.raises(ValueError, match="is the experiment's own folder"):
        publish(again, again)


def test_rivals_of_the_family_that_the_quickstart_borrows_are_published_with_their_adapters(laboratory, tmp_path):
    boolean = configure().families["boolean"]
    laboratory.run(dataclasses.replace(CONFIG, families={"boolean": boolean}), tmp_path / "work")
    publish(tmp_path / "work", tmp_path / "published")
    found = {path.parent.name for path in (tmp_path / "published/train/boolean").glob("*/adapters.safetensors")}
    assert found == {"graph_seed0", "graph_seed1", "single_equal_parameters_seed0"}


def test_nothing_is_published_before_there_are_results(tmp_path):
    with pytest.raises(ValueError, match="holds no results.jsonl; run the experiment first"):
        publish(tmp_path, tmp_path / "published")
