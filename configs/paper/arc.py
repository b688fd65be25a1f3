"""ARC-Challenge, as in the paper: see `configs/paper/common.py`."""

from configs.paper.common import paper

TASK = dict(task="benchmark", options=dict(name="arc_challenge", folder="arc"))


def get_config(argument: str = ""):
    return paper(argument, "arc", TASK)
