"""Copies what is worth keeping of a finished (or unfinished) experiment:

    python -m neuromas_jax.experiments.publish runs/reference results/reference

Results, report and plots; of every trained cell its summary; and the adapters of the methods named below, which the quickstart and
others evaluate. Checkpoints, events and metrics stay behind.
"""

from pathlib import Path
import shutil
import sys

ADAPTERS_OF = ("graph", "single_equal_parameters", "graph_shared_adapter", "single_equal_tokens", "chain_equal_calls")
ADAPTER_SEEDS = {"graph": (0, 1, 2)}  # the others: seed 0


def publish(workdir: Path, target: Path) -> list[Path]:
    """Returns the files written. Raises ValueError if the workdir holds no results."""
    if not (workdir / "results.jsonl").exists():
        raise ValueError(f"{workdir} holds no results.jsonl; run the experiment first")
    target.mkdir(parents=True, exist_ok=True)
    chosen = [workdir / "results.jsonl", *workdir.glob("*.md"), *workdir.glob("*.png")]
    chosen += sorted(workdir.glob("sweep/*/*/done.json")) + sorted(workdir.glob("train/*/*/done.json"))
    for method in ADAPTERS_OF:
        for seed in ADAPTER_SEEDS.get(method, (0,)):
            chosen += sorted(workdir.glob(f"train/*/{method}_seed{seed}/adapters.safetensors"))
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
    print(f"{len(publish(Path(sys.argv[1]), Path(sys.argv[2])))} files written to {sys.argv[2]}")
