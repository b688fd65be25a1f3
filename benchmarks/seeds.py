"""How often the quickstart's graph learns: `python -m benchmarks.seeds --seeds=0,1,2,3 [--rate=0.002] [--rank=4]`.

Trains it for 150 steps with each seed and prints its accuracy at depth 3, on 192 validation questions, on the way.
"""

import argparse
from pathlib import Path
import runpy
import tempfile

import jax

from neuromas_jax.config import parse
from neuromas_jax.train.batches import distinct_questions
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.loop import train
from neuromas_jax.train.run import Compiled, make_run

STEPS = (60, 90, 120, 150)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", default="0,1,2,3")
    arguments.add_argument("--rate", type=float, default=2e-3)
    arguments.add_argument("--rank", type=int, default=4)
    given = arguments.parse_args()
    config = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "quickstart.py"))["get_config"]()
    config.training.update(evaluate_every=1000, checkpoint_every=1000, validation_questions=16)
    config.adapters.rank = given.rank
    run = make_run(parse(config), "listops", "graph", given.rate)
    compiled, questions = Compiled(run), distinct_questions(run.task, "validation", 3, 192)
    for seed in map(int, given.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            found = []
            for steps in STEPS:  # each goes on from the checkpoint of the one before
                bank = train(compiled, Path(folder), seed, steps).learner.bank
                found.append(f"{evaluate(compiled, bank, questions, jax.random.key(0)).accuracy:.3f}")
        print(f"jax {jax.__version__}, rate {given.rate:g}, rank {given.rank}, seed {seed}: "
              f"{' '.join(found)} after {STEPS} steps", flush=True)


if __name__ == "__main__":
    main()
