"""Our side of a comparison: the whole graph as one program. Run by `benchmarks.compare`."""

import dataclasses
import pathlib
import sys
import time

from benchmarks.worker import one_thread, serve

one_thread()  # before jax counts the cores

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.scene import make_scene_program, read_load, score  # noqa: E402
from neuromas_jax.backbone import load_backbone  # noqa: E402
from neuromas_jax.backbone.adapters import merge, take_slots  # noqa: E402
from neuromas_jax.rl import Objective, Optimizer, init_learner, update  # noqa: E402
from neuromas_jax.rollout import Questions, no_interventions, rollout, sampler  # noqa: E402
from neuromas_jax.rollout.rollout import shared_blocks  # noqa: E402
from neuromas_jax.train.run import COMPILER_OPTIONS  # noqa: E402


def prefill(program, backbone, bank, questions, episodes):
    """Reads every prompt of the episodes as `rollout` does, all shared blocks first, and writes nothing."""
    whole = merge(backbone, bank, program.lora_scale) if program.merge else bank

    def read(slots, *block):
        return sampler.prefill(backbone, take_slots(whole, slots), program.lora_scale, program.microbatch, *block)

    shared = shared_blocks(program, questions)
    hidden, kv = read(program.slots, *shared, jnp.zeros(shared[0].shape[:3], jnp.int32), ())
    states = [(hidden, kv)]  # keys and values come out, or XLA would drop their work
    for number, layer in enumerate(episodes):
        nodes = program.graph.nodes(number)
        if layer.own.shape[-1]:
            past = jax.tree.map(lambda x: x[nodes.start : nodes.stop], kv)
            before = jnp.broadcast_to(sampler.count(past.valid), layer.own.shape[:3])
            states.append(read(program.layer_slots(number), layer.own, layer.own_valid, before, (past,)))
    return states


class Ours:
    def __init__(self, folder: pathlib.Path):
        self.folder, load = folder, read_load(folder)
        self.backbone = load_backbone(folder / "model")
        if self.backbone.size > 5e6:  # memory without it has not been measured at 32M
            self.backbone = dataclasses.replace(self.backbone, remat=True)
        self.program = make_scene_program(load, self.backbone.config)
        factors = np.load(folder / "bank.npz")
        bank = {site: {"a": jnp.asarray(factors[f"{site}.a"]), "b": jnp.asarray(factors[f"{site}.b"])}
                for site in sorted({name.split(".")[0] for name in factors})}
        optimizer = Optimizer(learning_rate=load.learning_rate, clip=load.clip)
        self.state = init_learner(optimizer, bank)
        self.tokens = np.load(folder / "questions.npz")["tokens"]
        self.keep = no_interventions(self.program.graph, load.questions, load.group)
        self.key, self.step = jax.random.key(0), 0
        options = COMPILER_OPTIONS.get(jax.default_backend())
        self._rollout = jax.jit(rollout, static_argnums=0, compiler_options=options)
        self._update = jax.jit(update, static_argnums=(0, 1, 2), donate_argnums=4, compiler_options=options)
        self._prefill = jax.jit(prefill, static_argnums=0, compiler_options=options)
        self._rules = Objective(), optimizer

    def rollout(self) -> dict:
        """One pass of the graph, readout messages on the host."""
        self.step += 1
        self.episodes = self._rollout(self.program, self.backbone, self.state.bank, self.questions(), self.keep,
                                      jax.random.fold_in(self.key, self.step))
        jax.block_until_ready(self.episodes)
        self.readout = np.asarray(self.episodes[-1].message[0])
        return {}

    def questions(self) -> Questions:
        return Questions(jnp.asarray(self.tokens)[None], jnp.ones((1, *self.tokens.shape), bool),
                         jnp.arange(len(self.tokens), dtype=jnp.int32))

    def update(self) -> dict:
        rewards = jnp.asarray(score(self.readout))
        self.state, metrics = self._update(*self._rules, self.program, self.backbone, self.state, self.episodes, rewards)
        return {"gradient_norms": np.asarray(metrics.gradient_norm).tolist()}

    def train_step(self) -> dict:
        self.rollout()
        self.update()
        return {}

    def save_episodes(self) -> dict:
        """Every node's rows `[B * G, prompt + message]`, for the peer.

        Padding is left out; all rows of a node are equally long.
        """
        rows = {}
        for layer in jax.tree.map(np.asarray, self.episodes):
            assert layer.own_valid.all() and layer.live.all(), "a message ended early, though the end token is forbidden"
            for shared, valid, own, message in zip(layer.shared, layer.shared_valid, layer.own, layer.message):
                shared = shared[valid].reshape(len(shared), 1, -1)
                whole = np.concatenate([np.repeat(shared, message.shape[1], axis=1), own, message], axis=-1)
                rows[f"node{len(rows)}"] = whole.reshape(-1, whole.shape[-1])
        np.savez(self.folder / "episodes.npz", **rows)
        return {}

    def shares(self) -> dict:
        """Shares of a rollout's time, about: prefill is timed in a program of its own, decoding is what is left of the rollout,
        host what runs before the device is called and after it is done."""
        jax.block_until_ready(self._prefill(self.program, self.backbone, self.state.bank, self.questions(), self.episodes))
        prefills, devices, walls = [], [], []
        for _ in range(3):
            started = time.perf_counter()
            jax.block_until_ready(self._prefill(self.program, self.backbone, self.state.bank, self.questions(), self.episodes))
            prefills.append(time.perf_counter() - started)
            started = time.perf_counter()
            inner = self._rollout

            def timed(*arguments):
                start = time.perf_counter()
                found = jax.block_until_ready(inner(*arguments))
                devices.append(time.perf_counter() - start)
                return found

            self._rollout = timed
            self.rollout()
            self._rollout = inner
            walls.append(time.perf_counter() - started)
        read, device, wall = (float(np.median(x)) for x in (prefills, devices, walls))
        return {"shares": {"prefill": read / wall, "decode": (device - read) / wall, "host": (wall - device) / wall}}


if __name__ == "__main__":
    ours = Ours(pathlib.Path(sys.argv[1]))
    serve({name: getattr(ours, name) for name in ("rollout", "update", "train_step", "save_episodes", "shares")})
