"""A whole experiment, small and real: every method is trained and evaluated, and leaves every file and field that is promised."""

import json
import struct

import jax
import pytest
from tensorboardX.proto.event_pb2 import Event

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import parse
from neuromas_jax.experiments import run as experiment
from neuromas_jax.experiments.check import check
from neuromas_jax.methods import TRAINED
from neuromas_jax.train import run as train_run
from neuromas_jax.train.metrics import read_metrics
from neuromas_jax.train.run import Parts
from tests.tiny import PLAIN, tiny_config, tokenizer

FIELDS = {  # of results.jsonl, with the type of each
    "method": str, "topology": str, "set": str, "depth": (int, type(None)), "seed": int, "n": int, "accuracy": float,
    "low": float, "high": float, "chance": float, "majority": float, "shallow": float, "format_rate": float,
    "truncated": float, "top_answer_share": float, "calls": int, "rounds": int, "tokens": float,
    "trainable_parameters": int, "learning_rate": (float, type(None)),
}
PER_NODE = (
    "gradient_norm", "entropy", "message_tokens", "truncated", "format_rate", "top_message_share", "blanked_loss", "label")
CONFIG = parse(dict(
    families=dict(
        listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(16,)),
        boolean=dict(options=dict(depths=(7,), weights=(1.0,), held_out_depth=8), buckets=(16,), files=("boolean_expressions",))),
    order=("listops", "boolean"), methods=PLAIN, graph=dict(topology="2-1"), rollout=dict(questions=2, group=3),
    sweep=dict(learning_rates=(1e-3, 2e-3), seed=100, steps=1), test_questions=3,
    training=dict(steps=2, evaluate_every=1, checkpoint_every=2, validation_questions=2)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Workdir of the finished experiment, and what stood on the terminal."""
    parts = Parts(init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0)), tokenizer(), "random")
    workdir, patch = tmp_path_factory.mktemp("whole"), pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(train_run, "load_parts", lambda *_: parts)
        patched.setattr(train_run, "COMPILED", {})
        check(CONFIG, workdir)
        experiment.run_experiment(CONFIG, workdir)
        table = experiment.report(CONFIG, workdir)
    return workdir, table


def test_every_method_leaves_every_field(finished):
    workdir, table = finished
    records = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    sets = {("listops", 1), ("listops_held_out", 2), ("boolean", 7), ("boolean_held_out", 8), ("bbh_boolean_expressions", None)}
    assert {(one["method"], one["set"], one["depth"]) for one in records} == {(name, *one) for name in PLAIN for one in sets}
    assert len(records) == len(PLAIN) * len(sets)
    for record in records:
        for field, kind in FIELDS.items():
            assert isinstance(record[field], kind), (record["method"], field, record[field])
        assert 0 <= record["low"] <= record["accuracy"] <= record["high"] <= 1
        assert record["n"] == (250 if record["set"] == "bbh_boolean_expressions" else 3)
        trained = record["method"] != "graph_untrained"
        assert (record["learning_rate"] in (1e-3, 2e-3)) == trained == bool(record["trainable_parameters"])
    calls = {record["method"]: (record["calls"], record["rounds"]) for record in records}
    assert calls["graph"] == (3, 2) and calls["chain_equal_calls"] == (3, 3) and calls["single_equal_tokens"] == (1, 1)
    assert "BBH boolean_expressions" in table


def test_every_trained_method_leaves_its_numbers(finished):
    workdir, _ = finished
    for method in (name for name in TRAINED if name in PLAIN):
        folder = workdir / "train" / "listops" / f"{method}_seed0"
        records = read_metrics(folder)
        assert [record["step"] for record in records] == [1, 2]
        nodes = {"graph": 3, "graph_shared_adapter": 3, "chain_equal_calls": 3}.get(method, 1)
        for record in records:
            assert record["tokens_per_second"] > 0 and record["seconds"] >= 0 and record["compile_seconds"] >= 0
            assert 0 <= record["accuracy"] <= 1 and 0 <= record["reward"] <= 1
            assert all(len(record["nodes"][name]) == nodes for name in PER_NODE), method
        assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step_000002"}
        done = json.loads((folder / "done.json").read_text())
        assert done["steps"] == 2 and done["samples"] == 2 * 2 * 3 and done["run_seconds"] >= 0
        assert 0.01 < done["peak_memory_gib"] < 100
    compiled = [read_metrics(workdir / "train" / family / "graph_seed0")[-1]["compile_seconds"] for family in CONFIG.families]
    swept = read_metrics(workdir / "sweep" / "listops" / "graph_seed100_lr0.001")[-1]["compile_seconds"]
    assert swept > 0 and compiled == [0, 0]  # the first cell compiled what all others use


def events(folder):
    """The scalars of TensorBoard's files as (tag, step); records are length, checksum, bytes, checksum."""
    found = set()
    for path in folder.glob("events.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12: at + 12 + length])
            found |= {(value.tag, event.step) for value in event.summary.value}
            at += 16 + length
    return found


def test_tensorboard_has_every_number(finished):
    workdir, _ = finished
    found = events(workdir / "train" / "listops" / "graph_seed0" / "events")
    for tag in ("accuracy", "reward", "tokens_per_second", "nodes/entropy/0", "nodes/blanked_loss/1", "nodes/gradient_norm/2"):
        assert {(tag, 1), (tag, 2)} <= found, tag


def test_report_pictures_and_episodes(finished):
    workdir, _ = finished
    report = (workdir / "report.md").read_text()
    for family in CONFIG.families:
        for kind in ("results", "curves", "labels", "graph"):
            assert (workdir / f"{kind}_{family}.png").stat().st_size > 5000 and f"{kind}_{family}.png" in report
    assert "Partial" not in report and "| graph | 3 | 4 |" in report
    episodes = (workdir / "train" / "listops" / "graph_seed0" / "episodes.txt").read_text()
    for word in ("question: [", "node 0 (layer 1)", "node 2 (layer 2)", "answer: ", "gold", "reward", "advantage"):
        assert word in episodes, word
