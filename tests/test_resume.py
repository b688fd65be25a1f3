"""Resume: n + n steps equal 2 n steps bit for bit, in a new process, also after `kill -9`."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from neuromas_jax.config import parse
from neuromas_jax.tasks import make_task
from neuromas_jax.train.loop import first_question, init_state
from neuromas_jax.train.run import make_run

ROOT = Path(__file__).parents[1]
STEPS = 6
EXPERIMENT = """
import ml_collections

def get_config():
    config = ml_collections.ConfigDict()
    config.families = dict(listops=dict(options=dict(depths=(2, 3), weights=(0.5, 0.5), held_out_depth=4), buckets=(48,)))
    config.methods = ("graph",)
    config.graph = dict(topology="2-1")
    config.rollout = dict(questions=8, group=8)  # so many that every step has a group that disagrees
    config.learning_rate = dict(default=2e-3)
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
    return folder / "train" / "listops" / "graph_seed0"


def finish(folder, experiment, *flags):
    """Runs to the end; the adapters of the one trained cell."""
    process = start(folder, experiment, *flags)
    code = process.wait(timeout=900)
    assert code == 0, folder.with_suffix(".log").read_text()[-3000:]
    return (cell(folder) / "adapters.safetensors").read_bytes()


def evaluated_adapters(folder):
    path = folder / "evaluation" / "listops" / "graph_seed0" / "done.json"
    return json.loads(path.read_text())["belongs"]["adapters"]


def records(folder):
    """What training measured, without what depends on the clock."""
    lines = [json.loads(line) for line in (cell(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name in ("step", "nodes", "accuracy")} for line in lines]


def questions(task, seed, count=40):
    return [task.generate("train", first_question(task, seed) + n).text for n in range(count)]


def test_seeds_ask_other_questions_and_a_seed_always_the_same():
    config = parse(dict(families=dict(strings={})))
    run = make_run(config, "strings", "graph")
    starts = [int(init_state(run, seed).cursor) for seed in (0, 1, 2, 100)]
    assert starts == [first_question(run.task, seed) for seed in (0, 1, 2, 100)] and starts[0] == 0
    assert questions(run.task, 1) == questions(run.task, 1)
    assert not set(questions(run.task, 1, 10)) & set(questions(run.task, 2, 10))
    steps = 1000 * config.training.steps * config.rollout.questions  # a run a thousand times longer stays within its own
    assert all(later - start > steps for start, later in zip(starts, starts[1:]))
    assert first_question(run.task, 2**31) + steps < 2**31  # numbers have 32 bits


def test_each_seed_goes_through_a_file_from_its_start_in_an_order_of_its_own(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": "1"}) + "\n" for n in range(50)))
    task = make_task("jsonl", path=path)
    rows = {question.text for question in task.questions("train")}
    orders = [questions(task, seed, len(rows)) for seed in (0, 1, 2, 100)]
    assert all(set(order) == rows for order in orders) and len(set(map(tuple, orders))) == 4
    assert questions(task, 1, len(rows)) == orders[1]


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


def test_a_run_that_is_told_to_end_saves_its_step_and_goes_on(world):
    """SIGTERM, as before a machine is taken away: a checkpoint that the config does not ask for, and the status to go on."""
    folder, experiment, whole = world
    process = start(folder / "told", experiment, "--config.training.checkpoint_every=1000")
    metrics, until = cell(folder / "told") / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.exists() and metrics.read_text()):  # the first step is done
        assert process.poll() is None and time.monotonic() < until, (folder / "told.log").read_text()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75 and "told to end, and saved step" in (folder / "told.log").read_text()
    (left,) = (cell(folder / "told") / "checkpoints").glob("step_*")
    assert 1 <= int(left.name[5:]) < STEPS
    assert finish(folder / "told", experiment) == whole and records(folder / "told") == records(folder / "whole")


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
