"""What a task is: questions, the facts they are made of, verdicts, and a seeded generator with a total verifier."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from neuromas_jax.graph.textgraph import VIEWS
from neuromas_jax.tasks import splits
from neuromas_jax.tasks.verifiers import verify
from neuromas_jax.tasks.verify import Verdict

SPLITS = ("train", "validation", "test", "held_out")
# A split holds a tenth of the prompts or more, so this many draws fail only where a split holds no prompt at all.
MAX_DRAWS = 5000
PATIENCE = 500


@dataclass(frozen=True)
class Fact:
    """One solved sub-problem, written `label value`.

    needs: labels of its operands; empty when it stands on literals alone.
    part: the part of the question whose text is needed to derive it; None where the common text will do.
    """

    label: str
    value: str
    needs: tuple[str, ...] = ()
    part: int | None = None

    def __str__(self) -> str:
        return f"{self.label} {self.value}"


@dataclass(frozen=True)
class Question:
    """One question with its answer.

    text: the whole question, as a node that sees all of it reads it.
    depth: the family's difficulty; 0 where a file names none.
    index: its place in its split; it seeds the sampler.
    facts: every sub-problem, needs first, the last one labelled `answer`; empty for files without a reader.
    common, parts: for a question in parts, what every node sees and the shares of the first layer.
    given: what its verifier needs beside the answer, (name, value) pairs; see `verifiers.verify`.
    """

    text: str
    answer: str
    depth: int
    index: int = 0
    facts: tuple[Fact, ...] = ()
    common: str = ""
    parts: tuple[str, ...] = ()
    given: tuple[tuple[str, object], ...] = ()

    def view(self, kind: str, node: int, width: int | None = None) -> str:
        """The text that node `node` of a layer of `width` nodes sees; without parts every kind is the whole text.

        kind: `all`, `share` or `common`. A share is the common text and the node's parts, dealt round robin: several parts
        where there are fewer nodes than parts, one that another node has too where there are more. width: None for one
        part a node. Raises ValueError on other kinds.
        """
        if kind not in VIEWS:
            raise ValueError(f"unknown view {kind!r}; allowed: {', '.join(VIEWS)}; set the layer's view to one of these")
        if kind == "all" or not self.parts:
            return self.text
        if kind == "common":
            return self.common
        dealt = min(width or len(self.parts), len(self.parts))
        return " ; ".join((self.common, *self.parts[node % dealt :: dealt]))


@dataclass(frozen=True)
class Task:
    """A generated family.

    depths, weights: the training mixture. held_out_depth: never in the mixture; only the split `held_out` draws it.
    limits: smallest and largest depth that the family can write.
    chance: score of a uniform guess among possible answers. partial_helps: whether an answer computed from part of the
    sub-problems is right more often than chance, so that the reward rises on the way.
    draw(rng, depth) -> prompt; read(prompt) -> Question with facts. Where a prompt does not tell its answer, draw gives the
    whole Question, and read gives it back.
    answers: for families with few answers, (answer, share) pairs; then draw(rng, depth, answer) writes a prompt with
    that answer, and every split has the answers in these shares.
    verifier: of `verifiers.VERIFIERS`.
    """

    name: str
    depths: tuple[int, ...]
    weights: tuple[float, ...]
    held_out_depth: int
    limits: tuple[int, int]
    chance: float
    partial_helps: bool
    draw: Callable[..., "str | Question"]
    read: Callable[["str | Question"], Question]
    answers: tuple[tuple[str, float], ...] = ()
    verifier: str = "exact"

    def __post_init__(self):
        low, high = self.limits
        for depth in (*self.depths, self.held_out_depth):
            if not isinstance(depth, int) or not low <= depth <= high:
                raise ValueError(f"{self.name}: depth {depth!r} is not allowed; choose integers from {low} to {high}")
        if not self.depths or len(set(self.depths)) != len(self.depths):
            raise ValueError(f"{self.name}: depths {self.depths} must be non-empty and distinct; list each depth once")
        if self.held_out_depth in self.depths:
            raise ValueError(
                f"{self.name}: depth {self.held_out_depth} is held out and cannot be in depths {self.depths}; "
                "drop it there or set held_out_depth to another depth")
        numbers = all(isinstance(weight, (int, float)) and weight >= 0 for weight in self.weights)
        if not numbers or len(self.weights) != len(self.depths) or not 0 < sum(self.weights) < float("inf"):
            raise ValueError(
                f"{self.name}: weights {self.weights} must be one non-negative finite number for each of the depths "
                f"{self.depths}, with a positive sum; give one weight a depth")

    def generate(self, split: str, index: int, depth: int | None = None) -> Question:
        """Question `index` of a split: a pure function of its arguments and the task's options.

        depth: None draws from the mixture. Raises ValueError on an unknown split, a negative index, a depth out of
        range or held out, and where the split holds no prompt of that depth.
        """
        return self._generate(split, index, depth)[0]

    def count_refused(self, split: str, count: int, depth: int | None = None) -> int:
        """How many draws of the first `count` questions were refused because they equal a row of an evaluation file."""
        return sum(self._generate(split, index, depth)[1] for index in range(count))

    def verify(self, message: str, question: Question) -> Verdict:
        """By the family's verifier: an exact comparison of what follows the last word `answer`, or what its own does. Total,
        bounded, never raises."""
        return verify(self.verifier, message, question.answer, dict(question.given))

    def verify_all(self, messages: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        """A verdict for each message on the question beside it."""
        return [self.verify(message, question) for message, question in zip(messages, questions, strict=True)]

    def start_all(self, messages: Sequence[str], questions: Sequence[Question]) -> Callable[[], list[Verdict]]:
        """`verify_all`, whose verdicts are fetched by a call: a generated family has them at once."""
        found = self.verify_all(messages, questions)
        return lambda: found

    def _generate(self, split: str, index: int, depth: int | None) -> tuple[Question, int]:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
        if not isinstance(index, int) or index < 0:
            raise ValueError(f"index {index!r} must be an integer from 0 up")
        depth = self._depth(split, depth)
        rng = random.Random(f"{self.name}/{split}/{depth or 'mix'}/{index}")
        if depth is None:
            depth = rng.choices(self.depths, self.weights)[0]
        question, refused = self.draw_from(rng, "test" if split == "held_out" else split, depth)
        return replace(question, index=index), refused

    def draw_from(self, rng: random.Random, split: str, depth: int) -> tuple[Question, int]:
        """A question of any depth, held out or not, among the prompts of `train`, `validation` or `test`.

        Returns the question and how many draws were refused as rows of an evaluation file. Raises ValueError where the
        split holds no prompt of that depth.
        """
        refused, wanted = 0, ()
        for attempt in range(MAX_DRAWS):
            # The answer stays through redraws, or a small split would tilt the shares; it is given up where a split
            # seems to hold no prompt with it.
            if self.answers and (attempt == 0 or attempt >= PATIENCE):
                wanted = rng.choices([a for a, _ in self.answers], [share for _, share in self.answers])[:1]
            drawn = self.draw(rng, depth, *wanted)
            text = drawn if isinstance(drawn, str) else drawn.text
            if splits.split_of(text) != split:
                continue
            if splits.is_evaluation_row(text):
                refused += 1
                continue
            return self.read(drawn), refused
        raise ValueError(
            f"{self.name}: no prompt of depth {depth} for split {split!r} in {MAX_DRAWS} draws; "
            f"the depth has too few prompts, choose a larger one (up to {self.limits[1]})")

    def _depth(self, split: str, depth: int | None) -> int | None:
        low, high = self.limits
        if split == "held_out":
            if depth not in (None, self.held_out_depth):
                raise ValueError(f"{self.name}: split 'held_out' has depth {self.held_out_depth} only, not {depth!r}; "
                                 "use split 'test' for other depths")
            return self.held_out_depth
        if depth is None:
            return None
        if not isinstance(depth, int) or not low <= depth <= high:
            raise ValueError(f"{self.name}: depth {depth!r} is not allowed; choose an integer from {low} to {high}")
        if depth == self.held_out_depth:
            raise ValueError(f"{self.name}: depth {depth} is held out; use split 'held_out', or another held_out_depth")
        return depth
