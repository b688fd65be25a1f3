"""CPU seconds of compiling rollout and update against width and depth: `python -m benchmarks.compile_time`.

One thread. Every program is compiled anew (no compilation cache), the graphs in turn; the minimum of the repetitions counts.
Prints last one JSON object per program.
"""

import argparse
import dataclasses
import functools
import json
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

WIDTHS, DEPTHS = (1, 64), (2, 4, 6)


def lowered(topology: str):
    """Rollout and update of a graph on the embedded backbone, traced and not compiled."""
    load = dataclasses.replace(Load(), topology=topology)
    backbone = load_backbone(EMBEDDED)
    program = make_scene_program(load, backbone.config)
    bank = init_bank(backbone.config, (load.rank,) * program.graph.size, jax.random.key(1))
    tokens = jnp.zeros((1, load.questions, load.question_tokens), jnp.int32)
    questions = Questions(tokens, jnp.ones_like(tokens, bool), jnp.arange(load.questions, dtype=jnp.int32))
    forward = jax.jit(functools.partial(rollout, program))
    arguments = (backbone, bank, questions, no_interventions(program.graph, load.questions, load.group),
                 jax.random.key(0))
    episodes = jax.eval_shape(forward, *arguments)
    rewards = jax.ShapeDtypeStruct((load.questions, load.group), jnp.float32)
    learn = jax.jit(functools.partial(update, Objective(), Optimizer(), program))
    state = init_learner(Optimizer(), bank)
    return {"rollout": forward.lower(*arguments), "update": learn.lower(backbone, state, episodes, rewards)}


def seconds(topology: str) -> dict[str, float]:
    found = {}
    for name, program in lowered(topology).items():
        started = time.process_time()
        program.compile(compiler_options=COMPILER_OPTIONS.get(jax.default_backend()))
        found[name] = time.process_time() - started
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=3, help="compilations of every program")
    repeats = arguments.parse_args().repeats
    jax.config.update("jax_enable_compilation_cache", False)
    graphs = [str(width) for width in WIDTHS] + ["-".join("1" * depth) for depth in DEPTHS]
    best: dict[str, dict[str, float]] = {graph: {} for graph in graphs}
    for _ in range(repeats):
        for graph in graphs:
            for name, time_spent in seconds(graph).items():
                best[graph][name] = min(time_spent, best[graph].get(name, float("inf")))
            print(graph, {name: round(value, 2) for name, value in best[graph].items()}, flush=True)
    one, many = (best[str(width)] for width in WIDTHS)
    for name in one:
        depth = [round(best["-".join("1" * d)][name], 2) for d in DEPTHS]
        print(json.dumps({
            "name": f"compile {name}", "unit": "CPU seconds", "nodes_1": round(one[name], 2), "nodes_64": round(many[name], 2),
            "ratio": round(many[name] / one[name], 2), "target": 1.3, "layers": list(DEPTHS), "seconds_by_layers": depth}))


if __name__ == "__main__":
    main()
