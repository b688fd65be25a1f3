"""HumanEval, as in the paper, trained on MBPP since it has no training rows: see `configs/paper/common.py`."""

from configs.paper.common import paper

TASK = dict(task="benchmark", options=dict(name="humaneval", folder="humaneval", train="mbpp", train_folder="mbpp"))
FINAL = "Write the program, in at most {message_tokens} tokens, in one block of Python between ``` marks."


def get_config(argument: str = ""):
    config = paper(argument, "humaneval", TASK, final=FINAL)
    config.rollout.parts = 2  # programs run while the device writes the next ones
    return config
