"""Runs an experiment on a Cloud TPU of any number of hosts, by a queued resource.

    python launch/cloud_tpu.py --name=mine --project=P --zone=us-east5-b --accelerator=v6e-16 --bucket=gs://B/neuromas --spot \
        --watch --config=configs/pod.py [--smoke] [--dry_run] [-- --config.training.steps=50 ...]

The bucket gets the committed code of this checkout and holds results, checkpoints and, if --compilation_cache says so, compiled
programs. Each host mounts it, installs the code, joins the others and runs the experiment (`launch/tpu_host.sh`), again where it
can go on. A spot TPU that is taken away has to be asked for anew: --watch does, until the run has ended, and then gives the TPU
back.
"""

from collections.abc import Sequence
import shlex
import subprocess
import sys
import tempfile
import time

from absl import app, flags

import common
from common import NAME
from google_cloud import SLICES, spot, where

ACCELERATOR = flags.DEFINE_string("accelerator", None, "Such as v6e-16, v5litepod-16 or v5p-128.", required=True)
BUCKET = flags.DEFINE_string("bucket", None, "gs://bucket/folder for code and results; in the TPU's region.", required=True)
RUNTIME = flags.DEFINE_string("runtime", "", "Runtime version of the hosts; by default the one for the accelerator.")
RESTARTS = flags.DEFINE_integer("restarts", 100, "How often a run that ended early is started again on the same TPU.")
WATCH = flags.DEFINE_bool("watch", False, "Stay: ask again for a TPU that was taken away, and give it back at the end.")

RUNTIMES = {"v4": "tpu-ubuntu2204-base", "v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e"}
LOST = ("SUSPENDED", "FAILED")
SECONDS, TRIES = 60.0, 5  # between two looks of --watch; how often a request may fail before it gives up


def runtime(accelerator: str) -> str:
    """Runtime version for an accelerator. Raises ValueError for one that is not known."""
    kind = accelerator.split("-")[0]
    if kind not in RUNTIMES:
        raise ValueError(f"--accelerator={accelerator}: its runtime is not known, only those of {', '.join(RUNTIMES)}; give "
                         "--runtime. A tpu7x is only had through GKE: launch/gke.py")
    return RUNTIMES[kind]


def place(bucket: str) -> tuple[str, str]:
    """("bucket", "folder") of gs://bucket/folder. Raises ValueError for anything else."""
    name, _, folder = bucket.removeprefix("gs://").strip("/").partition("/")
    if not bucket.startswith("gs://") or not name or not folder:
        raise ValueError(f"--bucket is {bucket!r}; it must be gs://BUCKET/FOLDER")
    return name, folder


def host_script(revision: str, status: str, rest: Sequence[str]) -> str:
    """What a host runs when it starts: settings, then `launch/tpu_host.sh`. At the end it writes a file into the folder `status`.
    """
    bucket, folder = place(BUCKET.value)
    folder = f"{folder}/{NAME.value}"
    command = common.command(f"/mnt/neuromas_jax/{folder}", rest)
    settings = dict(BUCKET=bucket, FOLDER=folder, REVISION=revision, RESTARTS=str(RESTARTS.value), STATUS=status)
    with open("launch/tpu_host.sh", encoding="utf-8") as file:
        first, script = file.read().split("\n", 1)
    lines = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
    return "\n".join([first, *lines, f"set -- {shlex.join(command)}", script])


def results() -> str:
    return f"{BUCKET.value.rstrip('/')}/{NAME.value}"


def queued(verb: str, *flags: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", verb, NAME.value, *where(), *flags]


def send(revision: str, archive: str) -> list[list[str]]:
    """Commands that put the committed code into the bucket."""
    return [["git", "archive", "--format=tar.gz", f"--output={archive}", revision],
            ["gcloud", "storage", "cp", archive, f"{results()}/source/{revision}.tar.gz"]]


def create(script: str) -> list[str]:
    nodes = [f"--node-id={NAME.value}"] if SLICES.value == 1 else [f"--node-count={SLICES.value}", f"--node-prefix={NAME.value}"]
    return [*queued("create", *nodes), *spot(), f"--accelerator-type={ACCELERATOR.value}",
            f"--runtime-version={RUNTIME.value or runtime(ACCELERATOR.value)}",
            "--scopes=https://www.googleapis.com/auth/cloud-platform", f"--metadata-from-file=startup-script={script}"]


def delete() -> list[str]:
    return queued("delete", "--force", "--quiet")


def ended(status: str) -> list[int]:
    """What the hosts wrote when they ended, of those that did."""
    done = subprocess.run(["gcloud", "storage", "cat", f"{results()}/{status}/*"], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()] if done.returncode == 0 else []


def watch(create_again: Sequence[str], status: str) -> int:
    """Waits for the run to end, asking for another TPU where one was taken away; the run's status.

    Raises ValueError where asking fails again and again, or the resource is gone.
    """
    troubles = 0  # since it was last active: refused, or not to be looked at
    while True:
        if first := ended(status):
            time.sleep(SECONDS)  # for the other hosts
            common.run([delete()])
            return max(ended(status) or first)
        looked = subprocess.run(queued("describe", "--format=value(state.state)"), capture_output=True, text=True)
        state = looked.stdout.strip()
        print(f"{NAME.value}: {state or looked.stderr.strip()}", flush=True)
        troubles = 0 if state == "ACTIVE" else troubles + (state == "FAILED" or looked.returncode != 0)
        if troubles > TRIES:
            raise ValueError(f"{NAME.value} was refused, or could not be looked at, {troubles} times; look why, and give it "
                             f"back if it is there:\n{shlex.join(queued('describe'))}\n{shlex.join(delete())}")
        if state in LOST:
            common.run([delete(), list(create_again)])
        time.sleep(SECONDS)


def main(arguments: Sequence[str]) -> None:
    try:
        place(BUCKET.value)
        common.check_name()
        with tempfile.TemporaryDirectory() as folder:
            revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
            config = common.CONFIG.value.split(":")[0]
            if subprocess.run(["git", "cat-file", "-e", f"{revision}:./{config}"], capture_output=True).returncode:
                raise ValueError(f"--config={common.CONFIG.value}: the last commit has no file {config}, and only committed "
                                 "files are sent; commit it")
            if subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout:
                print("note: changes that are not committed are not sent", file=sys.stderr)
            status = f"status/{time.strftime('%Y%m%d-%H%M%S')}"  # not that of an earlier run of this name
            text, script = host_script(revision, status, arguments[1:]), f"{folder}/startup.sh"
            archive = f"{folder}/source.tar.gz"
            with open(script, "w", encoding="utf-8") as file:
                file.write(text)
            wanted = create(script)
            if common.DRY.value:
                print(f"# {script}\n{text}")
            common.run([*send(revision, archive), wanted])
            if common.DRY.value:
                return
            if WATCH.value:
                sys.exit(watch(wanted, status))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"results: {results()}; give the TPU back afterwards:\n{shlex.join(delete())}")


if __name__ == "__main__":
    app.run(main)
