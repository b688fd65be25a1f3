"""A checkpoint restored onto another mesh has the same bits, and the run goes on equal to rounding.

A process of its own, since JAX fixes the number of devices when it starts.
"""

import os
from pathlib import Path
import subprocess
import sys

PROGRAM = """
import dataclasses, pathlib, sys
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import parse
from neuromas_jax.rollout import no_interventions
from neuromas_jax.train import checkpoint, run as train_run
from neuromas_jax.train.batches import next_batch
from neuromas_jax.train.loop import description, init_state
from neuromas_jax.train.run import Compiled, Parts, make_run
from tests.tiny import tiny_config, tokenizer

folder = pathlib.Path(sys.argv[1])
train_run.load_parts = lambda *_: Parts(init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0)), tokenizer(), "")
config = parse(dict(families=dict(listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(13,))),
                    graph=dict(topology="3-1"), rollout=dict(questions=2, group=4), mesh=""))
run = make_run(config, "listops", "graph")
run = dataclasses.replace(run, program=dataclasses.replace(run.program, merge=False))  # as on the machines that have a mesh
mesh = Mesh(np.asarray(jax.devices()), ("slot",))


def place(tree, split):
    # Everything that has a row for each of the four slots is spread over the devices, the rest is on all.
    def sharding(x):
        return NamedSharding(mesh, PartitionSpec("slot") if split and x.ndim and x.shape[0] == 4 else PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(x, sharding(x)), tree)


def step(compiled, state, spread):
    run = compiled.run
    graph, rewards = run.method.graph, np.arange(8.0, dtype=np.float32).reshape(2, 4)
    batch = next_batch(run.task, int(state.cursor), 2, graph, run.parts.tokenizer, run.family.buckets, "error")[1]
    keep, key = no_interventions(graph, 2, 4), jax.random.key(3)
    if spread:
        batch, keep, key, rewards = place((batch, keep, key, jax.numpy.asarray(rewards)), split=False)
    episodes = compiled.rollout(state.learner.bank, batch, keep, key)
    learner, _ = compiled.update(state.learner, episodes, jax.numpy.asarray(rewards), batch.tokens.shape[-1])
    return dataclasses.replace(state, learner=learner), [np.asarray(layer.message) for layer in episodes]


def values(state):
    return [np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
            for x in jax.tree.leaves(state)]


assert len(jax.devices()) == 4
one = Compiled(run)
state, _ = step(one, init_state(run, 0), spread=False)
checkpoint.save(folder, 1, state, description(run, 0))
before = values(state)

restored = checkpoint.restore(folder, place(init_state(run, 0), split=True), description(run, 0), 9)
assert restored.learner.bank["q"]["a"].sharding.spec == PartitionSpec("slot")
assert not restored.learner.bank["q"]["a"].is_fully_replicated
for mine, theirs in zip(values(restored), before, strict=True):
    np.testing.assert_array_equal(mine, theirs)  # bit for bit

parts = dataclasses.replace(run.parts, backbone=place(run.parts.backbone, split=False))
four = Compiled(dataclasses.replace(run, parts=parts))
(state, said), (restored, said_too) = step(one, state, spread=False), step(four, restored, spread=True)
for mine, theirs in zip(said_too, said, strict=True):
    np.testing.assert_array_equal(mine, theirs)
for mine, theirs in zip(values(restored), values(state), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-6)
assert any(np.any(now != then) for now, then in zip(values(state), before)), "the step must move something"
print("same bits, same run")
"""


def test_a_checkpoint_goes_on_over_four_devices(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "checkpoints")], cwd=Path(__file__).parents[1],
                          env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same bits, same run" in done.stdout
