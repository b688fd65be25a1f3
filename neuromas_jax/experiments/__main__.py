"""Runs a suite of experiments and judges its claims.

    python -m neuromas_jax.experiments --config=configs/claims.py --workdir=runs/claims [--shard=0/1]

The same command goes on where it stopped. `--shard=i/n` does every n-th part; shards on machines that share no disk are put
together by copying their workdirs into one and running the command once more, which does what is missing and judges the whole.
"""

import sys

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from neuromas_jax.command import local_folder, parse_flags, use_compilation_cache

_CONFIG = config_flags.DEFINE_config_file("config", "configs/claims.py", "The suite, an ml_collections file.", lock_config=False)
_WORKDIR = flags.DEFINE_string("workdir", "runs/claims", "Where everything is written; a second call goes on there.")
_SHARD = flags.DEFINE_string("shard", "0/1", "Which part of the work to do, i/n; processes with the same shard share it.")
_CACHE = flags.DEFINE_string(
    "compilation_cache", "~/.cache/neuromas_jax/xla", "Folder of compiled programs, gs:// too; empty for none.")


def main(arguments):
    from neuromas_jax.experiments.suite import check_suite, parse_shard, parse_suite, run_shard

    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments {arguments[1:]}; give --config, --workdir, --shard, or --config.name=value")
    try:
        workdir = local_folder(_WORKDIR.value)
        use_compilation_cache(_CACHE.value)
        shard = parse_shard(_SHARD.value)
        suite = parse_suite(_CONFIG.value)
        check_suite(suite, workdir)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    logging.info("jax %s on %s", jax.__version__, jax.devices())
    try:
        print(run_shard(suite, workdir, shard))
    except (ValueError, FloatingPointError, RuntimeError, OSError) as error:
        logging.exception("stopped")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
