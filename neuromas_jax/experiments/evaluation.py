"""Evaluation sets and the records of `results.jsonl`."""

import dataclasses
import functools
from pathlib import Path

import jax

from neuromas_jax.config import Config, training_steps
from neuromas_jax.experiments.adapters import load_adapters
from neuromas_jax.experiments.cells import Cell, claim, identity, read_done, source_folder, write_done
from neuromas_jax.graph import graph_of
from neuromas_jax.methods import make_method
from neuromas_jax.tasks import FileTask, Question, bbh_task, make_task
from neuromas_jax.tasks.shallow import bar, majority
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.run import Compiled, Run, compiled_for, make_run
from neuromas_jax.train.search import searched_run

SPENT = ("learning_rate", "entropy_floor", "samples", "generated_tokens", "flops")  # of a cell's done.json


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Questions with the scores that anything must beat.

    Attributes:
      name: set name in the records.
      task: whose verifier judges.
      questions: what is asked.
      depth: their depth; None where it varies.
    """

    name: str
    task: object
    questions: list[Question]
    depth: int | None

    @functools.cache
    def bars(self, asked: tuple[Question, ...]) -> dict:
        """Accuracy of a uniform guess, of the most frequent answer, and of the best shallow rule, with that rule's name.

        asked: the questions of the set that were asked. All that have the same share the work.
        """
        rule = bar(asked, self.task)
        return {"chance": self.task.chance, "majority": majority(asked).accuracy,
                "shallow": rule.accuracy, "shallow_rule": rule.rule}


def evaluation_sets(config: Config, family_name: str) -> dict[tuple, EvaluationSet]:
    """Test questions of every depth, the held-out depth, and the family's BBH files, each file whole."""
    family = config.families[family_name]
    return _sets(family_name, family.task, tuple(sorted(dict(family.options).items())), family.files, config.test_questions)


@functools.cache
def _sets(name: str, task_name: str, options: tuple, files: tuple, count: int) -> dict[tuple, EvaluationSet]:
    task = make_task(task_name, **dict(options))
    found = {}

    def add(set_name, judge, questions, depth):
        if questions:
            found[set_name, depth] = EvaluationSet(set_name, judge, questions, depth)

    if isinstance(task, FileTask):
        add(name, task, list(task.questions("test")), None)
    else:
        for depth in task.depths:
            add(name, task, distinct_questions(task, "test", depth, count), depth)
        add(f"{name}_held_out", task, distinct_questions(task, "held_out", task.held_out_depth, count), task.held_out_depth)
    for file in files:
        judge = bbh_task(file)
        add(f"bbh_{file}", judge, list(judge.questions("test")), None)
    return found


def evaluate_method(compiled: Compiled, bank, sets: dict, family: str, seed: int, spent: dict) -> list[dict]:
    """One record per evaluation set: see the fields in README.md; `spent` has those of `SPENT`.

    `correct` has a 1 for each question that was answered right, in the set's order; it stays out of `results.jsonl`.
    """
    method, records = compiled.run.method, []
    for chosen in sets.values():
        scores = evaluate(compiled, bank, chosen.questions, jax.random.fold_in(jax.random.key(seed), 3), task=chosen.task)
        low, high = scores.interval
        records.append({
            "method": method.name, "topology": str(method.graph), "family": family, "set": chosen.name, "depth": chosen.depth,
            "seed": seed, "n": scores.n, "correct": "".join("01"[right] for right in scores.correct),
            "accuracy": scores.accuracy, "low": low, "high": high, **chosen.bars(scores.asked),
            "format_rate": scores.format_rate, "truncated": scores.truncated,
            "top_answer_share": scores.top_answer_share, "too_long": scores.too_long,
            "calls": method.calls, "rounds": method.rounds, "tokens": scores.tokens,
            "trainable_parameters": compiled.run.trainable_parameters if method.trained_as else 0, **spent,
        })
    return records


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One method and seed on all sets of a family.

    Attributes:
      folder: where its records lie.
      source: the cell whose adapters are judged; None for the untrained graph.
      spent: what training it took, the fields of `SPENT`.
      belongs: what the records belong to; they are made again when it changes, as when training went on.
    """

    run: Run
    folder: Path
    source: Path | None
    spent: dict
    belongs: dict

    def records(self) -> list[dict] | None:
        """What was found, if it still holds: also the number of calls, which votes take from the graph beside them."""
        done = read_done(self.folder)
        holds = done and done["belongs"] == self.belongs
        return done["records"] if holds and all(one["calls"] == self.run.method.calls for one in done["records"]) else None


def evaluation_folder(workdir: Path, family: str, method: str, seed: int) -> Path:
    return workdir / "evaluation" / family / f"{method}_seed{seed}"


def judged_run(run: Run, trained: dict | None) -> Run:
    """The run that a trained cell is judged as: with the graph that its search found, or as it is."""
    return searched_run(run, graph_of(trained["graph"])) if trained and "graph" in trained else run


def plan_evaluation(config: Config, workdir: Path, family: str, method: str, seed: int) -> Evaluation | None:
    """None while the adapters are not trained yet, or not for as many steps as the config asks."""
    run, source, trained = make_run(config, family, method), None, {}
    if run.method.trained_as:
        source = source_folder(config, workdir, run, family, seed)
        trained = read_done(source)
        if trained is None or not config.families[family].adapters and (
                trained["steps"] != training_steps(config, config.families[family])):
            return None
        run = judged_run(run, trained)
    belongs = {"made_with": identity(config, family, method, seed), "adapters": trained.get("adapters"),
               "test_questions": config.test_questions, "files": list(config.families[family].files)}
    if config.families[family].forced_choice:
        belongs["forced_choice"] = True
    return Evaluation(run, evaluation_folder(workdir, family, method, seed), source,
                      {name: trained.get(name) for name in SPENT}, belongs)


def evaluated(cell: Cell, config: Config, workdir: Path) -> bool:
    """Whether the records of every method that is judged with this trained cell's adapters are there and still hold."""
    family = config.families[cell.family]
    judged = [name for name in config.methods if make_method(name, config, family).trained_as == cell.method]
    return all(plan_evaluation(config, workdir, cell.family, name, cell.seed).records() is not None for name in judged)


def evaluate_family(config: Config, workdir: Path, family: str) -> None:
    """Writes the records of every method and seed, unless they are there and still hold."""
    sets = evaluation_sets(config, family)
    for method in config.methods:
        for seed in config.seeds:
            plan = plan_evaluation(config, workdir, family, method, seed)
            with claim(plan.folder) as mine:
                if mine and plan.records() is None:
                    bank = load_adapters(plan.source, plan.run, seed) if plan.source else plan.run.new_bank(seed)
                    records = evaluate_method(compiled_for(plan.run), bank, sets, family, seed, plan.spent)
                    write_done(plan.folder, {"belongs": plan.belongs, "records": records})
