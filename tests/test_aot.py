"""Programs compiled for TPU topologies that are not there: they fit, update in place, and send what they should and no more.

Each topology in a process of its own: libtpu holds a lock. Needs the extra `tpu`.
"""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import pytest

from neuromas_jax.aot import SHAPES, ideal_flops
from neuromas_jax.backbone import DecoderConfig
from neuromas_jax.config import parse

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `tpu`)")
PROGRAM = """
import dataclasses, json, sys
import jax
from neuromas_jax import aot
from neuromas_jax.backbone import DecoderConfig
from neuromas_jax.config import parse

aot.SHAPES["small"] = DecoderConfig(vocab_size=2048, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
                                    num_attention_heads=4, num_key_value_heads=2, head_dim=128, dtype="bfloat16")
topology, mesh, tokens, attention = sys.argv[1:]
config = parse(dict(
    families=dict(listops=dict(topology="4-2-1", message_tokens=int(tokens), buckets=(64,))), mesh=mesh, attention=attention,
    rollout=dict(questions=8, group=2), adapters=dict(rank=16, sites=("q", "v"))))
run, mesh, chip, why = aot.plan(config, topology, "small")
found = aot.account(run, mesh)
print(aot.report(run, found, mesh, chip, why), aot.blame(run, found, mesh, chip) or "it fits", file=sys.stderr)
print(json.dumps({name: dict(peak=one.peak, memory=chip.memory, donated=one.donated, flops=one.cost.flops * mesh.devices.size,
                             ideal=one.ideal, sent=one.cost.sent, arguments=one.arguments) for name, one in found.items()}))
"""


def compiled(topology, mesh, tokens=8, attention="xla"):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # those of a CPU stop libtpu
    done = subprocess.run([sys.executable, "-c", PROGRAM, topology, mesh, str(tokens), attention], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1], env={**environment, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def config_of(**changes):
    return parse(dict(families=dict(listops=dict(topology="2-1", message_tokens=4, buckets=(16,))), **changes))


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology, mesh", [
    ("v5e:2x2", "node=4"), ("v5p:2x2x1", "node=2,data=2"), ("v6e:2x2", "data=2,model=2")])
def test_a_topology_fits_and_updates_in_place(topology, mesh):
    found, said = compiled(topology, mesh)
    for name, one in found.items():
        assert one["peak"] < 0.1 * one["memory"] and one["flops"] > 0.9 * one["ideal"], (name, one)
    assert found["update"]["donated"] > 0 and "it fits" in said and "bound by" in said
    if "model" not in mesh:  # a share of the bank for each node's device: nothing of the backbone is sent
        assert found["rollout"]["sent"].get("all-reduce", (0, 0))[1] < 2**16


@needs_libtpu
@pytest.mark.slow
def test_messages_are_the_one_thing_that_grows_with_messages():
    """On a mesh of nodes alone, twice as long messages send twice as much in all-gathers of ids, and no more of anything else.

    Fails where keys and values, hidden states or prompts cross the node axis.
    """
    short, long = (compiled("v5e:2x2", "node=4", tokens)[0]["rollout"]["sent"] for tokens in (8, 16))
    grown = {kind: long[kind][1] - short.get(kind, (0, 0))[1] for kind in long}
    # 7 nodes x 8 questions x 2 episodes x 8 more tokens: ids, which of them are live, and log-probabilities
    most = 3 * 4 * (4 + 4 + 4) * 8 * 2 * 8  # each layer padded to the 4 devices of the node axis
    assert 0 < grown["all-gather"] <= most, grown
    assert all(abs(size) <= 4096 for kind, size in grown.items() if kind != "all-gather"), grown


@needs_libtpu
@pytest.mark.slow
def test_a_plan_without_room_names_what_is_to_blame():
    """Long prompts of many nodes at once: XLA compiles no program, and the report says which arrays, and what to change."""
    command = [sys.executable, "-m", "neuromas_jax.aot", "--config=configs/pod.py", "--topology=v5e:2x2", "--shape=qwen3-0.6b",
               "--config.remat=False", "--config.rollout.microbatch=128"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1],
                          env={**environment, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 1 and "update: XLA compiles no program for it" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "update needs" in done.stdout and "set config.remat=True, or a smaller config.rollout.microbatch" in done.stdout
    assert "config.rollout.update_nodes=8, fewer questions" in done.stdout


@needs_libtpu
@pytest.mark.slow
def test_splash_attention_compiles_forward_and_backward():
    found, _ = compiled("v5e:2x2", "data=4", attention="splash")
    assert found["update"]["donated"] > 0


def test_the_ideal_counts_what_a_group_shares_once():
    from neuromas_jax.aot import abstract_run

    few, many = (ideal_flops(abstract_run(config_of(rollout=dict(questions=2, group=group)), "qwen3-0.6b")) for group in (2, 4))
    assert few["rollout"] < many["rollout"] < 2 * few["rollout"]
    assert all(2 * one["rollout"] <= one["update"] <= 3 * one["rollout"] for one in (few, many))


def test_a_program_for_one_device_does_what_the_ideal_says(monkeypatch):
    """On CPU, whose compiler changes no product: within 5 % of the ideal, which counts no padding and no mask."""
    from neuromas_jax import aot
    from neuromas_jax.parallel.mesh import MeshShape, make_mesh

    small = DecoderConfig(vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                          num_key_value_heads=1, head_dim=64)
    monkeypatch.setitem(SHAPES, "small", small)
    run = aot.abstract_run(config_of(mesh=""), "small")
    found = aot.account(run, make_mesh(MeshShape(), jax.devices()[:1]))
    used = {name: one.cost.flops / one.ideal for name, one in found.items()}
    assert all(0.95 < share < 1.05 for share in used.values()), used


def test_what_cannot_be_compiled_is_refused():
    from neuromas_jax.aot import abstract_run
    from neuromas_jax.parallel.chips import topology_devices

    with pytest.raises(ValueError, match=f"--shape=qwen9; allowed: {', '.join(SHAPES)}"):
        abstract_run(config_of(), "qwen9")
    with pytest.raises(ValueError, match="topology 'v4:2x2'; it must be a version and a shape, such as v5e:4x4; versions: v5e"):
        topology_devices("v4:2x2")
