"""Programs compiled for TPU topologies that are not there: they fit, update in place, and send what they should and no more.

Each topology in a process of its own: libtpu holds a lock. Needs the extra `tpu`.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import pytest

from neuromas_jax.aot import SHAPES
from neuromas_jax.ideal import ideal_bytes, ideal_flops
from neuromas_jax.backbone import DecoderConfig
from neuromas_jax.config import parse

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra `tpu`)")
PROGRAM = """
import json, math, re, sys
import jax
from neuromas_jax import aot
from neuromas_jax.backbone import DecoderConfig
from neuromas_jax.config import parse

aot.SHAPES["small"] = DecoderConfig(vocab_size=2048, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
                                    num_attention_heads=4, num_key_value_heads=2, head_dim=128, dtype="bfloat16")
topology, mesh, tokens, attention, slices = sys.argv[1:]
config = parse(dict(
    families=dict(listops=dict(topology="4-2-1", message_tokens=int(tokens), buckets=(64,))), mesh=mesh, attention=attention,
    rollout=dict(questions=8, group=2), adapters=dict(rank=16, sites=("q", "v"))))
run, mesh, chip, why = aot.plan(config, topology, "small", int(slices))
texts, count = [], aot.program_cost
aot.program_cost = lambda text: texts.append(text) or count(text)
found = aot.account(run, mesh)
from neuromas_jax.parallel.place import shardings
from neuromas_jax.parallel.rules import mesh_rules
state = aot.arguments(run)[4]
learner = sum(math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize for x, where in zip(
    jax.tree.leaves(state), jax.tree.leaves(shardings(state, mesh, mesh_rules(False)))))
print(aot.report(run, found, mesh, chip, why), aot.blame(run, found, mesh, chip) or "it fits", file=sys.stderr)
print(json.dumps({name: dict(peak=one.peak, memory=chip.memory, donated=one.donated, flops=one.cost.flops * mesh.devices.size,
                             ideal=one.ideal, bytes=one.cost.bytes, ideal_bytes=one.ideal_bytes, sent=one.cost.sent,
                             learner=learner, kernels=sorted(set(re.findall(r"splash_mha_[a-z]+", text))))
                  for text, (name, one) in zip(texts, found.items())}))
"""


def compiled(topology, mesh, tokens=8, attention="xla", slices=1):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # those of a CPU stop libtpu
    done = subprocess.run([sys.executable, "-c", PROGRAM, topology, mesh, str(tokens), attention, str(slices)],
                          capture_output=True, text=True, cwd=Path(__file__).parents[1],
                          env={**environment, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def config_of(**changes):
    return parse(dict(families=dict(listops=dict(topology="2-1", message_tokens=4, buckets=(16,))), **changes))


GOLDEN = {  # how often a device sends, by kind: rollout, update; with libtpu 0.0.42, others may choose otherwise
    ("v5e:2x2", "node=4", 1): (
        {"all-reduce": 10, "collective-permute": 28, "all-gather": 9},
        {"collective-permute": 43, "all-to-all": 1, "all-reduce": 6, "all-gather": 28}),
    ("v5p:2x2x1", "node=2,data=2", 1): (
        {"all-to-all": 8, "collective-permute": 22, "all-reduce": 6, "all-gather": 13},
        {"all-to-all": 33, "collective-permute": 14, "all-gather": 4, "all-reduce": 9}),
    ("v6e:2x2", "data=2,model=2", 1): ({"all-reduce": 267, "all-gather": 33}, {"all-reduce": 17}),
    ("tpu7x:2x2x1", "node=2,data=4", 1): (
        {"collective-permute": 2, "all-to-all": 20, "all-reduce": 6, "all-gather": 3},
        {"collective-permute": 3, "all-to-all": 37, "all-reduce": 8}),
    ("v5e:2x2", "node=2,data=4", 2): (
        {"all-reduce": 3, "all-gather": 4}, {"all-gather": 41, "all-reduce": 7, "reduce-scatter": 3}),
}


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("topology, mesh, slices", GOLDEN)
def test_a_topology_fits_and_updates_in_place(topology, mesh, slices):
    """Its HBM is enough, all of a device's adapters and moments is updated where it lies, and it sends what it always did."""
    found, said = compiled(topology, mesh, slices=slices)
    for name, one in found.items():
        assert one["peak"] < 0.1 * one["memory"] and one["flops"] > 0.9 * one["ideal"], (name, one)
    assert found["update"]["donated"] >= found["update"]["learner"] > 0 and "it fits" in said and "bound by" in said
    if "model" not in mesh:  # a share of the bank for each node's device: nothing of the backbone is sent
        assert found["rollout"]["sent"].get("all-reduce", (0, 0))[1] < 2**16
    for one, golden in zip(found.values(), GOLDEN[topology, mesh, slices]):
        if importlib.metadata.version("libtpu").startswith("0.0.42"):
            assert {kind: count for kind, (count, _) in one["sent"].items()} == golden
        assert set(one["sent"]) <= {kind for pair in GOLDEN.values() for counts in pair for kind in counts}


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
    assert "config.rollout.update_nodes=8, or a longer node axis in config.mesh, or fewer questions" in done.stdout


@needs_libtpu
@pytest.mark.slow
def test_splash_attention_compiles_forward_and_backward():
    found, _ = compiled("v5e:2x2", "data=4", attention="splash")
    assert found["rollout"]["kernels"] == ["splash_mha_fwd"]
    assert found["update"]["kernels"] == ["splash_mha_dkv", "splash_mha_dq", "splash_mha_fwd"]


def test_ideal_bytes_by_hand():
    """Graph 2-1 on one device: two questions, groups of two, four tokens a message, two decoder layers of width 64 in float32.

    A rollout passes over the layers once for all shared blocks, three times more for the first layer's further tokens, and four
    times for the second's inboxes and further tokens; over the head four times a layer.
    """
    from neuromas_jax.aot import abstract_run
    from neuromas_jax.experiments.dry_run import prompt_lengths
    from neuromas_jax.parallel.mesh import MeshShape, make_mesh

    small = DecoderConfig(vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                          num_key_value_heads=1, head_dim=64)
    SHAPES["hand"] = small
    run = abstract_run(config_of(mesh="", rollout=dict(questions=2, group=2)), "hand")
    del SHAPES["hand"]
    assert list(prompt_lengths(run, 16)) == [(22, 0), (22, 0), (20, 12)]
    layer = 64 * 128 + 2 * 64 * 64 + 128 * 64 + 3 * 64 * 128 + 4 * 64  # q, k and v, o, the MLP's three, four norms
    weights, head = 4 * (2 * layer + 64), 4 * 2048 * 64
    adapter = 4 * 2 * 4 * (4 * (64 + 128) + 2 * (64 + 64) + 64 + 128)  # rank 4, two factors of each of the seven sites
    read = 2 * (2 * (22 + 2 * 3) + 20 + 2 * (12 + 3))  # tokens of two questions: shared ones once, those of two episodes
    asked = 2 * (2 * (2 * 3 + 1) + 2 * 3 + 2)  # the first of a node without senders is written from once for a group
    again = 2 * (2 * (3 * 22 + 2 * (2 + 1)) + 4 * 20 + 2 * (3 * 12 + 2 + 1))  # looked back at by later ones
    state, both = 4 * 64, 2 * 4 * 64  # of a token: hidden state, keys and values in a decoder layer
    rollout = 8 * weights + 8 * head + (3 + 3 * 2 + 4) * adapter + (2 * (read + asked) + read) * state + (read + again) * 2 * both
    kept = 4 * (2 * 128 + 2 * 128) * 1  # queries and attention's output, gate and up
    update = 2 * weights + 2 * head + 2 * 3 * adapter + (6 + 2) * 3 * adapter + (5 * (read + asked) + 2 * read) * state + (
        2 * ((read + asked) * (state + kept) + 2 * read * both))
    assert ideal_bytes(run, make_mesh(MeshShape(), jax.devices()[:1])) == {"rollout": rollout, "update": update}


def test_the_ideal_counts_what_a_group_shares_once():
    from neuromas_jax.aot import abstract_run

    few, many = (ideal_flops(abstract_run(config_of(rollout=dict(questions=2, group=group)), "qwen3-0.6b")) for group in (2, 4))
    assert few["rollout"] < many["rollout"] < 2 * few["rollout"]
    assert all(2 * one["rollout"] <= one["update"] <= 3 * one["rollout"] for one in (few, many))


def test_a_program_for_one_device_does_what_the_ideal_says(monkeypatch):
    """On CPU, whose compiler changes no product: within 5 % of the ideal, which counts no padding and no mask. A batch that is
    written in parts costs as much in less room, which is what a plan without room for the whole is told to do."""
    from neuromas_jax import aot
    from neuromas_jax.parallel.chips import CHIPS
    from neuromas_jax.parallel.mesh import MeshShape, make_mesh

    small = DecoderConfig(vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                          num_key_value_heads=1, head_dim=64)
    monkeypatch.setitem(SHAPES, "small", small)
    mesh = make_mesh(MeshShape(), jax.devices()[:1])
    run, parted = (aot.abstract_run(config_of(mesh="", rollout=dict(parts=parts)), "small") for parts in (1, 2))
    found, apart = aot.account(run, mesh), aot.account(parted, mesh)
    used = {name: one.cost.flops / one.ideal for name, one in found.items()} | {
        "in parts": apart["rollout"].cost.flops / found["rollout"].ideal}
    assert all(0.95 < share < 1.05 for share in used.values()), used
    assert apart["rollout"].temporary < 0.7 * found["rollout"].temporary
    chip = dataclasses.replace(CHIPS["v5p"], memory=found["rollout"].peak / 2)
    assert "set config.rollout.parts=2, or a longer" in aot.blame(run, {"rollout": found["rollout"]}, mesh, chip)


def test_what_cannot_be_compiled_is_refused():
    from neuromas_jax.aot import abstract_run
    from neuromas_jax.parallel.chips import topology_devices

    with pytest.raises(ValueError, match=f"--shape=qwen9; allowed: {', '.join(SHAPES)}"):
        abstract_run(config_of(), "qwen9")
    with pytest.raises(ValueError, match="topology 'v4:2x2'; it must be a version and a shape, such as v5e:4x4; versions: v5e"):
        topology_devices("v4:2x2")
