"""Health of training: which signals of its first third tell how it ends?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from neuromas_jax.analysis import claim_plots as plots
from neuromas_jax.analysis.outcomes import Outcome, Trained
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


def section(found: Sequence[Outcome], workdir: Path) -> list[str]:
    """Rank correlation of each early signal with the accuracy at the end, over all runs of a family, trials of the sweep too."""
    rows, pictures = [], []
    for outcome in found:
        for family in outcome.config.families:
            cells = [cell for method in outcome.config.methods for cell in outcome.trained(family, method).values()]
            cells += [cell for cell in outcome.trials(family) if "diverged" not in cell.done]
            cells = [cell for cell in cells if len(cell.metrics) > 3]
            if len(cells) < LEAST:
                continue
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
            *table(["family", "runs", *SIGNALS], rows),
            "Every run over training; dark lines ended well, pale ones badly:", "", *pictures]
