"""Records of `results.jsonl` put together: seeds pooled, sets in order, differences with intervals."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

from scipy import stats

from neuromas_jax.methods import MESSAGES, METHODS
from neuromas_jax.train.evaluate import wilson

CONTROLS = ("graph_untrained", *MESSAGES)  # the graph itself, taken apart; all other methods are rivals


@dataclasses.dataclass(frozen=True)
class Pool:
    """One method on one evaluation set: its records, one per seed.

    Attributes:
      method: name.
      records: ordered by seed.
    """

    method: str
    records: tuple[dict, ...]

    @property
    def counted(self) -> tuple[dict, ...]:
        """The records that bring new answers: where nothing is trained, all seeds are one and the same system."""
        return self.records if self.records[0]["trainable_parameters"] else self.records[:1]

    @property
    def questions(self) -> float:
        """How many independent answers the mean over seeds is worth: at most the questions of one seed.

        All seeds are asked the same questions, so more seeds do not make more questions; and seeds that differ make fewer. The
        variance of the mean is taken as v + w: v = p (1 - p) / n for the draw of n questions, w = s^2 / k for that of k seeds, s
        the standard deviation between them. s comes from k seeds alone, so the interval uses Student's t with Satterthwaite's
        (1946) degrees of freedom, (v + w)^2 / (w^2 / (k - 1)), in place of the normal quantile; here that shrinks the answers.
        """
        shares = [record["accuracy"] for record in self.counted]
        n, p = self.records[0]["n"], sum(shares) / len(shares)
        w = statistics.variance(shares) / len(shares) if len(shares) > 1 else 0.0
        if w == 0 or p in (0.0, 1.0):
            return n
        v = p * (1 - p) / n
        wider = stats.t.ppf(0.975, (v + w) ** 2 / (w**2 / (len(shares) - 1))) / stats.norm.ppf(0.975)
        return float(p * (1 - p) / ((v + w) * wider**2))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean over seeds: Wilson's, for as many answers as the mean is worth."""
        return wilson(self.mean() * self.questions, self.questions)

    def mean(self, field: str = "accuracy") -> float:
        return sum(record[field] for record in self.records) / len(self.records)

    def seeds(self) -> dict[int, float]:
        """Accuracy by seed."""
        return {record["seed"]: record["accuracy"] for record in self.records}


@dataclasses.dataclass(frozen=True)
class SetResults:
    """Everything about one evaluation set.

    Attributes:
      family: whose training it belongs to.
      name, depth: of the set.
      pools: by method, in the order of `METHODS`.
    """

    family: str
    name: str
    depth: int | None
    pools: dict[str, Pool]

    @property
    def facts(self) -> dict:
        """A record, for what all records of the set share: n, chance, majority, shallow, shallow_rule."""
        return next(iter(self.pools.values())).records[0]

    @property
    def title(self) -> str:
        words = self.name.replace("_held_out", " (held out)").replace("bbh_", "BBH ")
        return words if self.depth is None else f"{words}, depth {self.depth}"

    def best_rival(self) -> Pool | None:
        """The best of what is neither the graph nor the graph taken apart."""
        rivals = [pool for name, pool in self.pools.items() if name != "graph" and name not in CONTROLS]
        return max(rivals, key=Pool.mean, default=None)


def gather(records: list[dict]) -> list[SetResults]:
    """Records by set, in the order in which families and sets first appear."""
    sets: dict[tuple, dict[str, list[dict]]] = {}
    for record in records:
        key = (record.get("family", record["set"]), record["set"], record["depth"])
        sets.setdefault(key, {}).setdefault(record["method"], []).append(record)
    families = list(dict.fromkeys(key[0] for key in sets))
    place = {name: number for number, name in enumerate(METHODS)}
    found = []
    for family, name, depth in sorted(sets, key=lambda key: families.index(key[0])):
        methods = sets[family, name, depth]
        found.append(SetResults(family, name, depth, {
            method: Pool(method, tuple(sorted(methods[method], key=lambda record: record["seed"])))
            for method in sorted(methods, key=lambda method: place.get(method, len(place)))
        }))
    return found


def headline(sets: list[SetResults]) -> list[SetResults]:
    """The deepest trained depth of each family, and each BBH file."""
    deepest = {}
    for one in sets:
        if one.name == one.family and (one.family not in deepest or (one.depth or 0) > (deepest[one.family].depth or 0)):
            deepest[one.family] = one
    return [one for one in sets if one is deepest.get(one.family) or one.name.startswith("bbh_")]


def difference(first: Pool, second: Pool) -> tuple[float, float, float]:
    """Mean accuracy of the first minus the second's, with Newcombe's 95 % interval.

    The interval is his method 10: from two Wilson intervals.
    """
    p, q = first.mean(), second.mean()
    (low_p, high_p), (low_q, high_q) = first.interval, second.interval
    return p - q, p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q)


def read_records(path: Path) -> list[dict]:
    """Records of a `results.jsonl`. Raises ValueError naming file and line."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; give the results.jsonl of a workdir, which python -m neuromas_jax.main writes")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            missing = {"method", "set", "depth", "seed", "n", "accuracy", "majority", "shallow",
                       "trainable_parameters"} - set(record)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a record ({error}); "
                             "run the experiment's command again to rewrite the file") from error
        if missing:
            raise ValueError(f"{path}, line {number}: no field {sorted(missing)[0]!r}; "
                             "run the experiment's command again to rewrite the file")
        records.append(record)
    return records


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def between(low: float, high: float) -> str:
    return f"[{percent(low)}, {percent(high)}]"
