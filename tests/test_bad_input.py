"""Bad input, through the command line: exit code 2 and one line that names the value, what is allowed, and the next step.

All of it is found before any compile, and nothing that was saved is lost.
"""

import dataclasses
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
import numpy as np
import pytest

from neuromas_jax import main as command
from neuromas_jax.backbone import init_backbone
from neuromas_jax.backbone.huggingface import EMBEDDED
from neuromas_jax.config import parse
from neuromas_jax.experiments.run import identity
from neuromas_jax.train import checkpoint
from neuromas_jax.train import run as train_run
from neuromas_jax.train.batches import TooLong, next_batch
from neuromas_jax.train.loop import NonFinite, train
from neuromas_jax.train.run import Compiled, Parts, load_parts, make_run
from tests.tiny import tiny_config, tokenizer

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
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_: pytest.fail("bad input must be found before any compile"))

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
    ("--config.methods=('solo',)", "unknown method 'solo'; allowed are graph"),
    ("--config.rollout.group=1", "group is 1; set it to 2 or more"),
    ("--config.rollout.microbatch=3", "microbatch 3 does not divide a batch of"),
    ("--config.backbone=nowhere", "nowhere.*missing; a tokenizer folder holds"),
    ("--config.families.listops.task=sums", "unknown task 'sums'; allowed: listops"),
    ("--config.families.listops.buckets=(2,)",
     "question 0 has [0-9]+ tokens and the largest bucket is 2.*add a larger bucket, or set rollout.too_long='skip'"),
])
def test_bad_flags(run, flag, message):
    said = run(flag)
    assert re.search(message, said) and "Traceback" not in said, said


def test_it_is_an_ordinary_process_that_ends_with_2(tmp_path):
    """Once as the user runs it."""
    experiment = tmp_path / "experiment.py"
    experiment.write_text(EXPERIMENT)
    ended = subprocess.run(
        [sys.executable, "-m", "neuromas_jax.main", f"--config={experiment}", f"--workdir={tmp_path / 'work'}",
         "--config.graph.topology=2--1"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert ended.returncode == 2 and ended.stderr.strip().startswith("error: topology '2--1'") and "Traceback" not in ended.stderr


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
    mine = identity(make_run(parse(found["get_config"]()), "listops", "graph", 2e-3), 0)
    cell = tmp_path / "work" / "train" / "listops" / "graph_seed0"
    cell.mkdir(parents=True)
    (cell / "done.json").write_text(done.replace("%s", mine))
    assert re.search(f"graph_seed0 {message}", run(workdir=tmp_path / "work"))


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
    assert re.search("model.safetensors", run(f"--config.backbone={folder}"))
    weights.unlink()
    assert re.search("model.safetensors", run(f"--config.backbone={folder}"))
    weights.write_bytes(kept)
    tokens = folder / "tokenizer.json"
    text = tokens.read_text()
    tokens.write_text(text[:1000])
    assert re.search("tokenizer.json is not complete JSON .*copy the file again", run(f"--config.backbone={folder}"))
    definition = json.loads(text)
    definition["model"]["vocab"]["unheard"] = 9999
    tokens.write_text(json.dumps(definition))
    assert re.search("10000", run(f"--config.backbone={folder}"))  # more ids than embeddings


@pytest.fixture(scope="module")
def compiled():
    """A tiny run on one node, whose two programs are compiled once for the tests below."""
    config = parse(dict(
        families=dict(listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(5, 13))),
        graph=dict(topology="1"), rollout=dict(questions=2, group=2), test_questions=4,
        training=dict(steps=2, checkpoint_every=1, evaluate_every=100, validation_questions=2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_run, "load_parts", lambda *_: Parts(
            init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0)), tokenizer(), ""))
        return Compiled(make_run(config, "listops", "graph"))


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(compiled, tmp_path, monkeypatch):
    train(compiled, tmp_path, 0, 1)
    before = contents(tmp_path / "checkpoints")
    plain = compiled.rollout

    def poisoned(bank, *arguments, **options):
        episodes = plain(bank, *arguments, **options)
        return (dataclasses.replace(episodes[0], live=episodes[0].live),)

    monkeypatch.setattr(compiled, "rollout", poisoned)
    update = compiled.update

    def broken(state, episodes, rewards, bucket):
        bank = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.bank)
        return update(dataclasses.replace(state, bank=bank), episodes, rewards, bucket)

    monkeypatch.setattr(compiled, "update", broken)
    with pytest.raises(NonFinite, match=r"step 2: the loss of node 0 \(layer 1, slot 0\) is nan; "
                                        r"the last good checkpoint is kept: lower the learning rate"):
        train(compiled, tmp_path, 0, 2)
    assert contents(tmp_path / "checkpoints") == before and checkpoint.steps(tmp_path / "checkpoints") == [1]


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
        patch.setattr(jax.stages.Lowered, "compile", lambda *_: pytest.fail("it must be found before any compile"))
        with pytest.raises(checkpoint.CheckpointError,
                           match=f"step_000001 was made with another {name}: .*give another --workdir"):
            train(other, tmp_path, 0, 2)
        with pytest.raises(checkpoint.CheckpointError, match="another config.*'seed': 0.*'seed': 1"):
            train(compiled, tmp_path, 1, 2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_still_serves(compiled, tmp_path, damage):
    train(compiled, tmp_path, 0, 2)
    folder = tmp_path / "checkpoints" / "step_000002"
    for path in folder.rglob("*"):
        if path.is_file():
            if damage == "cut":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            else:
                path.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="step_000002 .*remove that folder to go on from an older one"):
        train(compiled, tmp_path, 0, 2)
    shutil.rmtree(folder)
    assert int(train(compiled, tmp_path, 0, 2).step) == 2


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
