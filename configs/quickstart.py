"""Minutes on a laptop: a graph of seven small agents learns to divide ListOps questions, beside what it must beat.

The BBH file is answered by adapters that the reference run trained on generated Boolean questions.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone = "embedded"
    config.families = dict(
        listops=dict(options=dict(depths=(1, 2, 3), weights=(0.15, 0.35, 0.50)), message_tokens=2, buckets=(24, 48)),
        boolean=dict(message_tokens=2, buckets=(12,), files=("boolean_expressions",), adapters="results/reference/train/boolean"),
    )
    config.order = ("listops", "boolean")
    config.methods = (
        "graph", "graph_untrained", "graph_shared_adapter", "graph_blanked", "graph_shuffled", "single_equal_parameters",
        "single_equal_tokens", "chain_equal_calls", "vote_equal_tokens",
    )
    config.seeds = (0,)
    config.graph = dict(topology="4-2-1", reads="all", slots="per_node")
    config.adapters = dict(rank=4, scale=2.0)
    config.rollout = dict(questions=32, group=8)
    config.learning_rate = dict(default=2e-3, single_equal_tokens=1e-3)  # from the sweep of the reference run
    config.training = dict(steps=150, evaluate_every=25, checkpoint_every=50)
    config.test_questions = 256
    config.workers = 2
    return config
