"""Which split a prompt belongs to, and which prompts are kept for evaluation alone."""

import functools
import hashlib
import json
from importlib import resources

BUCKETS = 10
BBH_FILES = ("boolean_expressions", "navigate", "multistep_arithmetic_two")


def normalise(text: str) -> str:
    """The text with every run of white space as one space: what "the same prompt" means everywhere."""
    return " ".join(text.split())


def split_of(text: str) -> str:
    """`validation` and `test` hold a tenth of all prompts each, by a hash that is the same on every machine."""
    digest = hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).digest()
    bucket = int.from_bytes(digest[:8], "big") % BUCKETS
    return "validation" if bucket == 0 else "test" if bucket == 1 else "train"


def bbh_path(name: str):
    """The packaged file of one BBH task."""
    return resources.files("neuromas_jax.tasks") / "data" / "bbh" / f"{name}.jsonl"


@functools.cache
def evaluation_rows() -> frozenset[str]:
    """The normalised prompts of the packaged BBH files: no generator may write one of them, in any split."""
    rows = set()
    for name in BBH_FILES:
        with bbh_path(name).open(encoding="utf-8") as lines:
            rows.update(normalise(json.loads(line)["question"]) for line in lines)
    return frozenset(rows)


def is_evaluation_row(text: str) -> bool:
    """Whether the text equals a row of a packaged evaluation file after white-space normalisation."""
    return normalise(text) in evaluation_rows()
