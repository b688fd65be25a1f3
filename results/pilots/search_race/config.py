"""A search that races whole graphs, on pilot seeds: `config.py:listops` and `config.py:arithmetic`."""

import ml_collections

LISTOPS = dict(buckets=(24, 48))
ARITHMETIC = dict(task="arithmetic", buckets=(26,), options=dict(uneven=True))
RULES = dict(topology="2-1", calls=7, trial=10, every=10, stall=3, growing=0.7, most=1, growth=dict(rate=1.0))


def get_config(family):
    base = dict(listops=LISTOPS, arithmetic=ARITHMETIC)[family]
    return ml_collections.ConfigDict(dict(
        backbone="embedded", families={family: dict(base, search=RULES)}, prompt=dict(tag="<node> {height} {index}"),
        methods=("searched",), seeds=(100, 101, 102), learning_rate=dict(default=2e-3), test_questions=16,
        training=dict(steps=200, evaluate_every=5, influence_every=200, checkpoint_every=50)))
