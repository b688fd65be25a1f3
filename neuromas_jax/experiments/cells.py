"""Cells of an experiment: one training (or sweep trial) each, in a folder of its own.

Each is done once, by whichever process takes it.
"""

import contextlib
import dataclasses
import fcntl
import json
from pathlib import Path
import zlib

from neuromas_jax.config import Config, training_steps
from neuromas_jax.files import write_text
from neuromas_jax.methods import family_graph, make_method
from neuromas_jax.parallel.distributed import agreed, is_first
from neuromas_jax.train import checkpoint
from neuromas_jax.train.loop import description
from neuromas_jax.train.run import Run
from neuromas_jax.train.stages import stage_runs


@dataclasses.dataclass(frozen=True)
class Cell:
    """Train `method` on `family` with `seed` at `learning_rate` for `steps`; `floor` as in `SweepConfig.entropy_floors`, None
    for the config's own objective."""

    family: str
    method: str
    seed: int
    learning_rate: float
    steps: int
    floor: float | None = None

    def folder(self, workdir: Path, stage: str) -> Path:
        name = f"{self.method}_seed{self.seed}"
        if stage == "sweep":
            name += f"_lr{self.learning_rate:g}" + ("" if self.floor is None else f"_floor{self.floor:g}")
        return workdir / stage / self.family / name

    def configured(self, config: Config) -> Config:
        """The config under which this cell is trained."""
        if self.floor is None:
            return config
        weight = config.sweep.floor_weight if self.floor else 0.0
        return dataclasses.replace(
            config, objective=dataclasses.replace(config.objective, entropy_floor=self.floor, floor_weight=weight))


def trained_methods(config: Config, family: str) -> list[str]:
    """The methods that the config's methods need trained, each once."""
    names = [make_method(name, config, config.families[family]).trained_as for name in config.methods]
    return list(dict.fromkeys(name for name in names if name))


def sweep_cells(config: Config, family: str) -> list[Cell]:
    sweep = config.sweep
    steps = sweep.steps or training_steps(config, config.families[family])
    return [Cell(family, method, sweep.seed, rate, steps, floor) for method in trained_methods(config, family)
            for floor in sweep.entropy_floors or (None,) for rate in sweep.learning_rates]


def chosen_knobs(config: Config, workdir: Path, family: str, method: str) -> tuple[float, float | None]:
    """Learning rate and entropy floor: of the swept trials those with the best validation accuracy (the lowest rate of equals,
    then the lowest floor), or the config's where nothing is swept."""
    if not config.sweep.learning_rates:
        return config.learning_rate.get(method, config.learning_rate["default"]), None
    trials = [cell for cell in sweep_cells(config, family) if cell.method == method]
    best = max(trials, key=lambda cell: (
        read_done(cell.folder(workdir, "sweep"))["validation"], -cell.learning_rate, -(cell.floor or 0.0)))
    return best.learning_rate, best.floor


def train_cells(config: Config, workdir: Path, family: str) -> list[Cell]:
    found = []
    for method in trained_methods(config, family):
        rate, floor = chosen_knobs(config, workdir, family, method)
        steps = training_steps(config, config.families[family])
        found += [Cell(family, method, seed, rate, steps, floor) for seed in config.seeds]
    return found


def read_done(folder: Path) -> dict | None:
    """What a finished cell left, or None. Raises ValueError naming a file that is damaged."""
    path = folder / "done.json"
    if not path.exists():
        return None
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(done, dict) or not done or not isinstance(done.get("steps", 0), int):
            raise ValueError(f"it holds {str(done)[:60]}")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to do that part of the experiment again") from error
    return done


def write_done(folder: Path, record: dict) -> None:
    write_text(folder / "done.json", json.dumps(record, indent=1))


@contextlib.contextmanager
def claim(folder: Path):
    """Yields whether this run may work in the folder. The claim ends with its first process: a killed one leaves none behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        mine = True
        if is_first():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                mine = False
        yield bool(agreed([mine])[0])


def identity(config: Config, family: str, method: str, seed: int, rate: float | None = None) -> str:
    """Checksum of all that training depends on but its length: of a method in stages, of all of them and of what they grow from.

    Raises CheckpointError where `init_from` holds nothing to grow from.
    """
    runs, parent = stage_runs(config, family, method, seed, rate)
    belongs = description(runs[-1], seed)
    if runs[0].method.stages[0].growth or len(runs) > 1:
        stages = [dataclasses.asdict(run.method.stages[0]) for run in runs]
        for stage in stages:  # a stage with no objective of its own is what it was before stages had any
            if not stage["objective"]:
                del stage["objective"]
        belongs["lineage"] = {"stages": stages, "parent": parent and parent.fingerprint}
    if method == "searched":
        calls = family_graph(config, config.families[family])[0].size
        seen = (config.training.evaluate_every, config.training.validation_questions)  # they decide when it grows, and where
        belongs["search"] = [dataclasses.asdict(config.families[family].search), calls, seen]
    return f"{zlib.crc32(checkpoint.fingerprint(belongs).encode()):08x}"


def source_folder(config: Config, workdir: Path, run: Run, family: str, seed: int) -> Path:
    """Where a method's trained adapters lie: in the folder that the config names, or where this experiment trains."""
    stored = config.families[family].adapters
    return (Path(stored) if stored else workdir / "train" / family) / f"{run.method.trained_as}_seed{seed}"
