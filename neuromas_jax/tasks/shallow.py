"""What a score must beat: the majority class, and the best rule that looks at the text without solving it.

Rules are tables from a feature of the text to the answer that follows it most often (length, depth, first and last
words, counts of a word, parity of a sum, largest digit, ...), linear models over n-grams, and guesses without fitting
(copy the input, "an even total of steps means Yes"). All in well under 3 s for 512 questions. A file with nothing to fit on
has the majority class and the guesses.
"""

import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

MIN_FIT = 8  # questions; with fewer there is no rule to fit and choose
MAX_CLASSES = 20  # n-gram models are fitted where there are no more answers than this
MAX_FEATURES = 400
RIDGE = 3.0
_WORD = re.compile(r"[A-Za-z]+|-?\d+|[^\sA-Za-z\d]")


@dataclass(frozen=True)
class Shallow:
    """The name of a rule and the share of questions that it answers right."""

    rule: str
    accuracy: float


def majority(questions) -> Shallow:
    """The most frequent answer of the questions themselves."""
    if not questions:
        raise ValueError("no questions to take the majority of; give one at least")
    answer, count = Counter(q.answer for q in questions).most_common(1)[0]
    return Shallow(f"always {answer!r}", count / len(questions))


def bar(questions, task, count: int = 2000) -> Shallow:
    """The best shallow rule for questions of a task (a family, or a file): see `best_shallow`.

    For a family, and for a file with a family of the same wording, rules are fitted on `count` generated questions,
    once from the training mixture and once at exactly the depths of `questions`, and the better one counts. The
    held-out depth is no exception: the rules may see what the agents may not. Other files: on their own train split, and
    where that has fewer than `MIN_FIT` questions, or none since the file is for evaluation only, no rule is fitted: the
    better of the majority class and the guesses without fitting, which is a lower bar.
    """
    family = getattr(task, "family", task)
    if family is None:
        train = () if task.evaluation_only else task.questions("train")
        return best_shallow(questions, train) if len(train) >= MIN_FIT else _best_unfitted(questions)
    depths = sorted({q.depth for q in questions})
    rngs = [random.Random(f"{family.name}/shallow/{index}") for index in range(count)]
    same = [family.draw_from(rng, "train", depths[n % len(depths)])[0] for n, rng in enumerate(rngs)]
    mixed = [family.generate("train", index) for index in range(count)]
    return max((best_shallow(questions, train) for train in (mixed, same)), key=lambda shallow: shallow.accuracy)


def best_shallow(questions, train) -> Shallow:
    """The bar for these questions.

    Every rule is fitted on three quarters of `train` and chosen on the rest; the one reported is the chosen rule, the
    majority class, or a guess without fitting, whichever scores best on `questions` themselves. That choice looks at
    the questions and so flatters the rule: the bar is too high rather than too low, which is the honest side.
    """
    if not questions or len(train) < MIN_FIT:
        raise ValueError(f"{len(questions)} questions and {len(train)} to fit on; give 1 and {MIN_FIT} at least")
    train = list(train)
    random.Random(0).shuffle(train)  # files come sorted at times
    cut = len(train) * 3 // 4
    gold = [q.answer for q in questions]
    views = [_views(part) for part in _trimmed(train[:cut], train[cut:], questions)]
    fit, choose, score = (list(zip(part, qs)) for part, qs in zip(views, (train[:cut], train[cut:], questions)))
    fitted = list(_fitted_rules(fit))
    chosen = max(fitted, key=lambda rule: _accuracy(rule[1](choose), [q.answer for q in train[cut:]]))
    bars = [majority(questions), Shallow(chosen[0], _accuracy(chosen[1](score), gold)), *_guessed(views[2], gold)]
    return max(bars, key=lambda bar: bar.accuracy)


def _best_unfitted(questions) -> Shallow:
    """The better of the majority class and the guesses, on the whole texts: there is nothing to learn a common wording from."""
    views = _views([_WORD.findall(question.text) for question in questions])
    return max([majority(questions), *_guessed(views, [q.answer for q in questions])], key=lambda bar: bar.accuracy)


def _guessed(views, gold):
    return [Shallow(name, _accuracy([guess(view) for view in views], gold)) for name, guess in GUESSES.items()]


@dataclass(frozen=True)
class _View:
    words: list
    counts: Counter
    numbers: list


def _trimmed(*sets):
    """Word lists without the words that every question begins and ends with."""
    lists = [[_WORD.findall(q.text) for q in questions] for questions in sets]
    head, tail = list(lists[0][0]), list(lists[0][0])
    for words in (words for part in lists for words in part):
        while words[:len(head)] != head:
            head.pop()
        while tail and words[-len(tail):] != tail:
            tail.pop(0)
    stop = -len(tail) or None
    return [[words[len(head):stop] for words in part] for part in lists]


def _views(part):
    def numbers(words):
        return [int(word) for word in words if word.lstrip("-").isdecimal() and len(word) < 20]
    return [_View(words, Counter(words), numbers(words)) for words in part]


def _accuracy(found, gold) -> float:
    return sum(map(str.__eq__, found, gold)) / len(gold)


def _operand(words):
    return [word for word in words if len(word) == 1 and word.isalpha()]


def _yes(truth) -> str:
    return "Yes" if truth else "No"


# Guesses without fitting, each from a _View; "" where a guess has nothing to say.
GUESSES = {
    "an even total means Yes": lambda v: _yes(sum(v.numbers) % 2 == 0),
    "every number has its like means Yes": lambda v: _yes(all(n % 2 == 0 for n in Counter(v.numbers).values())),
    "the largest number": lambda v: str(max(v.numbers, default="")),
    "the smallest number": lambda v: str(min(v.numbers, default="")),
    "the first number": lambda v: str(v.numbers[0]) if v.numbers else "",
    "the last number": lambda v: str(v.numbers[-1]) if v.numbers else "",
    "the sum modulo 10": lambda v: str(sum(v.numbers) % 10),
    "the first operator on all numbers": lambda v: _root(v),
    "the first constant": lambda v: next((w for w in v.words if w in ("True", "False")), ""),
    "the last constant": lambda v: next((w for w in reversed(v.words) if w in ("True", "False")), ""),
    "an odd count of not means False": lambda v: str(v.counts["not"] % 2 == 0),
    "the letters as they stand": lambda v: " ".join(_operand(v.words)),
    "the letters reversed": lambda v: " ".join(reversed(_operand(v.words))),
}


def _root(view) -> str:
    if not view.numbers:
        return ""
    name = next((w for w in view.words if w in ("MAX", "MIN", "SM")), "SM")
    return str({"MAX": max, "MIN": min, "SM": lambda n: sum(n) % 10}[name](view.numbers))


def _features(vocabulary):
    """Name -> function of (view, question) giving a table's key."""
    features = {
        "length": lambda v, q: len(v.words),
        "depth": lambda v, q: q.depth,
        "parity of the total": lambda v, q: sum(v.numbers) % 2,
        "total modulo 10": lambda v, q: sum(v.numbers) % 10,
        "largest number": lambda v, q: max(v.numbers, default=None),
        "smallest number": lambda v, q: min(v.numbers, default=None),
        "first word and largest number": lambda v, q: (v.words[:1], max(v.numbers, default=None)),
        "first word and smallest number": lambda v, q: (v.words[:1], min(v.numbers, default=None)),
        "first word and total": lambda v, q: (v.words[:1], sum(v.numbers) % 10),
        "kinds of words": lambda v, q: frozenset(v.counts),
    }
    for size in (1, 2, 3):
        features[f"first {size} words"] = lambda v, q, n=size: v.words[:n]
        features[f"last {size} words"] = lambda v, q, n=size: v.words[-n:]
    features["first 2 and last 2 words"] = lambda v, q: v.words[:2] + v.words[-2:]
    for word in vocabulary:
        features[f"count of {word!r}"] = lambda v, q, w=word: v.counts[w]
    return features


def _fitted_rules(fit):
    """Yields (name, predict); predict maps a list of (view, question) to answers."""
    words = Counter(word for view, _ in fit for word in view.counts)
    vocabulary = [word for word, _ in words.most_common(60)]
    for name, feature in _features(vocabulary).items():
        yield f"{name} -> answer", _table(fit, feature, lambda v, answer: answer, lambda v, outcome: outcome)
    if any(len(_operand(view.words)) > 1 for view, _ in fit) and any(" " in q.answer for _, q in fit):
        for name, feature in _features(vocabulary).items():
            yield f"{name} -> order of the letters", _table(fit, feature, _order_of, _reorder)
    if len({q.answer for _, q in fit}) <= MAX_CLASSES:
        for size in (1, 2, 3):
            yield f"linear model over {size}-grams", _linear(fit, size)


def _order_of(view, answer):
    letters = _operand(view.words)
    return tuple(letters.index(letter) if letter in letters else -1 for letter in answer.split())


def _reorder(view, order):
    letters = _operand(view.words)
    return " ".join(letters[place] for place in order if 0 <= place < len(letters))


def _table(fit, feature, encode, decode):
    """The most frequent outcome of each key; keys never seen get the most frequent of all."""
    table, overall = defaultdict(Counter), Counter()
    for view, question in fit:
        outcome = encode(view, question.answer)
        table[repr(feature(view, question))][outcome] += 1
        overall[outcome] += 1
    best = {key: outcomes.most_common(1)[0][0] for key, outcomes in table.items()}
    default = overall.most_common(1)[0][0]
    return lambda rows: [decode(v, best.get(repr(feature(v, q)), default)) for v, q in rows]


def _linear(fit, size: int):
    """Ridge regression from counts of n-grams up to `size` (with the two ends marked) to the answers, one-hot."""
    bags = [_grams(view, size) for view, _ in fit]
    common = Counter(gram for bag in bags for gram in bag).most_common(MAX_FEATURES)
    column = {gram: number for number, (gram, _) in enumerate(common)}

    def matrix(grams):
        counts = np.zeros((len(grams), len(column) + 1), np.float64)  # [questions, features + 1]
        counts[:, -1] = 1.0
        for row, bag in enumerate(grams):
            for gram, count in bag.items():
                if gram in column:
                    counts[row, column[gram]] = count
        return counts

    answers = sorted({q.answer for _, q in fit})
    place = {answer: number for number, answer in enumerate(answers)}
    wanted = np.eye(len(answers))[[place[q.answer] for _, q in fit]]
    x = matrix(bags)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ wanted)
    return lambda rows: [answers[n] for n in (matrix([_grams(v, size) for v, _ in rows]) @ weights).argmax(1)]


def _grams(view, size: int) -> Counter:
    words = ["<", *view.words, ">"]
    return Counter(" ".join(words[at:at + n]) for n in range(1, size + 1) for at in range(len(words) - n + 1))
