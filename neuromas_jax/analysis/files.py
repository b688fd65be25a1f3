"""Answers to real files, which nothing was trained on, beside those to generated questions."""

from collections.abc import Sequence

import numpy as np

from neuromas_jax.analysis.outcomes import Outcome, pairs
from neuromas_jax.analysis.paired import paired_gap
from neuromas_jax.analysis.pooling import percent
from neuromas_jax.analysis.report import table


def on_files(claim, found: Sequence[Outcome], family: str, which: str = "") -> list[str]:
    """A table for each of the family's BBH files: every method of the claim, over all these experiments together.

    Args:
      claim: names its method, what it is compared with, and controls.
      found: experiments that have the family.
      family: of generated questions.
      which: says in the title which experiments these are.
    """
    lines = []
    for name, _ in dict.fromkeys(one for outcome in found for one in outcome.files(family)):
        rows = []
        for method in (claim.method, *claim.over, *claim.controls):
            both = [pairs(answers.get(claim.method, {}), answers.get(method, {}))
                    for outcome in found for answers in [outcome.answers(family, name, None)]]
            first, second = [one for ours, _ in both for one in ours], [one for _, theirs in both for one in theirs]
            ends = np.cumsum([len(ours) for ours, _ in both])
            strata = [list(range(end - len(ours), end)) for end, (ours, _) in zip(ends, both) if ours]
            if first:
                shares = [record["accuracy"] for record in second]
                rows.append([method, percent(np.mean(shares)), ", ".join(map(percent, shares)),
                             "–" if method == claim.method else str(paired_gap(first, second, strata))])
        if rows:
            lines += [f"The file {name}{which}, which nothing was trained on:", "",
                      *table(["method", "accuracy %", "by seed", f"{claim.method} − it, points"], rows)]
    return lines
