"""Batches of documents: every step's batch is a pure function of (seed, step), cut into a few static lengths."""

import collections
import dataclasses
import queue
import random
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from neuromas_jax.pretrain.documents import Document, DocumentWriter
from neuromas_jax.pretrain.forward import Part
from neuromas_jax.tasks import FAMILIES, Question, Task
from neuromas_jax.tasks.splits import is_evaluation_row

INDICES = 2**40  # of training questions: so many that none is drawn twice on purpose
WRITTEN_ROWS = "evaluation_rows_in_documents"
DROPPED_ROWS = "evaluation_rows_dropped"
DROPPED_LONG = "too_long"
TARGET_SHARE = 0.3  # room for targets in a part, of its tokens; a fifth is usual


class QuestionSource:
    """Draws questions of the families' mixture; the deeper ones beside each family's own training mixture.

    families: name -> share. extra_depths: name -> depths that are drawn with probability `extra_share`. options: name -> what
    the family's `make` takes.
    Raises ValueError on an unknown family or on shares that are negative or all zero.
    """

    def __init__(self, families: Mapping[str, float], extra_depths: Mapping[str, Sequence[int]], extra_share: float,
                 options: Mapping[str, Mapping] | None = None):
        options = options or {}
        unknown = sorted({*families, *extra_depths, *options}.difference(FAMILIES))
        if unknown:
            raise ValueError(f"unknown family {unknown[0]!r}; allowed: {', '.join(FAMILIES)}; name the families by these")
        if not families or min(families.values()) < 0 or sum(families.values()) <= 0:
            raise ValueError(f"family shares {dict(families)} must not be negative and have a positive sum; set them anew")
        self.tasks = {name: FAMILIES[name](**options.get(name, {})) for name in families}
        self._shares = list(families.values())
        self._deep = {name: deeper(self.tasks[name], depths)
                      for name, depths in extra_depths.items() if depths and name in families}
        self._extra_share = extra_share

    def draw(self, rng: random.Random) -> Question:
        name = rng.choices(list(self.tasks), self._shares)[0]
        task = self.tasks[name]
        if name in self._deep and rng.random() < self._extra_share:
            task = self._deep[name]
        return task.generate("train", rng.randrange(INDICES))


def deeper(task: Task, depths: Sequence[int]) -> Task:
    """The family with these depths alone. They may hold out a depth of the task: prompts stay apart by their split."""
    held_out = next(depth for depth in range(task.limits[0], task.limits[1] + 1) if depth not in depths)
    return dataclasses.replace(task, depths=tuple(depths), weights=(1.0,) * len(depths), held_out_depth=held_out)


class BatchMaker:
    """Makes the batch of any step.

    rows: documents a step. lengths: static lengths, ascending; how many rows each has is measured once on a sample.
    counts: step -> what was dropped for it: evaluation rows, documents over the last length; and evaluation rows written after
      all. Whoever uses a batch takes its counts out.
    """

    def __init__(self, source: QuestionSource, writer: DocumentWriter, rows: int, lengths: Sequence[int], seed: int):
        if list(lengths) != sorted(set(lengths)) or not lengths:
            raise ValueError(f"lengths {tuple(lengths)} must be ascending and distinct, as (32, 48, 64)")
        self.source, self.writer, self.seed, self.rows, self.lengths = source, writer, seed, rows, tuple(lengths)
        self.counts: dict[int, collections.Counter] = {}
        self.shape = self._measure(8 * rows)

    def _draw(self, rng: random.Random, counts: collections.Counter) -> Document:
        while True:
            question = self.source.draw(rng)
            # The generators refuse these already; a second look costs little and is counted.
            if is_evaluation_row(question.text):
                counts[DROPPED_ROWS] += 1
                continue
            document = self.writer.write(question, rng)
            if len(document.tokens) <= self.lengths[-1]:
                return document
            counts[DROPPED_LONG] += 1

    def _measure(self, sample: int) -> tuple[int, ...]:
        """Rows of each length: by the sample's quantiles in fours, all but the shortest with a four to spare."""
        rng = random.Random(f"{self.seed}/shape")
        sizes = np.array([len(self._draw(rng, collections.Counter()).tokens) for _ in range(sample)])
        below = [0, *(int(round(self.rows * np.mean(sizes <= length) / 4)) * 4 for length in self.lengths[:-1]), self.rows]
        counts = [int(count) for count in np.diff(below)]
        spare = 4 * (len(counts) - 1)
        return (max(counts[0] - spare, 4), *(count + 4 for count in counts[1:]))

    def batch(self, step: int) -> tuple[Part, ...]:
        """The documents of a step: sorted by length, the shortest into the shortest part."""
        rng = random.Random(f"{self.seed}/{step}")
        counts = self.counts[step] = collections.Counter()
        documents = sorted((self._draw(rng, counts) for _ in range(self.rows)), key=lambda document: -len(document.tokens))
        counts[WRITTEN_ROWS] = sum(is_evaluation_row(document.view) for document in documents)
        parts = []
        for length, rows in reversed(list(zip(self.lengths, self.shape))):
            # A document too long for what room is left in the longer parts gives way to the next one.
            taken, documents = documents[:rows], documents[rows:]
            parts.append(pack_documents([d for d in taken if len(d.tokens) <= length], rows, length))
        # The loss is a mean over all targets of the step.
        total = sum(part.weights.sum() for part in parts)
        return tuple(dataclasses.replace(part, weights=part.weights / total) for part in reversed(parts))


def pack_documents(documents: Sequence[Document], rows: int, length: int) -> Part:
    """A part of at most `rows` documents of at most `length` tokens. Targets beyond the room for them are left out."""
    tokens, lengths, weights = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32), np.zeros((rows, length), np.float32)
    for row, document in enumerate(documents):
        size = len(document.tokens)
        tokens[row, :size], weights[row, :size], lengths[row] = document.tokens, document.weights, size
    room = int(rows * length * TARGET_SHARE)
    # The token at position t is foretold from t - 1; the first token of a document is never a target.
    places = np.flatnonzero(weights)[:room]
    part = Part(tokens, lengths, *(np.zeros(room, kind) for kind in (np.int32, np.int32, np.float32)))
    part.where[: len(places)] = places - 1
    part.targets[: len(places)] = tokens.reshape(-1)[places]
    part.weights[: len(places)] = weights.reshape(-1)[places]
    return part


def ahead(maker: BatchMaker, first: int, stop: int, depth: int = 4) -> Iterator[tuple[Part, ...]]:
    """Batches of the steps `first` to `stop`, made in a thread of their own while the device computes."""
    ready: queue.Queue = queue.Queue(depth)

    def work():
        try:
            for step in range(first, stop):
                ready.put(maker.batch(step))
            ready.put(None)
        except Exception as error:  # handed to the loop, which raises it
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item
