"""Checkpoints, by Orbax v1: adapters, optimizer moments, key, data cursor, step, config, graph and lineage.

Orbax stays in here.
"""

import contextlib
import json
from pathlib import Path
import re
import shutil

from absl import logging
import jax
from orbax.checkpoint import v1 as ocp

from neuromas_jax.parallel.distributed import is_first, together

KEEP = 2


class CheckpointError(ValueError):
    """A checkpoint cannot be used: damaged, of another config or graph, or of a longer run."""


def fingerprint(description: dict) -> str:
    """Canonical text of what a checkpoint belongs to; two runs may continue each other only if these are equal."""
    return json.dumps(description, sort_keys=True, default=str)


def save(folder: Path, step: int, state, description: dict) -> None:
    """Writes `step_000050`; it appears whole or not at all. Older ones than the last `KEEP` go."""
    with quiet():
        ocp.save(folder.resolve() / f"step_{step:06d}", state, custom_metadata=description, overwrite=True)
    together("saved")
    for old in steps(folder)[:-KEEP] if is_first() else ():
        shutil.rmtree(folder / f"step_{old:06d}")
    together("older ones are gone")


def steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    names = [re.fullmatch(r"step_(\d{6,})", path.name) for path in folder.iterdir()]
    return sorted(int(name.group(1)) for name in names if name)


def describe(folder: Path, step: int) -> dict:
    """What a checkpoint says of itself. Raises CheckpointError if it cannot be read."""
    path = folder / f"step_{step:06d}"
    try:
        with quiet():
            return ocp.metadata(path.resolve()).custom_metadata
    except Exception as error:  # Orbax raises whatever its file readers raise
        raise CheckpointError(f"checkpoint {path} cannot be read ({error}); {remedy(folder)}") from error


def newest(folder: Path, description: dict, most: int) -> int | None:
    """Step of the newest checkpoint, None if there is none. Its arrays are not read.

    Args:
      folder: what `save` wrote to.
      description: what the checkpoint must belong to.
      most: steps that the run asks for.

    Raises:
      CheckpointError: it belongs to another config or graph, is past `most`, or does not say what it belongs to.
    """
    found = steps(folder)
    if not found:
        return None
    step, path = found[-1], folder / f"step_{found[-1]:06d}"
    stored = describe(folder, step)
    if not stored or set(description) - set(stored):
        raise CheckpointError(f"checkpoint {path} does not say what it belongs to, so it is damaged; {remedy(folder)}")
    for name, value in description.items():
        if fingerprint({name: value}) != fingerprint({name: stored.get(name)}):
            raise CheckpointError(
                f"{path} was made with another {name}: it has {stored.get(name)!r}, this run has {value!r}; "
                "give another --workdir, or the config that made it"
            )
    if step > most:
        raise CheckpointError(f"{path} was trained for {step} steps, this config asks for {most}; "
                              "give another --workdir, or as many steps")
    return step


def restore(folder: Path, like, description: dict, most: int):
    """The newest checkpoint, as arrays like those of `like`; see `newest` for the other arguments.

    Returns:
      (step, state), or None if there is no checkpoint.

    Raises:
      CheckpointError: it belongs to another config or graph, is past `most`, or is damaged. Nothing is changed on disk.
    """
    step = newest(folder, description, most)
    if step is None:
        return None
    return step, load(folder, step, like)


SKIPPED = ocp.PLACEHOLDER
"""In the place of a leaf of `load`'s pattern: that array is not read."""


def load(folder: Path, step: int, like):
    """The arrays of one checkpoint, each read straight to where that of `like` lives; leaves that are `SKIPPED` stay so.

    Raises CheckpointError if it is damaged or holds other arrays.
    """
    path = folder / f"step_{step:06d}"
    abstract = jax.tree.map(
        lambda x: x if x is SKIPPED else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    try:
        with quiet():
            return ocp.load(path.resolve(), abstract)
    except Exception as error:
        first = str(error).strip().split("\n")[0][:200]  # Orbax goes on with pages of array specifications
        raise CheckpointError(f"checkpoint {path} is damaged ({first}); {remedy(folder)}") from error


def remedy(folder: Path) -> str:
    """What to do where the newest checkpoint is of no use."""
    return f"remove that folder to {'go on from an older one' if len(steps(folder)) > 1 else 'start again'}"


@contextlib.contextmanager
def quiet():
    """Orbax logs some thirty lines a checkpoint, into the progress bar."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
