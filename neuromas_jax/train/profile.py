"""Traces of a few steps of training, for TensorBoard's profile page or Perfetto.

    --config.training.profile_steps=10:13     # steps 10, 11 and 12, into the cell's folder `profile`

Programs name their parts, by layer of the graph and by phase; nodes of a layer are vmapped and run as one, so they share a name:

    rollout/merge              adapters are added to copies of the weights, where a run does that
    rollout/shared             what all episodes of a question have in common is read, for all layers
    rollout/layer0             a layer packs its inboxes and hands its messages on; within it
    rollout/layer1/prefill       it reads them (not layer 0, which has none)
    rollout/layer0/decode        it writes
    update/credit              rewards become credit
    update/shared              what episodes have in common is read again; with `rollout.update_nodes` within each layer
    update/layer0              a layer's messages are scored
    update/optimizer

What a gradient is taken of bears its name in `jvp(...)`, as `jvp(update/layer0)`, and the way back in `transpose(jvp(...))`.
"""

from pathlib import Path

import jax


def parse_steps(text: str) -> range:
    """`first:end`, counted from 1; none where it is empty. Raises ValueError for anything else."""
    if not text:
        return range(0)
    try:
        first, end = map(int, text.split(":"))
    except ValueError:
        first, end = 0, 0
    if not 1 <= first < end:
        raise ValueError(f"config key 'training.profile_steps' is {text!r}; it must be two steps, first:end, such as '10:13' for "
                         "steps 10, 11 and 12, or ''")
    return range(first, end)


class Profile:
    """Starts a trace before the first of the steps, and ends it after the last; each process writes its own."""

    def __init__(self, folder: Path, text: str):
        self._folder, self._steps, self._running = folder / "profile", parse_steps(text), False

    def before(self, step: int) -> None:
        """To be called before each step, with its number."""
        if self._running and step not in self._steps:
            self.close()
        if not self._running and step in self._steps:
            jax.profiler.start_trace(str(self._folder / f"process{jax.process_index()}"))
            self._running = True

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
