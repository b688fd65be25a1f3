"""What the launchers share: the command that each process runs, and running a list of commands or only printing it."""

from collections.abc import Sequence
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys

from absl import flags

os.chdir(Path(__file__).parents[1])  # of this checkout all launchers speak
NAME = flags.DEFINE_string("name", None, "Of the run, and of what it is called in the cloud or cluster.", required=True)
CONFIG = flags.DEFINE_string("config", "configs/quickstart.py", "The experiment, as for neuromas_jax.main.")
SMOKE = flags.DEFINE_bool("smoke", False, "Run the smoke job instead: versions, devices, mesh and 20 steps of training.")
CACHE = flags.DEFINE_string("compilation_cache", "", "Folder of compiled programs, gs:// too; on each host its own by default.")
DRY = flags.DEFINE_bool("dry_run", False, "Print what would be run, and run nothing.")


def command(workdir: str, rest: Sequence[str]) -> list[str]:
    """Arguments of Python for one process of the run; `rest` goes on to `neuromas_jax.main`, as --config.training.steps=50."""
    cache = [f"--compilation_cache={CACHE.value}"] if CACHE.value else []
    if SMOKE.value:
        if rest:
            raise ValueError(f"--smoke takes no other settings, and there is {rest[0]}; leave it out, or leave --smoke out")
        return ["-m", "neuromas_jax.smoke", f"--workdir={workdir}/smoke", *cache]
    return ["-m", "neuromas_jax.main", f"--config={CONFIG.value}", f"--workdir={workdir}", *cache, *rest]


def check_name() -> None:
    """Raises ValueError for a name that clouds and clusters refuse."""
    if not re.fullmatch("[a-z]([-a-z0-9]{0,38}[a-z0-9])?", NAME.value):
        raise ValueError(f"--name is {NAME.value!r}; it must be of small letters, digits and dashes, 40 at most, and begin with "
                         "a letter, such as mine-1")


def run(commands: Sequence[Sequence[str]]) -> None:
    """Prints commands as a shell reads them, and runs them unless it is a dry run. Where one fails the program ends likewise."""
    for one in commands:
        print(shlex.join(one), flush=True)
        if not DRY.value and (status := subprocess.run(one).returncode):
            print(f"error: this ended with status {status}: {shlex.join(one)}", file=sys.stderr)
            sys.exit(status)
