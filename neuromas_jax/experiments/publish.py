"""Copies what is worth keeping of a finished (or unfinished) experiment:

    python -m neuromas_jax.experiments.publish runs/reference results/reference
    python -m neuromas_jax.experiments.publish runs/claims results/claims docs/claims.md

Results, report and plots; of every trained cell its summary and metrics; the graphs' adapters and episodes; and for the families
below, which the quickstart evaluates, the adapters of the graph's rivals. Checkpoints and events stay behind.

An unfinished experiment goes on from a copy of the published folder: what is finished is not done again. A rival whose adapters
were left out counts as finished while its evaluations hold; where one must be made again (more test questions, another method
that uses its adapters), it is trained again first.

Of a suite: the claims with their pictures, results, and of every cell, those of sweeps too, summary and metrics. Adapters stay
behind; a finished cell without them counts as finished while its evaluations hold. A third name is that of a copy of the claims
for readers, whose pictures are those of the published folder.
"""

import os
from pathlib import Path
import re
import shutil
import sys

RIVALS_FOR = ("boolean",)  # seed 0
PICTURES = ("results", "curves", "labels", "graph")
STAGES = ("sweep", "train", "evaluation")
CLAIMS = "claims.md"
PICTURE = re.compile(r"\]\(([^)/]+\.png)\)")  # as the claims show one


def report_files(folder: Path) -> list[Path]:
    """The report and its pictures, and nothing else that may lie beside them."""
    return [path for pattern in ("report.md", *(f"{kind}_*.png" for kind in PICTURES)) for path in sorted(folder.glob(pattern))]


def chosen_files(workdir: Path) -> list[Path]:
    """What of an experiment's folder is worth keeping."""
    chosen = [workdir / "results.jsonl", *report_files(workdir)]
    chosen += [path for stage in STAGES for path in sorted(workdir.glob(f"{stage}/*/*/done.json"))]
    chosen += sorted(workdir.glob("train/*/*/metrics.jsonl"))  # the report of an experiment that goes on draws them again
    chosen += sorted(workdir.glob("train/*/graph_seed*/episodes.txt"))
    chosen += sorted(workdir.glob("train/*/graph_seed*/adapters.safetensors"))
    for family in RIVALS_FOR:
        chosen += sorted(path for path in workdir.glob(f"train/{family}/*_seed0/adapters.safetensors") if path not in chosen)
    return chosen


def suite_files(workdir: Path) -> list[Path]:
    """What of a suite's folder is worth keeping: of its pictures those that the claims show, since earlier ones may lie there."""
    kept = [f"*/{stage}/*/*/{name}" for stage in STAGES for name in ("done.json", "metrics.jsonl")]
    shown = sorted(set(PICTURE.findall((workdir / CLAIMS).read_text(encoding="utf-8"))))
    return [path for pattern in ("results.jsonl", CLAIMS, *shown, *kept) for path in sorted(workdir.glob(pattern))]


def publish(workdir: Path, target: Path) -> list[Path]:
    """Returns the files written; what was published there before is removed.

    Raises ValueError if the workdir holds no results, is itself the target, or the target is a workdir or holds other files.
    """
    if not (workdir / "results.jsonl").exists():
        raise ValueError(f"{workdir} holds no results.jsonl; run the experiment first")
    if workdir.resolve() == target.resolve():
        raise ValueError(f"{target} is the experiment's own folder; give another one to publish into")
    if target.exists() and any(target.iterdir()) and not (target / "results.jsonl").exists():
        raise ValueError(f"{target} holds other files and no results.jsonl, so nothing was published there before; "
                         "give an empty folder or a new one")
    if any((*target.glob("*/*/*/lock"), *target.glob("*/*/*/*/lock"))):
        raise ValueError(f"{target} is the workdir of an experiment, whose checkpoints would be lost; "
                         "give an empty folder or a new one")
    for stage in STAGES:
        for folder in (target / stage, *target.glob(f"*/{stage}")):
            shutil.rmtree(folder, ignore_errors=True)
    pictures = target.glob("*.png") if (target / CLAIMS).exists() else ()
    for old in {*report_files(target), *target.glob(CLAIMS), *pictures}:
        old.unlink()
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for source in suite_files(workdir) if (workdir / CLAIMS).exists() else chosen_files(workdir):
        copy = target / source.relative_to(workdir)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        written.append(copy)
    return written


def readers_copy(target: Path, document: Path) -> str:
    """The text of a published `claims.md` as it stands in a document elsewhere."""
    pictures = os.path.relpath(target, document.parent)
    return PICTURE.sub(rf"]({pictures}/\1)", (target / CLAIMS).read_text(encoding="utf-8"))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python -m neuromas_jax.experiments.publish WORKDIR TARGET [DOCUMENT]")
    try:
        print(f"{len(publish(Path(sys.argv[1]), Path(sys.argv[2])))} files written to {sys.argv[2]}")
        for document in map(Path, sys.argv[3:]):
            document.parent.mkdir(parents=True, exist_ok=True)
            document.write_text(readers_copy(Path(sys.argv[2]), document), encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
