"""Runs an experiment on TPUs of a GKE cluster, as a JobSet that xpk makes (`pip install xpk`).

    python launch/gke.py --name=mine --cluster=C --project=P --zone=Z --tpu_type=v6e-256 --slices=2 --storage=results \
        --workdir=/results/mine --config=configs/pod.py [--smoke] [--dry_run] [-- --config.training.steps=50 ...]

The code of this folder travels in the image. --workdir lies in a storage of the cluster (`xpk storage create`, or `attach` for a
bucket), which all hosts mount. The JobSet is started again, by --max_restarts, after a host was taken away or the run was told to
end.
"""

from collections.abc import Sequence
import shlex
import sys

from absl import app, flags

import common
from common import NAME
from google_cloud import SLICES, spot, where

CLUSTER = flags.DEFINE_string("cluster", None, "Of GKE, made by xpk or with JobSet and Kueue.", required=True)
TPU = flags.DEFINE_string("tpu_type", None, "Such as v6e-16, v5litepod-16, v5p-128 or tpu7x-64.", required=True)
STORAGE = flags.DEFINE_string("storage", None, "Name of the storage that holds --workdir.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where results and checkpoints go, a path within the storage.", required=True)
IMAGE = flags.DEFINE_string("base_image", "python:3.12", "Image that the code is put on.")
RESTARTS = flags.DEFINE_integer("max_restarts", 100, "How often the JobSet is started again.")


def workload(rest: Sequence[str]) -> list[str]:
    if not WORKDIR.value.startswith("/"):
        raise ValueError(f"--workdir is {WORKDIR.value!r}; it must be a path within the storage {STORAGE.value!r}, such as "
                         "/results/mine")
    common.check_name()
    run = shlex.join(common.command(WORKDIR.value, rest))
    inside = f'VENV=/tmp/venv; source launch/environment.sh tpu; exec "$venv/bin/python" {run}'
    return ["xpk", "workload", "create", f"--workload={NAME.value}", f"--cluster={CLUSTER.value}", *where(),
            f"--tpu-type={TPU.value}", f"--num-slices={SLICES.value}", f"--storage={STORAGE.value}",
            f"--base-docker-image={IMAGE.value}", "--script-dir=.", f"--command=bash -c {shlex.quote(inside)}",
            f"--max-restarts={RESTARTS.value}", "--restart-on-exit-codes=75", "--termination-grace-period-seconds=300",
            *spot()]


def main(arguments: Sequence[str]) -> None:
    try:
        common.run([workload(arguments[1:])])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
