"""Does an entropy floor take the graph past what tags alone tell, on the backbone that has seen useful tags? C2's settings."""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(dict(
        backbone="results/backbones/tagged",
        families=dict(listops=dict(buckets=(24, 48)), parts=dict(buckets=(40, 64), view=("share", "common", "common"))),
        methods=("graph",), seeds=(101,), sweep=dict(learning_rates=(1e-3, 2e-3), entropy_floors=(0.0, 0.35, 0.7), seed=100),
        test_questions=16, training=dict(steps=150, evaluate_every=30, checkpoint_every=75, influence_every=150)))
