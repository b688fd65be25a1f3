"""Runs an experiment on GPUs of a Slurm cluster, one process a GPU.

    python launch/slurm.py --name=mine --nodes=2 --gpus=8 --hours=24 --workdir=/shared/mine --config=configs/pod.py \
        [--partition=P] [--account=A] [--smoke] [--dry_run] [-- --config.training.steps=50 ...]

This folder and --workdir lie on a file system that all nodes share. The environment with jax[cuda13] is made before the job is
submitted. Five minutes before its time is over the job saves its step, and is queued again; so it is where a node failed.
"""

from collections.abc import Sequence
import os
import shlex
import subprocess
import sys

from absl import app, flags

import common
from common import NAME

NODES = flags.DEFINE_integer("nodes", 1, "Of the cluster.", lower_bound=1)
GPUS = flags.DEFINE_integer("gpus", 8, "Of each node.", lower_bound=1)
HOURS = flags.DEFINE_float("hours", 24.0, "After which the job is stopped, and queued again if it is not done.", lower_bound=0.25)
PARTITION = flags.DEFINE_string("partition", "", "Of the cluster; its own default otherwise.")
ACCOUNT = flags.DEFINE_string("account", "", "That pays; the user's default otherwise.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where results, checkpoints and the log go.", required=True)
RESTARTS = flags.DEFINE_integer("restarts", 100, "How often the job is queued again.")


def script(rest: Sequence[str]) -> str:
    """The job; where a process ended with an error it is not queued again, see `launch/slurm_task.sh`."""
    common.check_name()
    if not WORKDIR.value.startswith(("/", "~/")):
        raise ValueError(f"--workdir is {WORKDIR.value!r}; it must be a whole path on a file system of all nodes, such as "
                         "/shared/mine")
    workdir, python = os.path.expanduser(WORKDIR.value), os.environ.get("VENV", ".venv") + "/bin/python"
    minutes = round(HOURS.value * 60)
    options = [f"--job-name={NAME.value}", f"--nodes={NODES.value}", f"--ntasks-per-node={GPUS.value}",
               f"--gpus-per-node={GPUS.value}", f"--time={minutes}", "--requeue", "--signal=TERM@300", "--open-mode=append",
               f"--output={workdir}/slurm.log", *([f"--partition={PARTITION.value}"] if PARTITION.value else []),
               *([f"--account={ACCOUNT.value}"] if ACCOUNT.value else [])]
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH {shlex.quote(option)}" for option in options), "set -uo pipefail",
             f"cd {shlex.quote(os.getcwd())} || exit 2",
             f'export FAILED={shlex.quote(workdir)}/failed."$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}"',
             "status=0",
             "srun --kill-on-bad-exit=1 --wait=120 bash launch/slurm_task.sh "
             + shlex.join([python, *common.command(workdir, rest)]) + " || status=$?",
             'if { [ "$status" -eq 75 ] || [ "$status" -ge 128 ]; } && '
             f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {RESTARTS.value} ] && [ ! -e "$FAILED" ]; then',
             '  echo "ended with $status; queued again" >&2',
             '  scontrol requeue "$SLURM_JOB_ID"',
             "fi",
             'exit "$status"']
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    try:
        text = script(arguments[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    common.run([["bash", "-c", "source launch/environment.sh cuda"]])
    print(f"sbatch <<'JOB'\n{text}JOB")
    if not common.DRY.value:
        os.makedirs(os.path.expanduser(WORKDIR.value), exist_ok=True)
        sys.exit(subprocess.run(["sbatch"], input=text, text=True).returncode)


if __name__ == "__main__":
    app.run(main)
