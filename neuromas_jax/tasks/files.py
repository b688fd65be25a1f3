"""Questions from files: any JSONL with `question` and `answer`, and the packaged BBH files (evaluation only)."""

from collections.abc import Callable, Sequence
import functools
import gzip
import importlib.util
import json
import random
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from absl import logging

from neuromas_jax.tasks import arithmetic, boolean, navigate, splits
from neuromas_jax.tasks.types import Question, Task
from neuromas_jax.tasks.cage import check_cage
from neuromas_jax.tasks.judge import shared_judge
from neuromas_jax.tasks.verifiers import SLOW, VERIFIERS, verify
from neuromas_jax.tasks.verify import Verdict, extract, number

FILE_SPLITS = ("train", "validation", "test")
BBH_FAMILIES = {"boolean_expressions": boolean, "navigate": navigate, "multistep_arithmetic_two": arithmetic}


@dataclass(frozen=True, eq=False)
class FileTask:
    """The rows of a file as a task.

    rows: by split, in the file's order. evaluation_only: everything is in `test`, and `train` raises.
    verifier: of `verifiers.VERIFIERS`. chance: of a uniform guess among options, or among all distinct answers.
    family: the generated family of the same wording, None where there is none.
    """

    name: str
    rows: dict[str, tuple[Question, ...]]
    evaluation_only: bool
    verifier: str
    chance: float
    family: Task | None = None

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths that occur, sorted."""
        return tuple(sorted({question.depth for rows in self.rows.values() for question in rows}))

    def checksum(self) -> str:
        """Of all rows and how they are dealt: a file that was edited is another task."""
        return f"{zlib.crc32(repr(self.rows).encode('utf-8', 'surrogatepass')):08x}"

    def questions(self, split: str, depth: int | None = None) -> tuple[Question, ...]:
        """All questions of a split, of one depth if given. Raises ValueError on an unknown or forbidden split."""
        if split not in FILE_SPLITS:
            raise ValueError(f"unknown split {split!r} of file task {self.name}; allowed: {', '.join(FILE_SPLITS)}")
        if self.evaluation_only and split != "test":
            raise ValueError(f"{self.name} is for evaluation only and has no split {split!r}; use split 'test', and a "
                             "generated family or another file for training")
        return tuple(q for q in self.rows[split] if depth is None or q.depth == depth)

    def generate(self, split: str, index: int, depth: int | None = None) -> Question:
        """Question `index` of a split. Training goes on past the end in a new seeded order a pass; other splits raise.

        Raises ValueError on a bad split or index and where nothing is in the split.
        """
        rows = self.questions(split, depth)
        if not isinstance(index, int) or index < 0:
            raise ValueError(f"index {index!r} must be an integer from 0 up")
        if not rows:
            raise ValueError(f"{self.name}: no question in split {split!r}{'' if depth is None else f' at depth {depth}'}; "
                             "give a larger file or another split")
        if split != "train":
            if index >= len(rows):
                raise ValueError(f"{self.name}: index {index} is past the {len(rows)} questions of split {split!r}")
            return rows[index]
        turn, place = divmod(index, len(rows))
        return replace(rows[_order(self.name, depth, turn, len(rows))[place]], index=index)

    def verify(self, message: str, question: Question) -> Verdict:
        """The file's verifier on one message; total, bounded, never raises."""
        return self.verify_all([message], [question])[0]

    def verify_all(self, messages: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        """A verdict for each message on the question beside it; slow verifiers share the machine's cores, with a time limit."""
        return self.start_all(messages, questions)()

    def start_all(self, messages: Sequence[str], questions: Sequence[Question]) -> Callable[[], list[Verdict]]:
        """Begins what `verify_all` does, and returns what waits for its verdicts; slow verifiers go on meanwhile."""
        rows = [(message, one.answer, dict(one.given)) for message, one in zip(messages, questions, strict=True)]
        if self.verifier not in SLOW:
            found = [verify(self.verifier, *row) for row in rows]
            return lambda: found
        futures = [shared_judge().submit(self.verifier, *row) for row in rows]
        return lambda: [future.result() for future in futures]


@functools.lru_cache(maxsize=16)
def _order(name: str, depth: int | None, turn: int, count: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{name}/order/{depth or 'mix'}/{turn}").sample(range(count), count))


def bbh(name: str) -> list[Question]:
    """The 250 questions of a packaged BBH file in the file's order, for evaluation only.

    Facts and depth as the family of the same wording reads them. Source: Suzgun et al., BIG-Bench Hard (2022), MIT
    licence beside the files. Raises ValueError on an unknown name.
    """
    if name not in BBH_FAMILIES:
        raise ValueError(f"unknown BBH file {name!r}; allowed: {', '.join(BBH_FAMILIES)}")
    found = []
    for _, row in read_rows(splits.bbh_path(name)):
        question = BBH_FAMILIES[name].read(row["question"])
        if question.answer != row["answer"]:
            raise ValueError(f"BBH file {name!r}, row {len(found)}: target {row['answer']!r} is not {question.answer!r} as "
                             "computed; the packaged file is damaged, install the package again")
        found.append(replace(question, index=len(found)))
    return found


def bbh_task(file: str) -> FileTask:
    """A packaged BBH file as an evaluation-only task."""
    rows = {"train": (), "validation": (), "test": tuple(bbh(file))}
    family = BBH_FAMILIES[file].make()
    return FileTask(f"bbh_{file}", rows, True, "exact", family.chance, family)


def jsonl(path, name: str | None = None, verifier: str = "exact", evaluation_only: bool = False) -> FileTask:
    """A JSONL file (plain or .gz): one object a line with texts `question` and `answer`, and an integer `depth` if wanted.

    verifier: how answers are compared, of `verifiers.VERIFIERS`; rows of a choice also have `options` (texts, in the order of the
    letters), of the game of 24 `numbers`, of code `tests` (programs) and, if wanted, `before` and `name` (`answer` is not needed
    for these two). evaluation_only: every row is in split `test`; otherwise rows are dealt to train, validation and test by a
    hash of the question. Raises ValueError, with file and line, on anything else than such rows, or a question with two answers,
    and for code where there is no cage; FileNotFoundError where there is no file. A row that stands there before is left out.
    """
    if verifier not in VERIFIERS:
        raise ValueError(f"unknown verifier {verifier!r}; allowed: {', '.join(VERIFIERS)}")
    check_verifier(verifier)
    path = Path(path)
    dealt = {split: [] for split in FILE_SPLITS}
    first: dict[str, tuple[str, str]] = {}  # question -> where it first stands, its answer
    repeated = 0
    for where, row in read_rows(path):
        question = as_question(where, row, verifier)
        before, answer = first.setdefault(question.text, (where, question.answer))
        if answer != question.answer:
            raise ValueError(f"{where}: this question has the answer {question.answer[:80]!r}, and {answer[:80]!r} in {before}; "
                             "keep one of the two lines")
        if before != where:
            repeated += 1
            continue
        if not evaluation_only and splits.is_evaluation_row(question.text):
            raise ValueError(f"{where}: this question is a row of a packaged BBH file, which must not be trained on; "
                             "remove it or set evaluation_only=True")
        split = "test" if evaluation_only else splits.split_of(question.text)
        dealt[split].append(replace(question, index=len(dealt[split])))
    if repeated:
        logging.warning("%s: %d lines repeat a question with its answer and are left out", path, repeated)
    if not any(dealt.values()):
        raise ValueError(f"{path} has no questions; give one JSON object a line with `question` and `answer`")
    chance = chance_of(verifier, [question for rows in dealt.values() for question in rows])
    name = name or path.name.removesuffix(".gz").removesuffix(".jsonl")
    return FileTask(name, {s: tuple(rows) for s, rows in dealt.items()}, evaluation_only, verifier, chance)


def check_verifier(verifier: str) -> None:
    """Raises ValueError for a verifier that cannot work here: code without a cage, LaTeX without its library."""
    if verifier == "code":
        try:
            check_cage()
        except RuntimeError as error:
            raise ValueError(f"verifier 'code': {error}") from error
    if verifier == "latex" and importlib.util.find_spec("math_verify") is None:
        raise ValueError("verifier 'latex' needs math-verify: pip install neuromas_jax[math]")


def chance_of(verifier: str, questions: Sequence[Question]) -> float:
    """Score of a uniform guess among a question's options, or among all answers that there are; none where many are right."""
    answers = {question.answer for question in questions}
    counts = [len(dict(question.given).get("options", answers)) for question in questions]
    return 0.0 if verifier in ("game24", "code") or not counts else sum(1 / count for count in counts) / len(counts)


GIVEN = {  # verifier -> fields of a row beside question and answer: (name, is it needed, what it holds)
    "choice": (("options", True, "texts"),), "game24": (("numbers", True, "whole numbers"),),
    "code": (("tests", True, "texts"), ("before", False, "text"), ("name", False, "text")),
}
HELD = {"text": lambda value: isinstance(value, str),
        "texts": lambda value: isinstance(value, list) and value and all(isinstance(one, str) for one in value),
        "whole numbers": lambda value: isinstance(value, list) and value and all(type(one) is int for one in value)}


def _given(where: str, row: dict, verifier: str) -> tuple[tuple[str, object], ...]:
    found = []
    for name, needed, holds in GIVEN.get(verifier, ()):
        if name in row or needed:
            value = row.get(name)
            if not HELD[holds](value):
                raise ValueError(f"{where}: field {name!r} is {value!r}; the verifier {verifier!r} needs {holds} there")
            found.append((name, tuple(value) if isinstance(value, list) else value))
    return tuple(found)


def as_question(where: str, row, verifier: str) -> Question:
    """A row of a file as a question. Raises ValueError, naming `where`, for a field that is missing or that the verifier cannot
    use."""
    if isinstance(row, dict) and verifier in ("game24", "code"):  # many answers are right
        row = {**row, "answer": row.get("answer") or "-"}
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {type(row).__name__} instead of an object; write {{\"question\": ..., \"answer\": ...}}")
    for field in ("question", "answer"):
        if field not in row:
            raise ValueError(f"{where}: field {field!r} is missing (found: {', '.join(map(repr, row)) or 'none'}); add it")
        if not isinstance(row[field], str):
            raise ValueError(f"{where}: field {field!r} is {row[field]!r}; it must be text, put it in quotes")
        if not row[field].strip():
            raise ValueError(f"{where}: field {field!r} is empty; fill it or remove the line")
        if not row[field].isascii() and any("\ud800" <= letter <= "\udfff" for letter in row[field]):
            raise ValueError(f"{where}: field {field!r} holds a lone surrogate, which is no text; repair the escape")
    depth = row.get("depth", 0)
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 0:
        raise ValueError(f"{where}: field 'depth' is {depth!r}; it must be an integer from 0 up")
    answer = row["answer"].strip()
    given = _given(where, row, verifier)
    if verifier == "choice" and not (len(answer) == 1 and 0 <= ord(answer) - ord("A") < len(dict(given)["options"])):
        raise ValueError(f"{where}: answer {answer[:80]!r} is no letter of its {len(dict(given)['options'])} options; write one "
                         "such as 'A'")
    if verifier not in ("game24", "code") and extract(f"answer {answer}") != answer:
        raise ValueError(f"{where}: answer {answer[:80]!r} cannot be verified, since it holds the word `answer` or is too "
                         "long; shorten it to the bare result")
    if verifier == "number" and number(answer.removesuffix("%")) is None:
        raise ValueError(f"{where}: answer {answer[:80]!r} is not a number such as -12, 1,234.5 or 3/4; repair it or take "
                         f"another verifier ({', '.join(VERIFIERS)})")
    return Question(row["question"], answer, depth, given=given)


def read_rows(path):
    """Yields ("file, line n", parsed row) for every line of JSON that is not blank. Raises ValueError with file and line."""
    if not path.is_file():
        raise FileNotFoundError(f"no data file {str(path)!r}; give the path of an existing .jsonl or .jsonl.gz file")
    opener = gzip.open if path.name.endswith(".gz") else open
    line = 0
    try:
        with opener(path, "rb") as file:
            for line, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                where = f"{path}, line {line}"
                try:
                    row = json.loads(raw.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{where}: not valid JSON in UTF-8 ({error}); repair or remove the line") from error
                yield where, row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: broken gzip file after line {line} ({error}); copy it again") from error
