"""Pretraining documents: a node's prompt for a drawn question, an inbox of drawn messages, and a message.

Unsteered on purpose. The node's tag is random, and which fact a message states is a uniform draw among all that follow, in any
number of steps, from what the page shows (a readout ends with the answer): the backbone learns how to state any fact, never
which one is wanted of a node. Nor does it learn to answer at one go: only values that the page shows or that are one step away
count as a loss. Most documents are practice: their facts are mostly drawn for being one step away, and their labels, which are
not uniform, carry no loss. A document is

    <s> [MAX 3 5 ] <node> 4 2   <from1> B 5 <from2> C 9   <note> 1   E 9 </s>

and counts as a loss the facts of the message (label, value, end) and the values of the inbox's true facts, as above.
"""

import dataclasses
import random
from collections.abc import Sequence

from neuromas_jax.tasks import Fact, Question
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.text.tokenizer import Tokenizer

SKILLS = ("leaf", "combine", "answer", "direct", "copy")
LARGEST_TAG = 9


@dataclasses.dataclass(frozen=True)
class Mixture:
    """How contexts and facts are drawn; all are shares between 0 and 1 unless said otherwise."""

    slots: tuple[float, ...] = (0.30, 0.10, 0.14, 0.10, 0.14, 0.08, 0.07, 0.07)  # of 0, 1, 2, ... messages in the inbox
    counts: tuple[float, ...] = (0.42, 0.18, 0.12, *(0.28 / 9,) * 9)  # of cues that ask for 1, 2, 3, ... facts
    final: float = 0.30  # readout prompts
    final_ready: float = 0.90  # of those, the answer's operands stand in the inbox
    focus: float = 0.35  # of the other prompts, one combining fact's operands stand in the inbox
    ordered: float = 0.60  # inboxes written as a graph would: each fact one step from those before
    practice: float = 0.65  # documents whose facts are drawn for practice, and all inboxes: labels without loss
    new: float = 0.85  # of their facts, one step from the context; the rest repeat what the context holds
    wrong: float = 0.05  # wrong values in the inbox
    empty: float = 0.05  # empty messages in the inbox
    cut: float = 0.02  # messages in the inbox that end with a label without its value
    tags: float = 0.0  # notes, practice apart, whose tag tells the label of their first fact (`tag_of`); else it is random


@dataclasses.dataclass(frozen=True)
class Document:
    """tokens: ids. weights: loss weight of each id as the target of the ids before it. view: the question's text in it.

    probe: span `[start, stop)` of the last fact's value, for skill documents.
    """

    tokens: list[int]
    weights: list[float]
    view: str
    probe: tuple[int, int] = (0, 0)


class DocumentWriter:
    """Writes documents of questions; every choice comes from the given `random.Random`."""

    def __init__(self, tokenizer: Tokenizer, template: PromptTemplate, mixture: Mixture = Mixture()):
        self.tokenizer, self.template, self.mixture = tokenizer, template, mixture
        self._known = {}  # ids of labels, values and template segments, which come back all the time

    def write(self, question: Question, rng: random.Random) -> Document:
        """A training document."""
        mix = self.mixture
        page = _Page(self, question, _view(question, rng), rng)
        final = rng.random() < mix.final
        slots = rng.choices(range(len(mix.slots)), mix.slots)[0]
        count = 1 + rng.choices(range(len(mix.counts)), mix.counts)[0]
        ready = ()
        if final and rng.random() < mix.final_ready:
            ready = question.facts[-1].needs
        elif not final and rng.random() < mix.focus:
            combining = [fact for fact in question.facts if fact.needs]
            ready = rng.choice(combining).needs if combining else ()
        page.inbox(_inbox(page, slots, ready, final))
        page.cue(self.template.final if final else self.template.note, count)
        stated = None
        for _ in range(rng.randint(1, count) - final):
            fact = page.choose(page.shown, without_answer=final, practice=page.practice)
            if fact is None:  # nothing can be stated: no part is shown and the inbox is empty
                break
            page.fact(fact)
            stated = stated or fact
        # No draw where no tags are wanted: the documents of the embedded backbone stay as they were.
        if mix.tags and stated and not final and not page.practice and rng.random() < mix.tags:
            page.retag(*tag_of(question, stated, rng))
        if final:
            page.fact(question.facts[-1])
        page.end()
        return Document(page.tokens, page.weights, page.view)

    def skill(self, question: Question, skill: str, rng: random.Random) -> Document | None:
        """A document that ends with one fact, to measure whether its value is known once the label stands there.

        leaf: a fact on literals. combine: a fact whose operands are shown. answer: the same for the readout's answer.
        direct: a fact whose operands are not shown. copy: a fact that is shown. None where the question has no such fact.
        """
        facts = list(question.facts)
        fits = {
            "leaf": [fact for fact in facts if not fact.needs],
            "combine": [fact for fact in facts[:-1] if fact.needs],
            "answer": [facts[-1]] if facts[-1].needs else [],
            "direct": [fact for fact in facts if fact.needs],
            "copy": facts,
        }[skill]
        if not fits:
            return None
        fact = rng.choice(fits)
        shown = {"leaf": (), "combine": fact.needs, "answer": fact.needs, "direct": (), "copy": (fact.label,)}[skill]
        # Distractors: facts that are neither the one asked for nor made from it, and for `direct` not below it either.
        hidden = {fact.label} | _related(facts, fact.label, below=skill == "direct")
        others = [other for other in facts if other.label not in hidden and other.label not in shown]
        chosen = [other for other in facts if other.label in shown] + rng.sample(others, min(len(others), rng.randint(0, 2)))
        rng.shuffle(chosen)
        page = _Page(self, question, question.text, rng)
        page.inbox([[(other, other.value)] for other in chosen])
        page.cue(self.template.final if skill == "answer" else self.template.note, 1)
        page.fact(fact)
        probe = (len(page.tokens) - len(self.text(fact.value)), len(page.tokens))
        page.end()
        return Document(page.tokens, page.weights, page.view, probe)

    def text(self, text: str) -> list[int]:
        """Ids of a word that no template holds."""
        if text not in self._known:
            self._known[text] = self.tokenizer.encode(text)
        return self._known[text]

    def control(self, text: str) -> list[int]:
        """Ids of a template segment."""
        key = (text,)
        if key not in self._known:
            self._known[key] = self.tokenizer.encode_template(text)
        return self._known[key]


class _Page:
    """A document while it is written, and what a reader of it can know."""

    def __init__(self, writer: DocumentWriter, question: Question, view: str, rng: random.Random):
        self.writer, self.question, self.view, self.rng = writer, question, view, rng
        self.tokens: list[int] = []
        self.weights: list[float] = []
        self.shown: set[str] = set()  # labels that stand in the text with their true value
        self.practice = rng.random() < writer.mixture.practice
        # A question in parts: which parts this view shows. Their facts, and what follows from them, can be derived.
        self.parts = {number for number, part in enumerate(question.parts) if part in view.split(" ; ")}
        layer, index = rng.randint(1, LARGEST_TAG), rng.randint(1, LARGEST_TAG)
        self._add(writer.control(writer.template.start), 0.0)
        self._add(writer.tokenizer.encode(view), 0.0)
        self.tag_at = len(self.tokens)
        self._add(writer.control(writer.template.tag.format(layer=layer, index=index)), 0.0)

    def _add(self, ids: Sequence[int], weight: float) -> None:
        self.tokens.extend(ids)
        self.weights.extend([weight] * len(ids))

    def retag(self, layer: int, index: int) -> None:
        """Writes another tag in the place of the random one; tags carry no loss and all have one length."""
        tag = self.writer.control(self.writer.template.tag.format(layer=layer, index=index))
        self.tokens[self.tag_at : self.tag_at + len(tag)] = tag

    def sees(self, fact: Fact) -> bool:
        """Whether the text that the fact stands on is shown."""
        return fact.part is None or fact.part in self.parts

    def one_step(self, fact: Fact, shown: set[str]) -> bool:
        return self.sees(fact) and all(need in shown for need in fact.needs)

    def known(self, fact: Fact) -> bool:
        return fact.label in self.shown or self.one_step(fact, self.shown)

    def derivable(self, shown: set[str]) -> list[Fact]:
        """Facts that follow from the view and the facts `shown`, in any number of steps."""
        reached, found = set(shown), []
        for fact in self.question.facts:
            if self.one_step(fact, reached):
                reached.add(fact.label)
                found.append(fact)
        return found

    def choose(self, shown: set[str], without_answer: bool = False, practice: bool = True) -> Fact | None:
        """The next fact of a message after the facts `shown`; None where nothing at all can be stated."""
        mix, rng = self.writer.mixture, self.rng
        facts = [fact for fact in self.question.facts if not (without_answer and fact.label == "answer")]
        if practice and rng.random() < mix.new:
            fresh = [fact for fact in facts if fact.label not in shown and self.one_step(fact, shown)]
            leaves, combining = [f for f in fresh if not f.needs], [f for f in fresh if f.needs]
            # Half and half, or the few combining facts would drown among the leaves.
            if leaves and combining:
                fresh = leaves if rng.random() < 0.5 else combining
            if fresh:
                return rng.choice(fresh)
        elif practice:
            repeated = [fact for fact in facts if fact.label in shown]
            if repeated:
                return rng.choice(repeated)
        possible = [fact for fact in self.derivable(shown) if not (without_answer and fact.label == "answer")]
        possible = possible or [fact for fact in facts if fact.label in shown]
        return rng.choice(possible) if possible else None

    def inbox(self, messages: list[list[tuple[Fact, str | None]]]) -> None:
        """Writes messages of (fact, value as shown); a value of None leaves the label alone."""
        for number, message in enumerate(messages):
            self._add(self.writer.control(self.writer.template.slot.format(k=number + 1)), 0.0)
            for fact, value in message:
                self._add(self.writer.text(fact.label), 0.0)
                if value is None:
                    continue
                true = value == fact.value  # what is wrong, hidden or far cannot be foretold
                self._add(self.writer.text(value), 1.0 if true and self.known(fact) else 0.0)
                if true:
                    self.shown.add(fact.label)

    def cue(self, segment: str, count: int) -> None:
        budget = dict(facts=count, message_tokens=count * self.writer.template.tokens_per_fact)
        self._add(self.writer.control(segment.format(**budget)), 0.0)

    def fact(self, fact: Fact) -> None:
        self._add(self.writer.text(fact.label), 0.0 if self.practice else 1.0)
        self._add(self.writer.text(fact.value), 1.0 if self.known(fact) else 0.0)
        self.shown.add(fact.label)

    def end(self) -> None:
        self._add([self.writer.tokenizer.end_id], 1.0)


def tag_of(question: Question, fact: Fact, rng: random.Random) -> tuple[int, int]:
    """A tag (layer, index) that stands for the label of a fact, for backbones that are to have seen useful tags.

    Labels are counted in the order of the alphabet, two places further with every layer, round and round: the nodes of a layer
    have labels of their own, so tags break the symmetry between nodes; but they are no solution, since the same tag means the
    same whatever graph the node stands in. The layer is drawn, the index follows.
    """
    labels = sorted(other.label for other in question.facts if other.label != "answer") or [fact.label]
    place = labels.index(fact.label) if fact.label in labels else 0
    layer = rng.randint(1, LARGEST_TAG)
    index = (place - 2 * (layer - 1)) % len(labels)
    return layer, 1 + index % LARGEST_TAG


def _view(question: Question, rng: random.Random) -> str:
    kind = "all" if not question.parts else rng.choices(("all", "share", "common"), (0.5, 0.25, 0.25))[0]
    return question.view(kind, rng.randrange(max(1, len(question.parts))))


def _inbox(page: _Page, slots: int, ready: Sequence[str], final: bool) -> list[list[tuple[Fact, str | None]]]:
    """Messages of an inbox with `slots` slots, in which the facts `ready` stand if any slot is there to hold them."""
    mix, rng, facts = page.writer.mixture, page.rng, page.question.facts
    if ready and slots < len(ready):
        slots = len(ready) if rng.random() < 0.8 else max(slots, 1)
    longest = rng.choices((1, 2, 3), (0.7, 0.15, 0.15))[0]
    sizes = [0 if rng.random() < mix.empty else rng.randint(1, longest) for _ in range(slots)]
    ordered, shown = rng.random() < mix.ordered, set()
    messages = []
    for size in sizes:
        message = []
        for _ in range(size):
            fact = page.choose(shown, without_answer=final and rng.random() < 0.8) if ordered else rng.choice(facts)
            # Senders may have seen parts that this node does not.
            fact = fact or rng.choice(facts)
            shown.add(fact.label)
            message.append((fact, fact.value))
        messages.append(message)
    if messages:
        _place(messages, [fact for fact in facts if fact.label in ready and fact.label not in shown], set(ready), rng)
    for message in messages:
        for number, (fact, value) in enumerate(message):
            if fact.label not in ready and rng.random() < mix.wrong:
                message[number] = (fact, corrupt(value, rng))
        if message and rng.random() < mix.cut and message[-1][0].label not in ready:
            message[-1] = (message[-1][0], None)
    return messages


def _place(messages, missing: list[Fact], keep: set[str], rng: random.Random) -> None:
    """Puts each missing fact into a message: over a fact that is not to be kept, or behind what is there."""
    for fact in missing:
        spots = [(m, n) for m, message in enumerate(messages) for n, (other, _) in enumerate(message) if other.label not in keep]
        if spots:
            m, n = rng.choice(spots)
            messages[m][n] = (fact, fact.value)
        else:
            rng.choice(messages).append((fact, fact.value))


def _related(facts: Sequence[Fact], label: str, below: bool) -> set[str]:
    """Labels of all facts made from `label`, and with `below` those that it is made from."""
    needs = {fact.label: fact.needs for fact in facts}
    above = {label}
    for fact in facts:
        if above.intersection(fact.needs):
            above.add(fact.label)
    under, stack = set(), list(needs[label])
    while below and stack:
        under.add(stack[0])
        stack = stack[1:] + list(needs[stack[0]])
    return (above | under) - {label}


def corrupt(value: str, rng: random.Random) -> str:
    """A wrong value of the same kind: another truth value, number near by, or order of letters."""
    flips = {"True": "False", "False": "True", "Yes": "No", "No": "Yes"}
    if value in flips:
        return flips[value]
    if value.removeprefix("-").isdigit():
        number = int(value)
        if 0 <= number <= 9:
            return str((number + rng.randint(1, 9)) % 10)
        return str(number + rng.choice((-1, 1)) * rng.randint(1, 9))
    words = value.split()
    while " ".join(words) == value:
        rng.shuffle(words)
    return " ".join(words)
