"""Is it worth training several seeds or rates as one vmapped program? `python -m benchmarks.vmapped`

One thread. Rollout and update of a graph on the embedded backbone, `--runs` times one after another with the program of a
single run, against one program that is vmapped over as many runs; both in turn, the median of the repetitions counts. Prints last
one JSON object per load: a short question as in ListOps training and the long one of the other benchmarks.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time

from benchmarks.worker import one_thread

one_thread()  # before jax counts the cores

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from benchmarks.scene import Load, make_scene_program  # noqa: E402
from neuromas_jax.backbone import load_backbone  # noqa: E402
from neuromas_jax.backbone.adapters import init_bank  # noqa: E402
from neuromas_jax.backbone.hub import EMBEDDED  # noqa: E402
from neuromas_jax.rl import Objective, Optimizer, init_learner, update  # noqa: E402
from neuromas_jax.rollout import Questions, no_interventions, rollout  # noqa: E402
from neuromas_jax.train.run import COMPILER_OPTIONS  # noqa: E402

LOADS = {"short": Load(questions=32, question_tokens=24, message_tokens=2), "long": Load()}


def make_step(load: Load):
    """One training step of a run, `(learner, tokens, key) -> learner`; its reward is the parity of the answer's ids."""
    backbone = load_backbone(EMBEDDED)
    program = make_scene_program(load, backbone.config)
    keep = no_interventions(program.graph, load.questions, load.group)

    def step(learner, tokens, key):
        questions = Questions(tokens[None], jnp.ones((1, *tokens.shape), bool), jnp.arange(load.questions, dtype=jnp.int32))
        episodes = rollout(program, backbone, learner.bank, questions, keep, key)
        rewards = (episodes[-1].message[0].sum(-1) % 2 == 0).astype(jnp.float32)
        return update(Objective(), Optimizer(), program, backbone, learner, episodes, rewards)[0]

    def start(key):
        bank = init_bank(backbone.config, (load.rank,) * program.graph.size, key)
        first = max(program.sampling.forbidden) + 1
        tokens = jax.random.randint(key, (load.questions, load.question_tokens), first, backbone.config.vocab_size)
        return init_learner(Optimizer(), bank), tokens, key

    return step, start


def measure(load: Load, runs: int, repeats: int) -> dict:
    """Median seconds of a step of all runs, one after another and as one program."""
    step, start = make_step(load)
    compiled = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS.get(jax.default_backend()))
    single, many = compiled(step), compiled(jax.vmap(step))
    states = [start(jax.random.key(seed)) for seed in range(runs)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def in_turn():
        for state in states:
            jax.block_until_ready(single(*state))

    def at_once():
        jax.block_until_ready(many(*stacked))

    seconds = {"in_turn": [], "at_once": []}
    in_turn(), at_once()  # compile
    for _ in range(repeats):
        for name, function in (("in_turn", in_turn), ("at_once", at_once)):
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    found = {name: statistics.median(values) for name, values in seconds.items()}
    return {**found, "ratio": found["in_turn"] / found["at_once"]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=4, help="seeds or rates side by side")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments = arguments.parse_args()
    for name, load in LOADS.items():
        found = {key: round(value, 3) for key, value in measure(load, arguments.runs, arguments.repeats).items()}
        print(json.dumps({"name": f"vmapped {name}", "unit": "seconds of a step of all runs", "runs": arguments.runs,
                          "load": dataclasses.asdict(load), **found}))


if __name__ == "__main__":
    main()
