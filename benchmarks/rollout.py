"""Rollout of a whole graph against the peer: `python -m benchmarks.rollout`."""

from benchmarks.compare import main

if __name__ == "__main__":
    main("rollout", ["rollout"], {("rollout", "embedded"): 10, ("rollout", "32M"): 3, ("rollout", "120M"): 3})
