"""Verdicts of a batch in a run of many processes: each judges its share, and all go on with the same."""

from collections.abc import Callable, Sequence
import dataclasses

import jax

from neuromas_jax.parallel.distributed import gathered
from neuromas_jax.tasks import FileTask, Question, Task, Verdict


def start_verdicts(
    task: Task | FileTask, messages: Sequence[str], questions: Sequence[Question]
) -> Callable[[], list[Verdict]]:
    """Begins to judge a message on each question beside it; the call that is returned waits for all verdicts.

    Every `jax.process_count()`-th row is judged here, and what the others found is fetched in that call, which all processes must
    make in the same order. So a verifier with a time limit, which may cut a program here and not there, cannot let them part.
    """
    count, own = jax.process_count(), jax.process_index()
    waiting = task.start_all(messages[own::count], questions[own::count])
    if count == 1:
        return waiting

    def collect() -> list[Verdict]:
        every = [None] * len(messages)
        for process, rows in enumerate(gathered([dataclasses.astuple(verdict) for verdict in waiting()])):
            every[process::count] = [Verdict(*row) for row in rows]
        return every

    return collect
