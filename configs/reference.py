"""The reference run: every family, every method, three seeds, the learning rate swept for each method on validation data.

Resumable: run the same command again. `results/reference/` holds what it left.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone = "embedded"
    buckets = (16, 24, 32, 48, 64, 80)
    config.families = dict(
        listops=dict(buckets=buckets),
        boolean=dict(buckets=buckets, files=("boolean_expressions",)),
        navigate=dict(buckets=buckets, files=("navigate",)),
        # Facts are spread over the first layer; later nodes see only what is common.
        parts=dict(buckets=buckets, view=("share", "common", "common")),
        strings=dict(buckets=buckets, message_tokens=5, tokens_per_fact=5),
        modular=dict(buckets=buckets),  # a partial solution does not help here
        arithmetic=dict(buckets=buckets, message_tokens=3, tokens_per_fact=3, files=("multistep_arithmetic_two",)),
    )
    config.order = ("listops", "boolean", "navigate", "parts", "strings", "modular", "arithmetic")
    config.methods = (
        "graph", "graph_untrained", "graph_shared_adapter", "graph_blanked", "graph_shuffled", "single_equal_parameters",
        "single_equal_tokens", "chain_equal_calls", "vote_equal_tokens",
    )
    config.seeds = (0, 1, 2)
    config.graph = dict(topology="4-2-1", reads="previous", slots="per_node")
    config.adapters = dict(rank=4, scale=2.0)
    config.rollout = dict(questions=16, group=8)
    config.sweep = dict(learning_rates=(3e-4, 1e-3, 3e-3), seed=100, steps=50)
    config.training = dict(steps=100, evaluate_every=50, checkpoint_every=100)
    config.test_questions = 256
    config.workers = 2
    return config
