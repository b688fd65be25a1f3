"""Checkpoints, by Orbax v1: adapters, optimizer moments, key, data cursor, step, config, graph and lineage.

Orbax stays in here. It finds files that are cut or missing, and takes a wrong byte among the values of an array for what was
saved; so each array's checksum travels along.
"""

from collections.abc import Callable
import contextlib
import errno
import json
from pathlib import Path
import re
import shutil
from typing import TypeVar

from absl import logging
import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from neuromas_jax.parallel.distributed import agreed, any_of_all, is_first, together

KEEP = 2
PASSING = (errno.EACCES, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)
T = TypeVar("T")
SUMS = "checksums"  # beside the description: path of an array -> `_checksum`


class CheckpointError(ValueError):
    """A checkpoint cannot be used: damaged, of another config or graph, or of a longer run."""


class Damaged(CheckpointError):
    """It cannot be read, or not as what was saved."""


def fingerprint(description: dict) -> str:
    """Canonical text of what a checkpoint belongs to; two runs may continue each other only if these are equal."""
    return json.dumps(description, sort_keys=True, default=str)


def save(folder: Path, step: int, state, description: dict) -> None:
    """Writes `step_000050`; it appears whole or not at all, where folders are renamed at once. Older ones than the last `KEEP`
    go, and so do later ones, which were damaged when this run went on from an older one."""
    with quiet():
        ocp.save(folder.resolve() / f"step_{step:06d}", state, custom_metadata={**description, SUMS: checksums(state)},
                 overwrite=True)
    together("saved")
    kept = [other for other in steps(folder) if other <= step][-KEEP:]
    for other in set(steps(folder)) - set(kept) if is_first() else ():
        shutil.rmtree(folder / f"step_{other:06d}")
    together("others are gone")


def steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    names = [re.fullmatch(r"step_(\d{6,})", path.name) for path in folder.iterdir()]
    return sorted(int(name.group(1)) for name in names if name)


def describe(folder: Path, step: int) -> dict:
    """What a checkpoint says of itself. Raises Damaged if it cannot be read."""
    path = folder / f"step_{step:06d}"
    try:
        with quiet():
            return ocp.metadata(path.resolve()).custom_metadata or {}
    except Exception as error:  # Orbax raises whatever its file readers raise
        raise _reason(error, f"checkpoint {path}") from error


def check(folder: Path, step: int, description: dict, most: int) -> None:
    """Looks at what a checkpoint says of itself; its arrays are not read.

    Args:
      folder: what `save` wrote to.
      step: of the checkpoint.
      description: what it must belong to.
      most: steps that the run asks for.

    Raises:
      Damaged: it does not say what it belongs to.
      CheckpointError: it belongs to another config or graph, or is past `most`.
    """
    path, stored = folder / f"step_{step:06d}", describe(folder, step)
    if set(description) - set(stored):
        raise Damaged(f"checkpoint {path} does not say what it belongs to")
    for name, value in description.items():
        if fingerprint({name: value}) != fingerprint({name: stored.get(name)}):
            raise CheckpointError(
                f"{path} was made with another {name}: it has {stored.get(name)!r}, this run has {value!r}; "
                "give another --workdir, or the config that made it"
            )
    if step > most:
        raise CheckpointError(f"{path} was trained for {step} steps, this config asks for {most}; "
                              "give another --workdir, or as many steps")


def newest(folder: Path, use: Callable[[int], T]) -> T | None:
    """What `use` makes of the newest checkpoint that is whole, None where there is none at all.

    One for which `use` raises Damaged is skipped with a warning. Of many processes all find the same: they look at the steps that
    the first one lists, and `load` asks them all; a process that fails alone amid Orbax's own meetings ends the run.

    Raises:
      CheckpointError: none is whole, or what `use` raises. Nothing is changed on disk.
    """
    damaged = None
    for step in reversed(agreed(steps(folder))):
        try:
            return use(step)
        except Damaged as error:
            damaged = error
            logging.warning("%s; an older one is looked for", damaged)
    if damaged:
        raise CheckpointError(f"{damaged}, and no older one is whole; remove {folder} to start again") from damaged
    return None


def restore(folder: Path, like, description: dict, most: int):
    """The newest whole checkpoint, as arrays like those of `like`, or None if there is none; see `check` and `newest`."""

    def use(step):
        check(folder, step, description, most)
        return load(folder, step, like)

    return newest(folder, use)


SKIPPED = ocp.PLACEHOLDER
"""In the place of a leaf of `load`'s pattern: that array is not read."""


def load(folder: Path, step: int, like):
    """The arrays of one checkpoint, each read straight to where that of `like` lives; leaves that are `SKIPPED` stay so.

    Raises Damaged if it cannot be read, holds other arrays, or not what was saved.
    """
    path = folder / f"step_{step:06d}"
    abstract = jax.tree.map(
        lambda x: x if x is SKIPPED else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    state, failed = None, None
    try:
        with quiet():
            state = ocp.load(path.resolve(), abstract)
    except Exception as error:
        failed = error
    if any_of_all(failed is not None):
        raise _reason(failed or OSError("by another process"), f"checkpoint {path}") from failed
    wanted = describe(folder, step).get(SUMS, {})  # none in those of before there were checksums
    wrong = [name for name, found in checksums(state).items() if wanted.get(name, found) != found]
    if wrong:
        raise Damaged(f"checkpoint {path} is damaged (array {wrong[0]} is not what was saved)")
    return state


def _reason(error: Exception, what: str) -> CheckpointError:
    """Damage, or something that says nothing of the checkpoint: no memory, no permission, a disk that does not answer."""
    first = str(error).strip().split("\n")[0][:200]  # Orbax goes on with pages of array specifications
    passing = isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING or any(
        word in str(error) for word in ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE"))
    if passing:
        return CheckpointError(f"{what} cannot be read now ({first}), which need not be its own fault; see to that and run the "
                               "same command again")
    return Damaged(f"{what} is damaged ({first})")


def checksums(state) -> dict[str, int]:
    """Path of every array -> a number of 32 bits. Another value of one entry changes it; any other change leaves it once in four
    thousand million times.

    The bits of each entry and its place, mixed by the last steps of MurmurHash3 (Appleby, public domain), summed where the array
    lies. A sum of whole numbers has no order, so any mesh and any number of processes find the same.
    """
    return {jax.tree_util.keystr(path): int(_checksum(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(state)
            if leaf is not SKIPPED}


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    bits = jax.lax.bitcast_convert_type(x, f"uint{min(8 * x.dtype.itemsize, 32)}").astype(jnp.uint32)  # 64 bits: a pair
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return _mixed(bits ^ _mixed(place + jnp.uint32(1))).sum(dtype=jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


@contextlib.contextmanager
def quiet():
    """Orbax logs some thirty lines a checkpoint, into the progress bar."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
