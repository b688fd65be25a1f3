"""Paired comparisons of two methods on the same questions and seeds, with bootstrap intervals."""

from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import stats

DRAWS = 10_000


@dataclasses.dataclass(frozen=True)
class Gap:
    """A mean difference of accuracies with its 95 % interval; `by_seed` are those of the single seeds."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def above(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0

    @property
    def below(self) -> bool:
        return self.high < 0

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def right(record: dict) -> np.ndarray:
    """Which of a record's questions were answered right, `[n]`. Raises ValueError where the record does not say."""
    if not record.get("correct"):
        raise ValueError(f"the record of {record.get('method')} on {record.get('set')}, seed {record.get('seed')}, does not tell "
                         "which questions were answered right; evaluate again")
    return np.frombuffer(record["correct"].encode(), np.uint8) == ord("1")


def paired_gap(
    first: Sequence[dict], second: Sequence[dict], strata: Sequence[Sequence[int]] | None = None, draws: int = DRAWS
) -> Gap:
    """Mean accuracy of the first records minus that of the second, record by record and question by question.

    Each draw of the bootstrap takes records with replacement, then questions with replacement, the same ones for both methods, so
    the interval covers the draw of seeds and of questions. From few seeds a bootstrap finds too little spread, by a factor of
    (k - 1) / k of their variance and for want of Student's t; so it is widened by both (`small_sample`).

    Args:
      first, second: one record per seed, in the same order, all on the same questions.
      strata: groups of records, such as those of one backbone, that are drawn from separately; one group by default.
      draws: of the bootstrap.

    Raises:
      ValueError: they do not pair up.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} records against {len(second)}; a paired comparison needs as many of both, one at least")
    a, b = np.stack([right(one) for one in first]), np.stack([right(one) for one in second])
    if a.shape != b.shape:
        raise ValueError(f"{a.shape[1]} questions against {b.shape[1]}; both must have been asked the same")
    difference = a.astype(np.float64) - b
    seeds, n = difference.shape
    rng = np.random.default_rng(0)
    weights = np.zeros((draws, seeds))
    for group in strata or [range(seeds)]:
        group = list(group)
        weights[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), draws)
    drawn = np.einsum("dq,dq->d", weights @ difference, rng.multinomial(n, np.full(n, 1 / n), draws)) / (seeds * n)
    mean, groups = difference.mean(), [list(group) for group in strata or [range(seeds)]]
    low, high = np.clip(mean + (np.quantile(drawn, [0.025, 0.975]) - mean) * small_sample(difference, groups), -1, 1)
    return Gap(float(mean), float(low), float(high), tuple(difference.mean(axis=1).tolist()))


def small_sample(difference: np.ndarray, groups: Sequence[Sequence[int]]) -> float:
    """How much wider than the bootstrap's an interval must be for so few seeds.

    The variance of the mean is v + w: v for the draw of questions, w for that of seeds, within their groups. The bootstrap sees
    (k - 1) / k of w, and takes the normal's quantile where w, from k - g numbers, asks for Student's with Satterthwaite's (1946)
    degrees of freedom. One seed a group says nothing of seeds: the interval is then that of questions alone.

    Args:
      difference: `[seeds, n]`.
      groups: rows that are drawn from separately.
    """
    seeds, n = difference.shape
    means = difference.mean(axis=1)
    v = difference.mean(axis=0).var() / n
    w = sum(len(group) * np.var(means[group], ddof=1) for group in groups if len(group) > 1) / seeds**2
    seen = sum(len(group) * np.var(means[group]) for group in groups if len(group) > 1) / seeds**2
    if w == 0:
        return 1.0
    freedom = (v + w) ** 2 / (w**2 / sum(len(group) - 1 for group in groups if len(group) > 1))
    return float(np.sqrt((v + w) / (v + seen)) * stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a few numbers, one per seed, with Student's 95 % interval; of a single one, without any width."""
    values = np.asarray(values, np.float64)
    if len(values) == 1:
        return (float(values[0]),) * 3
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def steps_to(records: Sequence[dict], threshold: float) -> int | None:
    """The first evaluated step from which on validation accuracy is at least the threshold twice running, or at the end; None
    where there is none. One lucky reading does not count."""
    values = [(record["step"], record["accuracy"]) for record in records]
    for number, (step, value) in enumerate(values):
        after = values[number + 1][1] if number + 1 < len(values) else value
        if value >= threshold and after >= threshold:
            return step
    return None
