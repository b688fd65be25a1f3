"""Exports a trained graph for plain `transformers` and `peft`.

    python -m neuromas_jax.export --config=configs/quickstart.py --workdir=runs/quickstart --cell=listops/graph_seed0
    cd exported && echo "[MAX [MIN 3 5 ] [SM 2 7 ] ]" | python run_graph.py
"""

from pathlib import Path
import re
import sys

from absl import app, flags
from ml_collections import config_flags

from neuromas_jax.command import local_folder, parse_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/quickstart.py", "The experiment that trained the graph.", lock_config=False, accept_new_attributes=True)
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where that experiment was written.")
_CELL = flags.DEFINE_string("cell", "listops/graph_seed0", "Family, method and seed of a trained cell.")
_OUT = flags.DEFINE_string("out", "exported", "The folder to write; files of the same names are replaced.")


def main(arguments):
    from neuromas_jax.config import parse
    from neuromas_jax.experiments.adapters import load_adapters
    from neuromas_jax.experiments.cells import read_done
    from neuromas_jax.experiments.evaluation import judged_run
    from neuromas_jax.export.graph import export_graph
    from neuromas_jax.train.run import make_run

    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments {arguments[1:]}; give --config, --workdir, --cell, --out, or "
                             "--config.name=value")
    try:
        config = parse(_CONFIG.value)
        parts = re.fullmatch(r"([^/]+)/(.+)_seed(\d+)", _CELL.value)
        if not parts or parts[1] not in config.families or parts[2] not in config.methods:
            raise ValueError(f"--cell is {_CELL.value!r}; write family/method_seedN, a family of {', '.join(config.families)} "
                             f"and a method of {', '.join(config.methods)}")
        family, method, seed = parts[1], parts[2], int(parts[3])
        run = make_run(config, family, method)
        source = Path(config.families[family].adapters or local_folder(_WORKDIR.value) / "train" / family)
        cell = source / f"{run.method.trained_as or method}_seed{seed}"
        run = judged_run(run, read_done(cell) or {})
        export_graph(run, load_adapters(cell, run, seed), local_folder(_OUT.value, "--out"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{_OUT.value}: graph {run.method.graph} of {cell}; python run_graph.py there needs torch, transformers and peft")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
