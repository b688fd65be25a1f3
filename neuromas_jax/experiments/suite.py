"""Suites: experiments whose results answer claims together, cut into units that any process can take.

A unit is one experiment restricted to one family and one trained method with all that use its adapters. `--shard=i/n` takes every
n-th unit; processes with the same shard and workdir share its cells, so a machine with two cores runs two of them.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import time

from absl import logging

from neuromas_jax.analysis.claims import Claim, check_claims, write_claims
from neuromas_jax.config import Config, parse
from neuromas_jax.experiments.cells import read_done, sweep_cells
from neuromas_jax.experiments.check import check
from neuromas_jax.experiments.run import collect, report, run_experiment
from neuromas_jax.files import write_records
from neuromas_jax.methods import make_method
from neuromas_jax.settings import section


@dataclasses.dataclass(frozen=True)
class Suite:
    """Experiments by name, and claims by name."""

    experiments: dict[str, Config]
    claims: dict[str, Claim]


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part of an experiment: one family, one trained method (or all that are not trained) and what is judged with it."""

    experiment: str
    config: Config
    trained: str

    @property
    def family(self) -> str:
        return self.config.order[0]

    def __str__(self) -> str:
        return f"{self.experiment}/{self.family}/{self.trained}"

    def cells(self) -> tuple[int, int]:
        """How many cells it trains in its sweep and for its seeds."""
        if self.trained == "untrained" or self.config.families[self.family].adapters:
            return 0, 0
        return len(sweep_cells(self.config, self.family)), len(self.config.seeds)


def parse_suite(values: Mapping) -> Suite:
    """Raises ValueError, with the name of the experiment or claim, for anything that `config.parse` or a claim refuses."""
    values = values.to_dict() if hasattr(values, "to_dict") else dict(values)
    unknown = set(values) - {"experiments", "claims"}
    if unknown or not values.get("experiments"):
        raise ValueError(f"a suite has the keys experiments and claims, this one has {', '.join(sorted(values)) or 'none'}; give "
                         "a config such as configs/claims.py, or run a single experiment with python -m neuromas_jax.main")
    experiments = {}
    for name, one in values["experiments"].items():
        try:
            experiments[name] = parse(one)
            if experiments[name].workers != 1:
                raise ValueError(f"config key 'workers' is {experiments[name].workers} and would not be used: processes that are "
                                 "started with the same shard and workdir share a suite's work; drop it")
        except ValueError as error:
            raise ValueError(f"experiment {name!r}: {error}") from error
    claims = {name: section(Claim, one, f"claims.{name}") for name, one in values.get("claims", {}).items()}
    check_claims(claims, experiments)
    return Suite(experiments, claims)


def units(suite: Suite) -> list[Unit]:
    """All units, experiment by experiment."""
    found = []
    for name, config in suite.experiments.items():
        for family in config.families:
            judged: dict[str, list[str]] = {}
            for method in config.methods:
                trained = make_method(method, config, config.families[family]).trained_as
                judged.setdefault(trained or "untrained", []).append(method)
            for trained, methods in judged.items():
                part = dataclasses.replace(config, families={family: config.families[family]}, order=(family,),
                                           methods=tuple(methods), workers=1)
                found.append(Unit(name, part, trained))
    return found


def parse_shard(text: str) -> tuple[int, int]:
    """`"1/4"` -> (1, 4): the second of four. Raises ValueError for anything else."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise ValueError(f"--shard is {text!r}; write i/n with i from 0 to n - 1, such as 0/1 for all or 1/4 for the second of "
                         "four")
    return int(first), int(last)


def check_suite(suite: Suite, workdir: Path) -> None:
    """Finds bad input of every experiment before anything is compiled; raises as `check.check` does."""
    for name, config in suite.experiments.items():
        try:
            check(config, workdir / name)
        except ValueError as error:
            raise ValueError(f"experiment {name!r}: {error}") from error


def run_shard(suite: Suite, workdir: Path, shard: tuple[int, int]) -> str:
    """Does the units of a shard, then writes what the whole suite has so far; returns a few lines for the terminal.

    Raises:
      FloatingPointError: runs diverged; all other units were done, and what there is was written.
    """
    mine, diverged = units(suite)[shard[0] :: shard[1]], []
    for number, unit in enumerate(mine):
        left = time_left(mine, workdir)
        logging.info("unit %d of %d: %s; %s", number + 1, len(mine), unit, left)
        try:
            run_experiment(unit.config, workdir / unit.experiment, worker=1)  # the report comes when the shard is done
        except FloatingPointError as error:
            logging.exception("%s stopped", unit)
            diverged.append(f"{unit}: {error}")
    text = write_results(suite, workdir)
    if diverged:
        raise FloatingPointError(f"{text}\n" + "\n".join(diverged))
    return text


def time_left(units: list[Unit], workdir: Path) -> str:
    """How many cells are done and about how long the others take, as the done ones of the same family and method, or of all,
    took. Times are of one process."""
    done, guess, open_cells = [], 0.0, []
    for unit in units:
        for stage, count in zip(("sweep", "train"), unit.cells()):
            names = sorted((workdir / unit.experiment / stage / unit.family).glob(f"{unit.trained}_seed*/done.json"))
            found = [read_done(path.parent).get("seconds_of_last_process", 0.0) for path in names[:count]]
            done += found
            open_cells += [found] * (count - len(found))
    if not done:
        return f"0 of {len(open_cells)} cells are done"
    mean = sum(done) / len(done)
    guess = sum(sum(same) / len(same) if same else mean for same in open_cells)
    clock = time.strftime("%H h %M min", time.gmtime(guess % 86400))
    days = f"{int(guess // 86400)} days " if guess >= 86400 else ""
    return f"{len(done)} of {len(done) + len(open_cells)} cells are done, about {days}{clock} left for one process"


def write_results(suite: Suite, workdir: Path) -> str:
    """Writes each experiment's results and report, `results.jsonl` of all with the name of the experiment, and `claims.md`."""
    records = []
    for name, config in suite.experiments.items():
        folder = workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        report(config, folder)
        records += [{"experiment": name, **one} for one in collect(config, folder)]
    write_records(workdir / "results.jsonl", records)
    return write_claims(suite.claims, suite.experiments, workdir)
