"""Tasks from TensorFlow Datasets (extra `datasets`), read and written without TensorFlow.

    python -m neuromas_jax.tasks.tfds gsm8k --folder=data/gsm8k --data_dir=tfds     # a published set as a TFDS one

    config.families = dict(gsm8k=dict(task="tfds", options=dict(name="neuromas_gsm8k", data_dir="tfds", verifier="number"), ...))

Any data set that was prepared in the file format `array_record` will do whose records have a question and an answer.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np

from neuromas_jax.tasks.benchmarks import BENCHMARKS, benchmark
from neuromas_jax.tasks.files import FILE_SPLITS, GIVEN, FileTask
from neuromas_jax.tasks.records import check_known, records_task

PREFIX = "neuromas_"  # of sets that are written here, so that none passes for TFDS's own of that name


def tfds_task(
    name: str, data_dir=None, verifier: str = "exact", question: str = "question", answer: str = "answer",
    evaluation_only: bool = False,
) -> FileTask:
    """A prepared TFDS data set as a task; see `records.records_task` for splits and fields.

    Args:
      name: as `tfds.data_source` takes it: `name`, `name/config`, `name:1.0.0`.
      data_dir: where it was prepared; TFDS's own place by default.

    Raises:
      ValueError: the library is missing; the set is not prepared, or in a format that needs TensorFlow; records of another form.
    """
    check_known(verifier)
    # Records lie in an order that TFDS shuffled when it wrote them; their numbers give back that of the source.
    records = {split: sorted(map(_plain, found), key=lambda row: row.get("number", 0))
               for split, found in _sources(name, data_dir).items()}
    return records_task(name, records, verifier, question, answer, evaluation_only)


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
