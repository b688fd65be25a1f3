"""Questions and verifiers: generated families with a depth knob, packaged evaluation files, and any JSONL.

`make_task("listops").generate("train", 0)` gives a `Question`; `task.verify(message, question)` gives a `Verdict`.
"""

import inspect

from neuromas_jax.tasks import arithmetic, boolean, gym, listops, modular, navigate, parts, strings
from neuromas_jax.tasks.benchmarks import BENCHMARKS, benchmark
from neuromas_jax.tasks.files import FileTask, bbh, bbh_task, jsonl
from neuromas_jax.tasks.hub import hub_task
from neuromas_jax.tasks.tfds import tfds_task
from neuromas_jax.tasks.types import Fact, Question, Task
from neuromas_jax.tasks.verify import Verdict

FAMILIES = {
    "listops": listops.make,
    "modular": modular.make,
    "boolean": boolean.make,
    "strings": strings.make,
    "navigate": navigate.make,
    "arithmetic": arithmetic.make,
    "parts": parts.make,
}
LIBRARIES = {"reasoning_gym": gym.make}  # generated too, by somebody else
FILES = {"bbh": bbh_task, "jsonl": jsonl, "benchmark": benchmark, "tfds": tfds_task, "hub": hub_task}

__all__ = ["BENCHMARKS", "FAMILIES", "FILES", "Fact", "FileTask", "Question", "Task", "Verdict", "bbh", "bbh_task", "benchmark",
           "jsonl", "make_task"]


def make_task(name: str, /, **options) -> Task | FileTask:
    """A family by name (`depths`, `weights`, `held_out_depth`; `name` of `reasoning_gym`), or `bbh` (`file`), `jsonl` (`path`,
    ...), `benchmark` (`name`, `folder`, ...), `tfds` (`name`, `data_dir`, ...) or `hub` (`name`, `config`, ...).

    depths without weights are drawn alike often. Raises ValueError on unknown names and options.
    """
    makers = FAMILIES | LIBRARIES | FILES
    if name not in makers:
        raise ValueError(f"unknown task {name!r}; allowed: {', '.join(makers)}")
    allowed = inspect.signature(makers[name]).parameters
    for option in options:
        if option not in allowed:
            raise ValueError(f"unknown option {option!r} of task {name!r}; allowed: {', '.join(allowed)}")
    for option, parameter in allowed.items():
        if parameter.default is parameter.empty and option not in options:
            raise ValueError(f"task {name!r} needs the option {option!r}; pass make_task({name!r}, {option}=...)")
    if name not in FILES and "depths" in options and "weights" not in options:
        options["weights"] = (1.0,) * len(options["depths"])
    return makers[name](**options)
