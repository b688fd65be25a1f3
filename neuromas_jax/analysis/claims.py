"""`claims.md`: what a suite of experiments says about each claim, with the numbers behind it.

A claim names a test, the experiments that it looks at, and what the test needs. A test returns whether the claim holds so far,
and the tables and pictures that show it. A claim that does not hold stays in the report, as does everything that was tried.
"""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
import statistics

from neuromas_jax.analysis import ahead, growing, health, shapes
from neuromas_jax.analysis.outcomes import Outcome, outcomes
from neuromas_jax.analysis.report import sweep_section, table
from neuromas_jax.config import Config
from neuromas_jax.experiments.cells import read_done, sweep_cells
from neuromas_jax.files import write_text
from neuromas_jax.methods import check_methods

TESTS = {"ahead": ahead.test, "growing": growing.test, "shapes": shapes.test, "parameters": shapes.test_parameters,
         "search": shapes.test_search}


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is claimed and how it is tested.

    Attributes:
      says: the claim, as a sentence.
      test: of `TESTS`.
      experiments: names of those that it looks at, in order.
      method: whose claim it is.
      over: what the method is compared with.
      controls: shown beside them; they decide nothing.
      pairs: of families, for tests of shapes: the first is to be ahead of the second.
      thresholds: validation accuracy by family, for tests of how soon it is reached.
      families: on how many families it must hold.
      note: said after the numbers: why it came out so, as far as is known.
    """

    says: str = ""
    test: str = "ahead"
    experiments: tuple[str, ...] = ()
    method: str = "graph"
    over: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    pairs: tuple[tuple[str, ...], ...] = ()
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)
    families: int = 2
    note: str = ""


def check_claims(claims: Mapping[str, Claim], experiments: Mapping[str, Config]) -> None:
    """Raises ValueError for a claim that names an unknown test, experiment, method or family, or nothing to compare with."""
    for name, claim in claims.items():
        if claim.test not in TESTS:
            raise ValueError(f"claims.{name}.test is {claim.test!r}; allowed are {', '.join(TESTS)}")
        if claim.families < 1:
            raise ValueError(f"claims.{name}.families is {claim.families}; a claim must hold on 1 family or more")
        if not claim.over and claim.test in ("ahead", "growing", "parameters"):
            raise ValueError(f"claims.{name}.over is empty, so there is nothing to beat; name methods of its experiments")
        unknown = [one for one in claim.experiments if one not in experiments]
        if unknown or not claim.experiments:
            raise ValueError(f"claims.{name}.experiments is {claim.experiments}; name one or more of {', '.join(experiments)}")
        asked = (claim.method, *claim.over, *claim.controls)
        check_methods(asked)
        for experiment in claim.experiments:
            missing = [method for method in asked if method not in experiments[experiment].methods]
            if claim.method in missing and claim.test != "search":
                raise ValueError(f"claims.{name} is about {claim.method!r}, which experiment {experiment!r} does not have; "
                                 "add it to the experiment's methods")
        if claim.test == "search" and claim.method not in experiments[claim.experiments[0]].methods:
            raise ValueError(f"claims.{name} is about {claim.method!r}, which its first experiment {claim.experiments[0]!r} does "
                             "not have; put the experiment with the searches first")
        for method in (*claim.over, *claim.controls):
            if not any(method in experiments[experiment].methods for experiment in claim.experiments):
                raise ValueError(f"claims.{name} compares with {method!r}, which none of its experiments has; "
                                 "add it to the methods of one, or drop it here")
        families = {family for experiment in claim.experiments for family in experiments[experiment].families}
        counted = {chosen.task for one in claim.experiments for chosen in experiments[one].families.values()} if (
            claim.test == "shapes") else families
        if claim.families > len(counted):
            raise ValueError(f"claims.{name}.families is {claim.families}, and its experiments have {len(counted)}; no claim "
                             "could hold on more")
        for field, named in (("thresholds", claim.thresholds), ("pairs", [one for pair in claim.pairs for one in pair])):
            for family in named:
                if family not in families:
                    raise ValueError(f"claims.{name}.{field} names the family {family!r}; its experiments have "
                                     f"{', '.join(sorted(families))}")
        if claim.test == "shapes" and (not claim.pairs or any(len(pair) != 2 for pair in claim.pairs)):
            raise ValueError(f"claims.{name}.pairs is {claim.pairs}; name one pair or more, such as (('deep', 'wide'),): the "
                             "first is to be ahead of the second")


def write_claims(claims: Mapping[str, Claim], experiments: Mapping[str, Config], workdir: Path) -> str:
    """Writes `claims.md` and its pictures into the workdir; returns the verdicts, one a line."""
    found = outcomes(experiments, workdir)
    lines, sections = [], []
    for name, claim in claims.items():
        verdict = TESTS[claim.test](name, claim, [found[experiment] for experiment in claim.experiments], workdir)
        lines.append(f"| {name} | {claim.says} | {verdict.word} |")
        sections += [f"## {name}: {claim.says}", "", f"**{verdict.word}** {verdict.why}", "", *verdict.lines]
        sections += [claim.note, ""] if claim.note else []
    for one in found.values():
        for family in one.config.families:
            sections += sweeps(one, family)
    sections += health.section(list(found.values()), workdir)
    text = ["# Claims", "", "What each claim asks and what came out. Accuracies are on test questions that nothing was trained "
            "or tuned on, unless validation is named; intervals are 95 % from a paired bootstrap over seeds and questions, "
            "widened for few seeds (`analysis/paired.py`); every seed that is finished is shown, and a claim is judged when all "
            "are.",
            "", "| claim | | |", "| --- | --- | --- |", *lines, "", *_spent(found), *sections]
    write_text(workdir / "claims.md", "\n".join(text).rstrip() + "\n")
    return "\n".join([*(line.strip("| ") for line in lines), f"Claims: {workdir / 'claims.md'}"])


def sweeps(one: Outcome, family: str) -> list[str]:
    """What was tried for every method on validation questions before anything was reported."""
    tried: dict[str, dict] = {}
    for cell in sweep_cells(one.config, family):
        if done := read_done(cell.folder(one.folder, "sweep")):
            tried.setdefault(cell.method, {})[cell] = done["validation"]
    lines = sweep_section(tried, one.config.sweep)
    return [lines[0].replace("###", "##") + f": {one.name}/{family}", *lines[1:]] if lines else []


def _spent(found: Mapping[str, Outcome]) -> list[str]:
    """What the experiments took. A clock counts what else a machine did: cells of one family, method and length are much the same
    work, so their median says what it would be without."""
    rows, sums = [], [0, 0, 0.0, 0.0]
    for name, one in found.items():
        tried, trained, hours = 0, 0, {}
        for family in one.config.families:
            for cell in sweep_cells(one.config, family):
                if done := read_done(cell.folder(one.folder, "sweep")):
                    tried += 1
                    hours.setdefault((family, cell.method, cell.steps), []).append(done)
            for method in one.config.methods:
                for cell in one.trained(family, method).values():
                    trained += 1
                    hours.setdefault((family, method, cell.done["steps"]), []).append(cell.done)
        took = [[done.get("seconds_of_last_process", 0) / 3600 for done in alike] for alike in hours.values()]
        row = [tried, trained, sum(map(sum, took)), sum(len(alike) * statistics.median(alike) for alike in took)]
        sums = [total + more for total, more in zip(sums, row)]
        rows.append((name, row))
    rows.append(("all", sums))
    head = ["experiment", "trials of sweeps", "trained cells", "hours of one core, by the clock", "each the median of its like"]
    return table(head, [[name, tried, trained, f"{clock:.2f}", f"{alone:.2f}"] for name, (tried, trained, clock, alone) in rows])
