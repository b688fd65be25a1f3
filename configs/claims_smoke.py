"""Every test of a claim on a few steps of training: minutes that show the machine works, and numbers that mean nothing.

    python -m neuromas_jax.experiments --config=configs/claims_smoke.py --workdir=runs/claims_smoke
"""

import ml_collections

EASY = dict(depths=(1,), weights=(1.0,), held_out_depth=3)
TARGET = dict(depths=(2,), weights=(1.0,), held_out_depth=3)
LISTOPS = dict(buckets=(24,), topology="2-1", options=TARGET)


def experiment(families: dict, methods: tuple, **changes):
    return dict(
        backbone="embedded", families=families, methods=methods, seeds=(0, 1), rollout=dict(questions=8, group=4),
        training=dict(steps=4, evaluate_every=1, checkpoint_every=4, influence_every=100, validation_questions=16),
        test_questions=16) | changes


STAGES = (dict(topology="1", steps=2, options=EASY), dict(steps=4, growth=dict(place="front", rate=0.2)))
EXPERIMENTS = dict(
    rivals=experiment(dict(listops=LISTOPS), ("graph", "single_equal_parameters", "direct")),
    growth=experiment(dict(listops=LISTOPS | dict(stages=STAGES)), ("grown", "graph_mixed"), seeds=(0,),
                      sweep=dict(learning_rates=(2e-3,), entropy_floors=(0.0, 0.7))),
    shapes=experiment(dict(small=dict(LISTOPS, task="listops", topology="1"), large=dict(LISTOPS, task="listops")), ("graph",)),
    searched=experiment(dict(listops=dict(LISTOPS, search=dict(topology="1", trial=1, every=1, stall=1, most=1))), ("searched",),
                        seeds=(0,)),
    rank2=experiment(dict(listops=LISTOPS), ("graph", "single_equal_parameters"), adapters=dict(rank=2)),
)
CLAIMS = dict(
    C1=dict(says="The graph beats its rivals.", test="ahead", experiments=("rivals",), families=1,
            over=("single_equal_parameters", "direct")),
    C3=dict(says="Growing beats training from scratch.", test="growing", experiments=("growth",), method="grown", families=1,
            over=("graph_mixed",), thresholds=dict(listops=0.2)),
    C4=dict(says="More depth helps.", test="shapes", experiments=("shapes",), families=1, pairs=(("large", "small"),)),
    search=dict(says="Automated growth finds a graph as good as those made by hand.", test="search",
                experiments=("searched", "shapes"), method="searched", families=1),
    C5=dict(says="Modules use their parameters better.", test="parameters", experiments=("rank2", "rivals"), families=1,
            over=("single_equal_parameters",)),
)


def get_config(experiment: str = ""):
    """The suite, or one of its experiments by name."""
    found = EXPERIMENTS[experiment] if experiment else dict(experiments=EXPERIMENTS, claims=CLAIMS)
    return ml_collections.ConfigDict(found)
