"""The embedded backbone: a decoder of 0.22 M parameters that knows the single steps of every generated family.

Reproduces neuromas_jax/backbone/embedded from scratch:
`python -m neuromas_jax.pretrain --config=configs/embedded_backbone.py --workdir=runs/embedded_backbone`
leaves the same folder in runs/embedded_backbone/export.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.decoder = dict(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_theta=1000.0,  # prompts are short: at most 200 tokens or so
    )

    # Shares of the families among documents, and how documents are drawn (fields of pretrain.documents.Mixture).
    config.families = dict(listops=0.09, modular=0.12, boolean=0.08, strings=0.08, navigate=0.18, arithmetic=0.37, parts=0.08)
    config.mixture = ml_collections.ConfigDict()
    # A tenth of the questions are deeper than the training mixture. Boolean stays away from the 8 tokens of the BBH file.
    config.extra_depths = dict(listops=(4,), modular=(4,), strings=(5,), navigate=(9, 10), arithmetic=(5,), parts=(4,))
    config.extra_share = 0.10
    config.options = dict(arithmetic=dict(far=0.5, uneven=True))  # sums that are large are rare, and hardest
    config.vocabulary_questions = 2000

    config.steps = 15000
    config.batch = 128
    config.lengths = (32, 40, 48, 60, 76, 112)
    config.learning_rate = 4e-3
    config.warmup = 100
    config.b2 = 0.98
    config.weight_decay = 0.02
    config.clip = 1.0

    config.log_every = 100
    config.test_every = 500
    config.checkpoint_every = 1000
    config.skill_questions = 64
    return config
