"""The whole shape of Qwen3-0.6B, with random weights, through the real command: `python -m benchmarks.full_shape --workdir=DIR`.

A 2-2-1 graph trains one step and stops; the same command in a new process goes on from the checkpoint to the second step and
evaluates. Each call's wall seconds and peak memory are printed, and at the end the records of both steps.
"""

import argparse
import json
from pathlib import Path
import shutil
import subprocess
import sys
import time

import jax

from neuromas_jax.backbone import DecoderConfig, init_backbone, save_backbone
from neuromas_jax.backbone.hub import EMBEDDED

QWEN3_06B = DecoderConfig(
    vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
    num_key_value_heads=8, head_dim=128, dtype="bfloat16")
CONFIG = """import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone, config.remat = {backbone!r}, True
    config.families = dict(listops=dict(options=dict(depths=(1,), weights=(1.0,), held_out_depth=2), topology="2-2-1",
                                        message_tokens=8, buckets=(16,)))
    config.adapters = dict(rank=16, scale=2.0, sites=("q", "v"))
    config.rollout = dict(questions=2, group=2)
    config.learning_rate = dict(default=1e-4)
    config.training = dict(steps=2, validation_questions=1, checkpoint_every=1, evaluate_every=1, influence_every=2)
    config.test_questions = 1
    return config
"""
# Runs the command, and tells afterwards how much memory it held at most.
RUN = """import resource, runpy, sys
sys.argv = ['neuromas_jax.main', *sys.argv[1:]]
try:
    runpy.run_module('neuromas_jax.main', run_name='__main__')
finally:
    print('peak GiB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, file=sys.stderr)
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--workdir", required=True, type=Path)
    work = arguments.parse_args().workdir
    folder = work / "model"
    if not (folder / "model.safetensors").exists():
        save_backbone(init_backbone(QWEN3_06B, jax.random.key(0)), folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EMBEDDED / name, folder)
    config = work / "config.py"
    config.write_text(CONFIG.format(backbone=str(folder)))
    metrics = work / "run" / "train" / "listops" / "graph_seed0" / "metrics.jsonl"
    for title, changes in (("first", ["--config.training.steps=1"]), ("resumed", [])):
        started = time.time()
        command = [sys.executable, "-c", RUN, f"--config={config}", f"--workdir={work / 'run'}", *changes]
        done = subprocess.run(command, capture_output=True, text=True)
        peak = next((line for line in done.stderr.splitlines() if line.startswith("peak GiB")), "peak unknown")
        print(f"{title}: exit {done.returncode}, {time.time() - started:.0f} s, {peak}", flush=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
    for line in metrics.read_text().splitlines():
        record = json.loads(line)
        print({name: record[name] for name in ("step", "reward", "tokens", "seconds", "compile_seconds")})


if __name__ == "__main__":
    main()
