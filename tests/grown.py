"""Run by `test_growth_mesh.py`: `python -m tests.grown loading FOLDER` in two processes with two devices each, and
`python -m tests.grown running FOLDER` in one with two."""

import dataclasses
from pathlib import Path
import sys

import jax
import jax.numpy as jnp

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import parse
from neuromas_jax.parallel import distributed
from neuromas_jax.rl import LearnerState
from neuromas_jax.rl.growth import grow_learner, slot_origins
from neuromas_jax.tasks import Task, Verdict
from neuromas_jax.train import checkpoint, run as train_run
from neuromas_jax.train.loop import description, init_state
from neuromas_jax.train.run import Parts, compiled_for, make_run
from neuromas_jax.train.stages import grown_graph, grown_learner, load_parent, stage_runs, train_stages
from tests.tiny import tiny_config, tokenizer

NODES, STEP = 2, 5  # devices along the mesh's node axis; step of what is stored
COPIES = dict(new="copy", moments="fresh")


def use_layers(count):
    """Every config names a random backbone of so many decoder layers."""
    backbone = init_backbone(tiny_config(num_hidden_layers=count), jax.random.key(0))
    backbone = dataclasses.replace(backbone, params={**backbone.params, "embed": backbone.params["embed"] * 20})
    train_run.load_parts = lambda *_: Parts(backbone, tokenizer(), "tiny")


def stages_of(before, after, mesh, init_from="", **growth):
    """The stages that are left to train, and the stored parent where there is one."""
    chain = (dict(topology=before, steps=1), dict(steps=1, growth=dict(place="front", **growth)))
    family = dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(13,), message_tokens=3, topology=after,
                  stages=chain)
    config = parse(dict(
        families=dict(listops=family), methods=("grown",), adapters=dict(rank=2, sites=("q", "v")),
        rollout=dict(questions=4, group=4, microbatch=4), mesh=mesh, init_from=str(init_from),
        training=dict(evaluate_every=1, checkpoint_every=1, influence_every=100, validation_questions=4)))
    if init_from:
        return stage_runs(config, "listops", "grown", 0, 0.02)
    return [make_run(config, "listops", "grown", 0.02, number) for number in (0, 1)], None


def on_host(learner):
    """Adapters and moments, whole on this process and no mesh."""
    return jax.tree.map(distributed.on_host, (learner.bank, learner.moments))


def same_bits(mine, theirs):
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(mine), jax.tree.leaves(theirs), strict=True):
        assert one.tobytes() == other.tobytes(), jax.tree_util.keystr(path)


def store(folder, run):
    """A checkpoint of a run as if it had been trained, with many a -0.0; its adapters and moments."""
    state = init_state(run, 0)
    keys = iter(jax.random.split(jax.random.key(9), 99))

    def drawn(x):
        if x.dtype != jnp.float32:
            return x + 3
        key = next(keys)
        return jnp.where(jax.random.bernoulli(key, 0.2, x.shape), -0.0, jnp.abs(jax.random.normal(key, x.shape)))

    bank, moments = jax.tree.map(drawn, (state.learner.bank, state.learner.moments))
    learner = dataclasses.replace(state.learner, bank=bank, moments=moments)
    state = compiled_for(run).everywhere(dataclasses.replace(state, learner=learner))
    checkpoint.save(folder, STEP, state, description(run, 0))
    return on_host(learner)


def lies(learner, axis):
    """Adapters, and moments like them, are divided along this axis, or not at all where it is None."""
    for x in jax.tree.leaves((learner.bank, learner.moments)):
        if len(x.shape) == 4:
            parts = tuple(size // (NODES if place == axis else 1) for place, size in enumerate(x.shape))
            assert x.sharding.shard_shape(x.shape) == parts, (x.sharding, x.shape, axis)


def carried(origins, old, new):
    """Rows of slots with a past, in the bank before and in the one after."""
    rows = [(slot, row) for row, slot in enumerate(origins.carried) if slot is not None]
    olds, news = map(list, zip(*rows))
    return jax.tree.map(lambda x: x[olds], old), jax.tree.map(lambda x: x[news], new)


def loading(folder):
    """Adapters and moments are asked for, read and grown in parts; they are what they were, and what growth without a mesh
    makes of them."""
    for before, after, layers, old_axis, new_axis, growth in (
        ("2-1", "4-2-1", 2, 1, 1, COPIES),  # three and seven slots: decoder layers lie over the node axis
        ("3-1", "4-3-1", 1, 0, 0, {}),  # four and eight slots
        ("2-1", "3-2-1", 2, 1, 0, {}),
    ):
        use_layers(layers)
        place, mesh = folder / f"{after}_{layers}_{len(growth)}", f"node={NODES},data=2"
        stored_learner = store(place, stages_of(before, after, mesh)[0][0])
        (run,), stored = stages_of(before, after, mesh, place, **growth)
        asked, load = [], checkpoint.load
        checkpoint.load = lambda *arguments: asked.append(arguments[2].learner) or load(*arguments)
        parent = load_parent(stored, run, compiled_for)
        checkpoint.load = load
        origins = slot_origins(grown_graph(stored.run, run)[1], stored.run.method.slots, run.method.slots)
        fresh, key = run.new_bank(1), jax.random.key(2)
        child = grown_learner(compiled_for(run), parent.learner, fresh, origins, key)
        for learner, axis in ((asked[0], old_axis), (parent.learner, old_axis), (child, new_axis)):
            lies(learner, axis)
        same_bits(on_host(parent.learner), stored_learner)
        bank, moments = jax.tree.map(jnp.asarray, stored_learner)
        alone = LearnerState(bank, moments, distributed.on_host(parent.learner.learning_rate))
        alone = grow_learner(run.optimizer, alone, fresh, origins, run.method.stages[0].growth, key)
        same_bits(on_host(child), on_host(alone))
        had, has = carried(origins, stored_learner, on_host(child))
        same_bits(*((had[0], has[0]) if growth else (had, has)))
        assert (has[0]["q"]["a"].view("uint32") == 2**31).any(), "no -0.0 shows nothing"
        print(after, layers, "grown", flush=True)


def running(folder):
    """Stages inside one run, and one stage from a stored parent, with new edges hidden at times."""
    use_layers(1)
    Task.verify = lambda self, message, question: Verdict(float(len(message) % 2), "right", "-")
    graphs, mesh, rules = ("3-1", "5-1"), f"node={NODES}", dict(hide=0.5, hide_steps=4)  # four and six slots
    runs, _ = stages_of(*graphs, mesh, **rules)

    def saved(place, step, run):
        return on_host(checkpoint.load(folder / place / "checkpoints", step, init_state(run, 0)).learner)

    state, _ = train_stages([compiled_for(run) for run in runs], folder / "chain", 0, 2, "")
    lies(state.learner, 0)
    origins = slot_origins(grown_graph(*runs)[1], runs[0].method.slots, runs[1].method.slots)
    same_bits(*carried(origins, saved("chain/stage0_3-1", 1, runs[0]), saved("chain/stage1_5-1", 0, runs[1])))
    place = folder / "parent" / "checkpoints"
    stored_learner = store(place, runs[0])
    (run,), stored = stages_of(*graphs, mesh, place, **rules)
    state, _ = train_stages([compiled_for(run)], folder / "from", 0, 1, "", load_parent(stored, run, compiled_for))
    lies(state.learner, 0)
    first = saved("from/stage0_5-1", 0, run)
    same_bits(*carried(origins, stored_learner, first))
    assert all((x != y).any() for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(on_host(state.learner))))
    print("trained", flush=True)


if __name__ == "__main__":
    train_run.COMPILER_OPTIONS = {}  # as `conftest.py` has it
    distributed.start()
    {"loading": loading, "running": running}[sys.argv[1]](Path(sys.argv[2]))
    distributed.end(0)
