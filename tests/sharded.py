"""Run by `test_sharding.py` in a process with eight CPU devices: `python -m tests.sharded`. Prints a line for each mesh."""

import dataclasses
import functools
from pathlib import Path
import sys
import tempfile
import zlib

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from neuromas_jax.backbone import huggingface, init_backbone, load_backbone
from neuromas_jax.backbone.decoder import UNROLL
from neuromas_jax.backbone.huggingface import weights_checksum
from neuromas_jax.config import parse
from neuromas_jax.parallel.mesh import MeshShape, make_mesh
from neuromas_jax.parallel.place import shardings, typed
from neuromas_jax.parallel.rules import mesh_rules
from neuromas_jax.rl import init_learner, scores
from neuromas_jax.rl.critic import prompt_features
from neuromas_jax.rl.malt import log_ratio
from neuromas_jax.rollout import no_interventions, shuffle_questions
from neuromas_jax.train import checkpoint, run as train_run
from neuromas_jax.train.batches import next_batch
from neuromas_jax.train.loop import init_state
from neuromas_jax.train.run import Compiled, Parts, make_run
from tests.tiny import random_bank, tiny_config, tokenizer

BACKBONE = init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0))
BACKBONE = dataclasses.replace(BACKBONE, params={**BACKBONE.params, "embed": BACKBONE.params["embed"] * 20})
# Widths that a node axis of 2, 4 or 8 does not divide; eight questions in microbatches of four.
CONFIG = dict(
    families=dict(listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), buckets=(13,), message_tokens=3)),
    graph=dict(topology="3-1"), rollout=dict(questions=8, group=2, microbatch=4), mesh="",
    axis_types="explicit")


def step(compiled, run, shuffled: bool):
    """Messages of a rollout, and the state and metrics after an update on them."""
    graph = run.method.graph
    batch = next_batch(run.task, 0, 8, graph, tokenizer(), (13,), "error")[1]
    keep = no_interventions(graph, 8, 2)
    keep = shuffle_questions(keep) if shuffled else keep
    bank = random_bank(BACKBONE.config, graph.size, size=1.0)
    episodes = compiled.rollout(bank, batch, keep, jax.random.key(3))
    rewards = np.random.default_rng(0).integers(0, 2, (8, 2)).astype(np.float32)
    state, metrics = compiled.update(init_learner(run.optimizer, bank), episodes, jax.numpy.asarray(rewards), 13)
    return episodes, state, metrics


def same(mine, theirs, rtol, atol):
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=rtol, atol=atol)


def moved(state, alone):
    """A checkpoint from this mesh is read onto one device, where `alone` lies, and back: bit for bit, with the same checksums."""
    with tempfile.TemporaryDirectory() as folder:
        for step, (mine, other) in enumerate(((state, alone), (alone, state))):
            checkpoint.save(Path(folder), step, mine, {})
            read = checkpoint.load(Path(folder), step, other)
            same(read, mine, 0, 0)
            assert checkpoint.checksums(read) == checkpoint.checksums(mine)
            assert all(x.sharding == y.sharding for x, y in zip(jax.tree.leaves(read), jax.tree.leaves(other)))


class Traced(Compiled):
    """Programs that are traced, types and all, and never compiled: what they would give is nought."""

    def _call(self, name, bucket, function, *args, options=dict):
        lowered = self.lower(function, self.backbone, *map(self.placed, args), **options())
        return jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), lowered.out_info)


def types(monitor):
    """Every kind of program and credit, with the axes of a mesh in its types. Traced, not compiled."""
    mesh, deep = make_mesh(MeshShape(2, 2, 2)), init_backbone(tiny_config(num_hidden_layers=UNROLL + 1), jax.random.key(0))
    for method, stage, more in (
        ("graph", 0, {}),
        ("graph", 0, dict(objective=dict(kl_penalty=0.1, invalid_penalty=0.1, entropy_floor=0.5),
                          rollout=dict(questions=8, group=2, microbatch=1))),  # fewer than the mesh divides
        ("graph", 0, dict(rollout=dict(questions=8, group=2, microbatch=4, update_nodes=1), objective=dict(kl_penalty=0.1))),
        ("gptswarm", 0, dict(rollout=dict(questions=8, group=2, update_nodes=3))),
        ("graph", 0, dict(adapters=dict(rank=2, sites=("q", "v")), fsdp=True, remat=True)),  # a scanned decoder and vocabulary
        *(("malt", stage, dict(rollout=dict(questions=8, group=8))) for stage in (0, 1)), ("roles_critic", 0, {}),
    ):
        config, backbone = parse({**CONFIG, **more}), deep if more.get("remat") else BACKBONE
        backbone, scores.PART = dataclasses.replace(backbone, remat=config.remat), 64 if config.remat else 8192
        train_run.load_parts = lambda *_: Parts(backbone, tokenizer(), "")
        run = make_run(config, "listops", method, stage=stage)
        traced, graph, size = Traced(run, mesh), run.method.graph, 8
        batch = next_batch(run.task, 0, size, graph, tokenizer(), (13,), "error")[1]
        state = init_state(run, 0)
        keep = no_interventions(graph, size, run.program.group)
        episodes = traced.rollout(state.learner.acting, batch, keep, jax.random.key(3))
        invalid = jax.numpy.zeros((graph.size, size, run.program.group), bool) if run.objective.invalid_penalty else None
        traced.update(state.learner, episodes, jax.numpy.zeros((size, run.program.group)), 13, invalid)
        if not more and method == "graph":  # programs that others have alike
            traced.answer(state.learner.bank, batch, no_interventions(graph, size, 1), jax.random.key(3))
            traced.learn(state.learner, episodes, jax.numpy.zeros((graph.size, size, run.program.group)), 13)
        monitor(f"{method} {stage} traced")
    where = [NamedSharding(mesh, PartitionSpec(axis)) for axis in ("node", "data")]
    rows = [jax.ShapeDtypeStruct((8, 2), "float32", sharding=one) for one in where]
    with jax.set_mesh(mesh):
        jax.jit(jax.numpy.add).lower(*rows)
        try:
            jax.jit(typed(jax.numpy.add, mesh, *where)).lower(*rows)
        except Exception as error:
            assert type(error).__name__ == "ShardingTypeError", error
            monitor("a sum of rows on different devices refused")


def order(monitor):
    """What reads a batch in microbatches gives every question its own numbers back: on a mesh those are not neighbours."""
    train_run.load_parts = lambda *_: Parts(BACKBONE, tokenizer(), "")
    run = make_run(parse(CONFIG), "listops", "graph")
    bank = random_bank(BACKBONE.config, run.method.graph.size, size=1.0)
    batch = next_batch(run.task, 0, 8, run.method.graph, tokenizer(), (13,), "error")[1]
    rolled = Compiled(run).rollout(bank, batch, no_interventions(run.method.graph, 8, 2), jax.random.key(3))
    episodes = tuple(dataclasses.replace(layer, log_probs=layer.log_probs * 2) for layer in rolled)  # ratios that are not 0
    for name, function, given in (("log_ratio", log_ratio, (bank, episodes)), ("prompt_features", prompt_features, (episodes,))):
        mine, theirs = (
            np.asarray(compiled.lower(functools.partial(function, run.program), *args).compile()(*args))
            for compiled in (Compiled(run), Compiled(run, make_mesh(MeshShape(1, 2, 1), jax.devices()[:2])))
            for args in [(compiled.backbone, *map(compiled.placed, given))])
        assert len(np.unique(theirs[0].sum(tuple(range(1, theirs[0].ndim))))) == 8, "questions that do not differ show nothing"
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
        monitor(f"{name} in order")


def load(monitor):
    """A folder read onto a mesh: the same arrays, and each device's part read from the files alone."""
    mesh = make_mesh(MeshShape(2, 2, 2))
    for folder in sorted((Path(__file__).parent / "golden" / "decoders").iterdir()):
        whole, sizes = load_backbone(folder), []
        where = shardings(whole, mesh, mesh_rules(fsdp=True)).params
        read = huggingface._Stored.part
        huggingface._Stored.part = lambda self, index: sizes.append(read(self, index)) or sizes[-1]
        spread = load_backbone(folder, where=where)
        huggingface._Stored.part = read
        same(spread.params, whole.params, 0, 0)
        assert spread.params["layers"]["q"].sharding.spec == PartitionSpec(None, "data", "model")
        assert any(leaf.is_fully_replicated is False for leaf in jax.tree.leaves(spread.params))
        most = max(x.size for x in sizes)
        assert most * 2 <= max(x.size for x in jax.tree.leaves(whole.params)), "a whole array was read for a part of it"
        checksum = weights_checksum(folder)
        assert checksum == functools.reduce(
            lambda start, x: zlib.crc32(np.ascontiguousarray(x), start), jax.tree.leaves(whole.params), 0)
        monitor(f"{folder.name} loaded")


def main():
    train_run.COMPILER_OPTIONS = {}  # as `conftest.py` has it
    for name, check in (("load", load), ("types", types), ("order", order)):
        if name in sys.argv:
            sys.argv.remove(name)
            check(lambda text: print(text, flush=True))
    if not sys.argv[1:]:
        return
    train_run.load_parts = lambda *_: Parts(BACKBONE, tokenizer(), "")
    run = make_run(parse(CONFIG), "listops", "graph")
    run = dataclasses.replace(run, program=dataclasses.replace(run.program, merge=False))  # as where there are meshes
    alone = functools.cache(lambda shuffled: step(Compiled(run), run, shuffled))
    for text in sys.argv[1:]:
        numbers, *options = text.split("+")
        shape, shuffled = MeshShape(*map(int, numbers.split("x"))), "shuffled" in options
        config = dataclasses.replace(
            run.config, fsdp="fsdp" in options, axis_types="explicit" if "explicit" in options else "auto")
        compiled = Compiled(dataclasses.replace(run, config=config), make_mesh(shape, jax.devices()[: shape.size]))
        episodes, state, metrics = step(compiled, run, shuffled)
        for mine, theirs in zip(episodes, alone(shuffled)[0]):
            np.testing.assert_array_equal(np.asarray(mine.message), np.asarray(theirs.message))
            np.testing.assert_array_equal(np.asarray(mine.live), np.asarray(theirs.live))
            same(mine.log_probs, theirs.log_probs, 1e-4, 1e-5)
        same(metrics, alone(shuffled)[2], 2e-3, 2e-5)
        same(state, alone(shuffled)[1], 2e-3, 2e-5)
        moved(state, alone(shuffled)[1])
        a = state.bank["q"]["a"]
        print(text, "same", compiled.backbone.params["layers"]["q"].sharding.spec, a.sharding.spec, flush=True)


if __name__ == "__main__":
    main()
