"""The embedded backbone's sibling that has seen useful tags: a node's tag tells which fact its message begins with.

`python -m neuromas_jax.pretrain --config=configs/tagged_backbone.py --workdir=runs/tagged_backbone`
All else is as in `embedded_backbone.py`. For the question whether one adapter for all nodes fails only because tags mean nothing.
"""

from configs.embedded_backbone import get_config as embedded


def get_config():
    config = embedded()
    config.mixture.tags = 1.0
    return config
