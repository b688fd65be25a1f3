"""Minutes on a laptop: a graph of seven small agents learns to divide ListOps questions, beside what it must beat.

The BBH file is answered by adapters that the reference run trained on generated Boolean questions.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.backbone = "embedded"
    config.families = dict(
        listops=dict(buckets=(24, 48)),
        boolean=dict(buckets=(12,), files=("boolean_expressions",), adapters="results/reference/train/boolean"),
    )
    config.order = ("listops", "boolean")
    config.methods = (  # trained in this order: the longest first, so that two processes end together
        "graph", "chain_equal_calls", "graph_shared_adapter", "single_equal_tokens", "single_equal_parameters",
        "graph_untrained", "graph_blanked", "graph_shuffled", "vote_equal_tokens",
    )
    config.seeds = (0,)
    config.graph = dict(topology="4-2-1", reads="previous", slots="per_node")
    config.adapters = dict(rank=4, scale=2.0)
    config.rollout = dict(questions=32, group=8)
    config.learning_rate = dict(  # those that the sweep of the reference run chose
        graph=2e-3, chain_equal_calls=1e-3, graph_shared_adapter=5e-4, single_equal_tokens=1e-3, single_equal_parameters=5e-4)
    config.training = dict(steps=120, evaluate_every=30, checkpoint_every=60)
    config.test_questions = 128
    config.workers = 2
    return config
