"""Trained adapters on disk: a safetensors file that belongs to one backbone and one system, and is refused in any other."""

from pathlib import Path
import zlib

import jax
from safetensors.numpy import load_file, save_file

from neuromas_jax.experiments.cells import read_done
from neuromas_jax.files import written_whole
from neuromas_jax.parallel.distributed import on_host
from neuromas_jax.train import checkpoint
from neuromas_jax.train.loop import system
from neuromas_jax.train.run import Run

ADAPTERS = "adapters.safetensors"


def system_checksums(run: Run) -> dict[str, str]:
    """Checksums of what adapters are at home in: graph, adapters, prompt."""
    return {name: f"{zlib.crc32(checkpoint.fingerprint(part).encode()):08x}" for name, part in system(run).items()}


def save_adapters(path: Path, bank) -> str:
    """Writes adapters, whole or not at all; returns the checksum of the file."""
    tensors = {f"{site}.{name}": on_host(value) for site, pair in bank.items() for name, value in pair.items()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary)
    return f"{zlib.crc32(path.read_bytes()):08x}"


def load_adapters(folder: Path, run: Run, seed: int) -> dict:
    """Adapters of a finished cell.

    Raises:
      ValueError: they are missing or damaged, were trained on another backbone, or in another graph, scale or prompt.
    """
    path, like, done = folder / ADAPTERS, run.new_bank(seed), read_done(folder)
    if not path.exists() or done is None:
        raise ValueError(f"adapters {path} are missing; train them, or drop the family that names this folder from the config")
    if done["backbone"] != run.parts.fingerprint:
        raise ValueError(
            f"{path} was trained on a backbone with checksum {done['backbone']}, this one's is {run.parts.fingerprint}; "
            "give the backbone that these adapters were trained with, or train them again"
        )
    if done["adapters"] != f"{zlib.crc32(path.read_bytes()):08x}":
        raise ValueError(f"{path} is not the file that {folder / 'done.json'} tells of; copy both again, or train them again")
    other = [name for name, checksum in system_checksums(run).items() if done.get("system", {}).get(name) != checksum]
    if other:
        raise ValueError(f"{path} was trained with another config.{', config.'.join(other)} (of the graph: layers, reads, edges, "
                         "views, message lengths, slots) than this run's; use the config that made it, or train again")
    stored = load_file(path)
    bank = {site: {name: stored.get(f"{site}.{name}") for name in pair} for site, pair in like.items()}
    for site, pair in like.items():
        for name, value in pair.items():
            found = bank[site][name]
            if found is None or found.shape != value.shape:
                raise ValueError(
                    f"{path} does not fit: {site}.{name} is {None if found is None else found.shape}, "
                    f"this graph needs {value.shape}; "
                    "use the graph, ranks and backbone that these adapters were trained with"
                )
    return jax.tree.map(jax.numpy.asarray, bank)
