"""Kills a small run amid its steps and starts it again each time: `python -m benchmarks.kills --kills=20 --seed=0`.

Each `kill -9` comes at a random moment after the first new step of a start, so that kills are spread over the steps of the run
and over what a step does, the writing of its checkpoint among it. Appends a line per kill, and one with the verdict, to
`results/kills.jsonl`.

The run must end with the same bytes in its adapters as one that nobody disturbed, and with the same numbers in its metrics but
for times and for sums since the last record, which a run that goes on begins anew; raises AssertionError where it does not.
"""

import argparse
import json
import os
from pathlib import Path
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import jax

from neuromas_jax.train import checkpoint

# The smoke job's, as a config file; flags say more.
CONFIG = """
import ml_collections
from neuromas_jax.smoke import CONFIG

def get_config():
    return ml_collections.ConfigDict(CONFIG)
"""


def cell(folder: Path, name: str) -> Path:
    return folder / name / "train" / "listops" / "graph_seed0"


def start(folder: Path, name: str, steps: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "neuromas_jax.main", f"--config={folder}/config.py", f"--workdir={folder}/{name}",
               f"--compilation_cache={folder}/cache", f"--config.training.steps={steps}", "--config.training.checkpoint_every=1",
               "--config.test_questions=4"]
    with open(folder / f"{name}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


# What depends on the clock, and sums over the steps since the last record, which a run that goes on begins anew.
LEFT_OUT = ("seconds", "tokens_per_second", "compile_seconds", "reward", "tokens", "read_tokens", "steps", "skipped_questions")


def check_same(folder: Path, name: str) -> None:
    """Raises AssertionError, naming what differs, where a run's adapters or metrics are not those of the whole one."""
    mine, wanted = cell(folder, name), cell(folder, "whole")
    assert (mine / "adapters.safetensors").read_bytes() == (wanted / "adapters.safetensors").read_bytes(), f"{name}: adapters"
    ours, theirs = ([json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()] for one in (mine, wanted))
    assert [record["step"] for record in ours] == [record["step"] for record in theirs], f"{name}: steps of the records"
    for one, other in zip(ours, theirs):
        differing = [field for field in other if field not in LEFT_OUT and one.get(field) != other[field]]
        assert not differing, f"{name}, step {one['step']}: {differing}"


def finish(folder: Path, name: str, steps: int) -> float:
    """Runs to the end; seconds from the first new step to the last one."""
    process = start(folder, name, steps)
    first = after_a_step(process, folder, name)
    while process.poll() is None and checkpoint.steps(cell(folder, name) / "checkpoints")[-1] < steps:
        time.sleep(0.05)
    ended = time.monotonic()
    if process.wait():
        raise AssertionError((folder / f"{name}.log").read_text()[-2000:])
    return ended - first


def after_a_step(process: subprocess.Popen, folder: Path, name: str) -> float:
    """Waits until a process has saved a step of its own, told from those that it found by its time; when that was."""
    checkpoints, began = cell(folder, name) / "checkpoints", time.time()
    while process.poll() is None:
        for step in checkpoint.steps(checkpoints)[-1:]:
            try:
                if (checkpoints / f"step_{step:06d}").stat().st_mtime >= began:
                    return time.monotonic()
            except FileNotFoundError:
                pass  # its place was taken by a later one
        time.sleep(0.005)
    raise AssertionError(f"{name} ended before it had made a step: {(folder / f'{name}.log').read_text()[-2000:]}")


def kill(folder: Path, steps: int, delay: float) -> dict:
    """Starts the run, kills it `delay` seconds after its first new step, and says what is left."""
    checkpoints, log = cell(folder, "killed") / "checkpoints", folder / "killed.log"
    said = log.stat().st_size if log.exists() else 0
    process = start(folder, "killed", steps)
    after_a_step(process, folder, "killed")
    try:
        process.wait(timeout=delay)
        raise AssertionError("the run ended before it was killed; give more --steps, or fewer --kills")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    there = checkpoint.steps(checkpoints)
    return {"skipped_at_start": skipped(log, said), "delay_seconds": round(delay, 3), "in_step": there[-1] + 1,
            "checkpoints": there, "half_written": sorted(
                path.name for path in checkpoints.iterdir() if not re.fullmatch(r"step_\d{6,}", path.name))}


def skipped(log: Path, said: int) -> list[int]:
    """Steps of the checkpoints that a start found damaged, told by its log from byte `said` on."""
    return [int(step) for step in re.findall(r"step_(\d+)\b[^\n]* an older one is looked for", log.read_bytes()[said:].decode())]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--out", default="results/kills.jsonl")
    given = arguments.parse_args()
    draw, names = random.Random(given.seed), {"jax": jax.__version__, "seed": given.seed}

    def write(record: dict) -> None:
        with open(given.out, "a") as out:
            out.write(json.dumps({**names, **record}) + "\n")

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "config.py").write_text(CONFIG)
        finish(folder, "first", given.steps)  # fills the cache of compiled programs
        seconds = finish(folder, "whole", given.steps) / (given.steps - 1)
        most = seconds * given.steps / given.kills  # half of a share on average: a machine may be faster later
        for number in range(1, given.kills + 1):
            write({"kill": number, **kill(folder, given.steps, draw.uniform(0, most))})
        said = (folder / "killed.log").stat().st_size
        finish(folder, "killed", given.steps)
        verdict = {"kills": given.kills, "steps": given.steps, "seconds_a_step": round(seconds, 4),
                   "skipped_at_start": skipped(folder / "killed.log", said), "verdict": "the same bytes"}
        try:
            for name in ("first", "killed"):
                check_same(folder, name)
        except AssertionError as error:
            verdict["verdict"] = f"differs: {error}"
            raise
        finally:
            write(verdict)
            print(verdict)


if __name__ == "__main__":
    main()
