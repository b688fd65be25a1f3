"""Runs an experiment: sweep, train, evaluate, report. Running the same command again goes on where it stopped."""

from collections.abc import Sequence
import os
from pathlib import Path
import subprocess
import sys

from neuromas_jax.analysis.report import write_report
from neuromas_jax.config import Config
from neuromas_jax.experiments.cells import sweep_cells, train_cells
from neuromas_jax.experiments.evaluation import evaluate_family, plan_evaluation
from neuromas_jax.experiments.training import work_through
from neuromas_jax.files import write_records
from neuromas_jax.train import preemption

CORES = "NEUROMAS_CORES"  # tells a worker that another process started which cores they share, "0 1 2"


def run_experiment(config: Config, workdir: Path, worker: int = 0) -> None:
    """Does all cells of all families, alone or beside other workers, family by family; the first worker writes the report."""
    for family in config.families:
        if not config.families[family].adapters:
            work_through([(cell, "sweep") for cell in sweep_cells(config, family)], config, workdir)
            work_through([(cell, "train") for cell in train_cells(config, workdir, family)], config, workdir)
        evaluate_family(config, workdir, family)
        if worker == 0:
            report(config, workdir)


def collect(config: Config, workdir: Path) -> list[dict]:
    """All records that hold so far, in the config's order; also writes `results.jsonl`."""
    records = []
    for family in config.families:
        for method in config.methods:
            for seed in config.seeds:
                plan = plan_evaluation(config, workdir, family, method, seed)
                records += [{name: value for name, value in one.items() if name != "correct"}
                            for one in (plan and plan.records()) or []]
    write_records(workdir / "results.jsonl", records)
    return records


def report(config: Config, workdir: Path) -> str:
    """Writes `results.jsonl`, `report.md` and plots from what is there; returns a short table."""
    return write_report(config, workdir, collect(config, workdir))


def run_workers(config: Config, workdir: Path, arguments: list[str], cores: Sequence[int] = ()) -> str:
    """Runs the experiment in `config.workers` processes: this one, and others started with the same flags.

    Args:
      config: the experiment.
      workdir: where everything is written.
      arguments: the flags of this process.
      cores: numbers of the cores that the processes share, one each in turn.

    Returns:
      The short table.

    Raises:
      RuntimeError: another worker failed; its log is named. The table of what is done is printed first.
    """
    environment = {**os.environ, CORES: " ".join(map(str, cores))}
    others = []
    preemption.listen(others)
    for number in range(1, config.workers):
        log = open(workdir / f"worker{number}.log", "a")
        others.append(subprocess.Popen(
            [sys.executable, "-m", "neuromas_jax.main", *arguments, f"--worker={number}"],
            stdout=log, stderr=subprocess.STDOUT, env=environment))
    try:
        run_experiment(config, workdir)
    finally:
        if sys.exc_info()[0]:
            for process in others:
                process.terminate()
        codes = [process.wait() for process in others]
    table = report(config, workdir)
    failed = [f"worker {number} ended with {code}" for number, code in enumerate(codes, 1) if code]
    if failed:
        print(table)
        raise RuntimeError(f"{', '.join(failed)}; see {workdir}/worker*.log, then run the same command again")
    return table
