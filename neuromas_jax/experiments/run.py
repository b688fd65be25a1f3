"""Runs an experiment: sweep, train, evaluate, report. Running the same command again goes on where it stopped."""

from collections.abc import Sequence
import dataclasses
import itertools
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import time
import zlib

from absl import logging
import jax

from neuromas_jax.analysis.report import write_report
from neuromas_jax.config import Config
from neuromas_jax.experiments.adapters import ADAPTERS, load_adapters, save_adapters, system_checksums
from neuromas_jax.experiments.cells import Cell, claim, read_done, sweep_cells, train_cells, trained_methods, write_done
from neuromas_jax.experiments.evaluation import evaluate_method, evaluation_sets
from neuromas_jax.files import write_records
from neuromas_jax.methods import check_methods, make_method
from neuromas_jax.tasks import FileTask
from neuromas_jax.train import checkpoint
from neuromas_jax.train.batches import TooLong, distinct_questions, question_ids
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.loop import NonFinite, description, train
from neuromas_jax.train.metrics import read_metrics
from neuromas_jax.train.run import Compiled, Run, make_run

CORES = "NEUROMAS_CORES"  # tells a worker that another process started which cores they share, "0 1 2"
COMPILED: dict[tuple, Compiled] = {}
CHECKED_QUESTIONS = 200  # generated training questions of each depth whose length is known before the run starts


def compiled_for(run: Run) -> Compiled:
    """Programs are shared by every family, seed and learning rate that has the same static parts and shapes."""
    constants = dataclasses.replace(run.optimizer, learning_rate=0.0)  # the rates are data, one per slot
    backbone, config = run.parts.backbone, run.config
    key = (run.program, run.objective, constants, backbone.config, backbone.remat,
           run.method.ranks, config.adapters.sites, config.rollout.questions)
    if key in COMPILED:
        shared = Compiled(run)
        shared.share(COMPILED[key])
        return shared
    return COMPILED.setdefault(key, Compiled(run))


def check(config: Config, workdir: Path) -> None:
    """Finds bad input before anything is compiled or written.

    Raises:
      ValueError: with the value, the allowed ones and the next step.
    """
    check_methods(config.methods)
    for family in config.families:
        runs = [make_run(config, family, method) for method in config.methods]
        jax.eval_shape(runs[0].new_bank, 0)  # names an unknown adapter site, and draws nothing
        for run in runs:
            if run.method.messages != "kept" and run.method.graph.rounds == 1:
                raise ValueError(f"method {run.method.name!r} changes messages between layers, and the graph {run.method.graph} "
                                 f"of family {family!r} has one layer; drop the method, or give a topology such as '2-1'")
            if run.method.messages == "shuffled" and config.rollout.questions < 2:
                raise ValueError(f"method {run.method.name!r} takes messages from another question of the batch, and "
                                 f"rollout.questions is {config.rollout.questions}; set it to 2 or more, or drop the method")
            if config.families[family].adapters and run.method.trained_as:
                for seed in config.seeds:
                    load_adapters(source_folder(config, workdir, run, family, seed), run, seed)
        check_questions(config, family, runs)
        if not config.families[family].adapters:
            check_cells(config, workdir, family)
        for method, seed in itertools.product(config.methods, config.seeds):
            read_done(evaluation_folder(workdir, family, method, seed))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be written ({error}); give another --workdir") from error


def check_cells(config: Config, workdir: Path, family: str) -> None:
    """Raises ValueError where the folder of a cell holds what this run cannot go on from."""
    missing = {cell.method: cell for cell in sweep_cells(config, family) if not check_cell(cell, "sweep", config, workdir)}
    for method, cell in missing.items():
        trained = sorted(workdir.glob(f"train/{family}/{method}_seed*/done.json"))
        if trained:  # the sweep might choose another rate than theirs, hours later
            raise ValueError(f"the sweep of {family}/{method} has no finished trial at {cell.learning_rate:g} for {cell.steps} "
                             f"steps, and {trained[0].parent} was trained at the rate that an earlier sweep chose; "
                             "give another --workdir, or the sweep that was finished")
    if not missing:  # before that, the rate to train at is not known
        for cell in train_cells(config, workdir, family):
            check_cell(cell, "train", config, workdir)


def check_cell(cell: Cell, stage: str, config: Config, workdir: Path) -> bool:
    """Whether the cell is finished. Raises ValueError where its folder holds what this run cannot go on from."""
    folder = cell.folder(workdir, stage) / "checkpoints"
    done = finished(cell, stage, config, workdir)
    if not done and checkpoint.steps(folder):
        run = make_run(config, cell.family, cell.method, cell.learning_rate)
        checkpoint.newest(folder, description(run, cell.seed), cell.steps)
    return done


def check_questions(config: Config, family: str, runs: list[Run]) -> None:
    """Looks at the questions that the family's runs will ask: all that are evaluated, and all of a file or a sample of those
    that training draws.

    Raises:
      ValueError: a split is too small, or questions are longer than the largest bucket and `rollout.too_long` forbids it. With
        "skip" too, each set must hold one question that fits.
    """
    task = runs[0].task
    asked = {name if depth is None else f"{name} (depth {depth})": chosen.questions
             for (name, depth), chosen in evaluation_sets(config, family).items()}
    if not asked:
        raise ValueError(f"family {family!r} has no question in split test; give a larger file, or name BBH files in its `files`")
    if trained_methods(config, family) and not config.families[family].adapters:
        asked |= training_questions(config, family, task)
    for name, questions in asked.items():
        for run in {run.method.graph.layers[-1].message_tokens: run for run in runs}.values():
            check_answers(name, questions, run)
    graphs = {(run.method.graph.views(), run.method.graph.shares): run.method.graph for run in runs}.values()
    tokenizer, buckets = runs[0].parts.tokenizer, runs[0].family.buckets
    for name, questions in asked.items():
        for graph in graphs:  # one of each kind: questions are as long for all that see the same of them
            fitting = 0
            for question in questions:
                try:
                    question_ids(question, graph, tokenizer, buckets)
                    fitting += 1
                except TooLong:
                    if config.rollout.too_long == "error":
                        raise
            if not fitting:
                raise ValueError(f"none of the {len(questions)} questions of {name} fits the largest bucket, which is "
                                 f"{buckets[-1]}; add a larger bucket to families.{family}.buckets")


def check_answers(name: str, questions: list, run: Run) -> None:
    """Tells how many answers the readout's message is too short for. Raises ValueError if it is for all of them."""
    room, tokenizer = run.method.graph.layers[-1].message_tokens, run.parts.tokenizer
    lengths = [len(tokenizer.encode(f"answer {question.answer}")) for question in questions]
    over = sum(length > room for length in lengths)
    if over == len(questions):
        raise ValueError(f"every answer of {name} needs {min(lengths)} tokens or more, such as 'answer {questions[0].answer}', "
                         f"and the readout of {run.method.name!r} writes {room}; raise families.<name>.message_tokens")
    if over:
        logging.warning("%d of %d answers of %s do not fit the %d tokens that the readout of %s writes", over, len(questions),
                        name, room, run.method.name)


def training_questions(config: Config, family: str, task) -> dict[str, list]:
    """Training and validation questions by name of their set.

    Raises:
      ValueError: a file has too few of them.
    """
    batch = config.rollout.questions
    if isinstance(task, FileTask):
        train = list(task.questions("train"))
        if len(train) < batch:
            raise ValueError(f"family {family!r} has {len(train)} questions in split train, and rollout.questions is {batch}; "
                             "give a larger file, or set rollout.questions lower")
        if not task.questions("validation"):
            raise ValueError(f"family {family!r} has no question in split validation, which gets about a tenth of a file's "
                             f"questions, and {len(train)} in split train; give a larger file")
    else:
        train = [task.generate("train", index, depth) for depth in task.depths for index in range(CHECKED_QUESTIONS)]
    validation = distinct_questions(task, "validation", None, config.training.validation_questions)
    return {f"{family} train": train, f"{family} validation": validation}


def run_experiment(config: Config, workdir: Path, worker: int = 0) -> None:
    """Does all cells of all families, alone or beside other workers, family by family; the first worker writes the report."""
    for family in config.families:
        if not config.families[family].adapters:
            work_through([(cell, "sweep") for cell in sweep_cells(config, family)], config, workdir)
            work_through([(cell, "train") for cell in train_cells(config, workdir, family)], config, workdir)
        evaluate_family(config, workdir, family)
        if worker == 0:
            report(config, workdir)


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


def identity(run: Run, seed: int) -> str:
    """Checksum of all that training depends on but its length."""
    return f"{zlib.crc32(checkpoint.fingerprint(description(run, seed)).encode()):08x}"


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
    mine = identity(make_run(config, cell.family, cell.method, cell.learning_rate), cell.seed)
    if done.get("made_with") != mine:
        raise ValueError(f"{folder} was trained by another config or on another backbone "
                         f"(checksum {done.get('made_with')}, here {mine}); "
                         "give another --workdir, or the config and backbone that made it")
    if done["steps"] > cell.steps:
        raise ValueError(f"{folder} was trained for {done['steps']} steps, this config asks for {cell.steps}; "
                         "give another --workdir, or as many steps")
    if done["steps"] < cell.steps:
        return False
    return stage == "sweep" or (folder / ADAPTERS).exists() or evaluated(cell, config, workdir)


def evaluated(cell: Cell, config: Config, workdir: Path) -> bool:
    """Whether the records of every method that is judged with this trained cell's adapters are there and still hold."""
    family = config.families[cell.family]
    judged = [name for name in config.methods if make_method(name, config, family).trained_as == cell.method]
    return all(plan_evaluation(config, workdir, cell.family, name, cell.seed).records() is not None for name in judged)


def do_cell(cell: Cell, stage: str, config: Config, workdir: Path) -> None:
    """Trains one cell and leaves its adapters and validation accuracy; a trial of the sweep that diverges leaves the fact."""
    folder = cell.folder(workdir, stage)
    run = make_run(config, cell.family, cell.method, cell.learning_rate)
    compiled = compiled_for(run)
    title = f"{stage} {cell.family}/{cell.method} seed {cell.seed} lr {cell.learning_rate:g}"
    started = time.perf_counter()
    try:
        state = train(compiled, folder, cell.seed, cell.steps, title)
    except NonFinite as error:
        if stage != "sweep":
            raise
        logging.warning("%s: %s; this rate counts as the worst", title, error)
        write_done(folder, {"validation": 0.0, "diverged": str(error), "learning_rate": cell.learning_rate, "steps": cell.steps,
                            "seed": cell.seed, "made_with": identity(run, cell.seed)})
        return
    validation = distinct_questions(run.task, "validation", None, config.training.validation_questions)
    accuracy = evaluate(compiled, state.learner.bank, validation, jax.random.key(cell.seed)).accuracy
    records = read_metrics(folder)
    write_done(folder, {
        "validation": accuracy, "learning_rate": cell.learning_rate, "steps": cell.steps, "seed": cell.seed,
        "seconds_of_last_process": round(time.perf_counter() - started, 1),
        "run_seconds": round(sum(record["seconds"] for record in records), 1),  # of rollouts and updates
        "compile_seconds": round(sum(compiled.compile_seconds.values()), 1), "peak_memory_gib": peak_memory(),
        "samples": cell.steps * config.rollout.questions * config.rollout.group,
        "adapters": save_adapters(folder / ADAPTERS, state.learner.bank),
        "backbone": run.parts.fingerprint, "system": system_checksums(run), "made_with": identity(run, cell.seed),
    })
    logging.info("%s: validation %.3f", title, accuracy)


def peak_memory() -> float:
    """The most memory that this process has held so far, in GiB; on the host, as the system counts it."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def source_folder(config: Config, workdir: Path, run: Run, family: str, seed: int) -> Path:
    """Where a method's trained adapters lie: in the folder that the config names, or where this experiment trains."""
    stored = config.families[family].adapters
    return (Path(stored) if stored else workdir / "train" / family) / f"{run.method.trained_as}_seed{seed}"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One method and seed on all sets of a family.

    Attributes:
      folder: where its records lie.
      source: the cell whose adapters are judged; None for the untrained graph.
      belongs: what the records belong to; they are made again when it changes, as when training went on.
    """

    run: Run
    folder: Path
    source: Path | None
    learning_rate: float | None
    belongs: dict

    def records(self) -> list[dict] | None:
        """What was found, if it still holds: also the number of calls, which votes take from the graph beside them."""
        done = read_done(self.folder)
        holds = done and done["belongs"] == self.belongs
        return done["records"] if holds and all(one["calls"] == self.run.method.calls for one in done["records"]) else None


def evaluation_folder(workdir: Path, family: str, method: str, seed: int) -> Path:
    return workdir / "evaluation" / family / f"{method}_seed{seed}"


def plan_evaluation(config: Config, workdir: Path, family: str, method: str, seed: int) -> Evaluation | None:
    """None while the adapters are not trained yet."""
    run, source, trained = make_run(config, family, method), None, {}
    if run.method.trained_as:
        source = source_folder(config, workdir, run, family, seed)
        trained = read_done(source)
        if trained is None:
            return None
    belongs = {"made_with": identity(run, seed), "adapters": trained.get("adapters"), "test_questions": config.test_questions,
               "files": list(config.families[family].files)}
    return Evaluation(run, evaluation_folder(workdir, family, method, seed), source,
                      trained.get("learning_rate"), belongs)


def evaluate_family(config: Config, workdir: Path, family: str) -> None:
    """Writes the records of every method and seed, unless they are there and still hold."""
    sets = evaluation_sets(config, family)
    for method in config.methods:
        for seed in config.seeds:
            plan = plan_evaluation(config, workdir, family, method, seed)
            with claim(plan.folder) as mine:
                if mine and plan.records() is None:
                    bank = load_adapters(plan.source, plan.run, seed) if plan.source else plan.run.new_bank(seed)
                    records = evaluate_method(compiled_for(plan.run), bank, sets, family, seed, plan.learning_rate)
                    write_done(plan.folder, {"belongs": plan.belongs, "records": records})


def collect(config: Config, workdir: Path) -> list[dict]:
    """All records that hold so far, in the config's order; also writes `results.jsonl`."""
    records = []
    for family in config.families:
        for method in config.methods:
            for seed in config.seeds:
                plan = plan_evaluation(config, workdir, family, method, seed)
                records += (plan and plan.records()) or []
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

    def stop(*_):
        for process in others:
            process.terminate()
        os._exit(143)  # at once, as they do: unwinding through what XLA compiles or runs has crashed

    signal.signal(signal.SIGTERM, stop)
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
