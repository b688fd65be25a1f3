"""The claims of the paper, each put to the test: experiments to train and evaluate, and what is asked of their results.

    python -m neuromas_jax.experiments --config=configs/claims.py --workdir=runs/claims --shard=0/1
    python -m neuromas_jax.main --config=configs/claims.py:growth --workdir=runs/claims/growth

The first command does everything; the second one experiment alone, in the same folders. What is swept is swept for each method
alike, on a seed that is not reported and on validation questions.
"""

import ml_collections

SWEEP = dict(learning_rates=(1e-3, 2e-3, 3e-3, 5e-3), entropy_floors=(0.0, 0.7), seed=100)


def only(*depths, **options):
    """Task options that ask these depths, in equal shares unless `weights` are given."""
    return dict(depths=depths, weights=(1.0,) * len(depths)) | options


def growth(backbone: str, *controls: str):
    """C3: growth against the same graph from scratch in four ways, all with the samples of all stages together."""
    front = dict(place="front", new="zero_b", rate=0.2)
    uneven = dict(uneven=True, held_out_depth=6)
    return dict(
        backbone=backbone,
        families=dict(
            listops=dict(buckets=(24, 48), topology="4-2-1", options=only(3), stages=(
                dict(topology="2-1", steps=15, options=only(1, 2, weights=(0.3, 0.7))),
                dict(steps=50, growth=front))),
            arithmetic=dict(buckets=(26, 40), topology="2-2-2-2-1", options=only(5, **uneven), stages=(
                dict(topology="2-1", steps=10, options=only(2)),
                dict(topology="2-2-1", steps=10, options=only(3), growth=front),
                dict(topology="2-2-2-1", steps=10, options=only(4), growth=front),
                dict(steps=30, growth=front)))),
        order=("listops", "arithmetic"),
        prompt=dict(tag="<node> {height} {index}"),
        methods=("grown", "graph_mixed", "graph_schedule", "graph", "graph_tied", *controls),
        seeds=(0, 1, 2, 3, 4),
        sweep=SWEEP,
        training=dict(evaluate_every=5, influence_every=1000, checkpoint_every=50),
    )


EXPERIMENTS = dict(
    growth=growth("embedded", "grown_anew"),
    growth_seed1=growth("results/backbones/seed1"),
)


def get_config(experiment: str = ""):
    return ml_collections.ConfigDict(EXPERIMENTS[experiment] if experiment else dict(experiments=EXPERIMENTS))
