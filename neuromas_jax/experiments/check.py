"""Finds bad input before anything is compiled or written."""

from collections.abc import Sequence
import itertools
from pathlib import Path

from absl import logging
import jax

from neuromas_jax.backbone.kernels import check_attention
from neuromas_jax.config import Config
from neuromas_jax.experiments.adapters import load_adapters
from neuromas_jax.experiments.cells import Cell, read_done, source_folder, sweep_cells, train_cells, trained_methods
from neuromas_jax.experiments.evaluation import evaluation_folder, evaluation_sets, judged_run
from neuromas_jax.experiments.training import finished
from neuromas_jax.methods import check_methods
from neuromas_jax.tasks import FileTask
from neuromas_jax.train import checkpoint
from neuromas_jax.train.batches import TooLong, distinct_questions, question_ids
from neuromas_jax.train.forced import check_forced
from neuromas_jax.train.loop import description
from neuromas_jax.train.run import Run, make_run
from neuromas_jax.train.stages import INHERITING, stage_runs

CHECKED_QUESTIONS = 200  # generated training questions of each depth whose length is known before the run starts


def check(config: Config, workdir: Path) -> None:
    """Finds bad input before anything is compiled or written.

    Raises:
      ValueError: with the value, the allowed ones and the next step.
    """
    check_methods(config.methods)
    if config.init_from and not set(config.methods) & set(INHERITING):
        raise ValueError(f"config.init_from is {config.init_from!r} and would not be used: none of the methods "
                         f"{', '.join(config.methods)} grows from a stored graph; add {' or '.join(INHERITING)}, or drop it")
    for family in config.families:
        runs = [make_run(config, family, method) for method in config.methods]
        check_attention(config.attention, runs[0].parts.backbone.config, jax.default_backend())
        for run in runs if config.adapters.start else runs[:1]:
            jax.eval_shape(run.new_bank, 0)  # names an unknown adapter site or a PEFT folder that does not fit, and draws nothing
        for run in runs:
            if run.family.forced_choice:
                check_forced(run.target, run.method, run.parts.tokenizer, f"families.{family}")
            if run.method.messages != "kept" and run.method.graph.rounds == 1:
                raise ValueError(f"method {run.method.name!r} changes messages between layers, and the graph {run.method.graph} "
                                 f"of family {family!r} has one layer; drop the method, or give a topology such as '2-1'")
            if run.method.messages == "shuffled" and config.rollout.questions < 2:
                raise ValueError(f"method {run.method.name!r} takes messages from another question of the batch, and "
                                 f"rollout.questions is {config.rollout.questions}; set it to 2 or more, or drop the method")
            if run.method.messages == "other_episode" and (config.rollout.group < 3 or run.family.forced_choice):
                why = (f"families.{family}.forced_choice samples none; drop the method" if run.family.forced_choice else
                       f"rollout.group is {config.rollout.group}; set it to 3 or more, or drop the method")
                raise ValueError(
                    f"method {run.method.name!r} takes messages from two or more other samples of a question, and {why}")
            if config.families[family].adapters and run.method.trained_as:
                for seed in config.seeds:
                    source = source_folder(config, workdir, run, family, seed)
                    load_adapters(source, judged_run(run, read_done(source)), seed)
        seeds = (*config.seeds, config.sweep.seed) if config.sweep.learning_rates else config.seeds
        stages = [run for method, seed in itertools.product(trained_methods(config, family), seeds)
                  for run in stage_runs(config, family, method, seed)[0]]
        check_questions(config, family, runs, stages)
        if not config.families[family].adapters:
            check_cells(config, workdir, family)
        for method, seed in itertools.product(config.methods, config.seeds):
            read_done(evaluation_folder(workdir, family, method, seed))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable{jax.process_index()}"
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
        run = make_run(cell.configured(config), cell.family, cell.method, cell.learning_rate)
        belongs = description(run, cell.seed)
        checkpoint.newest(folder, lambda step: checkpoint.check(folder, step, belongs, cell.steps))
    return done


def check_questions(config: Config, family: str, runs: list[Run], stages: Sequence[Run] = ()) -> None:
    """Looks at the questions that the family's runs will ask: all that are evaluated, and all of a file or a sample of those
    that training draws, in `stages` too.

    Raises:
      ValueError: a split is too small, or questions are longer than the largest bucket and `rollout.too_long` forbids it. With
        "skip" too, each set must hold one question that fits.
    """
    asked = {name if depth is None else f"{name} (depth {depth})": chosen.questions
             for (name, depth), chosen in evaluation_sets(config, family).items()}
    if not asked:
        raise ValueError(f"family {family!r} has no question in split test; give a larger file, or name BBH files in its `files`")
    if trained_methods(config, family) and not config.families[family].adapters:
        for run in {run.method.stages[0].options: run for run in (runs[0], *stages)}.values():
            options = "".join(f", {name}={value!r}" for name, value in run.method.stages[0].options)
            asked |= training_questions(config, f"{family}{options}", run.task)
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
