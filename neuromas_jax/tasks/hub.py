"""Data sets of the Hugging Face Hub (extra `hub`), read by its own library and kept in its own cache.

    config.families = dict(gsm8k=dict(task="benchmark", options=dict(name="gsm8k", folder="hub"), ...))
    config.families = dict(mine=dict(task="hub", options=dict(name="OWNER/NAME", verifier="number", question="problem"), ...))

The first reads a published set as `benchmarks` does, the second any set whose records have a question and an answer. Without a
network, what the cache holds is read (`HF_HUB_OFFLINE=1` does not even ask).
"""

from collections.abc import Iterator

from absl import logging

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
    "bbh": ("lukaemon/bbh", "{subject}", {}),
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
      name: `OWNER/NAME` or `OWNER/NAME@REVISION`.
      config: its configuration, where it has several.

    Raises:
      ValueError: the library is missing, the configuration is unknown, or records have another form.
      FileNotFoundError: no such set, or the Hub cannot be reached and its cache does not hold the set.
    """
    check_known(verifier)
    return records_task(name, _load(name, config), verifier, question, answer, evaluation_only)


def published(name: str, split: str, subject: str | None) -> Iterator[tuple[str, dict]]:
    """Yields ("repository, split, record n", record) of a benchmark's split. Raises as `hub_task` does."""
    if name not in PUBLISHED:
        raise ValueError(f"benchmark {name!r} is not read from the Hub; those that are: {', '.join(PUBLISHED)}. Get its authors' "
                         "files, see docs/datasets.md, and give their folder")
    repository, config, names = PUBLISHED[name]
    if config == "{subject}" and subject is None:
        raise ValueError(f"benchmark {name!r} is one set a subject on the Hub; give subject=, or the folder of its files")
    wanted = names.get(split, split)
    found = _load(repository, config and config.format(subject=subject))
    if wanted not in found and split == "test":
        raise ValueError(f"{repository} has no split {wanted!r} on the Hub (found: {', '.join(found)}); give the folder of the "
                         "authors' files, see docs/datasets.md")
    if wanted not in found:
        logging.info("%s: no split %s on the Hub", name, wanted)
    yield from ((f"{repository}, split {wanted}, record {number}", record) for number, record in enumerate(found.get(wanted, ())))


def _load(name: str, config: str | None) -> dict:
    """Split -> records, from the Hub or its cache."""
    try:
        import datasets
    except ImportError:
        raise ValueError("data sets of the Hub need its library: pip install neuromas_jax[hub]") from None
    repository, _, revision = name.partition("@")
    try:
        return dict(datasets.load_dataset(repository, config, revision=revision or None))
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(f"the Hub gives no data set {name!r}: {_first_line(error)}. Check the name, OWNER/NAME or "
                                "OWNER/NAME@REVISION; for one with terms, accept them on its page, then `hf auth login`"
                                ) from error
    except (ConnectionError, TimeoutError) as error:
        raise FileNotFoundError(f"data set {name!r}: the Hub cannot be reached or is switched off (HF_HUB_OFFLINE), and its "
                                f"cache does not hold the set: {_first_line(error)}. Where there is a network, load it once and "
                                "copy the cache (HF_HOME), or give the folder of the authors' files") from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"data set {name!r}, configuration {config!r}, cannot be read from the Hub: {_first_line(error)}. Give "
                         "config= one that it has") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
