"""Grows a graph: 1 -> 2-1 -> 4-2-1 on ListOps, each stage one level deeper, beside the whole graph from scratch.

    python -m neuromas_jax.main --config=configs/grow.py --workdir=runs/grow
    python -m neuromas_jax.main --config=configs/grow.py --workdir=runs/grown --config.init_from=runs/grow_parent

With `init_from`, a workdir or a cell's folder, the stages up to the stored graph are left out and the rest grows from it.
New layers come in front: labels of ListOps count from the answer down, so what trained nodes state stays right in a deeper
question. The tag counts layers from the readout, so that it stays theirs as well.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone = "embedded"
    front = dict(place="front", new="zero_b")
    config.families = dict(listops=dict(
        buckets=(24, 48), topology="4-2-1", options=dict(depths=(3,), weights=(1.0,)),
        stages=(
            dict(topology="1", steps=10, options=dict(depths=(1,), weights=(1.0,))),
            dict(topology="2-1", steps=30, options=dict(depths=(1, 2), weights=(0.3, 0.7)), growth=front),
            dict(steps=60, growth=front),
        )))
    config.prompt = dict(tag="<node> {height} {index}")
    config.methods = ("grown", "graph", "graph_mixed")
    config.learning_rate = dict(default=2e-3)
    config.training = dict(evaluate_every=10, influence_every=50, checkpoint_every=30)
    config.init_from = ""
    return config
