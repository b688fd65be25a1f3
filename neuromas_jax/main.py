"""Trains and evaluates what a config describes.

    python -m neuromas_jax.main --config=configs/quickstart.py --workdir=runs/quickstart [--config.test_questions=64 ...]

Running the same command again goes on where it stopped.
"""

from pathlib import Path
import os
import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "The experiment, as an ml_collections file.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where everything is written; a second call goes on there.")
_WORKER = flags.DEFINE_integer("worker", 0, "Number of this process; set by the first one for those it starts.")
_CACHE = flags.DEFINE_string("compilation_cache", "~/.cache/neuromas_jax/xla", "Folder of compiled programs; empty for none.")


def main(arguments):
    from neuromas_jax.config import parse
    from neuromas_jax.experiments.run import check, collect, run_experiment, run_workers

    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments {arguments[1:]}; give --config, --workdir, or --config.name=value")
    if _CACHE.value:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(_CACHE.value))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    workdir = Path(_WORKDIR.value)
    try:
        config = parse(_CONFIG.value)
        if config.workers > 1:  # several processes share the cores better than several threads do
            one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {one_thread}".strip()
        if _WORKER.value == 0:
            check(config, workdir)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    logging.info("jax %s on %s", jax.__version__, jax.devices())
    try:
        if _WORKER.value:
            run_experiment(config, workdir, _WORKER.value)
            return
        run_workers(config, workdir, sys.argv[1:])
    except (ValueError, FloatingPointError, RuntimeError) as error:
        logging.exception("stopped")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    records = collect(config, workdir)
    from neuromas_jax.analysis.report import write_report

    print(write_report(config, workdir, records))


if __name__ == "__main__":
    app.run(main)
