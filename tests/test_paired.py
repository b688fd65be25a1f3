"""Paired bootstrap: what it must say on cases whose answer is known."""

import numpy as np
import pytest

from neuromas_jax.analysis.paired import mean_interval, paired_gap, steps_to


def records(rows):
    return [{"method": "m", "set": "s", "seed": seed, "correct": "".join("01"[bool(x)] for x in row)}
            for seed, row in enumerate(rows)]


def test_the_gap_of_a_method_with_itself_is_nothing():
    same = records(np.random.default_rng(0).random((3, 50)) < 0.5)
    gap = paired_gap(same, same)
    assert (gap.mean, gap.low, gap.high, gap.by_seed) == (0, 0, 0, (0, 0, 0)) and not gap.above and not gap.below


def test_pairing_takes_out_what_both_share():
    """The same hard questions for both: the interval is that of the few on which they differ."""
    rng = np.random.default_rng(1)
    base = rng.random((3, 400)) < 0.5
    better = base.copy()
    better[:, :40] = True
    worse = base.copy()
    worse[:, :40] = False
    gap = paired_gap(records(better), records(worse))
    assert gap.mean == pytest.approx(0.1) and gap.above and gap.high - gap.low < 0.07
    shuffled = records(rng.permutation(worse.T).T)
    unpaired = paired_gap(records(better), shuffled)
    assert unpaired.mean == pytest.approx(0.1) and unpaired.high - unpaired.low > 0.09


def test_the_interval_has_the_width_that_theory_gives():
    """One seed: the standard error of a paired difference, sqrt(var / n)."""
    rng = np.random.default_rng(2)
    a, b = rng.random((1, 1000)) < 0.7, rng.random((1, 1000)) < 0.6
    gap, wanted = paired_gap(records(a), records(b)), 1.96 * (a.astype(float) - b).std() / 1000**0.5
    assert (gap.high - gap.low) / 2 == pytest.approx(wanted, rel=0.05)


def test_seeds_that_disagree_widen_the_interval():
    won, lost = np.ones((1, 500), bool), np.zeros((1, 500), bool)
    gap = paired_gap(records(np.concatenate([won, lost, won])), records(np.concatenate([lost, won, lost])))
    assert gap.by_seed == (1, -1, 1) and gap.low == -1 and gap.high == 1


def test_strata_are_drawn_from_separately():
    """Each stratum keeps its share in every draw: equal within, so nothing varies."""
    first = np.concatenate([np.ones((2, 30), bool), np.zeros((2, 30), bool)])
    second = records(np.zeros((4, 30), bool))
    loose, strict = paired_gap(records(first), second), paired_gap(records(first), second, [[0, 1], [2, 3]])
    assert (strict.mean, strict.low, strict.high) == (0.5, 0.5, 0.5) and loose.low < 0.5 < loose.high


def test_what_does_not_pair_up_is_refused():
    one = records(np.ones((1, 4), bool))
    with pytest.raises(ValueError, match="1 records against 0"):
        paired_gap(one, [])
    with pytest.raises(ValueError, match="4 questions against 5"):
        paired_gap(one, records(np.ones((1, 5), bool)))
    with pytest.raises(ValueError, match="does not tell which questions were answered right; evaluate again"):
        paired_gap(one, [{"method": "m", "set": "s", "seed": 0}])


def test_a_threshold_must_be_held():
    def run(*values):
        return [{"step": 5 * (number + 1), "accuracy": value} for number, value in enumerate(values)]

    assert steps_to(run(0.1, 0.95, 0.2, 0.96, 0.97, 0.3), 0.9) == 20
    assert steps_to(run(0.1, 0.95, 0.2), 0.9) is None
    assert steps_to(run(0.1, 0.2, 0.95), 0.9) == 15  # nothing comes after


def test_mean_interval():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2 and (high - mean) == pytest.approx(mean - low) == pytest.approx(4.3027 / 3**0.5, rel=1e-3)
    assert mean_interval([0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_nothing_as_often_as_it_says(seeds):
    """No true gap, and seeds that differ by far more than questions do: zero is left out in about a twentieth of cases."""
    rng, missed = np.random.default_rng(seeds), 0
    for _ in range(200):
        shift = rng.normal(0, 0.2, seeds)[:, None]
        gap = paired_gap(records(rng.random((seeds, 60)) < 0.5 + shift), records(rng.random((seeds, 60)) < 0.5), draws=500)
        missed += gap.above or gap.below
    assert missed <= 18  # 10 expected
