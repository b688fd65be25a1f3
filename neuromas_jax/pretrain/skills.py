"""Per-skill accuracy: is the value right once the label stands there? On questions of the validation split."""

import dataclasses
import random
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from neuromas_jax.pretrain.batches import pack_documents
from neuromas_jax.pretrain.documents import SKILLS, DocumentWriter
from neuromas_jax.pretrain.forward import Part
from neuromas_jax.tasks import Task


class SkillTest:
    """A fixed set of documents for each (family, skill); `count` of each where the family has such facts."""

    def __init__(self, tasks: Mapping[str, Task], writer: DocumentWriter, count: int, length: int):
        self.names, documents = [], []
        for family, task in tasks.items():
            for skill in SKILLS:
                rng = random.Random(f"skills/{family}/{skill}")
                found = []
                for index in range(20 * count):
                    document = writer.skill(task.generate("validation", index), skill, rng)
                    if document is not None and len(document.tokens) <= length:
                        found.append(document)
                    if len(found) == count:
                        break
                documents += found
                self.names += [(family, skill)] * len(found)
        # Only the value counts: nothing else is a target.
        self.documents = [
            dataclasses.replace(d, weights=[float(d.probe[0] <= place < d.probe[1]) for place in range(len(d.tokens))])
            for d in documents
        ]
        self.length = length

    def accuracy(self, predict: Callable[[Part], np.ndarray], rows: int = 64) -> dict[str, dict[str, float]]:
        """Accuracy by family and skill. predict: a part of exactly `rows` rows -> most likely next token [P] at its places.

        A value counts when every token of it is the most likely one after those before it, as greedy decoding writes it.
        """
        right = np.zeros(len(self.documents), bool)
        for first in range(0, len(self.documents), rows):
            part = pack_documents(self.documents[first : first + rows], rows, self.length)
            wrong = (predict(part) != part.targets) & (part.weights > 0)
            wrong_rows = set((part.where[wrong] // self.length).tolist())
            for row in range(len(self.documents[first : first + rows])):
                right[first + row] = row not in wrong_rows
        table: dict[str, dict[str, float]] = {}
        for family, skill in dict.fromkeys(self.names):
            mine = [name == (family, skill) for name in self.names]
            table.setdefault(family, {})[skill] = round(float(right[mine].mean()), 4)
        return table

    def fingerprint(self) -> int:
        """A checksum of the test's tokens: equal numbers were measured on equal documents."""
        return zlib.crc32(str([document.tokens for document in self.documents]).encode())
