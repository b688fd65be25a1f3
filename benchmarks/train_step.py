"""Update alone, and the whole training step (rollout, reward, update), against the peer: `python -m benchmarks.train_step`."""

from benchmarks.compare import main

if __name__ == "__main__":
    main("train_step", ["update", "train_step"], {
        ("update", "embedded"): 1.5, ("update", "32M"): 2, ("update", "120M"): 2,
        ("train_step", "embedded"): 4, ("train_step", "32M"): 2, ("train_step", "120M"): 2,
    })
