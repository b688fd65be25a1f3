"""Large graphs on a CPU: `python -m benchmarks.scale [--nodes=64,128,256,512,1024] [--rollouts=4096] [--repeats=3]`.

One thread, the embedded backbone, graphs `N/2-..-1-1` wired as trees, so that every node but the first layer's reads two others
(the last one, one). Each size has a process of its own, which compiles rollout and update and takes a few steps of both: seconds
of compiling, the median seconds of a step, and the most memory. Of the sizes of `--rollouts` only the rollout is run. At the end
the step time of each size over the line through the smallest and the largest.
"""

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import time

QUESTIONS, GROUP, QUESTION_TOKENS, MESSAGE_TOKENS, RANK = 2, 2, 16, 2, 4


def measure(nodes: int, repeats: int, learning: bool) -> dict:
    """Compile seconds, step seconds and peak memory of one size, in this process."""
    from benchmarks.worker import one_thread

    one_thread()  # before jax counts the cores
    import jax
    import jax.numpy as jnp

    from neuromas_jax.backbone import load_backbone
    from neuromas_jax.backbone.adapters import init_bank
    from neuromas_jax.backbone.hub import EMBEDDED
    from neuromas_jax.graph import node_slots, text_graph
    from neuromas_jax.rl import Objective, Optimizer, init_learner, update
    from neuromas_jax.rollout import Questions, make_program, make_sampling, no_interventions, rollout
    from neuromas_jax.text.prompt import PromptTemplate
    from neuromas_jax.text.tokenizer import load_tokenizer
    from neuromas_jax.train.run import COMPILER_OPTIONS

    backbone, tokenizer = load_backbone(EMBEDDED), load_tokenizer(EMBEDDED)
    graph = text_graph(f"{nodes // 2}-..-1-1", MESSAGE_TOKENS, edges="tree")
    sampling = make_sampling(tokenizer, backbone.config.vocab_size)
    program = make_program(graph, node_slots(graph), PromptTemplate(slot="<from{place}>"), tokenizer, sampling, GROUP, QUESTIONS)
    bank = init_bank(backbone.config, (RANK,) * graph.size, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (1, QUESTIONS, QUESTION_TOKENS), max(tokenizer.added_ids) + 1,
                                tokenizer.vocab_size)
    questions = Questions(tokens, jnp.ones_like(tokens, bool), jnp.arange(QUESTIONS, dtype=jnp.int32))
    keep = no_interventions(graph, QUESTIONS, GROUP)
    rewards = jnp.asarray([[0.0, 1.0]] * QUESTIONS)
    options, started = COMPILER_OPTIONS.get(jax.default_backend()), time.process_time()
    key = jax.random.key(2)
    roll = jax.jit(functools.partial(rollout, program)).lower(backbone, bank, questions, keep, key).compile(
        compiler_options=options)
    state, learn = None, None
    if learning:
        state = init_learner(Optimizer(), bank)
        episodes = jax.eval_shape(functools.partial(rollout, program), backbone, bank, questions, keep, key)
        learn = jax.jit(functools.partial(update, Objective(), Optimizer(), program), donate_argnums=1).lower(
            backbone, state, episodes, rewards).compile(compiler_options=options)
    compiling, seconds = time.process_time() - started, []
    for number in range(repeats + 1):
        begun = time.perf_counter()
        episodes = roll(backbone, state.bank if state else bank, questions, keep, jax.random.fold_in(key, number))
        if learning:
            state, _ = learn(backbone, state, episodes, rewards)
        jax.block_until_ready((episodes, state))
        seconds.append(time.perf_counter() - begun)
    return {"nodes": graph.size, "graph": str(graph), "learning": learning, "compile_seconds": round(compiling, 1),
            "step_seconds": statistics.median(seconds[1:]),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--nodes", default="64,128,256,512,1024")
    arguments.add_argument("--rollouts", default="4096")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--one", help="for a process of this command: nodes, and 1 for learning")
    given = arguments.parse_args()
    if given.one:
        nodes, learning = map(int, given.one.split(","))
        print(json.dumps(measure(nodes, given.repeats, bool(learning))))
        return
    found = []
    sizes = [(size, learning) for learning, text in ((1, given.nodes), (0, given.rollouts)) for size in text.split(",") if size]
    for size, learning in sizes:
        command = [sys.executable, "-m", "benchmarks.scale", f"--one={size},{learning}", f"--repeats={given.repeats}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        print(done.stdout.splitlines()[-1], flush=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    trained = [one for one in found if one["learning"]]
    if len(trained) > 2:
        first, last = trained[0], trained[-1]
        slope = (last["step_seconds"] - first["step_seconds"]) / (last["nodes"] - first["nodes"])
        for one in trained:
            line = first["step_seconds"] + slope * (one["nodes"] - first["nodes"])
            print(f"{one['nodes']} nodes: {one['step_seconds'] / line:.3f} of the line through the smallest and the largest")


if __name__ == "__main__":
    main()
