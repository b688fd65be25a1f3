"""Health of training: which signals of its first third tell how it ends, and whether it collapses?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from neuromas_jax.analysis import claim_plots as plots
from neuromas_jax.analysis.outcomes import Outcome, Trained
from neuromas_jax.analysis.pooling import percent
from neuromas_jax.analysis.report import table
from neuromas_jax.train.evaluate import UNLABELLED

SIGNALS = {
    "entropy": "mean entropy of a message token, nats, over all nodes but the readout",
    "diversity": "different labels that the nodes of the graph write, as a share of its nodes",
    "gradient": "norm of a slot's gradient, geometric mean over nodes",
    "gradient spread": "largest slot gradient over the smallest, as a logarithm",
    "accuracy": "validation accuracy itself, to compare with",
}
AT = 1 / 3
LEAST = 8  # runs of a family that a rank correlation needs
FALL = 0.1  # of accuracy, from a run's best validation to its last
DRAWS = 1000


def signals(record: dict) -> dict[str, float]:
    """The signals of one record of `metrics.jsonl`."""
    nodes = record["nodes"]
    gradients = np.log(np.maximum(nodes["gradient_norm"], 1e-12))
    labels = {label for label in nodes["label"] if label not in UNLABELLED}
    entropy = nodes["entropy"][:-1] or nodes["entropy"]
    return {"entropy": float(np.mean(entropy)), "diversity": len(labels) / len(nodes["label"]),
            "gradient": float(np.exp(gradients.mean())), "gradient spread": float(gradients.max() - gradients.min()),
            "accuracy": record["accuracy"]}


def early(cell: Trained) -> dict[str, float]:
    """The signals at the first evaluation after a third of the run."""
    last = cell.metrics[-1]["step"]
    return signals(next(record for record in cell.metrics if record["step"] >= AT * last))


def collapsed(cell: Trained) -> bool:
    """Whether a run ends no more accurate on validation than it began, or ten points and more below its best."""
    shares = [record["accuracy"] for record in cell.metrics]
    end = cell.done["validation"]
    return end <= shares[0] or end <= max(shares) - FALL


def tells(values: Sequence[np.ndarray], fell: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """How often a run that collapsed had the lower signal than one that did not, of the same family, with a 95 % interval; ties
    count half (the area under the ROC curve, within families). 0.5 tells nothing.

    Args:
      values: a signal of each family's runs.
      fell: which of them collapsed; families without both kinds have no pairs.

    Returns:
      The share of all pairs, and its interval from a bootstrap over runs of either kind within their families.
    """
    pairs = [(one[bad], one[~bad]) for one, bad in zip(values, fell) if bad.any() and not bad.all()]
    if not pairs:
        return float("nan"), float("nan"), float("nan")
    lower = [(bad[:, None] < good[None]) + 0.5 * (bad[:, None] == good[None]) for bad, good in pairs]
    total, rng = sum(one.size for one in lower), np.random.default_rng(0)
    drawn = [sum(one[rng.integers(len(one), size=len(one))][:, rng.integers(one.shape[1], size=one.shape[1])].sum()
                 for one in lower) / total for _ in range(DRAWS)]
    return sum(one.sum() for one in lower) / total, *np.quantile(drawn, [0.025, 0.975])


def collapse(families: Sequence[Sequence[Trained]]) -> list[str]:
    """What tells runs that collapse from others early on, over all families; a signal does where its interval excludes chance."""
    fell = [np.asarray([collapsed(cell) for cell in cells]) for cells in families]
    mixed = sum(bool(one.any() and not one.all()) for one in fell)
    rows, useful = [], []
    for signal in SIGNALS:
        values = [np.asarray([early(cell)[signal] for cell in cells]) for cells in families]
        share, low, high = tells(values, fell)
        if np.isnan(share):
            continue
        each = [tells([one], [bad])[0] for one, bad in zip(values, fell)]
        rows.append([signal, f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
                     f"{sum(one > 0.5 for one in each)} of {mixed}"])
        if low > 0.5 or high < 0.5:
            useful.append(f"{signal} ({'lower' if low > 0.5 else 'higher'} in runs that collapse)")
    if not rows:
        return []
    count = sum(int(one.sum()) for one in fell)
    return [f"A run collapsed that ended no more accurate on validation than it began, or {percent(FALL)} points and more below "
            f"its best: {count} of {sum(map(len, families))} runs; {mixed} families have both kinds. How often a run that "
            "collapsed had the lower signal after a third of its steps than one of the same family that did not (50 tells "
            f"nothing): {'; '.join(useful) or 'no signal'} told them apart.", "",
            *table(["signal", "lower in the run that collapsed, % of pairs", "families where it is lower"], rows)]


def section(found: Sequence[Outcome], workdir: Path) -> list[str]:
    """Rank correlation of each early signal with the accuracy at the end, over all runs of a family, trials of the sweep too; and
    which of them tell runs that collapse."""
    rows, pictures, families = [], [], []
    for outcome in found:
        for family in outcome.config.families:
            cells = [cell for method in outcome.config.methods for cell in outcome.trained(family, method).values()]
            cells += [cell for cell in outcome.trials(family) if "diverged" not in cell.done]
            cells = [cell for cell in cells if len(cell.metrics) > 3]
            if len(cells) < LEAST:
                continue
            families.append(cells)
            ends = [cell.done["validation"] for cell in cells]
            firsts = [early(cell) for cell in cells]
            row = [f"{outcome.name}/{family}", len(cells)]
            for signal in SIGNALS:
                values = [first[signal] for first in firsts]
                varied = len(set(values)) > 1 and len(set(ends)) > 1
                row.append(f"{stats.spearmanr(values, ends).statistic:+.2f}" if varied else "–")
            rows.append(row)
            path = plots.draw_health(workdir / f"health_{outcome.name}_{family}.png", f"{outcome.name}, {family}",
                                     [([record["step"] for record in cell.metrics], [signals(record) for record in cell.metrics],
                                       end) for cell, end in zip(cells, ends)], tuple(SIGNALS)[:-1])
            pictures += [f"![health signals over training on {family}]({path.name})", ""]
    if not rows:
        return []
    words = [f"- {name}: {text}." for name, text in SIGNALS.items()]
    return ["## Health of training", "",
            f"Signals at the first evaluation after a third of each run, and how the run ended: Spearman's rank correlation with "
            f"the final validation accuracy, over all runs of a family and all methods, sweeps included (families with {LEAST} "
            "runs or more). A signal whose sign changes from family to family predicts nothing in general.", "", *words, "",
            *table(["family", "runs", *SIGNALS], rows), *collapse(families),
            "Every run over training; dark lines ended well, pale ones badly:", "", *pictures]
