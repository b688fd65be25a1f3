"""A run over many devices is the run on one: same messages for the same keys, the same update to rounding.

In processes of their own, since JAX fixes the number of devices when it starts.
"""

import os
from pathlib import Path
import subprocess
import sys

import jax
import pytest

from neuromas_jax.config import parse
from neuromas_jax.graph import text_graph
from neuromas_jax.parallel.mesh import MeshShape, check_mesh, parse_mesh, plan_mesh
from neuromas_jax.parallel.rules import Rules, constrain, padded_rows
from tests.conftest import CACHE
from tests.tiny import tiny_config

FLAGS = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# node x data x model: all splits for two heads of keys and values. Widths of 3 and 1 are padded on a node axis of 2, 4 and 8.
MESHES = {
    "two devices": ("2x1x1", "1x2x1", "1x1x2"),
    "four": ("4x1x1", "1x4x1", "2x2x1", "2x2x1+fsdp", "2x1x2", "1x2x2"),
    "eight": ("8x1x1", "1x8x1", "4x2x1", "2x4x1", "4x1x2", "1x4x2", "2x2x2", "2x2x2+fsdp+explicit+shuffled")}


CACHED = dict(JAX_COMPILATION_CACHE_DIR=CACHE, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.3",
              JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1")  # each process compiles the program for one device


def run_sharded(*arguments):
    done = subprocess.run([sys.executable, "-m", "tests.sharded", *arguments], cwd=Path(__file__).parents[1], text=True,
                          env={**os.environ, **CACHED, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("devices", MESHES)
def test_sharded_is_unsharded(devices):
    said = run_sharded(*MESHES[devices])
    assert all(f"{mesh} same" in said for mesh in MESHES[devices])


@pytest.mark.slow
def test_programs_have_their_mesh_in_their_types():
    said = run_sharded("types")
    assert said.count("traced") == 8 and "refused" in said


def test_microbatches_keep_questions_apart():
    assert run_sharded("order").count("in order") == 2


def test_weights_are_read_straight_to_where_they_belong():
    assert run_sharded("load").count("loaded") == 7


def test_rules_say_where_axes_lie_and_refuse_collisions():
    rules = Rules(embed="data")
    assert rules.spec("embed", None, "heads") == jax.sharding.PartitionSpec("data", None, "model")
    with pytest.raises(ValueError, match="axes 'heads' and 'mlp' of one array both lie along 'model'"):
        rules.spec("heads", "mlp")
    with pytest.raises(ValueError, match="axes 'question' and 'embed' of one array both lie along 'data'"):
        rules.spec("question", "embed")
    with pytest.raises(ValueError, match="rule 'mlp' is 'tensor'; it must be None or an axis of the mesh: node, data, model"):
        Rules(mlp="tensor")
    with pytest.raises(ValueError, match="no rule for an axis 'nodes'"):
        rules.spec("nodes")


def test_without_a_mesh_nothing_changes():
    x = jax.numpy.ones((3, 2))
    assert constrain(x, "node") is x and padded_rows(range(2, 5)).tolist() == [2, 3, 4]


def test_padding_repeats_the_last_node():
    mesh = jax.sharding.AbstractMesh((4, 1, 1), ("node", "data", "model"))
    with jax.sharding.use_abstract_mesh(mesh):
        assert padded_rows(range(4)).tolist() == [0, 1, 2, 3] and padded_rows(range(4, 7)).tolist() == [4, 5, 6, 6]


@pytest.mark.parametrize("topology, questions, devices, memory, wanted", [
    ("4-2-1", 32, 8, 0, (1, 8, 1)),  # enough questions: nothing is sent between layers
    ("8-8-1", 4, 16, 0, (4, 4, 1)),  # more devices than questions
    ("64-32-1", 16, 64, 0, (4, 16, 1)),
    ("1", 4, 4, 20_000, (1, 2, 2)),  # weights of 20 KB and more do not fit twice
])
def test_auto_takes_the_split_with_the_least_work(topology, questions, devices, memory, wanted):
    shape, why = plan_mesh(text_graph(topology), tiny_config(), questions, devices, memory)
    assert (shape.node, shape.data, shape.model) == wanted and f"node={shape.node}, data={shape.data}" in why
    check_mesh(shape, tiny_config(), questions, devices)


@pytest.mark.parametrize("shape, message", [
    (MeshShape(2, 2, 1), "has 4 devices, and there are 8; give numbers whose product is 8"),
    (MeshShape(1, 8, 1), "'data' is 8, which does not divide rollout.questions=4"),
    (MeshShape(2, 1, 4), "'model' is 4, which does not divide the backbone's num_key_value_heads=2"),
    (MeshShape(8, 1, 0), "mesh axis 'model' is 0; it must be 1 or more"),
])
def test_a_mesh_that_does_not_fit_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        check_mesh(shape, tiny_config(), 4, 8)


def test_the_config_names_a_mesh():
    assert parse_mesh("node=2,data=4") == MeshShape(2, 4, 1) and parse_mesh("auto") == "auto" and parse_mesh("") is None
    with pytest.raises(ValueError, match="config.mesh is 'nodes=2'; it must be 'auto', '' for one device, or devices along axes"):
        parse(dict(families=dict(listops={}), mesh="nodes=2"))
