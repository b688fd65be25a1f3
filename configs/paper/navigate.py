"""BBH Navigate, as in the paper; trained on generated walks in its wording, since the file must not be: see
`configs/paper/common.py`."""

from configs.paper.common import paper

TASK = dict(task="navigate", files=("navigate",))
FINAL = "Write the final answer, in at most {message_tokens} tokens. End with the line `answer Yes` or the line `answer No`."


def get_config(argument: str = ""):
    return paper(argument, "navigate", TASK, final=FINAL)
