"""Data sets of other people's making: their records as questions, and their splits kept apart."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
import re

from neuromas_jax.tasks import splits
from neuromas_jax.tasks.files import FILE_SPLITS, GIVEN, FileTask, as_question, chance_of, check_verifier
from neuromas_jax.tasks.splits import normalise, split_of
from neuromas_jax.tasks.types import Question
from neuromas_jax.tasks.verifiers import VERIFIERS


def check_known(verifier: str) -> None:
    """Raises ValueError for a verifier that there is not, or that cannot work here."""
    if verifier not in VERIFIERS:
        raise ValueError(f"unknown verifier {verifier!r}; allowed: {', '.join(VERIFIERS)}")
    check_verifier(verifier)


def records_task(
    name: str, records: Mapping[str, Iterable[dict]], verifier: str, question: str, answer: str, evaluation_only: bool
) -> FileTask:
    """Records of the splits train, validation and test as a task.

    The splits are taken as they are. Without a test split that of validation is the test, and where there is none of the two the
    rows are dealt by a hash of the question; without a validation split a tenth of the training rows serves. Training rows that
    are tested or validated on are left out.

    Args:
      records: split -> records, of plain Python types. Splits of other names are read with `evaluation_only` alone.
      verifier: of `verifiers.VERIFIERS`; the records of a choice also have `options`, see `files.jsonl`.
      question, answer: names of the fields; an answer is a text or a number.
      evaluation_only: all rows of all splits are in `test`.

    Raises:
      ValueError: a record of another form, one of a packaged BBH file to train on, or none at all.
    """
    found: dict[str, list] = {split: [] for split in FILE_SPLITS}
    for split, rows in records.items():
        if split not in FILE_SPLITS and not evaluation_only:
            continue
        for number, row in enumerate(rows):
            where = f"{name}, split {split}, record {number}"
            row |= {wanted: row[field] for field, wanted in ((question, "question"), (answer, "answer")) if field in row}
            if type(row.get("answer")) in (int, float):
                row["answer"] = str(row["answer"])
            optional = ("depth", *(field for field, needed, _ in GIVEN.get(verifier, ()) if not needed))
            row = {field: value for field, value in row.items()  # a record has all fields, an optional one may be empty
                   if not (field in optional and value in ("", None))}
            one = as_question(where, row, verifier)
            if not evaluation_only and splits.is_evaluation_row(one.text) and split != "test":
                raise ValueError(f"{where}: this question is a row of a packaged BBH file, which must not be trained on; set "
                                 "evaluation_only=True")
            found["test" if evaluation_only else split].append(one)
    if not any(found.values()):
        raise ValueError(f"{name} has none of the splits {', '.join(FILE_SPLITS)} (found: {', '.join(records) or 'none'}); set "
                         "evaluation_only=True to take all that it has")
    if not found["test"] and found["validation"]:
        found["test"], found["validation"] = found["validation"], []
    if not found["test"]:
        every = [one for rows in found.values() for one in rows]
        found = {split: [one for one in every if split_of(one.text) == split] for split in FILE_SPLITS}
    settle(found, {stem(one.text) for one in found["test"]})
    rows = {split: tuple(found[split]) for split in FILE_SPLITS}
    return FileTask(name, rows, evaluation_only or not rows["train"], verifier, chance_of(verifier, sum(rows.values(), ())))


def stem(text: str) -> str:
    """What two rows have in common that are the same question with other options, or statements about the same premises."""
    kept = [line for line in text.split("\n") if not re.match(r"[A-Z]\) |True, False or Unknown: ", line)]
    return normalise("\n".join(kept)).casefold()


def settle(rows: dict[str, list[Question]], tested: set[str]) -> None:
    """Gives a set its validation rows and their numbers, in place.

    Without validation rows a tenth of the training rows serves. Then what is tested is taken out of both, and out of training
    what is validated on: some sets repeat questions. `tested` has the stems of all test rows, of those that are not used too.
    """
    if rows["train"] and not rows["validation"]:
        rows["validation"] = [question for question in rows["train"] if split_of(stem(question.text)) == "validation"]
        rows["train"] = [question for question in rows["train"] if split_of(stem(question.text)) != "validation"]
    for split, others in (("validation", tested), ("train", tested | {stem(question.text) for question in rows["validation"]})):
        rows[split] = [question for question in rows[split] if stem(question.text) not in others]
    for split, kept in rows.items():
        rows[split] = [replace(question, index=index) for index, question in enumerate(kept)]
