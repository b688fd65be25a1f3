"""What a suite of experiments left behind, put in order for the tests of its claims."""

from collections.abc import Mapping
import dataclasses
import functools
from pathlib import Path

import numpy as np

from neuromas_jax.config import Config, training_steps
from neuromas_jax.experiments.cells import read_done, sweep_cells
from neuromas_jax.experiments.evaluation import plan_evaluation
from neuromas_jax.train.metrics import read_metrics, whole


@dataclasses.dataclass(frozen=True)
class Trained:
    """One trained cell: what it left in `done.json`, and its metrics."""

    done: dict
    metrics: list[dict]

    def curve(self, config: Config, against: str = "samples") -> tuple[np.ndarray, np.ndarray]:
        """Validation accuracy against what was spent until then: episodes ("samples") or message tokens ("tokens")."""
        accuracy = np.asarray([record["accuracy"] for record in self.metrics])
        if against == "tokens":
            return np.cumsum(whole(self.metrics, "tokens")), accuracy
        episodes = config.rollout.questions * config.rollout.group
        return np.asarray([record["step"] * episodes + self.born(config) for record in self.metrics]), accuracy

    def born(self, config: Config) -> int:
        """Episodes spent before the first step of its metrics: on a stored parent, and on imitation."""
        episodes = config.rollout.questions * config.rollout.group
        last = self.metrics[-1]["step"] * episodes
        return self.done.get("samples", last) - last


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What one experiment has so far.

    Attributes:
      name: of the experiment.
      config: it.
      folder: where it lies.
    """

    name: str
    config: Config
    folder: Path

    @functools.cached_property
    def records(self) -> list[dict]:
        """Records of all evaluations that hold, with the answers that were right."""
        found = []
        for family in self.config.families:
            for method in self.config.methods:
                for seed in self.config.seeds:
                    plan = plan_evaluation(self.config, self.folder, family, method, seed)
                    found += (plan and plan.records()) or []
        return found

    def answers(self, family: str, name: str, depth: int | None) -> dict[str, dict[int, dict]]:
        """Records of one evaluation set by method and seed, in the config's order."""
        found: dict[str, dict[int, dict]] = {}
        for record in self.records:
            if (record["family"], record["set"], record["depth"]) == (family, name, depth):
                found.setdefault(record["method"], {})[record["seed"]] = record
        return found

    def target(self, family: str) -> tuple[str, int | None]:
        """The set that a family is judged on: its deepest trained depth, or the file."""
        depths = [record["depth"] for record in self.records if (record["family"], record["set"]) == (family, family)]
        return family, max((depth for depth in depths if depth is not None), default=None)

    def files(self, family: str) -> list[tuple[str, None]]:
        """The sets of the family's BBH files."""
        return [(f"bbh_{file}", None) for file in self.config.families[family].files]

    def trained(self, family: str, method: str) -> dict[int, Trained]:
        """Finished cells of a method, by seed."""
        steps = training_steps(self.config, self.config.families[family])
        cells = {seed: read_trained(self.folder / "train" / family / f"{method}_seed{seed}") for seed in self.config.seeds}
        return {seed: cell for seed, cell in cells.items() if cell and cell.done["steps"] == steps}

    def trials(self, family: str) -> list[Trained]:
        """Finished trials of the sweep."""
        found = (read_trained(cell.folder(self.folder, "sweep")) for cell in sweep_cells(self.config, family))
        return [cell for cell in found if cell]


def read_trained(folder: Path) -> Trained | None:
    """A finished cell that left metrics; None for any other."""
    done = read_done(folder)
    if done is None or not (folder / "metrics.jsonl").exists():
        return None
    return Trained(done, read_metrics(folder))


def outcomes(experiments: Mapping[str, Config], workdir: Path) -> dict[str, Outcome]:
    return {name: Outcome(name, config, workdir / name) for name, config in experiments.items()}


def pairs(first: dict[int, dict], second: dict[int, dict]) -> tuple[list[dict], list[dict]]:
    """Records of the seeds that both have."""
    both = [seed for seed in first if seed in second]
    return [first[seed] for seed in both], [second[seed] for seed in both]
