"""A large graph over a pod: `python -m neuromas_jax.aot --config=configs/pod.py --topology=v5p:4x4x8 --shape=qwen3-8b`."""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone = "embedded"
    config.remat = True
    config.families = dict(listops=dict(buckets=(256,), message_tokens=32, topology="32-..-1-1"))
    config.methods = ("graph",)
    config.graph = dict(edges="tree")
    config.prompt = dict(slot="<from{place}>")  # labels count within a node's own inbox, which is short
    config.adapters = dict(rank=16, scale=2.0, sites=("q", "v"))
    config.rollout = dict(questions=128, group=8)
    return config
