"""The benchmarks run and do what they say; how fast is not a test's business."""

import importlib
import json
from pathlib import Path
import subprocess
import sys

import pytest

from benchmarks.compare import Side, _record, check_same_work, sides
from benchmarks.scene import Load, write_scene

SMALL = Load(topology="2-1", questions=2, group=2, question_tokens=8, message_tokens=3)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    write_scene(folder, "embedded", SMALL)
    return folder


def test_our_side_runs_every_command(folder):
    ours = Side("benchmarks.ours", folder)
    try:
        answers = {name: ours.ask(name) for name in ("rollout", "save_episodes", "update", "train_step", "shares")}
    finally:
        ours.close()
    assert all(answer["wall"] > 0 and answer["cpu"] > 0 for answer in answers.values())
    assert len(answers["update"]["gradient_norms"]) == 3 and all(norm > 0 for norm in answers["update"]["gradient_norms"])
    assert sum(answers["shares"]["shares"].values()) == pytest.approx(1)
    assert (folder / "episodes.npz").exists()


def test_both_sides_do_the_same_work(folder):
    """Live: gradient norms of every node, here and in `transformers` with `peft`, which reads every prompt whole or what a group
    shares once; its merged adapters come out again whole."""
    pytest.importorskip("torch"), pytest.importorskip("peft")
    with sides(folder) as (ours, peer):
        peer.ask("rollout_tuned")
        check_same_work(ours, peer)


def test_records_hold_what_they_must():
    mine, theirs = [{"wall": 1.0, "cpu": 0.5}] * 3, [{"wall": 4.0, "cpu": 3.0}] * 3
    record = _record("rollout", "embedded", 1000, mine, theirs, 10)
    assert {"name", "parameters", "ours", "peer", "unit", "ratio"} <= set(record) and json.dumps(record)
    assert (record["ratio"], record["cpu_ratio"], record["unit"]) == (4.0, 6.0, "wall seconds")


@pytest.mark.parametrize("name", ["rollout", "train_step", "compile_time", "vmapped"])
def test_commands_explain_themselves(name):
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--repeats" in done.stdout, done.stderr


@pytest.mark.parametrize("name, flag", [
    ("again", "--shard"), ("full_shape", "--workdir"), ("gold", "--sets"), ("kills", "--kills"), ("pods", "--chips"),
    ("scale", "--rollouts"), ("seeds", "--seeds"),
])
def test_help_measures_nothing(name, flag, monkeypatch, capsys):
    """In this process, as importing these neither pins it nor sets how jax runs."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it starts something"))
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{name}").main()
    assert ended.value.code in (0, None) and flag in capsys.readouterr().out
