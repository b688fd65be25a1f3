"""Honest evaluation: accuracy with its interval and everything that tells a real score from an accident."""

import collections
import dataclasses
import math

import jax
import numpy as np

from neuromas_jax.methods.selforg import organise
from neuromas_jax.rollout import blank_nodes, no_interventions, other_episodes, shuffle_questions
from neuromas_jax.tasks import Question, Verdict
from neuromas_jax.train.batches import TooLong, pad_questions, question_ids
from neuromas_jax.train.forced import chosen_letters, force_letters, option_counts
from neuromas_jax.train.run import Compiled
from neuromas_jax.train.verdicts import start_verdicts


@dataclasses.dataclass(frozen=True)
class Scores:
    """What one evaluation found. Rates are shares of the n questions (for votes, of all sampled answers).

    Attributes:
      n: questions asked; too_long: questions left out because no bucket holds them (counted as wrong by nobody, reported).
      asked: the questions asked, in the order given.
      correct: for each of them, whether the answer was right.
      format_rate: answers that could be read; truncated: readout messages that hit their limit without an end.
      top_answer_share: share of the most frequent answer.
      tokens: tokens written per question, by all calls.
      top_messages: per node, its most frequent message and that message's share; top_labels: the same of what messages are about.
      node_format: per node, share of messages that state something: a label with a value; of the readout, of readable answers.
    """

    n: int
    too_long: int
    asked: tuple[Question, ...]
    correct: tuple[bool, ...]
    format_rate: float
    truncated: float
    top_answer_share: float
    tokens: float
    top_messages: tuple[tuple[str, float], ...]
    top_labels: tuple[tuple[str, float], ...]
    node_format: tuple[float, ...]

    @property
    def right(self) -> int:
        return sum(self.correct)

    @property
    def accuracy(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.n)


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): sensible near 0 and 1, where evaluation of a learned graph lives."""
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half if right else 0.0, centre + half if right < n else 1.0  # exact at the ends


def message_texts(tokenizer, end_id: int, layer) -> list:
    """Texts of a layer's messages as nested lists `[N][B][G]`; equal messages are decoded once."""
    message, live = np.asarray(layer.message), np.asarray(layer.live)
    known: dict[tuple, str] = {}

    def text(ids, mask):
        key = tuple(ids[mask & (ids != end_id)].tolist())
        if key not in known:
            known[key] = tokenizer.decode(key)
        return known[key]

    return [[[text(ids, mask) for ids, mask in zip(*rows)] for rows in zip(*node)] for node in zip(message, live)]


def truncated(layer, end_id: int) -> np.ndarray:
    """Which of a layer's messages `[N, B, G]` ran into their limit."""
    return np.asarray(layer.live).all(axis=-1) & (np.asarray(layer.message)[..., -1] != end_id)


def majority(verdicts: list[Verdict]) -> Verdict:
    """The verdict of the most frequent answer; the earliest wins a tie; unreadable answers do not vote."""
    votes = collections.Counter(verdict.answer for verdict in verdicts if verdict.outcome != "malformed")
    if not votes:
        return verdicts[0]
    winner = votes.most_common(1)[0][0]
    return next(verdict for verdict in verdicts if verdict.answer == winner and verdict.outcome != "malformed")


def evaluate(
    compiled: Compiled, bank, questions, key, messages: str | None = None, blanked: int | None = None, task=None
) -> Scores:
    """Evaluates adapters on questions, as many at a time as a training batch has: one greedy episode each, votes, the first of a
    sampled group where messages are of other episodes, or a forced choice where the family asks for it (`train.forced`).

    Args:
      compiled: programs of the run.
      bank: adapters.
      questions: what is asked; each counts once.
      key: seeds sampled votes; greedy answers do not depend on it.
      messages: "kept", "blanked", "shuffled" or "other_episode"; the method's own by default.
      blanked: a node whose message every reader finds empty.
      task: whose verifier judges; the run's own by default.
    """
    run = compiled.run
    method, graph, tokenizer = run.method, run.method.graph, run.parts.tokenizer
    task = task or run.task
    size, voting = run.config.rollout.questions, method.votes > 1
    forced, messages = run.family.forced_choice, messages or method.messages
    if forced:
        group, ask = max(option_counts(questions)), compiled.choose
    elif messages == "other_episode" or voting and not method.tree:  # the episodes of a tree share what they say
        group, ask = run.config.rollout.group, compiled.rollout
    else:
        group, ask = 1, compiled.sample if method.sampled or voting else compiled.answer
    keep = no_interventions(graph, size, group)
    senders = range(graph.size - graph.layers[-1].width)
    if messages == "blanked":
        keep = blank_nodes(keep, senders)
    elif messages == "shuffled":
        keep = shuffle_questions(keep)
    elif messages == "other_episode":
        keep = other_episodes(keep)
    if blanked is not None:
        keep = blank_nodes(keep, [blanked])
    if forced:
        keep = force_letters(keep, graph, tokenizer)
    rows, asked = [], []
    for question in questions:
        try:
            rows.append(question_ids(question, graph, tokenizer, run.family.buckets))
            asked.append(question)
        except TooLong:
            if run.config.rollout.too_long == "error":
                raise
    if not asked:
        raise ValueError(f"none of the {len(questions)} questions fits a bucket of {run.family.buckets}; add a larger bucket")
    order = sorted(range(len(asked)), key=lambda i: max(map(len, rows[i])))  # like lengths together: few reach the largest bucket
    passes = -(-method.votes // group)
    verdicts: list[list[Verdict]] = []
    cut, tokens, waiting = [], 0, []
    said = [collections.Counter() for _ in range(graph.size)]
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        # A short last batch is filled up, and the filling dropped: with other questions, whose messages a shuffle can bring.
        filled = [order[(start + i) % len(order)] for i in range(size)]
        batch = pad_questions([rows[i] for i in filled], filled, run.family.buckets)
        answers = [[] for _ in chosen]
        for number in range(passes):
            if method.organised:
                episodes, answer = organise(compiled, bank, batch, keep, jax.random.fold_in(key, number))
            else:
                episodes = ask(bank, batch, keep, jax.random.fold_in(key, number))
                answer = episodes[-1]
            used = 1 if forced else min(method.votes - number * group, group)
            *texts, answered = [
                message_texts(tokenizer, run.program.sampling.end_id, jax.tree.map(lambda x: x[:, : len(chosen), :used], layer))
                for layer in (*episodes, answer)
            ]
            if forced:
                counts = option_counts([asked[i] for i in chosen])
                answered = [[[text] for text in chosen_letters(answer, keep, graph, counts)]]
            limits = truncated(answer, run.program.sampling.end_id)
            said_of = [(place, text) for place, _ in enumerate(chosen) for said_by in answered for text in said_by[place]]
            waiting.append(([answers[place] for place, _ in said_of], start_verdicts(
                task, [text for _, text in said_of], [asked[chosen[place]] for place, _ in said_of])))
            cut += [limit for place, _ in enumerate(chosen) for of_node in limits for limit in of_node[place, :used].tolist()]
            tokens += sum(int(np.asarray(layer.live[:, : len(chosen), :used]).sum()) for layer in episodes)
            for node, per_question in enumerate(row for layer in texts for row in layer):
                said[node].update(text for row in per_question for text in row)
        verdicts += answers
    for places, judged in waiting:  # slow verifiers were at work while the device answered what came later
        for place, verdict in zip(places, judged()):
            place.append(verdict)
    final = [majority(group) for group in verdicts]
    every = [verdict for group in verdicts for verdict in group]
    answers = collections.Counter(verdict.answer for verdict in final if verdict.outcome != "malformed")
    format_rate = sum(verdict.outcome != "malformed" for verdict in every) / len(every)
    known = frozenset(fact.label for question in asked for fact in question.facts)
    return Scores(
        n=len(asked),
        too_long=len(questions) - len(asked),
        asked=tuple(asked),
        correct=tuple(verdict.reward == 1 for _, verdict in sorted(zip(order, final), key=lambda pair: pair[0])),
        format_rate=format_rate,
        truncated=sum(cut) / len(cut),
        top_answer_share=max(answers.values(), default=0) / len(asked),
        tokens=tokens / len(asked),
        top_messages=tuple(_top(counter) for counter in said),
        top_labels=tuple(_top(_labels(counter, known)) for counter in said),
        node_format=(*(_stating(said[node], known) for node in senders), *[format_rate] * graph.layers[-1].width),
    )


def _top(counter: collections.Counter) -> tuple[str, float]:
    text, count = counter.most_common(1)[0]
    return text, count / counter.total()


def _is_label(word: str, known: frozenset) -> bool:
    """Whether a word is a label of the questions' facts; of questions without facts, whether it could be one."""
    return word in known if known else word.isalpha() and word not in VALUES


def _labels(counter: collections.Counter, known: frozenset) -> collections.Counter:
    """What messages are about: their labels, `A 7 B 3` -> `A B`; `-` where they have none."""
    labels = collections.Counter()
    for text, count in counter.items():
        labels[" ".join(word for word in text.split() if _is_label(word, known)) or "-"] += count
    return labels


def _stating(counter: collections.Counter, known: frozenset) -> float:
    """Share of messages that begin with a label and go on."""
    return sum(count for text, count in counter.items() if states(text, known)) / counter.total()


def states(text: str, known: frozenset) -> bool:
    """Whether a message states something: it begins with a label and goes on. `known` are the labels of the questions' facts."""
    words = text.split()
    return len(words) > 1 and _is_label(words[0], known)


VALUES = frozenset(["True", "False", "Yes", "No"])
UNLABELLED = {"-": "empty", "": "bare"}  # in place of a label: a message with no word in it; one with a value and no label
