"""Kills a small run at random moments and starts it again each time: `python -m benchmarks.kills --kills=20 --seed=0`.

The run must end with the same bytes in its adapters as one that nobody disturbed, and with the same numbers in its metrics but
for times and for sums since the last record, which a run that goes on begins anew; raises AssertionError where it does not.
"""

import argparse
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax

# The smoke job's, as a config file; flags say more.
CONFIG = """
import ml_collections
from neuromas_jax.smoke import CONFIG

def get_config():
    return ml_collections.ConfigDict(CONFIG)
"""


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
    mine, wanted = (folder / one / "train" / "listops" / "graph_seed0" for one in (name, "whole"))
    assert (mine / "adapters.safetensors").read_bytes() == (wanted / "adapters.safetensors").read_bytes(), f"{name}: adapters"
    ours, theirs = ([json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()] for one in (mine, wanted))
    assert [record["step"] for record in ours] == [record["step"] for record in theirs], f"{name}: steps of the records"
    for one, other in zip(ours, theirs):
        differing = [field for field in other if field not in LEFT_OUT and one.get(field) != other[field]]
        assert not differing, f"{name}, step {one['step']}: {differing}"


def finish(folder: Path, name: str, steps: int) -> tuple[float, float]:
    """Seconds until the folder of checkpoints is there, and after it."""
    started, process, first = time.monotonic(), start(folder, name, steps), 0.0
    checkpoints = folder / name / "train" / "listops" / "graph_seed0" / "checkpoints"
    while process.poll() is None:
        first = first or (time.monotonic() if checkpoints.exists() else None)
        time.sleep(0.05)
    if process.returncode:
        raise AssertionError((folder / f"{name}.log").read_text()[-2000:])
    return first - started, time.monotonic() - first


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--steps", type=int, default=400)
    given = arguments.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as text:
        folder, at = Path(text), []
        (folder / "config.py").write_text(CONFIG)
        finish(folder, "first", given.steps)  # fills the cache of compiled programs
        before, after = finish(folder, "whole", given.steps)
        checkpoints = folder / "killed" / "train" / "listops" / "graph_seed0" / "checkpoints"
        while len(at) < given.kills:
            process = start(folder, "killed", given.steps)
            try:
                process.wait(timeout=draw.uniform(0, before + 0.12 * after))
                raise AssertionError(f"the run ended after {len(at)} kills; give more --steps")
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            found = checkpoints.iterdir() if checkpoints.is_dir() else ()
            at.append(max((path.name for path in found if path.name[5:].isdigit()), default="none"))
        finish(folder, "killed", given.steps)
        for name in ("first", "killed"):
            check_same(folder, name)
    print(f"jax {jax.__version__}: a run of {given.steps} steps, {before:.0f} s until the first checkpoint and {after:.0f} s "
          f"after it; {given.kills} kills, newest checkpoints then: "
          + ", ".join(name.removeprefix("step_").lstrip("0") for name in at) + "; ended with the same adapters and metrics")


if __name__ == "__main__":
    main()
