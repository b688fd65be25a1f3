"""`python -m neuromas_jax.pretrain --config=configs/embedded_backbone.py --workdir=runs/embedded_backbone`"""

import sys

from absl import app, flags
from ml_collections import config_flags

from neuromas_jax.command import local_folder
from neuromas_jax.pretrain.train import train

_CONFIG = config_flags.DEFINE_config_file("config", "configs/embedded_backbone.py", "The run, as an ml_collections file.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/embedded_backbone", "Where checkpoints and the log go; a second call goes on there.")


def main(arguments):
    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments {arguments[1:]}; give --config, --workdir, or --config.name=value")
    try:
        summary = train(_CONFIG.value, local_folder(_WORKDIR.value))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for family, skills in summary["skills"].items():
        print(f"{family:12}", "  ".join(f"{skill} {accuracy:.3f}" for skill, accuracy in skills.items()))


if __name__ == "__main__":
    app.run(main)
