"""The first thing to run on a new machine: versions, devices, the mesh and why, and a learning curve of 20 steps.

    python -m neuromas_jax.smoke --workdir=runs/smoke

A graph 2-1 on the embedded backbone learns short ListOps: a minute or two, most of it compiling. Every launcher runs it
with `--smoke`. Ends with status 0 where the numbers are finite and the last checkpoint is there.
"""

from importlib.metadata import version
from pathlib import Path
import platform
import sys

from absl import app, flags, logging
import jax

from neuromas_jax.command import local_folder, use_compilation_cache
from neuromas_jax.config import parse
from neuromas_jax.parallel import distributed
from neuromas_jax.train import preemption

STEPS = 20
CONFIG = dict(
    methods=("graph",),
    families=dict(listops=dict(options=dict(depths=(1, 2), weights=(0.5, 0.5), held_out_depth=3), buckets=(32,))),
    graph=dict(topology="2-1"), rollout=dict(questions=16, group=8), learning_rate=dict(default=4e-3),
    training=dict(steps=STEPS, evaluate_every=4, checkpoint_every=10, validation_questions=32),
)


def machine() -> str:
    """Versions and devices."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"))
    own = f"process {jax.process_index() + 1} of {jax.process_count()}, {len(jax.local_devices())} devices of its own"
    return (f"Python {platform.python_version()}, {packages}\n"
            f"{len(jax.devices())} devices: {jax.devices()[0].device_kind} ({jax.default_backend()}); {own}")


def smoke(workdir: Path) -> str:
    """Trains, and returns the curve as a table. Raises ValueError where the folder holds another or a finished run."""
    from neuromas_jax.train import checkpoint
    from neuromas_jax.train.loop import train
    from neuromas_jax.train.metrics import read_metrics
    from neuromas_jax.train.run import Compiled, make_run

    if checkpoint.steps(workdir / "checkpoints")[-1:] == [STEPS]:
        raise ValueError(f"{workdir} holds a smoke job that is done; remove it, or give another --workdir")
    run = make_run(parse(CONFIG), "listops", "graph")
    mesh = dict(run.mesh.shape) if run.mesh else "one device"
    train(Compiled(run), workdir, 0, STEPS, "smoke")
    rows = [f"{record['step']:>4}  {record['reward']:6.3f}  {record['accuracy']:8.3f}  {record['tokens_per_second']:8.0f}"
            for record in read_metrics(workdir)]
    return "\n".join([f"mesh: {mesh}; graph {run.method.graph}", "step  reward  accuracy  tokens/s", *rows])


def main(arguments):
    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments {arguments[1:]}; give --workdir")
    logging.set_verbosity(logging.INFO)
    try:
        workdir = local_folder(_WORKDIR.value)
        use_compilation_cache(_CACHE.value)
        distributed.start()
        preemption.listen()
        if distributed.is_first():
            print(machine(), flush=True)
        curve = smoke(workdir)
    except preemption.Preempted as error:
        print(f"{error}; the same command goes on there", file=sys.stderr)
        sys.exit(distributed.EXIT)
    except (ValueError, FloatingPointError, RuntimeError, OSError) as error:
        distributed.stop(error, 1)
    if distributed.is_first():
        print(curve)


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", "runs/smoke", "Where the run is written; a finished one is done again elsewhere.")
    _CACHE = flags.DEFINE_string(
        "compilation_cache", "~/.cache/neuromas_jax/xla", "Folder of compiled programs, gs:// too; empty for none.")
    app.run(main)
