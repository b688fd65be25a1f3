"""Tasks from TensorFlow Datasets (extra `datasets`), read and written without TensorFlow.

    python -m neuromas_jax.tasks.tfds gsm8k --folder=data/gsm8k --data_dir=tfds     # a published set as a TFDS one

    config.families = dict(gsm8k=dict(task="tfds", options=dict(name="neuromas_gsm8k", data_dir="tfds", verifier="number"), ...))

Any data set that was prepared in the file format `array_record` will do whose records have a question and an answer.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np

from neuromas_jax.tasks import splits
from neuromas_jax.tasks.benchmarks import BENCHMARKS, benchmark, settle, stem
from neuromas_jax.tasks.files import FILE_SPLITS, GIVEN, FileTask, as_question, chance_of, check_verifier
from neuromas_jax.tasks.verifiers import VERIFIERS

PREFIX = "neuromas_"  # of sets that are written here, so that none passes for TFDS's own of that name


def tfds_task(
    name: str, data_dir=None, verifier: str = "exact", question: str = "question", answer: str = "answer",
    evaluation_only: bool = False,
) -> FileTask:
    """A prepared TFDS data set as a task.

    Its splits train, validation and test are taken as they are. Without a validation split a tenth of the training rows serves,
    without a test split the rows are dealt by a hash of the question; training rows that are tested or validated on are left out.

    Args:
      name: as `tfds.data_source` takes it: `name`, `name/config`, `name:1.0.0`.
      data_dir: where it was prepared; TFDS's own place by default.
      verifier: of `verifiers.VERIFIERS`; the records of a choice also have `options`, see `files.jsonl`.
      question, answer: names of the fields.
      evaluation_only: all rows of all splits are in `test`.

    Raises:
      ValueError: the library is missing; the set is not prepared, or in a format that needs TensorFlow; records of another form.
    """
    if verifier not in VERIFIERS:
        raise ValueError(f"unknown verifier {verifier!r}; allowed: {', '.join(VERIFIERS)}")
    check_verifier(verifier)
    found: dict[str, list] = {split: [] for split in FILE_SPLITS}
    for split, records in _sources(name, data_dir).items():
        if split not in FILE_SPLITS and not evaluation_only:
            continue
        # Records lie in an order that TFDS shuffled when it wrote them; their numbers give back that of the source.
        rows = sorted((_plain(record) for record in records), key=lambda row: row.get("number", 0))
        for number, row in enumerate(rows):
            where = f"{name}, split {split}, record {number}"
            for field, wanted in ((question, "question"), (answer, "answer")):
                if field in row:
                    row[wanted] = row[field]
            for field, needed, _ in GIVEN.get(verifier, ()):
                if not needed and row.get(field) == "":  # a record has all fields, an optional one may be empty
                    del row[field]
            one = as_question(where, row, verifier)
            if not evaluation_only and splits.is_evaluation_row(one.text) and split != "test":
                raise ValueError(f"{where}: this question is a row of a packaged BBH file, which must not be trained on; set "
                                 "evaluation_only=True")
            found["test" if evaluation_only else split].append(one)
    if not any(found.values()):
        raise ValueError(f"TFDS set {name!r} has none of the splits {', '.join(FILE_SPLITS)}; set evaluation_only=True to take "
                         "all that it has")
    if not evaluation_only and not found["test"]:
        every = [one for rows in found.values() for one in rows]
        found = {split: [one for one in every if splits.split_of(one.text) == split] for split in FILE_SPLITS}
    settle(found, {stem(one.text) for one in found["test"]})
    rows = {split: tuple(found[split]) for split in FILE_SPLITS}
    return FileTask(name, rows, evaluation_only or not rows["train"], verifier, chance_of(verifier, sum(rows.values(), ())))


def write_tfds(task: FileTask, data_dir, name: str | None = None) -> str:
    """Prepares the rows of a task as a TFDS data set in `array_record`, which is read again without TensorFlow.

    Returns:
      Its name, `neuromas_<name of the task>` unless told otherwise. Raises ValueError where the library is missing.
    """
    tfds, title = _library(), name or PREFIX + task.name
    held = {"text": tfds.features.Text(), "texts": tfds.features.Sequence(tfds.features.Text()),
            "whole numbers": tfds.features.Sequence(np.int64)}
    given = {field: held[form] for field, _, form in GIVEN.get(task.verifier, ())}
    features = {"number": np.int64, "question": tfds.features.Text(), "answer": tfds.features.Text(), "depth": np.int64, **given}
    empty = {field: "" if isinstance(form, tfds.features.Text) else [] for field, form in given.items()}

    class Rows(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = title

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features),
                                         description=f"Questions and answers of {task.name}, for the verifier {task.verifier}.")

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in FILE_SPLITS if task.rows[split]}

        def _generate_examples(self, split):
            for number, row in enumerate(task.rows[split]):
                own = {field: list(value) if isinstance(value, tuple) else value for field, value in row.given}
                yield number, {"number": number, "question": row.text, "answer": row.answer, "depth": row.depth, **empty, **own}

    Rows(data_dir=str(data_dir), file_format="array_record").download_and_prepare()
    return title


def _library():
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise ValueError("task 'tfds' needs the library: pip install neuromas_jax[datasets]")
    import tensorflow_datasets

    return tensorflow_datasets


def _sources(name: str, data_dir) -> dict:
    """Split -> records. Raises ValueError naming the set and the way to prepare it."""
    tfds = _library()
    try:
        builder = tfds.builder(name, data_dir=None if data_dir is None else str(data_dir), try_gcs=False)
        return dict(builder.as_data_source())
    except (tfds.core.DatasetNotFoundError, AssertionError, NotImplementedError, ImportError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"TFDS set {name!r} cannot be read from {data_dir or 'its usual place'}: {lines[0]} Prepare it there "
                         "with file_format='array_record', which is read without TensorFlow, or give the right data_dir"
                         ) from error


def _plain(value):
    """A record as Python's own types: texts come as bytes, numbers and lists as arrays."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (np.ndarray, list, tuple)):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("benchmark", choices=BENCHMARKS)
    arguments.add_argument("--folder", required=True, type=Path, help="with the set's own files, see docs/datasets.md")
    arguments.add_argument("--data_dir", required=True, type=Path, help="of TFDS")
    given = arguments.parse_args()
    task = benchmark(given.benchmark, given.folder)
    title = write_tfds(task, given.data_dir)
    print(f"{title} in {given.data_dir}: " + ", ".join(f"{split} {len(rows)}" for split, rows in task.rows.items())
          + f"; config: task='tfds', options=dict(name={title!r}, data_dir={str(given.data_dir)!r}, verifier={task.verifier!r})")


if __name__ == "__main__":
    main()
