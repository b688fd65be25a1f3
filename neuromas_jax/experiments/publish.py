"""Copies what is worth keeping of a finished (or unfinished) experiment:

    python -m neuromas_jax.experiments.publish runs/reference results/reference

Results, report and plots; of every trained cell its summary and metrics; the graphs' adapters and episodes; and for the families
below, which the quickstart evaluates, the adapters of the graph's rivals. Checkpoints and events stay behind.

An unfinished experiment goes on from a copy of the published folder: what is finished is not done again. A rival whose adapters
were left out counts as finished while its evaluations hold; where one must be made again (more test questions, another method
that uses its adapters), it is trained again first.
"""

from pathlib import Path
import shutil
import sys

RIVALS_FOR = ("boolean",)  # seed 0
PICTURES = ("results", "curves", "labels", "graph")
STAGES = ("sweep", "train", "evaluation")


def report_files(folder: Path) -> list[Path]:
    """The report and its pictures, and nothing else that may lie beside them."""
    return [path for pattern in ("report.md", *(f"{kind}_*.png" for kind in PICTURES)) for path in sorted(folder.glob(pattern))]


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
    if any(target.glob("*/*/*/lock")):
        raise ValueError(f"{target} is the workdir of an experiment, whose checkpoints would be lost; "
                         "give an empty folder or a new one")
    for stage in STAGES:
        shutil.rmtree(target / stage, ignore_errors=True)
    for old in report_files(target):
        old.unlink()
    target.mkdir(parents=True, exist_ok=True)
    chosen = [workdir / "results.jsonl", *report_files(workdir)]
    chosen += [path for stage in STAGES for path in sorted(workdir.glob(f"{stage}/*/*/done.json"))]
    chosen += sorted(workdir.glob("train/*/*/metrics.jsonl"))  # the report of an experiment that goes on draws them again
    chosen += sorted(workdir.glob("train/*/graph_seed*/episodes.txt"))
    chosen += sorted(workdir.glob("train/*/graph_seed*/adapters.safetensors"))
    for family in RIVALS_FOR:
        chosen += sorted(path for path in workdir.glob(f"train/{family}/*_seed0/adapters.safetensors") if path not in chosen)
    written = []
    for source in chosen:
        copy = target / source.relative_to(workdir)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        written.append(copy)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m neuromas_jax.experiments.publish WORKDIR TARGET")
    try:
        print(f"{len(publish(Path(sys.argv[1]), Path(sys.argv[2])))} files written to {sys.argv[2]}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
