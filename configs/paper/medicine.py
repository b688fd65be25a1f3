"""MMLU Professional Medicine, as in the paper: see `configs/paper/common.py`."""

from configs.paper.common import paper

TASK = dict(task="benchmark", options=dict(name="mmlu", folder="mmlu", subject="professional_medicine"))


def get_config(argument: str = ""):
    return paper(argument, "medicine", TASK)
