"""Published sets from their authors' own files: forms, splits, and the rows that are known to be wrong."""

import gzip
import json
import pathlib
import re

import pytest

from benchmarks import gold
from neuromas_jax.tasks import BENCHMARKS, benchmark, make_task

STEM = {"stem": "Which?", "choices": [{"text": text, "label": str(n)} for n, text in enumerate(("one", "two", "three"), 1)]}
CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"
# A row as the authors write it, what it asks, its answer, and something that a model might say that is right.
FORMS = {
    "gsm8k": ("test.jsonl", dict(question="How many?", answer="1 + 1 = <<1+1=2>>2\n#### 1,002"), "How many?", "1,002",
              "Answer: $1002"),
    "svamp": ("SVAMP.json", dict(ID="chal-1", Body="Two dogs .", Question="How many?", Answer=2.0), "Two dogs. How many?", "2",
              "The answer is 2."),
    "arc_challenge": ("ARC-Challenge-Test.jsonl", dict(question=STEM, answerKey="2"), "Which?\nA) one\nB) two\nC) three", "B",
                      "Answer: B"),
    "openbookqa": ("test.jsonl", dict(question="Which?", choices=["one", "two"], answer="A"), "Which?\nA) one\nB) two", "A",
                   "Answer: (A) one"),
    "mmlu": ("test.jsonl", dict(subject="law", question="Which?", choices=["one", "two"], answer=1), "Which?\nA) one\nB) two",
             "B", "Answer: B"),
    "aqua": ("test.json", dict(question="Which?", options=["A)21", "B)21.5"], correct="B"), "Which?\nA) 21\nB) 21.5", "B",
             "answer b"),
    "bbh": ("test.jsonl", dict(task="navigate", input="Do you return?", target="Yes"), "Do you return?", "Yes", "Answer: yes"),
    "strategyqa": ("dev.json", dict(question="Is it?", answer=False), "Is it?", "No", "Answer: no"),
    "folio": ("folio-validation.jsonl", dict(premises=["A.", "B."], conclusion="C.", label="Uncertain"),
              "A.\nB.\nTrue, False or Unknown: C.", "Unknown", "Answer: Unknown"),
    "scan": ("tasks_test_simple.txt", "IN: jump twice OUT: I_JUMP I_JUMP", "jump twice", "I_JUMP I_JUMP",
             "Answer: I_JUMP I_JUMP"),
    "pcfgset": ("test.jsonl", dict(source="echo A1", target="A1 A1"), "echo A1", "A1 A1", "Answer: A1 A1"),
    "humaneval": ("HumanEval.jsonl.gz", dict(prompt='def f(x):\n    """More."""\n', entry_point="f", test=CHECK),
                  'def f(x):\n    """More."""\n', "-", "    return x + 1"),
    "mbpp": ("mbpp.jsonl", dict(task_id=11, text="Add one.", test_list=["assert f(1) == 2"], test_setup_code=""),
             "Add one.\nIt must pass: assert f(1) == 2", "-", "```python\ndef f(x):\n    return x + 1\n```"),
    "mbpp_sanitized": ("sanitized-mbpp.json", dict(task_id=11, prompt="Add one.", test_imports=["import math"],
                                                   test_list=["assert f(1) == math.gcd(2, 4)"]),
                       "Add one.\nIt must pass: assert f(1) == math.gcd(2, 4)", "-", "def f(x):\n    return x + 1"),
}


def write(path, rows):
    rows = [rows] if isinstance(rows, (dict, str)) else rows
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    text = f"[{','.join(lines)}]" if path.name.endswith(".json") else "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())


@pytest.mark.parametrize("name", FORMS)
def test_rows_in_the_form_of_their_authors(name, tmp_path):
    file, row, text, answer, right = FORMS[name]
    write(tmp_path / file, row)
    task = benchmark(name, tmp_path)
    question = task.generate("test", 0)
    assert (question.text, question.answer) == (text, answer)
    assert [one.reward for one in task.verify_all([right, "Answer: something else", ""], [question] * 3)] == [1, 0, 0]
    with pytest.raises(ValueError, match="evaluation only|no question in split 'train'"):
        task.generate("train", 0)


def test_tables_without_and_with_a_header(tmp_path):
    (tmp_path / "law_test.csv").write_text('"Which, then?",one,two,three,four,C\n')
    (tmp_path / "law_val.csv").write_text("Who?,a,b,c,d,A\n")
    (tmp_path / "law_dev.csv").write_text("When?,a,b,c,d,B\n")
    task = benchmark("mmlu", tmp_path, "law")
    assert task.name == "mmlu_law" and task.generate("test", 0).answer == "C" and task.chance == 1 / 4
    assert [len(task.rows[split]) for split in ("train", "validation", "test")] == [1, 1, 1]
    for split in ("dev", "val", "test"):  # the authors' folders: other subjects are trained on as well
        (tmp_path / "data" / split).mkdir(parents=True)
        for subject in ("law", "art"):
            (tmp_path / "data" / split / f"{subject}_{split}.csv").write_text(f"{subject} of {split}?,one,two,three,four,C\n")
    task = benchmark("mmlu", tmp_path / "data", "law")
    assert [len(task.rows[split]) for split in ("train", "validation", "test")] == [2, 2, 1]
    assert task.generate("test", 0).text.startswith("law of test?")
    assert len(benchmark("mmlu", tmp_path / "data").rows["test"]) == 2
    with pytest.raises(ValueError, match="no subject 'physics'; allowed: art, law"):
        benchmark("mmlu", tmp_path / "data", "physics")
    ranks = "".join(f"{rank},1 4 4 {rank % 9 + 1}\n" for rank in (1, 2, 901, 1000, 1001))
    (tmp_path / "24.csv").write_text("Rank,Puzzles\n" + ranks)
    task = benchmark("game24", tmp_path)
    assert [question.text for question in task.rows["test"]] == ["1 4 4 2"] * 2
    assert dict(task.generate("test", 0).given) == {"numbers": (1, 4, 4, 2)}


def test_rows_that_are_known_to_be_wrong_are_left_out(tmp_path):
    cut = "Find it:\nOptions:\n(A) Monsters\n(B) Inc"
    write(tmp_path / "test.jsonl", [dict(task="movie", input=cut, target="Monsters, Inc"),
                                    dict(task="movie", input=cut + "?", target="(A)")])
    task = benchmark("bbh", tmp_path, "movie")
    assert [question.answer for question in task.questions("test")] == ["(A)"]
    assert task.verify("Answer: (A)", task.generate("test", 0)).reward == 1
    write(tmp_path / "SVAMP.json", [dict(ID=f"chal-{n}", Body="b", Question=f"q{n}", Answer=n + 0.5) for n in (679, 680)])
    assert [question.answer for question in benchmark("svamp", tmp_path).questions("test")] == ["679.5"]
    rows = [dict(task_id=n, text=f"t{n}", test_list=["assert f(1) == 2"]) for n in (5, 367, 368, 510, 511, 601, 927)]
    write(tmp_path / "mbpp.jsonl", rows)
    task = benchmark("mbpp", tmp_path)
    asked = {split: [question.text.split("\n")[0] for question in task.rows[split]] for split in task.rows}
    assert asked == {"train": ["t601"], "validation": ["t511"], "test": ["t368", "t510"]}
    said = ["def f(x):\n    return x + 1", "def f(x):\n    return x"]
    assert [one.reward for one in task.verify_all(said, task.rows["test"])] == [1, 0]


def test_official_splits_and_no_test_question_in_training(tmp_path):
    write(tmp_path / "train.jsonl", [dict(question=f"q{n}", answer=f"#### {n}") for n in range(200)])
    write(tmp_path / "test.jsonl", [dict(question=f"q{n}", answer=f"#### {n}") for n in (7, 300)])
    task = benchmark("gsm8k", tmp_path)
    texts = {split: {question.text for question in rows} for split, rows in task.rows.items()}
    assert texts["test"] == {"q7", "q300"} and not texts["test"] & (texts["train"] | texts["validation"])
    assert len(texts["train"] | texts["validation"]) == 199 and 5 < len(texts["validation"]) < 40
    assert not texts["train"] & texts["validation"]
    assert make_task("benchmark", name="gsm8k", folder=tmp_path).checksum() == task.checksum()


@pytest.mark.parametrize("name,file,text,message", [
    ("gsm9k", "", "", "unknown benchmark 'gsm9k'; allowed: gsm8k, svamp"),
    ("gsm8k", "", "", "holds no file of the split 'test' of gsm8k: looked for test with one of .jsonl"),
    ("gsm8k", "test.jsonl", '{"text": 1}', "line 1: not a row of gsm8k (KeyError: 'question')"),
    ("gsm8k", "test.jsonl", '{"question": "q", "answer": "none"}', "line 1: field 'answer' is empty|is not a number"),
    ("gsm8k", "test.jsonl", '{"question": ', "line 1: not valid JSON"),
    ("gsm8k", "test.jsonl.gz", "not gzip", "broken or not UTF-8"),
    ("strategyqa", "dev.json", "[{", "not valid JSON"),
    ("scan", "simple_test.txt", "jump", "line 1: 'jump' is not of the form `IN: ... OUT: ...`"),
    ("openbookqa", "test.jsonl", '{"question": "q", "choices": ["a"], "answer": "B"}',
     "line 1: answer 'B' is no letter of its 1 options"),
    ("mmlu", "test.jsonl", '{"subject": "law", "question": "q", "choices": ["a"], "answer": 3}',
     "line 1: answer 'D' is no letter"),
])
def test_what_cannot_be_read_is_named(name, file, text, message, tmp_path):
    if file:
        (tmp_path / file).write_text(text + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match="|".join(re.escape(part) for part in message.split("|"))):
        benchmark(name, tmp_path)


def test_subjects(tmp_path):
    write(tmp_path / "test.jsonl", [dict(subject=s, question=s, choices=["a", "b"], answer=0) for s in ("law", "art")])
    assert [question.text[:3] for question in benchmark("mmlu", tmp_path, "art").questions("test")] == ["art"]
    with pytest.raises(ValueError, match="no subject 'physics'; allowed: art, law"):
        benchmark("mmlu", tmp_path, "physics")
    with pytest.raises(ValueError, match="'gsm8k' has no subjects"):
        benchmark("gsm8k", tmp_path, "law")


def test_another_sets_training_rows_stand_in(tmp_path):
    write(tmp_path / "HumanEval.jsonl", FORMS["humaneval"][1])
    write(tmp_path / "mbpp.jsonl", [FORMS["mbpp"][1] | dict(task_id=n, text=f"t{n}") for n in (20, 520, 700, 701)])
    task = benchmark("humaneval", tmp_path, train="mbpp", train_folder=tmp_path)
    assert [len(task.rows[split]) for split in ("train", "validation", "test")] == [2, 1, 1]
    assert task.generate("train", 5).text.startswith("t70") and task.generate("test", 0).text.startswith("def f")
    with pytest.raises(ValueError, match="give both or neither"):
        benchmark("humaneval", tmp_path, train="mbpp")
    write(tmp_path / "SVAMP.json", FORMS["svamp"][1])
    with pytest.raises(ValueError, match="judged by 'code', and 'svamp' by 'number', and is for evaluation only"):
        benchmark("humaneval", tmp_path, train="svamp", train_folder=tmp_path)


def test_every_set_is_documented():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "datasets.md").read_text()
    assert all(f"| `{name}` |" in text for name in BENCHMARKS)


def test_the_gold_command_tells_rows_whose_own_answer_is_wrong(tmp_path, capsys, monkeypatch):
    """Two programs of which the second fails its own test; and rows of numbers, all as they should be."""
    rows = [dict(task_id=n, text=f"Add {n}.", test_list=[f"assert f(1) == {n + 1}"], test_setup_code="",
                 code=f"def f(x):\n    return x + {n + fault}") for n, fault in ((11, 0), (12, 1))]
    for folder in ("mbpp", "gsm8k"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "mbpp" / "mbpp.jsonl", rows)
    write(tmp_path / "gsm8k" / "test.jsonl", [dict(question=f"{n} + 1?", answer=f"#### {n + 1}") for n in (1, 2, 3)])
    monkeypatch.setattr("sys.argv", ["gold", f"--data={tmp_path}", "--sets=mbpp,gsm8k"])
    assert gold.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "mbpp: gold right 1 of 2; the next row's, where it is another, right 0 of 2",
        "gsm8k: gold right 3 of 3; the next row's, where it is another, right 0 of 3",
        "all: 5 rows, 1 verdicts not as they should be"]
