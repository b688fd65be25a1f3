"""Runs both sides of a comparison in turn, in one run, and prints what came out.

Each side is a process on one core with one thread. They take turns repetition by repetition, so that a busy machine slows both.
Before any timing, both compute the gradient of every node on the same episodes: if those differ, there is nothing to compare.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from benchmarks.scene import SIZES, Load, write_scene

ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


class Side:
    """A worker process; `ask` runs one of its commands and returns its JSON answer."""

    def __init__(self, module: str, folder: pathlib.Path):
        self.module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=pathlib.Path(__file__).parent.parent, env=os.environ | ONE_THREAD)
        self._answer("start")

    def ask(self, command: str) -> dict:
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: said below
        return self._answer(command)

    def _answer(self, command: str) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended with status {self.process.wait()} at {command!r}; "
                               "its own message stands above")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def sides(folder: pathlib.Path) -> Iterator[tuple[Side, Side]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for module in ("benchmarks.ours", "benchmarks.peer_torch"):
            opened.append(Side(module, folder))
            stack.callback(opened[-1].close)
        yield tuple(opened)


def median(answers: list[dict], field: str) -> float:
    return float(np.median([answer[field] for answer in answers]))


def check_same_work(ours: Side, peer: Side) -> None:
    """Both sides' gradient norms on the same episodes, in a first step against the plain peer, in a second against the tuned."""
    ours.ask("rollout")
    ours.ask("save_episodes")
    peer.ask("load_episodes")
    for command, near in (("update", 2e-3), ("update_tuned", 2e-2)):  # Adam's first step has rounded on its own on either side
        mine, theirs = ours.ask("update")["gradient_norms"], peer.ask(command)["gradient_norms"]
        if not np.allclose(mine, theirs, rtol=near):
            raise RuntimeError("the two sides do not do the same work: "
                               f"gradient norms per node are {mine} here and {theirs} by {command} in torch")
        print(f"  gradient norms per node agree within {np.abs(np.divide(mine, theirs) - 1).max():.1e} ({command})", flush=True)


def compare(
    name: str, commands: list[str], targets: dict[tuple[str, str], float], sizes: dict[str, int], load: Load = Load()
) -> list[dict]:
    """Times commands on both sides at every size.

    Args:
      name: for the heading.
      commands: of both workers, such as "rollout"; the later ones may use what the earlier ones left.
      targets: (command, size) -> least ratio wanted.
      sizes: size -> repetitions.

    Returns:
      One record per command and size, in this order: all sizes of the first command, then of the next.
    """
    records = {}
    print(f"{name}: graph {load.topology}, {load.questions} questions x {load.group} episodes, "
          f"question {load.question_tokens} tokens, message {load.message_tokens}, rank {load.rank}, "
          "float32, one thread each side", flush=True)
    for size, repeats in sizes.items():
        with tempfile.TemporaryDirectory() as name_of_folder:
            folder = pathlib.Path(name_of_folder)
            parameters = write_scene(folder, size, load)
            print(f"{size}: {parameters:,} parameters, {repeats} repetitions", flush=True)
            with sides(folder) as (ours, peer):
                check_same_work(ours, peer)
                peer.ask("rollout"), peer.ask("rollout_tuned")  # warm: with the check, both have run everything once
                for command in commands:
                    ours.ask(command), ours.ask(command)  # the state that an update returns may be laid out anew: one more trace
                    mine, theirs, tuned = [], [], []
                    for _ in range(repeats):
                        mine.append(ours.ask(command))
                        theirs.append(peer.ask(command))
                        tuned.append(peer.ask(f"{command}_tuned"))
                    records[command, size] = _record(command, size, parameters, mine, theirs, targets[command, size])
                    if command != "update":
                        records[command, size]["tokens_per_second"] = {
                            side: round(_tokens(load) / median(times, "wall"))
                            for side, times in (("ours", mine), ("peer", theirs))}
                    records[command, size] |= {"peer_tuned": round(median(tuned, "wall"), 4),
                                               "ratio_to_tuned": round(median(tuned, "wall") / median(mine, "wall"), 2)}
                    if command == "rollout":
                        records[command, size]["shares"] = {
                            "ours": _rounded(ours.ask("shares")["shares"]), "peer": _rounded(theirs[-1]["shares"])}
                    print(f"  {command}: {json.dumps(records[command, size])}", flush=True)
    return [records[command, size] for command in commands for size in sizes]


def _tokens(load: Load) -> int:
    return sum(map(int, load.topology.split("-"))) * load.questions * load.group * load.message_tokens


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, 3) for name, share in shares.items()}


def _record(command, size, parameters, mine, theirs, target) -> dict:
    wall, cpu = (median(mine, "wall"), median(theirs, "wall")), (median(mine, "cpu"), median(theirs, "cpu"))
    return {
        "name": f"{command}/{size}", "parameters": parameters,
        "ours": round(wall[0], 4), "peer": round(wall[1], 4), "unit": "wall seconds",
        "ratio": round(wall[1] / wall[0], 2), "target": target,
        "cpu_seconds": {"ours": round(cpu[0], 4), "peer": round(cpu[1], 4)},
        "cpu_ratio": round(cpu[1] / cpu[0], 2),
    }


def main(name: str, commands: list[str], targets: dict[tuple[str, str], float]) -> None:
    """Command line of a comparison. The records stand in the last lines, one JSON object each."""
    parser = argparse.ArgumentParser(description=name)
    parser.add_argument("--sizes", default="embedded,32M",
                        help=f"comma-separated, of {', '.join(SIZES)}; 120M with --questions=4 needs 19 GiB for both sides")
    parser.add_argument("--repeats", type=int, help="repetitions of each measurement; by default 7 embedded, 2 at 32M, 1 at 120M")
    parser.add_argument("--questions", type=int, default=Load().questions, help="questions of a repetition")
    options = parser.parse_args()
    chosen = options.sizes.split(",")
    for size in chosen:
        if size not in SIZES:
            parser.error(f"--sizes names {size!r}; allowed are {', '.join(SIZES)}")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be 1 or more")
    if options.questions < 1:
        parser.error(f"--questions is {options.questions}; it must be 1 or more")
    if any(importlib.util.find_spec(module) is None for module in ("torch", "transformers", "peft")):
        parser.error("the peer needs torch, transformers and peft: pip install -e '.[parity]'")
    repeats = {size: options.repeats or {"embedded": 7, "32M": 2, "120M": 1}[size] for size in chosen}
    records = compare(name, commands, targets, repeats, Load(questions=options.questions))
    for record in records:
        print(json.dumps(record), flush=True)
