"""Published benchmarks, read from their own files: what is asked, which split is for what, and which rows are known to be wrong.

>>> task = benchmark("gsm8k", "data/gsm8k")          # a folder with train.jsonl and test.jsonl, as the authors give them
>>> task.generate("test", 0).text, task.verifier
('Janet's ducks lay 16 eggs per day. ...', 'number')

`docs/datasets.md` says where each set is, and under which licence; nothing is downloaded, but from the Hugging Face Hub for
`folder="hub"`. Test questions are the official ones; a set without an official validation split, or without its file, gives a
tenth of its training rows to it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import csv
from dataclasses import dataclass
import gzip
import io
import json
from pathlib import Path
import re
import zlib

from absl import logging

from neuromas_jax.tasks import hub
from neuromas_jax.tasks.files import FileTask, as_question, chance_of, check_verifier, read_rows
from neuromas_jax.tasks.records import settle, stem
from neuromas_jax.tasks.types import Question

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".txt", ".txt.gz")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Benchmark:
    """One set.

    Attributes:
      verifier: form of its answers, of `verifiers.VERIFIERS`.
      row: a record -> a row with `question`, `answer` and what the verifier needs; None to leave a faulty one out.
      files: split -> names, without ending, that its file may have: the authors' own first.
      subjects: the field that names a row's subject, where a set is asked one subject at a time.
      evaluation_only: no row of it may be trained on.
    """

    verifier: str
    row: Callable[[Mapping], dict | None]
    files: Mapping[str, tuple[str, ...]]
    subjects: str | None = None
    evaluation_only: bool = False


def with_options(text: str, options: list[str]) -> str:
    """A question with its options, a line and a letter each."""
    return "\n".join([text, *(f"{letter}) {option}" for letter, option in zip(LETTERS, options))])


def _choice(text: str, options: list[str], answer) -> dict:
    """`answer` is a letter, the number of an option from 0, or a digit from 1 as a few rows of ARC have it."""
    if isinstance(answer, int):
        answer = LETTERS[answer]
    elif answer.isdigit():
        answer = LETTERS[int(answer) - 1]
    return dict(question=with_options(text, options), answer=answer, options=list(options))


def _stem(row: Mapping) -> dict:
    """ARC, OpenBookQA, CommonsenseQA: the authors' nested records, the Hub's columns, or flat ones."""
    asked, choices = row.get("question_stem") or row["question"], row.get("choices")
    if not isinstance(asked, str):
        asked, choices = asked["stem"], asked["choices"]
    if isinstance(choices, Mapping):
        choices = choices["text"]
    options = [choice if isinstance(choice, str) else choice["text"] for choice in choices]
    return _choice(asked, options, row["answerKey"] if "answerKey" in row else row["answer"])


def _mmlu(row: Mapping) -> dict:
    """Records with `choices`, or rows of the authors' tables, which have no header: question, four options, letter."""
    if "choices" in row:
        return _choice(row["question"], row["choices"], row["answer"])
    question, *options, answer = (row[column] for column in row if column != "subject")
    return _choice(question, options, answer)


def _gsm8k(row: Mapping) -> dict:
    """The number behind `####`; thousands have commas there."""
    return dict(question=row["question"], answer=row["answer"].rpartition("####")[2].strip())


def _svamp(row: Mapping) -> dict | None:
    """Body and question; row chal-680, whose equation and answer disagree, is left out."""
    if row["ID"] == "chal-680":
        return None
    value = float(row["Answer"])
    whole = str(int(value) if value == int(value) else value)
    return dict(question=f"{row['Body'].rstrip('. ')}. {row['Question']}", answer=whole)


def _bbh(row: Mapping) -> dict | None:
    """The target to the word; three rows whose options were cut at commas, so that no letter is right, are left out."""
    target = row["target"]
    if re.search(r"^\(A\)", row["input"], re.MULTILINE) and not re.fullmatch(r"\([A-Z]\)", target):
        return None
    return dict(question=row["input"], answer=target)


def _aqua(row: Mapping) -> dict:
    return _choice(row["question"], [option[2:].strip() for option in row["options"]], row["correct"])


def _folio(row: Mapping) -> dict:
    """`Uncertain` of the validation file is `Unknown` of the training file."""
    premises = row["premises"] if isinstance(row["premises"], str) else "\n".join(row["premises"])
    return dict(question=f"{premises}\nTrue, False or Unknown: {row['conclusion']}",
                answer="Unknown" if row["label"] == "Uncertain" else row["label"])


def _humaneval(row: Mapping) -> dict:
    return dict(question=row["prompt"], tests=[row["test"], f"check({row['entry_point']})"], before=row["prompt"],
                name=row["entry_point"])


def _mbpp(row: Mapping) -> dict | None:
    """Both forms of the set; 367 and 927 of the whole one, whose own programs fail their tests, are left out."""
    if row["task_id"] in (367, 927) and "text" in row:
        return None
    before = "\n".join([*row.get("test_imports", ()), row.get("test_setup_code", "")]).strip()
    text = row.get("text") or row["prompt"]
    return dict(question=f"{text}\nIt must pass: {row['test_list'][0]}", tests=["\n".join([before, *row["test_list"]])])


def _game24(row: Mapping) -> dict:
    """The authors' table or records."""
    puzzle = row.get("puzzle") or row["Puzzles"]
    return dict(question=puzzle, numbers=[int(number) for number in puzzle.split()])


CHOICE = dict(verifier="choice", row=_stem)
BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark("number", _gsm8k, {"train": ("train",), "test": ("test",)}),
    "svamp": Benchmark("number", _svamp, {"test": ("SVAMP", "all")}, evaluation_only=True),
    "arc_challenge": Benchmark(files={"train": ("ARC-Challenge-Train", "challenge_train"), "validation": ("ARC-Challenge-Dev",),
                                      "test": ("ARC-Challenge-Test", "challenge_test")}, **CHOICE),
    "arc_easy": Benchmark(files={"train": ("ARC-Easy-Train", "easy_train"), "validation": ("ARC-Easy-Dev",),
                                 "test": ("ARC-Easy-Test", "easy_test")}, **CHOICE),
    "openbookqa": Benchmark(files={"train": ("train",), "validation": ("dev",), "test": ("test",)}, **CHOICE),
    "commonsenseqa": Benchmark(files={"train": ("train_rand_split", "train"), "test": ("dev_rand_split", "dev")}, **CHOICE),
    "mmlu": Benchmark("choice", _mmlu, {"train": ("dev",), "validation": ("val",), "test": ("test",)}, subjects="subject"),
    "aqua": Benchmark("choice", _aqua, {"train": ("train",), "validation": ("dev",), "test": ("test",)}),
    "bbh": Benchmark("text", _bbh, {"test": ("test",)}, subjects="task", evaluation_only=True),
    "strategyqa": Benchmark("text", lambda row: dict(question=row["question"], answer="Yes" if row["answer"] else "No"),
                            {"train": ("strategyqa_train", "train"), "test": ("dev",)}),
    "folio": Benchmark("text", _folio, {"train": ("folio-train", "train"), "test": ("folio-validation", "validation")}),
    "scan": Benchmark("text", lambda row: dict(question=row["command"], answer=row["actions"]),
                      {"train": ("tasks_train_simple", "simple_train"), "test": ("tasks_test_simple", "simple_test")}),
    "pcfgset": Benchmark("text", lambda row: dict(question=row["source"], answer=row["target"]),
                         {"train": ("train",), "validation": ("dev",), "test": ("test",)}),
    "game24": Benchmark("game24", _game24, {"train": ("24", "all"), "test": ("24", "all")}),
    "humaneval": Benchmark("code", _humaneval, {"test": ("HumanEval", "test")}, evaluation_only=True),
    "mbpp": Benchmark("code", _mbpp, {"train": ("mbpp", "all"), "validation": ("mbpp", "all"), "test": ("mbpp", "all")}),
    "mbpp_sanitized": Benchmark(
        "code", _mbpp, {split: ("sanitized-mbpp", "sanitized") for split in ("train", "validation", "test")}),
}
# Sets of one file, and which of its rows are for what: as the papers of MBPP and of Tree of Thoughts have it.
def _mbpp_split(row: Mapping) -> str:
    number = row["task_id"]
    return "prompt" if number <= 10 else "test" if number <= 510 else "validation" if number <= 600 else "train"


PARTS: dict[str, Callable[[Mapping], str]] = {
    "game24": lambda row: "test" if 901 <= int(row.get("rank") or row["Rank"]) <= 1000 else "train",
    "mbpp": _mbpp_split, "mbpp_sanitized": _mbpp_split,
}


def benchmark(
    name: str, folder, subject: str | None = None, train: str | None = None, train_folder=None
) -> FileTask:
    """A published set as a task.

    Args:
      name: of `BENCHMARKS`.
      folder: with the set's files; each split may be a JSON, JSON lines, CSV or SCAN text file, gzipped or not. Or "hub", where
        there is no folder of that name: the Hugging Face Hub, for the sets of `hub.PUBLISHED`.
      subject: of `mmlu` or `bbh`, the one to test; training and validation rows are those of all subjects.
      train, train_folder: another set with the same verifier, whose training and validation rows stand in for this one's: MBPP
        for HumanEval, say, which has none.

    Raises:
      ValueError: an unknown set or subject, or a file that is damaged or holds rows of another form.
      FileNotFoundError: the test file is not in the folder, or the Hub does not give the set. Without a training file the task
        is for evaluation.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; allowed: {', '.join(BENCHMARKS)}")
    one = BENCHMARKS[name]
    if subject is not None and one.subjects is None:
        raise ValueError(f"benchmark {name!r} has no subjects, so subject={subject!r} means nothing; leave it out")
    check_verifier(one.verifier)
    rows: dict[str, list[Question]] = {"train": [], "validation": [], "test": []}
    subjects, tested, left_out = set(), set(), 0  # tested: stems of all test rows, of other subjects too
    records = _records(folder, name, subject)
    for split in one.files:
        for where, record in records[split]:
            try:
                row = one.row(record)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{where}: not a row of {name} ({type(error).__name__}: {error}); give the authors' own "
                                 f"files, see docs/datasets.md") from error
            if row is None:
                left_out += split == "test"
                continue
            if name in PARTS and PARTS[name](record) != split:
                continue
            about = record.get(one.subjects) if one.subjects else None
            if about:
                subjects.add(about)
            if split == "test":
                tested.add(stem(row["question"]))
            if split == "test" and subject and about and about != subject:
                continue
            rows[split].append(as_question(where, row, one.verifier))
    if subject and subjects and subject not in subjects:
        raise ValueError(f"benchmark {name!r} has no subject {subject!r}; allowed: {', '.join(sorted(subjects))}")
    settle(rows, tested)
    if left_out:
        logging.info("%s: %d test rows that are known to be wrong are left out", name, left_out)
    if (train is None) != (train_folder is None):
        raise ValueError(f"benchmark {name!r}: train={train!r} and train_folder={train_folder!r}; give both or neither")
    if train is not None:
        other = benchmark(train, train_folder)
        if other.verifier != one.verifier or other.evaluation_only:
            raise ValueError(f"benchmark {name!r} is judged by {one.verifier!r}, and {train!r} by {other.verifier!r}"
                             + (", and is for evaluation only" if other.evaluation_only else "") + "; train on another set")
        rows = {split: list(found) for split, found in other.rows.items()} | {"test": rows["test"]}
        settle(rows, tested)
    title = "_".join(filter(None, (name, subject, train)))
    return FileTask(title, {split: tuple(found) for split, found in rows.items()}, one.evaluation_only and train is None,
                    one.verifier, chance_of(one.verifier, rows["test"]))


def _records(folder, name: str, subject: str | None) -> dict[str, Iterable[tuple[str, dict]]]:
    """Split -> where each record is, and the record; none where there is no file of a split that is not the test."""
    if str(folder) == "hub" and not Path(folder).is_dir():
        return hub.published(name, subject)
    found = {}
    for split, (first, *_) in BENCHMARKS[name].files.items():
        tables = sorted([*Path(folder).glob(f"*_{first}.csv"), *Path(folder).glob(f"{first}/*_{first}.csv")])
        if name == "mmlu" and tables:  # the authors have one a subject and split, in a folder a split
            found[split] = _with_subject(tables, f"_{first}.csv")
            continue
        path = _file(Path(folder), name, split, subject)
        if path is None:
            logging.info("%s: no file for the split %s", name, split)
        found[split] = read_records(path) if path else ()
    return found


def _with_subject(tables: Iterable[Path], ending: str) -> Iterator[tuple[str, dict]]:
    """Records of tables that are named after their subject, with it."""
    for table in tables:
        for where, row in read_records(table):
            yield where, {**row, "subject": table.name.removesuffix(ending)}


def _file(folder: Path, name: str, split: str, subject: str | None) -> Path | None:
    """The file of a split. Where that of the test split is missing, raises FileNotFoundError naming what was looked for."""
    names = BENCHMARKS[name].files[split]
    if name == "bbh" and subject:
        names = (subject, *names)  # the authors have one file a task
    for one in names:
        for ending in ENDINGS:
            if (folder / f"{one}{ending}").is_file():
                return folder / f"{one}{ending}"
    if split != "test":
        return None
    raise FileNotFoundError(f"the folder {str(folder)!r} holds no file of the split {split!r} of {name}: looked for "
                            f"{', '.join(names)} with one of {', '.join(ENDINGS)}; docs/datasets.md says where to get it")


def read_records(path: Path) -> Iterator[tuple[str, dict]]:
    """Yields ("file, line or row n", record) of a JSON list, JSON lines, BBH's `examples`, a CSV table or SCAN's text.

    Raises ValueError, with file and line, where it is none of them.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: broken or not UTF-8 ({error}); copy it again") from error
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "csv":
        header = "Puzzles" in text.split("\n", 1)[0].split(",")
        try:
            table = io.StringIO(text)
            found = list(csv.DictReader(table) if header else (dict(enumerate(row)) for row in csv.reader(table)))
        except csv.Error as error:
            raise ValueError(f"{path}: no table ({error}); copy it again") from error
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(found, 1))
        return
    if kind == "txt":
        for number, line in enumerate(text.splitlines(), 1):
            match = re.fullmatch(r"IN: (.*) OUT: (.*)", line.strip())
            if match is None and line.strip():
                raise ValueError(f"{path}, line {number}: {line[:80]!r} is not of the form `IN: ... OUT: ...`; give SCAN's own "
                                 "files")
            if match:
                yield f"{path}, line {number}", {"command": match[1], "actions": match[2]}
        return
    start = text.lstrip()[:1]
    if kind == "json" and (start == "[" or (start == "{" and '"examples"' in text)):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not valid JSON ({error}); copy it again") from error
        found = found["examples"] if isinstance(found, dict) else found
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(found, 1))
        return
    yield from read_rows(path)
