"""The reference run: every family, every method, three seeds, the learning rate swept for each method on validation data.

Resumable: run the same command again. `results/reference/` holds what it left.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone = "embedded"
    config.families = dict(
        listops=dict(buckets=(24, 48)),
        # Three facts a message in the first layer and two in the second: with one, pilots ended at one axis of the walk.
        navigate=dict(buckets=(14,), message_tokens=(6, 4, 2), steps=200, files=("navigate",)),
        boolean=dict(buckets=(12,), files=("boolean_expressions",)),
        # Facts are spread over the first layer; later nodes see only what is common.
        parts=dict(buckets=(40, 64), view=("share", "common", "common")),
        strings=dict(buckets=(10,), message_tokens=5, tokens_per_fact=5),
        modular=dict(buckets=(32, 64)),  # a partial solution does not help here
        arithmetic=dict(  # one layer for each step of a bracket of four operands
            buckets=(26,), topology="4-2-2-1", options=dict(uneven=True), steps=200,
            files=("multistep_arithmetic_two",)),
    )
    config.order = ("listops", "boolean", "arithmetic", "navigate", "parts", "strings", "modular")
    config.methods = (  # trained in this order: the longest first, so that two processes end together
        "graph", "chain_equal_calls", "graph_shared_adapter", "single_equal_tokens", "single_equal_parameters",
        "graph_untrained", "graph_blanked", "graph_shuffled", "vote_equal_tokens",
    )
    config.seeds = (0, 1, 2)
    config.graph = dict(topology="4-2-1", reads="previous", slots="per_node")
    config.adapters = dict(rank=4, scale=2.0)
    config.rollout = dict(questions=32, group=8)
    config.sweep = dict(learning_rates=(2.5e-4, 5e-4, 1e-3, 2e-3), seed=100)
    config.training = dict(steps=150, evaluate_every=30, checkpoint_every=75)
    config.test_questions = 256
    config.workers = 2
    return config
