"""Small files that are read and written whole: a kill leaves the old file or the new one, never half of one."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import jax

from neuromas_jax.parallel.distributed import is_first, together


@contextlib.contextmanager
def written_whole(path: Path):
    """Yields a path beside `path` to write to; what was written there takes its place if the block ends well.

    The name keeps its ending, which some writers look at (`numpy.savez`). Of a run of many processes all come here, and what the
    first one wrote counts.
    """
    temporary = path.with_name(f".{jax.process_index()}.{os.getpid()}.{path.name}")
    together(f"before {path.name}")
    try:
        yield temporary
        if is_first():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    together(f"after {path.name}")


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Adds to a file; of many processes the first one does."""
    together(f"before {path.name}")
    if is_first():
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    together(f"after {path.name}")


def write_records(path: Path, records: list[dict]) -> None:
    """One JSON object per line."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_json(path: Path, purpose: str) -> dict[str, Any]:
    """A JSON object that came with a model.

    Args:
      path: where it should lie.
      purpose: what the user is told it is for, should it be missing.

    Raises:
      FileNotFoundError: it is missing.
      ValueError: it is no JSON, or no object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {purpose}. Copy it there.")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is no JSON: {error}. It is truncated or damaged: copy it again.") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a JSON {type(fields).__name__}, must hold an object. Copy it again.")
    return fields
