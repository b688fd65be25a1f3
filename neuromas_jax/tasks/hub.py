"""Data sets of the Hugging Face Hub (extra `hub`), read by its own library and kept in its own cache.

    config.families = dict(gsm8k=dict(task="benchmark", options=dict(name="gsm8k", folder="hub"), ...))
    config.families = dict(mine=dict(task="hub", options=dict(name="OWNER/NAME", verifier="number", question="problem"), ...))

The first reads a published set as `benchmarks` does, the second any set whose records have a question and an answer. Without a
network, what the cache holds is read (`HF_HUB_OFFLINE=1` does not even ask).
"""

import importlib.util

from neuromas_jax.snapshot import first_line, snapshot
from neuromas_jax.tasks.files import FileTask
from neuromas_jax.tasks.records import check_known, records_task

# Benchmark -> repository, configuration (None for the only one), and splits that have other names there.
PUBLISHED: dict[str, tuple[str, str | None, dict[str, str]]] = {
    "gsm8k": ("openai/gsm8k", "main", {}),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", {}),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", {}),
    "openbookqa": ("allenai/openbookqa", "main", {}),
    "commonsenseqa": ("tau/commonsense_qa", None, {"test": "validation"}),  # its test has no labels
    "mmlu": ("cais/mmlu", "all", {"train": "dev"}),
    "aqua": ("deepmind/aqua_rat", "raw", {}),
    "bbh": ("SaylorTwift/bbh", "{subject}", {}),
    "humaneval": ("openai/openai_humaneval", None, {}),
    "mbpp": ("google-research-datasets/mbpp", "full", {}),
    "mbpp_sanitized": ("google-research-datasets/mbpp", "sanitized", {}),
}


def hub_task(
    name: str, config: str | None = None, verifier: str = "exact", question: str = "question", answer: str = "answer",
    evaluation_only: bool = False,
) -> FileTask:
    """A data set of the Hub as a task; see `records.records_task` for splits and fields.

    Args:
      name: `OWNER/NAME` or `OWNER/NAME@REVISION`. All of its files are fetched, into the Hub's cache.
      config: its configuration, where it has several.

    Raises:
      ValueError: the library is missing, the configuration is unknown, or records have another form.
      FileNotFoundError: no such set or revision, or the Hub cannot be reached and its cache does not hold them.
    """
    check_known(verifier)
    return records_task(name, _load(name, config, "give config= one that it has"), verifier, question, answer, evaluation_only)


def published(name: str, subject: str | None) -> dict[str, list[tuple[str, dict]]]:
    """Split of a benchmark -> ("repository, split, record n", record) of each record. Raises as `hub_task` does."""
    if name not in PUBLISHED:
        raise ValueError(f"benchmark {name!r} is not read from the Hub; those that are: {', '.join(PUBLISHED)}. Get its authors' "
                         "files, see docs/datasets.md, and give their folder")
    repository, config, names = PUBLISHED[name]
    if config == "{subject}" and subject is None:
        raise ValueError(f"benchmark {name!r} is one set a subject on the Hub; give subject=, or the folder of its files")
    found = _load(repository, config and config.format(subject=subject), "give a subject that it has")
    if names.get("test", "test") not in found:
        raise ValueError(f"{repository} has no split {names.get('test', 'test')!r} on the Hub (found: {', '.join(found)}); give "
                         "the folder of the authors' files, see docs/datasets.md")
    return {split: [(f"{repository}, split {names.get(split, split)}, record {number}", record)
                    for number, record in enumerate(found.get(names.get(split, split), ()))]
            for split in ("train", "validation", "test")}


def _load(name: str, config: str | None, hint: str) -> dict:
    """Split -> records, from the Hub or its cache. `hint` is for a configuration that there is not."""
    if importlib.util.find_spec("datasets") is None:
        raise ValueError("data sets of the Hub need its library: pip install neuromas_jax[hub]")
    folder = snapshot("dataset", name)  # of this revision: the library itself takes any that it has where the Hub is not reached
    import datasets

    try:
        return dict(datasets.load_dataset(str(folder), config))
    except ValueError as error:
        raise ValueError(f"data set {name!r}, configuration {config!r}: {first_line(error)}; {hint}") from error
    except (RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"data set {name!r} of the Hub cannot be read: {first_line(error)}; where it needs a script of its own, "
                         "give a revision with plain files, or the folder of the authors' files") from error
