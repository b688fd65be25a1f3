"""How new nodes start, side by side: C3's growth of 2-1 to 4-2-1 on ListOps with one rule changed, `config.py:copy` and so on.

Every rule has the samples of all others: a step of imitation counts as two.
"""

import ml_collections

RULES = dict(
    zero_b=dict(new="zero_b", place="front", rate=0.2),  # as in C3
    one_rate=dict(new="zero_b", place="front"),
    fresh_moments=dict(new="zero_b", place="front", rate=0.2, moments="fresh"),
    hold=dict(new="zero_b", place="front", hold=25),
    hide=dict(new="zero_b", place="front", rate=0.2, hide=0.9, hide_steps=25),
    copy=dict(new="copy", place="front", rate=0.2),
    copy_noise=dict(new="copy", place="front", rate=0.2, noise=0.5),
    distilled=dict(new="distilled", place="front", rate=0.2, imitate=8),
    middle=dict(new="zero_b", place="middle", rate=0.2),
    double=dict(new="zero_b", place="double", rate=0.2),
    front_221=dict(new="zero_b", place="front", rate=0.2),  # 2-1 to 2-2-1: a relay needs somebody to listen to
    middle_221=dict(new="zero_b", place="middle", rate=0.2),
    relay_221=dict(new="relay", place="middle", rate=0.2, imitate=8),
)


def only(*depths, **options):
    return dict(depths=depths, weights=(1.0,) * len(depths)) | options


def get_config(rule):
    growth, graph = RULES[rule], "2-2-1" if rule.endswith("_221") else "4-2-1"
    return ml_collections.ConfigDict(dict(
        backbone="embedded",
        families=dict(listops=dict(buckets=(24, 48), topology=graph, options=only(3), stages=(
            dict(topology="2-1", steps=15, options=only(1, 2, weights=(0.3, 0.7))),
            dict(steps=50 - 2 * growth.get("imitate", 0), growth=growth)))),
        prompt=dict(tag="<node> {height} {index}"), methods=("grown",), seeds=(100, 101, 102),
        sweep=dict(learning_rates=(2e-3, 5e-3), seed=99), test_questions=16,
        training=dict(evaluate_every=5, influence_every=1000, checkpoint_every=50)))
