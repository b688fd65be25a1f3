"""Trained cells: each is trained once, by whichever process takes it."""

import dataclasses
from pathlib import Path
import resource
import sys
import time

from absl import logging
import jax

from neuromas_jax.config import Config
from neuromas_jax.experiments.adapters import ADAPTERS, save_adapters, system_checksums
from neuromas_jax.experiments.cells import Cell, claim, identity, read_done, write_done
from neuromas_jax.experiments.evaluation import evaluated
from neuromas_jax.methods import make_method
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.loop import NonFinite, train
from neuromas_jax.train.metrics import read_metrics, whole
from neuromas_jax.train.run import compiled_for
from neuromas_jax.train.search import search
from neuromas_jax.train.stages import load_parent, stage_runs, train_stages


def work_through(cells: list[tuple[Cell, str]], config: Config, workdir: Path) -> None:
    """Does every cell that no other process is doing, and returns when all are done."""
    while True:
        waiting = [(cell, stage) for cell, stage in cells if not finished(cell, stage, config, workdir)]
        if not waiting:
            return
        worked = False
        for cell, stage in waiting:
            with claim(cell.folder(workdir, stage)) as mine:
                if mine and not finished(cell, stage, config, workdir):
                    do_cell(cell, stage, config, workdir)
                    worked = True
        if not worked:
            time.sleep(1.0)


def finished(cell: Cell, stage: str, config: Config, workdir: Path) -> bool:
    """Whether the cell was trained for as many steps as this config asks; a run may be made longer.

    A trained cell without adapters, as most of a published experiment are, is finished only while every evaluation of them
    holds: otherwise it is trained again, since nothing could be evaluated.

    Raises:
      ValueError: it was trained by another config or on another backbone, or for longer.
    """
    folder = cell.folder(workdir, stage)
    done = read_done(folder)
    if done is None:
        return False
    mine = identity(cell.configured(config), cell.family, cell.method, cell.seed, cell.learning_rate)
    if done.get("made_with") != mine:
        raise ValueError(f"{folder} was trained by another config or on another backbone "
                         f"(checksum {done.get('made_with')}, here {mine}); "
                         "give another --workdir, or the config and backbone that made it")
    if done["steps"] > cell.steps:
        raise ValueError(f"{folder} was trained for {done['steps']} steps, this config asks for {cell.steps}; "
                         "give another --workdir, or as many steps")
    if done["steps"] < cell.steps:
        if cell.method == "searched":
            raise ValueError(f"{folder} was searched in {done['steps']} steps, this config asks for {cell.steps}, and a search "
                             "divides its steps beforehand; give another --workdir, or as many steps")
        return False
    return stage == "sweep" or (folder / ADAPTERS).exists() or evaluated(cell, config, workdir)


def do_cell(cell: Cell, stage: str, config: Config, workdir: Path) -> None:
    """Trains one cell and leaves its adapters and validation accuracy; a trial of the sweep that diverges leaves the fact."""
    folder, config = cell.folder(workdir, stage), cell.configured(config)
    made_with = identity(config, cell.family, cell.method, cell.seed, cell.learning_rate)
    runs, stored = stage_runs(config, cell.family, cell.method, cell.seed, cell.learning_rate)
    compiled = [compiled_for(run) for run in runs]
    run, answering = runs[-1], compiled[-1]
    title = f"{stage} {cell.family}/{cell.method} seed {cell.seed} lr {cell.learning_rate:g}"
    started = time.perf_counter()
    try:
        found = {}
        if cell.method == "searched":
            state, answering, spent, decisions = search(run, folder, cell.seed, cell.steps, title, compiled_for)
            run, found = answering.run, {"search": decisions, "graph": dataclasses.asdict(answering.run.method.graph)["layers"]}
        elif len(runs) > 1 or stored:
            parent = load_parent(stored, runs[0], compiled_for) if stored else None
            planned = sum(stage.steps for stage in make_method(cell.method, config, config.families[cell.family]).stages)
            left_out = planned - sum(run.method.stages[0].steps for run in runs)  # the stored parent's share of the steps
            state, spent = train_stages(compiled, folder, cell.seed, cell.steps - left_out, title, parent)
        else:
            state, spent = train(answering, folder, cell.seed, cell.steps, title), None
    except NonFinite as error:
        if stage != "sweep":
            raise
        logging.warning("%s: %s; this rate counts as the worst", title, error)
        write_done(folder, {"validation": 0.0, "diverged": str(error), "learning_rate": cell.learning_rate, "steps": cell.steps,
                            "seed": cell.seed, "seconds_of_last_process": round(time.perf_counter() - started, 1),
                            "made_with": made_with})
        return
    validation = distinct_questions(run.target, "validation", None, config.training.validation_questions)
    accuracy = evaluate(answering, state.learner.bank, validation, jax.random.key(cell.seed)).accuracy
    records = read_metrics(folder)
    tokens = {name: round(sum(whole(records, name))) for name in ("read_tokens", "tokens")}
    write_done(folder, {
        "validation": accuracy, "learning_rate": cell.learning_rate, "entropy_floor": config.objective.entropy_floor,
        "steps": cell.steps, "seed": cell.seed,
        "seconds_of_last_process": round(time.perf_counter() - started, 1),
        "run_seconds": round(sum(record["seconds"] for record in records), 1),  # of rollouts and updates
        "compile_seconds": round(sum(sum(one.compile_seconds.values()) for one in compiled), 1), "peak_memory_gib": peak_memory(),
        "samples": spent.samples if spent else cell.steps * config.rollout.questions * config.rollout.group,
        "generated_tokens": tokens["tokens"], "read_tokens": tokens["read_tokens"],
        "flops": run.parts.backbone.config.training_flops(tokens["read_tokens"], tokens["tokens"]),
        **({"lineage": spent.lineage} if spent else {}), **found,
        "adapters": save_adapters(folder / ADAPTERS, state.learner.bank),
        "backbone": run.parts.fingerprint, "system": system_checksums(run), "made_with": made_with,
    })
    logging.info("%s: validation %.3f", title, accuracy)


def peak_memory() -> float:
    """The most memory that this process has held so far, in GiB; on the host, as the system counts it."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)
