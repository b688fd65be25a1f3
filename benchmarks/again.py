"""Published cells done again: `python -m benchmarks.again [--experiment=rivals] [--shard=0/2] [--workdir=runs/again]`.

Of each unit of an experiment of `configs/claims.py` (a family, a trained method and all that is judged with its adapters) the
first seed is trained and evaluated again, with the knobs that the published sweep chose, in a new folder and with a compilation
cache of its own; a shard keeps to one core. A line a unit goes to `results/again.jsonl`: seconds, and accuracies on all test
questions, published and now. Units that are in the file are not done again. Printed at the end: hours of one core for the whole
experiment, as if every trial of its sweeps and every seed took as long as that one.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
import time

ROOT = Path(__file__).parents[1]
RESULTS, PUBLISHED = ROOT / "results" / "again.jsonl", ROOT / "results" / "claims"


def again(unit, workdir: Path) -> dict:
    """Trains and evaluates the first seed of a unit, in this process."""
    from neuromas_jax.config import SweepConfig
    from neuromas_jax.experiments.cells import Cell, chosen_knobs, read_done, sweep_cells
    from neuromas_jax.experiments.run import run_experiment

    name, family, seed, published = unit.experiment, unit.family, unit.config.seeds[0], PUBLISHED / unit.experiment
    config = unit.config
    if unit.trained != "untrained":
        rate, floor = chosen_knobs(config, published, family, unit.trained)
        config = Cell(family, unit.trained, seed, rate, 0, floor).configured(config)
        config = dataclasses.replace(config, learning_rate=dict(config.learning_rate, **{unit.trained: rate}))
    config = dataclasses.replace(config, seeds=(seed,), sweep=SweepConfig())
    started = time.perf_counter()
    run_experiment(config, workdir / name, worker=1)
    seconds = time.perf_counter() - started

    def left(root: Path, stage: str, method: str) -> dict:
        return read_done(root / stage / family / f"{method}_seed{seed}") or {}

    right = {method: ["".join(one["correct"] for one in left(root, "evaluation", method)["records"])
                      for root in (published, workdir / name)] for method in config.methods}
    found = {"unit": str(unit), "seconds": round(seconds, 1), "train_seconds": 0.0, "compile_seconds": 0.0, "trials": 0,
             "seeds": len(unit.config.seeds), "same": all(before == now for before, now in right.values()),
             "accuracy": {method: [round(text.count("1") / len(text), 4) for text in both] for method, both in right.items()}}
    if unit.trained != "untrained":
        done = left(workdir / name, "train", unit.trained)
        found |= {"trials": len(sweep_cells(unit.config, family)), "train_seconds": done["seconds_of_last_process"],
                  "compile_seconds": done["compile_seconds"]}
    return found


def hours(one: dict) -> float:
    """Of the whole unit: it compiles once, trains a cell a trial and a seed, and evaluates every seed."""
    train = one["train_seconds"] - one["compile_seconds"]
    judge = one["seconds"] - one["train_seconds"]
    return (one["compile_seconds"] + train * (one["trials"] + one["seeds"]) + judge * one["seeds"]) / 3600


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--experiment", default="rivals")
    arguments.add_argument("--shard", default="0/1")
    arguments.add_argument("--workdir", default="runs/again", type=Path)
    given = arguments.parse_args()
    if hasattr(os, "sched_setaffinity"):  # a core a shard, before jax counts them
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(given.shard.partition("/")[0]) % len(cores)]})

    from configs.claims import get_config
    from neuromas_jax.command import use_compilation_cache
    from neuromas_jax.experiments.suite import parse_shard, parse_suite, units

    use_compilation_cache(str(given.workdir / "cache"))
    shard, found = parse_shard(given.shard), units(parse_suite(get_config()))
    mine = [one for one in found if one.experiment == given.experiment]
    for unit in mine[shard[0] :: shard[1]]:
        done = [json.loads(line)["unit"] for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
        if str(unit) not in done:
            with open(RESULTS, "a", encoding="utf-8") as file:
                file.write(json.dumps(found := again(unit, given.workdir)) + "\n")
            print(found, flush=True)
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    found = {one["unit"]: one for one in lines if one["unit"] in map(str, mine)}
    spent = sum(map(hours, found.values()))
    same = sum(one["same"] for one in found.values())
    apart = max((abs(before - now) for one in found.values() for before, now in one["accuracy"].values()), default=0.0)
    print(f"{given.experiment}: {len(found)} of {len(mine)} units, {same} with the published answers, accuracies at most "
          f"{100 * apart:.1f} points apart; {spent:.2f} hours of one core, {spent / 2:.2f} on two")


if __name__ == "__main__":
    main()
