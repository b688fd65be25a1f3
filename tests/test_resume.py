"""Claim 6: n + n steps equal 2 n steps bit for bit, in a new process, also after `kill -9`."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).parents[1]
STEPS = 6
EXPERIMENT = """
import ml_collections

def get_config():
    config = ml_collections.ConfigDict()
    config.families = dict(listops=dict(options=dict(depths=(2, 3), weights=(0.5, 0.5), held_out_depth=4), buckets=(48,)))
    config.methods = ("single_equal_parameters",)
    config.graph = dict(topology="1")
    config.rollout = dict(questions=4, group=4)
    config.learning_rate = dict(default=1e-2)
    config.training = dict(steps=6, evaluate_every=100, checkpoint_every=2, validation_questions=4)
    config.test_questions = 4
    return config
"""


def start(folder, experiment, *flags):
    log = open(folder.with_suffix(".log"), "a")
    return subprocess.Popen(
        [sys.executable, "-m", "neuromas_jax.main", f"--config={experiment}", f"--workdir={folder}",
         "--compilation_cache=~/.cache/neuromas_jax/tests", *flags],
        cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"})


def cell(folder):
    return folder / "train" / "listops" / "single_equal_parameters_seed0"


def finish(folder, experiment, *flags):
    """Runs to the end; the adapters of the one trained cell."""
    process = start(folder, experiment, *flags)
    code = process.wait(timeout=900)
    assert code == 0, folder.with_suffix(".log").read_text()[-3000:]
    return (cell(folder) / "adapters.safetensors").read_bytes()


def evaluated_adapters(folder):
    path = folder / "evaluation" / "listops" / "single_equal_parameters_seed0" / "done.json"
    return json.loads(path.read_text())["belongs"]["adapters"]


def records(folder):
    """What training measured, without what depends on the clock."""
    lines = [json.loads(line) for line in (cell(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name in ("step", "nodes", "accuracy")} for line in lines]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    experiment = folder / "experiment.py"
    experiment.write_text(EXPERIMENT)
    whole = finish(folder / "whole", experiment)
    moved = [line["nodes"]["informative_groups"] for line in records(folder / "whole")]
    assert any(moved), "nothing was learned: the comparisons below would hold for a run that trains nothing"
    return folder, experiment, whole


def test_a_killed_run_goes_on_bit_for_bit(world):
    folder, experiment, whole = world
    process = start(folder / "killed", experiment)
    checkpoints = cell(folder / "killed") / "checkpoints"
    until = time.monotonic() + 600
    while not (checkpoints / "step_000002").is_dir():
        assert process.poll() is None and time.monotonic() < until, (folder / "killed.log").read_text()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = sorted(path.name for path in checkpoints.glob("step_*") if path.name.count("_") == 1 and path.name[5:].isdigit())
    assert left and f"step_{STEPS:06d}" not in left, "the kill must come before the end"
    assert finish(folder / "killed", experiment) == whole
    assert records(folder / "killed") == records(folder / "whole")


def test_a_run_made_longer_equals_one_made_long_at_once(world):
    """n + n steps in two processes: half the steps, then all of them; what was evaluated at half is evaluated again."""
    folder, experiment, whole = world
    finish(folder / "halves", experiment, f"--config.training.steps={STEPS // 2}")
    half = (cell(folder / "halves") / "adapters.safetensors").read_bytes()
    assert half != whole and evaluated_adapters(folder / "halves") != evaluated_adapters(folder / "whole")
    assert finish(folder / "halves", experiment) == whole
    assert evaluated_adapters(folder / "halves") == evaluated_adapters(folder / "whole")
    assert (folder / "halves" / "results.jsonl").read_bytes() == (folder / "whole" / "results.jsonl").read_bytes()


def test_a_finished_run_is_not_done_again(world):
    folder, experiment, whole = world
    files = [path for stage in ("train", "evaluation") for path in (folder / "whole" / stage).rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in files if path.is_file() and path.name != "lock"}
    results = (folder / "whole" / "results.jsonl").read_bytes()
    assert finish(folder / "whole", experiment) == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (folder / "whole" / "results.jsonl").read_bytes() == results and results
