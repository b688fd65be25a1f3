"""What a search would have to tell apart: graphs of seven nodes grown at once from 2-1, `config.py:listops+4-2-1` and so on."""

import ml_collections

LISTOPS = dict(buckets=(24, 48))
ARITHMETIC = dict(task="arithmetic", buckets=(26,), options=dict(uneven=True))
GROWTH = dict(place="front", new="zero_b", rate=1.0)


def get_config(which):
    family, graph = which.split("+")
    base = dict(LISTOPS, task="listops") if family == "listops" else ARITHMETIC
    return ml_collections.ConfigDict(dict(
        backbone="embedded",
        families={family: dict(base, topology=graph, stages=(dict(topology="2-1", steps=10), dict(steps=90, growth=GROWTH)))},
        prompt=dict(tag="<node> {height} {index}"), methods=("grown",), seeds=(100, 101, 102), learning_rate=dict(default=2e-3),
        test_questions=16, training=dict(evaluate_every=5, influence_every=1000, checkpoint_every=50)))
