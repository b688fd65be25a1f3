"""Bad input, through the command line: exit code 2 and one line that names the value, what is allowed, and the next step.

All of it is found before any compile, and nothing that was saved is lost.
"""

from collections import Counter
import itertools
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

from absl import flags
import jax
import jax.numpy as jnp
import pytest

from neuromas_jax import command as command_line
from neuromas_jax import main as command
from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.config import parse
from neuromas_jax.experiments.cells import identity
from neuromas_jax.experiments.check import CHECKED_QUESTIONS, check_answers, training_questions
from neuromas_jax.tasks import Question, make_task
from neuromas_jax.tasks.splits import split_of
from neuromas_jax.train import checkpoint
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.loop import description
from neuromas_jax.train.run import load_parts, make_run
from tests.tiny import contents

ROOT = Path(__file__).parents[1]
EXPERIMENT = '''
import ml_collections

def get_config():
    config = ml_collections.ConfigDict()
    config.families = dict(listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(8, 16)))
    config.graph = dict(topology="2-1")
    config.rollout = dict(questions=2, group=2, microbatch=1)
    config.training = dict(steps=1, validation_questions=2)
    config.test_questions = 2
    return config
'''
JSONL = EXPERIMENT.replace(
    'options=dict(depths=(1,), weights=(1.0,), held_out_depth=2)', 'task="jsonl", options=dict(path="rows.jsonl")')


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(*flags)` runs the command in this process and returns what it said on its way out with code 2."""
    monkeypatch.setattr(sys, "argv", [])  # config_flags looks here for overrides
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_, **__: pytest.fail("found too late: it compiles"))

    def call(*changes, text=EXPERIMENT, workdir=tmp_path / "work"):
        experiment = tmp_path / "experiment.py"
        experiment.write_text(text)
        sys.argv = ["main", f"--config={experiment}", f"--workdir={workdir}", "--compilation_cache=", *changes]
        values = flags.FLAGS
        defined = set(values)
        values.unparse_flags()
        with pytest.raises(SystemExit) as stopped:
            command.main(command.parse_flags(sys.argv))
        for name in set(values) - defined:  # overrides define flags of their own
            delattr(values, name)
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip()

    return call


@pytest.mark.parametrize("flag, message", [
    ("--config.nope=1", "error: unknown config key 'nope'; allowed here are backbone"),
    ("--config.graph.topolgy=1", "unknown config key 'graph.topolgy'.*did you mean 'topology'"),
    ("--config.objective.credit=grpo", "the section \"'objective'\", which the config file does not set; set it there first"),
    ("--config.graph.topology=2--1", "topology '2--1' is not a graph.*such as '4-2-1'"),
    ("--config.graph.topology=0-1", "topology '0-1' is not a graph"),
    ("--config.graph.topology=1-x", "topology '1-x' is not a graph"),
    ("--config.graph.reads=((),(1,))", "layer 1 of 2-1 reads layer 1, itself or a later one; allowed are 0 to 0"),
    ("--config.graph.slots=(0,1)", "slot map has 2 entries; 2-1 has 3 nodes, so give 3 slot numbers"),
    ("--config.seeds=3", r"config key 'seeds' is 3; it must be a tuple of whole numbers, such as \(3,\)"),
    ("--config.methods=graph", r"config key 'methods' is 'graph'; it must be a tuple of texts, such as \('graph',\)"),
    ("--config.learning_rate=0.01", "config key 'learning_rate' is 0.01; it must be a dict from names"),
    ("--config.methods=('solo',)", "unknown method 'solo'; allowed are graph"),
    ("--config.rollout.group=1", "group is 1; set it to 2 or more"),
    ("--config.rollout.microbatch=3", "microbatch 3 does not divide a batch of"),
    ("--config.backbone=nowhere", "'nowhere' does not exist. Name a local folder"),
    ("--config.families.listops.task=sums", "unknown task 'sums'; allowed: listops"),
    ("--workdir=", "error: --workdir is empty; name a folder, such as runs/mine"),
    ("--workdir=gs://mine/runs/one", "--workdir is 'gs://mine/runs/one', which is no folder of a file system; mount it and name "
     "it there: gcsfuse --implicit-dirs --rename-dir-limit=[0-9]+ mine /mnt/mine, then --workdir=/mnt/mine/runs/one "),
    ("--workdir=s3://mine", "--workdir is 's3://mine', which is no folder .*: --workdir=/mnt/mine/ "),
    ("--config.families.listops.buckets=(2,)",
     "question 0 has [0-9]+ tokens and the largest bucket is 2.*add a larger bucket, or set rollout.too_long='skip'"),
])
def test_bad_flags(run, flag, message):
    said = run(flag)
    assert re.search(message, said) and "Traceback" not in said, said


def test_a_cache_in_a_bucket_needs_a_package(run, monkeypatch):
    settings, bucket = {}, "--compilation_cache=gs://b/xla"
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    assert "error: --compilation_cache is 'gs://b/xla', and the package gcsfs is not installed; pip install gcsfs" in run(bucket)
    assert not settings
    monkeypatch.setattr(command_line, "find_spec", lambda name: name == "gcsfs")
    assert "unknown config key 'nope'" in run(bucket, "--config.nope=1")
    assert settings["jax_compilation_cache_dir"] == "gs://b/xla"


def test_it_is_an_ordinary_process_that_ends_with_2(tmp_path):
    """Once as the user runs it."""
    experiment = tmp_path / "experiment.py"
    experiment.write_text(EXPERIMENT)
    ended = subprocess.run(
        [sys.executable, "-m", "neuromas_jax.main", f"--config={experiment}", f"--workdir={tmp_path / 'work'}",
         "--config.graph.topology=2--1"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert ended.returncode == 2 and ended.stderr.strip().startswith("error: topology '2--1'") and "Traceback" not in ended.stderr


def test_a_backend_that_cannot_start(tmp_path):
    experiment = tmp_path / "experiment.py"
    experiment.write_text(EXPERIMENT)
    ended = subprocess.run(
        [sys.executable, "-m", "neuromas_jax.main", f"--config={experiment}", f"--workdir={tmp_path / 'work'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "abacus"})
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert re.search("error: JAX cannot start its backend: .*abacus.*such as JAX_PLATFORMS=cpu", ended.stderr)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("rows, message", [
    (None, "no data file 'rows.jsonl'; give the path of an existing"),
    ("", "rows.jsonl has no questions; give one JSON object a line"),
    ('{"question": "1 + 1", "answer": "2"}\n{"question": "2 + 2", answer: 4}\n', "rows.jsonl, line 2: not valid JSON"),
    ('{"question": "1 + 1"}\n', "rows.jsonl, line 1: field 'answer' is missing"),
    ('{"question": "1 + 1", "answer": 2}\n', "rows.jsonl, line 1: field 'answer' is 2; it must be text"),
])
def test_bad_data_files(run, tmp_path, monkeypatch, rows, message):
    monkeypatch.chdir(tmp_path)
    if rows is not None:
        (tmp_path / "rows.jsonl").write_text(rows)
    assert re.search(message, run(text=JSONL))


def write_rows(path, **counts):
    """A JSONL file with so many short questions in each split, and a long one at the end of the split that `long` names."""
    rows, long = [], counts.pop("long", None)
    for split, count in counts.items():
        rows += itertools.islice((text for text in map(str, itertools.count()) if split_of(text) == split), count)
    texts = (f"{number}" + " [MAX" * 20 for number in itertools.count())
    rows += itertools.islice((text for text in texts if split_of(text) == long), long is not None)
    path.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in rows))


@pytest.mark.parametrize("counts, message", [
    (dict(train=1, validation=2, test=2),
     "family 'listops' has 1 questions in split train, and rollout.questions is 2; give a larger file, or set rollout.questions"),
    (dict(train=0, validation=2, test=2), "has 0 questions in split train"),
    (dict(train=5, validation=0, test=2), "family 'listops' has no question in split validation.* 5 in split train; give a"),
    (dict(train=5, validation=2, test=0), "family 'listops' has no question in split test; give a larger file"),
    (dict(train=5, validation=2, test=2, long="train"), "question 5 has .*the largest bucket is 16.*add a larger bucket"),
    (dict(train=5, validation=1, test=2, long="validation"), "question 1 has .*the largest bucket is 16.*add a larger bucket"),
    (dict(train=5, validation=2, test=2, long="test"), "question 2 has .*the largest bucket is 16.*add a larger bucket"),
])
def test_splits_that_are_too_small_or_hold_a_question_that_is_too_long(run, tmp_path, counts, message):
    write_rows(tmp_path / "rows.jsonl", **counts)
    assert re.search(message, run(text=JSONL.replace("rows.jsonl", str(tmp_path / "rows.jsonl"))))


def test_answers_that_no_readout_can_write_are_an_error_and_some_are_counted(run, tmp_path, caplog):
    rows = [{"question": text, "answer": "1 2"} for text in map(str, range(200))]
    text = JSONL.replace("rows.jsonl", str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert re.search("every answer of listops needs 3 tokens or more, such as 'answer 1 2', and the readout of 'graph' writes 2; "
                     "raise families.<name>.message_tokens", run(text=text))
    answers = [Question(text="", answer=answer, depth=0) for answer in ("1 2", "1", "1")]
    check_answers("mine", answers, make_run(parse(dict(families=dict(listops={}))), "listops", "graph"))
    assert "1 of 3 answers of mine do not fit the 2 tokens that the readout of graph writes" in caplog.text


def test_the_questions_looked_at_hold_many_of_every_depth():
    task = make_task("listops", depths=(1, 3), weights=(1.0, 0.001), held_out_depth=2)
    found = training_questions(parse(dict(families=dict(listops={}))), "listops", task)
    assert Counter(question.depth for question in found["listops train"]) == {1: CHECKED_QUESTIONS, 3: CHECKED_QUESTIONS}
    assert CHECKED_QUESTIONS >= 200 and found["listops validation"] == distinct_questions(task, "validation", None, 128)


@pytest.mark.parametrize("changes, message", [
    (("--config.rollout.too_long=skip", "--config.families.listops.buckets=(2,)"),
     "none of the 2 questions of listops .depth 1. fits the largest bucket, which is 2; "
     "add a larger bucket to families.listops.buckets"),
    (("--config.rollout.questions=1", "--config.methods=('graph','graph_shuffled')"),
     "method 'graph_shuffled' takes messages from another question of the batch, and rollout.questions is 1; set it to 2"),
    (("--config.rollout.group=2", "--config.methods=('graph','graph_other_episode')"),
     "'graph_other_episode' takes messages from two or more other samples of a question, and rollout.group is 2; set it to 3"),
    (("--config.graph.topology=1", "--config.methods=('graph','graph_blanked')"),
     "method 'graph_blanked' changes messages between layers, and the graph 1 of family 'listops' has one layer; drop the"),
    (("--config.adapters.sites=('q','sideways')",), "adapter site 'sideways'; allowed are q"),
])
def test_settings_that_do_not_go_together(run, changes, message):
    text = EXPERIMENT.replace("    return", "    config.adapters = dict(rank=2)\n    return")
    assert re.search(message, run(*changes, text=text))


def test_a_workdir_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("keep me")
    assert re.search("workdir .*file/work cannot be written .*give another --workdir", run(workdir=tmp_path / "file" / "work"))
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize("done, message", [
    ('{"made_with": "0badcafe", "steps": 1}',
     "was trained by another config or on another backbone .checksum 0badcafe, here .*give another --workdir"),
    ('{"made_with": "%s", "steps": 9}',
     "was trained for 9 steps, this config asks for 1; give another --workdir, or as many steps"),
])
def test_a_workdir_that_holds_what_another_config_trained(run, tmp_path, done, message):
    found = {}
    exec(EXPERIMENT, found)
    mine = identity(parse(found["get_config"]()), "listops", "graph", 0, 2e-3)
    cell = tmp_path / "work" / "train" / "listops" / "graph_seed0"
    cell.mkdir(parents=True)
    (cell / "done.json").write_text(done.replace("%s", mine))
    assert re.search(f"graph_seed0 {message}", run(workdir=tmp_path / "work"))


@pytest.mark.parametrize("stage, step, changes, message", [
    ("train", 1, dict(seed=7), "was made with another config: .*'seed': 7.*'seed': 0.*give another --workdir, or the config"),
    ("train", 1, dict(backbone="0badcafe"), "was made with another backbone: it has '0badcafe', this run has .*give another"),
    ("sweep", 1, dict(seed=7), "was made with another config: .*'seed': 7.*'seed': 100.*give another --workdir, or the config"),
    ("train", 9, {}, "was trained for 9 steps, this config asks for 1; give another --workdir, or as many steps"),
    ("train", 1, None, "is damaged .*no older one is whole; remove .*checkpoints to start again"),
])
def test_a_workdir_whose_unfinished_training_cannot_go_on(run, tmp_path, stage, step, changes, message):
    found, sweep = {}, "    config.sweep = dict(learning_rates=(2e-3,), steps=1)\n"
    text = EXPERIMENT.replace("    return", sweep + "    return") if stage == "sweep" else EXPERIMENT
    exec(text, found)
    seed = 100 if stage == "sweep" else 0
    mine = description(make_run(parse(found["get_config"]()), "listops", "graph", 2e-3), seed)
    folder = tmp_path / "work" / stage / "listops" / f"graph_seed{seed}{'_lr0.002' * (stage == 'sweep')}" / "checkpoints"
    if changes is None:
        (folder / f"step_{step:06d}").mkdir(parents=True)
    else:
        belongs = {**mine, **changes}
        if "seed" in changes:
            belongs = {**mine, "config": {**mine["config"], **changes}}
        checkpoint.save(folder, step, {"x": jnp.zeros(2)}, belongs)
    before = contents(folder)
    said = run(text=text)
    assert re.search(f"step_{step:06d} {message}", said), said
    assert contents(folder) == before


@pytest.mark.parametrize("done, message", [
    (None, "adapters .*graph_seed0/adapters.safetensors are missing; train them"),
    ('{"backbone": "0badcafe"}',
     "was trained on a backbone with checksum 0badcafe, this one's is [0-9a-f]{8}; give the backbone"),
    ('{"backbone": "%s", "adapters": "0badcafe"}',
     "adapters.safetensors is not the file that .*done.json tells of; copy both again"),
])
def test_published_adapters_that_do_not_fit(run, tmp_path, done, message):
    cell = tmp_path / "published" / "graph_seed0"
    cell.mkdir(parents=True)
    if done:
        (cell / "done.json").write_text(done.replace("%s", load_parts("embedded").fingerprint))
        (cell / "adapters.safetensors").write_bytes(b"half a file")
    text = EXPERIMENT.replace("buckets=(8, 16)", f'buckets=(8, 16), adapters="{tmp_path / "published"}"')
    text = text.replace("config.training = dict(steps=1, validation_questions=2)", "pass")
    assert re.search(message, run(text=text))


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded backbone that a test may break."""
    for path in EMBEDDED.iterdir():
        if path.suffix in (".json", ".safetensors"):
            shutil.copy(path, tmp_path / path.name)
    return tmp_path


def test_bad_backbone_folders(run, folder):
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[: len(kept) // 2])
    assert re.search(r"model.safetensors .* is no complete safetensors file: ", run(f"--config.backbone={folder}"))
    weights.unlink()
    assert re.search("holds neither model.safetensors nor model.safetensors.index.json. Copy the weights there",
                     run(f"--config.backbone={folder}"))
    weights.write_bytes(kept)
    tokens = folder / "tokenizer.json"
    text = tokens.read_text()
    tokens.write_text(text[:1000])
    assert re.search("tokenizer.json is no JSON: .* copy it again", run(f"--config.backbone={folder}"))
    definition = json.loads(text)
    definition["model"]["vocab"]["unheard"] = 9999
    tokens.write_text(json.dumps(definition))
    assert re.search("vocabulary mismatch: the tokenizer knows 10000 ids, the embedding has", run(f"--config.backbone={folder}"))
