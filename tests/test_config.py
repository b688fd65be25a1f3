"""Configs: unknown and unused keys, wrong types and bad values are named; every family of every file in `configs/` runs a step
(claim 12); several processes share an experiment.
"""

import dataclasses
import functools
import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import ml_collections
import pytest

from neuromas_jax import main as command
from neuromas_jax.config import Config, parse
from neuromas_jax.experiments import evaluation, run
from neuromas_jax.experiments.check import check
from neuromas_jax.train.run import make_run
from neuromas_jax.experiments.cells import chosen_knobs

CONFIGS = Path(__file__).parents[1] / "configs"
SUITES = sorted(path.stem for path in CONFIGS.glob("claims*.py"))


def load_file(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name):
    """The config of a file, or of one experiment of a suite: `claims:growth`."""
    file, _, experiment = name.partition(":")
    return load_file(file).get_config(*[experiment] * bool(experiment))


EXPERIMENTS = sorted(
    path.stem for path in CONFIGS.glob("*.py") if not path.stem.endswith("_backbone") and path.stem not in SUITES)
EXPERIMENTS += [f"{suite}:{name}" for suite in SUITES for name in load(suite).experiments]


TRAINED = [(name, family) for name in EXPERIMENTS if ":" not in name and name != "pod"  # that is compiled for a pod, `test_aot`
           for family, options in load(name).families.items() if not options.get("adapters")]
BUCKET = max(load(name).families[family].buckets[-1] for name, family in TRAINED)


def small(**changes):
    return {"families": {"listops": {}}, **changes}


def test_what_is_left_out_has_its_default():
    config = parse(small())
    assert config == dataclasses.replace(Config(), families=config.families, order=config.order)
    assert config.families["listops"].task == "listops"
    assert parse(ml_collections.ConfigDict(small())) == config


def test_lists_become_tuples_and_sections_dataclasses():
    config = parse(small(seeds=[3, 4], graph=dict(topology="2-1"), rollout=dict(group=4)))
    assert config.seeds == (3, 4) and config.graph.topology == "2-1" and config.rollout.group == 4
    hash(config.seeds), hash(config.rollout)
    options = dict(depths=[1, 2], weights=[0.5, 1], held_out_depth=3)
    listops = dict(options=options, message_tokens=[3, 2, 2], view=["all"] * 3)
    family = parse(dict(families=dict(listops=listops))).families["listops"]
    assert family.options == dict(depths=(1, 2), weights=(0.5, 1), held_out_depth=3) and family.message_tokens == (3, 2, 2)
    hash(tuple(family.options.values()))
    graph = parse(small(graph=dict(reads=[[], [0], [0, 1]], edges=[None, [[True, 0, 1, 1]] * 2, None], slots=[0] * 7))).graph
    assert graph.reads == ((), (0,), (0, 1)) and graph.edges[1][0] == (True, 0, 1, 1)
    hash(graph)


def test_a_learning_rate_holds_for_the_method_that_trains():
    config = parse(small(methods=("graph_blanked", "vote_equal_tokens"),
                         learning_rate=dict(graph=1e-2, single_equal_parameters=3e-3)))
    assert chosen_knobs(config, Path(), "listops", "graph")[0] == 1e-2
    assert chosen_knobs(config, Path(), "listops", "single_equal_parameters")[0] == 3e-3
    config = parse(small(methods=("graph", "chain_equal_calls"), learning_rate=dict(graph=1)))
    assert chosen_knobs(config, Path(), "listops", "chain_equal_calls")[0] == 2e-3  # the default needs no naming
    assert parse(small(learning_rate=dict(default=1e-3), sweep=dict(learning_rates=()))).learning_rate == dict(default=1e-3)


@pytest.mark.parametrize("changes, message", [
    (dict(nope=1), "unknown config key 'nope'; allowed here are backbone"),
    (dict(sedes=(1,)), "unknown config key 'sedes'.*did you mean 'seeds'"),
    (dict(graph=dict(topolgy="1")),
     "unknown config key 'graph.topolgy'; allowed here are topology, reads, edges, slots; did you mean 'topology'"),
    (dict(rollout=dict(questoins=1)), "'rollout.questoins'.*did you mean 'questions'"),
    (dict(families=dict(listops=dict(bucket=(1,)))), "'families.listops.bucket'.*did you mean 'buckets'"),
    (dict(graph="4-2-1"), "config.graph is '4-2-1'; give a dict with keys among topology"),
    (dict(families=dict(listops=None)), "config.families.listops is None; give a dict with keys among task"),
    (dict(families=3), "'families' is 3; it must be a dict from names to dicts, such as dict.listops"),
    (dict(families={3: {}}), "'families' has the key 3; it must be a text, such as '3'"),
    (dict(workers="2"), "config key 'workers' is '2'; it must be a whole number"),
    (dict(workers=True), "config key 'workers' is True; it must be a whole number"),
    (dict(remat="yes"), "'remat' is 'yes'; it must be True or False"),
    (dict(seeds=3), r"'seeds' is 3; it must be a tuple of whole numbers, such as \(3,\)"),
    (dict(seeds=(0, "1")), "'seeds' is .*'1'.; it must be a tuple of whole numbers"),
    (dict(methods="graph"), r"'methods' is 'graph'; it must be a tuple of texts, such as \('graph',\)"),
    (dict(order="listops"), r"'order' is 'listops'; it must be a tuple of texts, such as \('listops',\)"),
    (dict(families=dict(listops=dict(buckets=16))), r"'families.listops.buckets' is 16; .*such as \(16,\)"),
    (dict(families=dict(listops=dict(files="navigate"))), r"'families.listops.files' is 'navigate'; .*such as \('navigate',\)"),
    (dict(families=dict(listops=dict(message_tokens="2"))), "message_tokens' is '2'; it must be a whole number or a tuple"),
    (dict(families=dict(listops=dict(message_tokens=(4, 0, 2)))), r"message_tokens' is \(4, 0, 2\); it must be 2 or more"),
    (dict(families=dict(listops=dict(message_tokens=-1))), "message_tokens' is -1; it must be 2 or more"),
    (dict(families=dict(listops=dict(tokens_per_fact=5))),
     "'families.listops.tokens_per_fact' is 5 and a message has 2 tokens, so no fact fits into it; raise"),
    (dict(families=dict(listops=dict(tokens_per_fact=0))), "'families.listops.tokens_per_fact' is 0; it must be 1 or more"),
    (dict(families=dict(listops=dict(options=dict(depths=2)))), r"'families.listops.options.depths' is 2; .*such as \(2,\)"),
    (dict(families=dict(listops=dict(options=dict(weights=("1",))))), "options.weights' is .* must be a tuple of finite numbers"),
    (dict(families=dict(listops=dict(options=dict(held_out_depth={4})))), "held_out_depth' is [{]4}; it must be a number"),
    (dict(graph=dict(reads=1)), "'graph.reads' is 1; it must be a text or a tuple of tuples of whole numbers, such as"),
    (dict(rollout=dict(temperature="hot")), "'rollout.temperature' is 'hot'; it must be a finite number"),
    (dict(rollout=dict(temperature=float("nan"))), "'rollout.temperature' is nan; it must be a finite number"),
    (dict(rollout=dict(temperature=0)), "'rollout.temperature' is 0; it must be above 0"),
    (dict(rollout=dict(microbatch="1")), "'rollout.microbatch' is '1'; it must be a whole number or None"),
    (dict(rollout=dict(microbatch=0)), "'rollout.microbatch' is 0; it must be 1 or more"),
    (dict(adapters=dict(rank=[4, 8])), r"'adapters.rank' is \(4, 8\); it must be a whole number"),
    (dict(optimizer=dict(clip=-1)), "'optimizer.clip' is -1; it must be above 0"),
    (dict(optimizer=dict(b2=1)), "'optimizer.b2' is 1; it must be 0 or more and below 1"),
    (dict(objective=dict(kl_penalty=-0.1)), "'objective.kl_penalty' is -0.1; it must be 0 or more"),
    (dict(graph=dict(topology=421)), "'graph.topology' is 421; it must be a text"),
    (dict(rollout=dict(group=0)), "'rollout.group' is 0; it must be 1 or more"),
    (dict(training=dict(steps=0)), "'training.steps' is 0"),
    (dict(families=dict(listops=dict(steps=0))), "'families.listops.steps' is 0"),
    (dict(families=dict(listops=dict(steps=5, adapters="runs/one"))),
     "'families.listops.steps' is 5 and would not be used, since the adapters come from 'runs/one'"),
    (dict(rollout=dict(too_long="cut")), "'rollout.too_long' is 'cut'; allowed are error, skip"),
    (dict(learning_rate=0.01), "'learning_rate' is 0.01; it must be a dict from names to finite numbers, such as dict.default="),
    (dict(learning_rate=dict(default=-1.0)), "'learning_rate.default' is -1.0; it must be above 0"),
    (dict(sweep=dict(learning_rates=(0.0,))), "'sweep.learning_rates' is 0.0; it must be above 0"),
    (dict(seeds=()), "'seeds' is .*one or more different seeds"),
    (dict(seeds=(1, 1)), "'seeds' is .*different seeds"),
    (dict(sweep=dict(learning_rates=(1e-3,), seed=0)), "'sweep.seed' is 0, which is also reported"),
    (dict(families={}), "name at least one family"),
    (dict(families={"../x": dict(task="listops")}), "'families' has the key '../x', which names folders and pictures"),
    (dict(seeds=(2**32,)), "'seeds' holds 4294967296; a seed is 0 or more and below"),
    (dict(sweep=dict(learning_rates=(1e-3, 1e-3))), "'sweep.learning_rates' is .*give each rate once"),
    (dict(order=("boolean",)), "config.order is .*name each of the families listops once"),
    (dict(families=dict(listops=dict(stages=(dict(steps=0),)))), "'families.listops.stages.0.steps' is 0; it must be 1 or more"),
    (dict(families=dict(listops=dict(stages=(dict(topolgy="2-1"),)))),
     "unknown config key 'families.listops.stages.0.topolgy'.*did you mean 'topology'"),
    (dict(families=dict(listops=dict(stages=(dict(steps=1, growth=dict(hold=1)),)))),
     "'families.listops.stages.0.growth' would not be used, since the first stage starts from nothing"),
    (dict(families=dict(listops=dict(stages=(dict(steps=1, growth=dict(new="grow")),)))),
     "growth.new is 'grow'; allowed are zero_b"),
    (dict(families=dict(listops=dict(steps=3, stages=(dict(steps=1),)))),
     "is 3 and would not be used, since the stages have 1 steps"),
    (dict(families=dict(listops=dict(stages=(dict(steps=1, stall=2),)))), "stages.0.stall' is 2 and would not be used"),
    (dict(training=dict(evaluate_every=10, influence_every=15)), "influence_every' is 15; it must be a multiple"),
    (dict(objective=dict(floor_nodes=(1,))), "'objective.floor_nodes' is .* and would not be used"),
    (dict(prompt=dict(tag="<node> {role}")),
     "config key 'prompt.tag' is '<node> {role}' with the placeholder {role}; allowed here: {layer}, {height}, {index}"),
    (dict(prompt=dict(note="<note> {")), "config key 'prompt.note' is '<note> {' .*write a brace that stands for itself twice"),
    (dict(families=dict(arithmetic=dict(options=dict(far="high")))),
     "config key 'families.arithmetic.options.far' is 'high'; it must"),
    (dict(families=dict(listops=dict(buckets=(8, 4)))), "'families.listops.buckets' is .*increasing"),
])
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        parse({**small(), **changes})


@pytest.mark.parametrize("changes, message", [
    (dict(optimizer=dict(learning_rate=1e-3)),
     "'optimizer.learning_rate' is 0.001 and would not be used; set config.learning_rate"),
    (dict(optimizer=dict(rate=1e-3)), "unknown config key 'optimizer.rate'; allowed here are clip, b1, b2, eps"),
    (dict(prompt=dict(tokens_per_fact=2)), "'prompt.tokens_per_fact' is 2 .* set families.<name>.tokens_per_fact instead"),
    (dict(learning_rate=dict(grpah=1e-3)),
     "'learning_rate.grpah' is 0.001 and would not be used.*allowed are default, graph, .*; did you mean 'graph'"),
    (dict(methods=("graph", "graph_blanked"), learning_rate=dict(graph_blanked=1e-3)),
     "'learning_rate.graph_blanked' is 0.001 and would not be used, since no such method is trained"),
    (dict(learning_rate=dict(default=1e-3), sweep=dict(learning_rates=(1e-3,))),
     "config.learning_rate is .*0.001.* beside config.sweep.learning_rates .*drop one of them"),
    (dict(families=dict(listops=dict(adapters="runs/one")), training=dict(steps=5)),
     "config.training is .*5.* would not be used, since every family names a folder of trained adapters"),
    (dict(sweep=dict(steps=5)), "config.sweep sets steps and no learning_rates, so nothing would be swept"),
])
def test_keys_that_would_not_be_used_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        parse({**small(), **changes})


def test_a_tuple_that_a_flag_brings_as_text_is_read():
    """A flag has the type of the value that it replaces: `--config.graph.slots=(0,0,1)` over "per_node" comes as text."""
    found = parse({**small(), "graph": dict(slots="(0,0,1)", topology="2-1", reads="((), (0,))")}).graph
    assert found.slots == (0, 0, 1) and found.reads == ((), (0,))
    with pytest.raises(ValueError, match="'seeds' is '.0,'; it must be a tuple"):
        parse({**small(), "seeds": "(0,"})


def test_there_are_configs():
    assert {"quickstart", "reference"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_parses_and_all_its_cells_are_built(name, tmp_path):
    """As it stands: its data, backbone and published adapters are there and fit each other."""
    config = parse(load(name))
    check(config, tmp_path)
    for family in config.families:
        for method in config.methods:
            assert make_run(config, family, method).trainable_parameters > 0


@pytest.mark.parametrize("name, family", TRAINED)
def test_every_family_of_every_config_runs_a_step(name, family, tmp_path, monkeypatch):
    """The graph or all stages of its growth, one step each, few questions, and of one family its BBH file, whole; its
    own settings otherwise.

    Compiling is most of the time: all have the longest of the configs' buckets, so that families
    with like messages share programs (the test above looks at the buckets as they stand). Shallow rules see few questions.
    """
    monkeypatch.setattr(evaluation, "bar", functools.partial(evaluation.bar, count=40))
    values = load(name).to_dict()
    own = {"files": (), **values["families"][family]}
    own.update(buckets=(BUCKET,), files=own["files"] if family == "boolean" else (), steps=None)
    own["stages"] = tuple({**stage, "steps": 1} for stage in own.get("stages", ()))
    method, steps = ("grown", len(own["stages"])) if own["stages"] else ("graph", 1)
    values.pop("sweep", None)
    values.update(
        families={family: own}, order=(), methods=(method,), seeds=values.get("seeds", (0,))[:1], test_questions=2, workers=1,
        learning_rate=dict(default=2e-3), rollout={**values.get("rollout", {}), "questions": 2, "group": 2},
        training={**values["training"], "steps": 1, "validation_questions": 2},
    )
    config = parse(values)
    run.run_experiment(config, tmp_path)
    cell = tmp_path / "train" / family / f"{method}_seed{config.seeds[0]}"
    assert json.loads((cell / "done.json").read_text())["steps"] == steps and (cell / "adapters.safetensors").exists()
    records = {(record["set"], record["depth"]): record for record in map(json.loads, open(tmp_path / "results.jsonl"))}
    task = make_run(config, family, "graph").task
    assert records.keys() >= {*((family, depth) for depth in task.depths), (f"{family}_held_out", task.held_out_depth)}
    assert all(0 < record["n"] <= 2 for (asked, _), record in records.items() if not asked.startswith("bbh"))
    assert [records[f"bbh_{file}", None]["n"] for file in config.families[family].files] == [250] * (family == "boolean")
    assert all(0 <= record["accuracy"] <= 1 and record["tokens"] > 0 for record in records.values())


SHARED = """
import ml_collections

def get_config():
    config = ml_collections.ConfigDict()
    config.families = dict(listops=dict(options=dict(depths=(2,), held_out_depth=3), buckets=(24,)))
    config.methods = ("single_equal_parameters",)
    config.graph = dict(topology="1")
    config.rollout = dict(questions=2, group=2)
    config.sweep = dict(learning_rates=(1e-3, 4e-3), seed=100, steps=1)
    config.training = dict(steps=2, validation_questions=2)
    config.test_questions = 2
    config.workers = 2
    return config
"""


def test_two_processes_share_a_sweep_and_a_training(tmp_path):
    """Through the command line. The shell still holds the cores of another run, on a machine with more of them."""
    experiment, workdir = tmp_path / "experiment.py", tmp_path / "work"
    experiment.write_text(SHARED)
    ended = subprocess.run(
        [sys.executable, "-m", "neuromas_jax.main", f"--config={experiment}", f"--workdir={workdir}",
         "--compilation_cache=~/.cache/neuromas_jax/tests"],
        cwd=CONFIGS.parent, capture_output=True, text=True, timeout=600,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg", "NEUROMAS_CORES": "4095"})
    log = workdir / "worker1.log"
    assert ended.returncode == 0, ended.stderr[-3000:] + (log.read_text()[-3000:] if log.exists() else "")
    assert log.exists() and "Traceback" not in log.read_text() and "listops, depth 2" in ended.stdout
    tried = [json.loads(path.read_text()) for path in sorted(workdir.glob("sweep/listops/*/done.json"))]
    assert {done["learning_rate"] for done in tried} == {1e-3, 4e-3} and {done["steps"] for done in tried} == {1}
    best = max(tried, key=lambda done: (done["validation"], -done["learning_rate"]))
    trained = json.loads((workdir / "train/listops/single_equal_parameters_seed0/done.json").read_text())
    assert trained["learning_rate"] == best["learning_rate"] and trained["steps"] == 2
    records = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert [record["set"] for record in records] == ["listops", "listops_held_out"]
    assert {record["learning_rate"] for record in records} == {best["learning_rate"]}


@pytest.fixture
def pinned(monkeypatch):
    """A machine with cores 0, 2 and 5, in a shell that holds those of another run; what the process was pinned to, in order."""
    calls = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: calls.append(set(cores)), raising=False)
    monkeypatch.setenv(run.CORES, "7 8")
    return calls


def test_only_a_started_worker_reads_the_cores_from_its_environment(pinned):
    config = parse(small(workers=2))
    assert command.share_machine(config, 0) == (config, [0, 2, 5]) and pinned == [{0}]
    assert command.share_machine(config, 1) == (config, [7, 8]) and pinned == [{0}, {8}]
    alone = parse(small())
    assert command.share_machine(alone, 0) == (alone, []) and len(pinned) == 2


def test_an_accelerator_is_left_to_one_process_with_all_cores(pinned, monkeypatch):
    said = []
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(command.logging, "warning", lambda text, *values: said.append(text % values))
    config, cores = command.share_machine(parse(small(workers=2)), 0)
    assert config == parse(small(workers=1)) and cores == [] and pinned[-1] == {0, 2, 5}
    assert len(said) == 1 and "workers is 2 and the backend is tpu: this one process does all the work" in said[0]


def test_the_table_is_printed_before_a_failed_worker_is_reported(tmp_path, monkeypatch, capsys):
    class Killed:
        def __init__(self, flags, env, **_):
            started.append((flags[-1], env[run.CORES]))

        def wait(self):
            return -9

    started = []
    monkeypatch.setattr(run.subprocess, "Popen", Killed)
    monkeypatch.setattr(run, "run_experiment", lambda *_: None)
    monkeypatch.setattr(run, "report", lambda *_: "the table")
    with pytest.raises(RuntimeError, match="worker 1 ended with -9, worker 2 ended with -9; see .*run the same command again"):
        run.run_workers(parse(small(workers=3)), tmp_path, [], [0, 2])
    assert capsys.readouterr().out == "the table\n"
    assert started == [("--worker=1", "0 2"), ("--worker=2", "0 2")] and run.CORES not in os.environ
