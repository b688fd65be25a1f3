"""BBH files, any JSONL, and the bars that a score must pass."""

import dataclasses
import gzip
import json
import re
import time
from collections import Counter
from importlib import resources

import pytest

from neuromas_jax.config import parse
from neuromas_jax.experiments.check import check
from neuromas_jax.experiments.run import collect, run_experiment
from neuromas_jax.tasks import FAMILIES, bbh, jsonl, make_task
from neuromas_jax.tasks.shallow import GUESSES, bar, best_shallow, majority

BBH = {"boolean_expressions": {8}, "navigate": set(range(2, 10)), "multistep_arithmetic_two": {4}}


@pytest.mark.parametrize("name", BBH)
def test_all_bbh_targets_recompute(name):
    questions = bbh(name)  # raises where the family's parser disagrees with the file
    lines = (resources.files("neuromas_jax.tasks") / "data" / "bbh" / f"{name}.jsonl").read_text().splitlines()
    assert len(questions) == len(lines) == 250
    for index, (question, line) in enumerate(zip(questions, lines)):
        assert (question.text, question.answer) == (json.loads(line)["question"], json.loads(line)["answer"])
        assert question.index == index and question.facts[-1].value == question.answer
    assert {q.depth for q in questions} == BBH[name]
    task = make_task("bbh", file=name)
    assert list(task.questions("test")) == questions and task.generate("test", 7) == questions[7]
    assert task.verify(f"answer {questions[7].answer}", questions[7]).reward == 1.0
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match="evaluation only"):
            task.generate(split, 0)
    with pytest.raises(ValueError, match="index 250 is past the 250 questions"):
        task.generate("test", 250)


def test_licence_and_canary_are_shipped():
    folder = resources.files("neuromas_jax.tasks") / "data" / "bbh"
    assert "MIT License" in (folder / "LICENSE").read_text()
    assert "canary GUID" in (folder / "CANARY.txt").read_text()


def test_bbh_majority_classes():
    found = {name: majority(bbh(name)) for name in BBH}
    assert found["boolean_expressions"].accuracy == 135 / 250 and found["boolean_expressions"].rule == "always 'True'"
    assert found["navigate"].accuracy == 145 / 250
    assert found["multistep_arithmetic_two"].accuracy == 4 / 250


def test_shallow_bars():
    start = time.process_time()
    walks = bar(bbh("navigate"), make_task("bbh", file="navigate"))
    assert time.process_time() - start < 6.0
    assert walks.rule == "parity of the total -> answer" and walks.accuracy == 0.72
    assert bar(bbh("boolean_expressions"), make_task("boolean")).accuracy > 0.75
    assert bar(bbh("multistep_arithmetic_two"), make_task("arithmetic")).accuracy < 0.05
    for name in FAMILIES:  # no rule solves what a graph is to learn
        task = make_task(name)
        questions = [task.generate("held_out", index) for index in range(200)]
        found = bar(questions, task, count=800)
        assert majority(questions).accuracy <= found.accuracy < 0.92, (name, found)


def test_generated_walks_do_not_give_parity_away():
    task = make_task("navigate")
    questions = [task.generate("test", index) for index in range(500)]
    only = best_shallow(questions, [task.generate("train", index) for index in range(800)])
    assert only.accuracy < 0.68
    assert "an even total means Yes" in GUESSES


def test_shallow_needs_data():
    with pytest.raises(ValueError, match="0 questions"):
        best_shallow([], [])
    with pytest.raises(ValueError, match="no questions to take the majority of"):
        majority([])


def test_a_file_without_questions_to_fit_on_has_the_majority_and_the_guesses(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"{n}, {n + 1} or 0?", "answer": str(n + n % 4 // 3)} for n in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)))
    only = jsonl(path, evaluation_only=True)
    found = bar(only.questions("test"), only)
    assert (found.rule, found.accuracy) == ("the first number", 0.75)
    whole = jsonl(path)
    few = dataclasses.replace(whole, rows={**whole.rows, "train": whole.rows["train"][:7]})
    assert bar(few.questions("test"), few).rule == "the first number"
    none = dataclasses.replace(whole, rows={**whole.rows, "train": ()})
    same = [dataclasses.replace(question, answer="x") for question in none.questions("test")]
    assert bar(same, none) == majority(same)


def test_a_file_is_trained_on_and_evaluated_through_the_config(tmp_path):
    """The same rows twice: dealt to the splits, and whole, for evaluation with what was trained on the first."""
    family = make_task("listops")
    dealt = {"train": 30, "validation": 3, "test": 7}  # the rows' own splits: the same hash deals a family and a file
    rows = {q.text: q.answer for split, count in dealt.items() for q in (family.generate(split, n, 2) for n in range(count))}
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": answer}) + "\n" for text, answer in rows.items()))
    values = dict(
        families=dict(mine=dict(task="jsonl", options=dict(path=str(path)), buckets=(48,))),
        methods=("single_equal_parameters",), rollout=dict(questions=2, group=2))
    trained = {}
    for name, more, changes in (
            ("trained", dict(training=dict(steps=1, validation_questions=2)), {}),
            ("whole", {}, dict(options=dict(path=str(path), evaluation_only=True),
                               adapters=str(tmp_path / "trained" / "train" / "mine")))):
        config = parse({**values, **more, "families": dict(mine={**values["families"]["mine"], **changes})})
        check(config, tmp_path / name)
        run_experiment(config, tmp_path / name)
        trained[name], = collect(config, tmp_path / name)
    task = jsonl(path)
    assert trained["trained"]["n"] == 7 and trained["whole"]["n"] == len(rows) == 40
    assert trained["trained"]["shallow"] == bar(task.questions("test"), task).accuracy
    assert trained["whole"]["shallow"] >= trained["whole"]["majority"] > 0
    assert (tmp_path / "whole" / "report.md").exists()


def _rows(count):
    return [{"question": f"Question {n}?", "answer": f"reply {n % 3}", "depth": n % 2} for n in range(count)]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_jsonl_splits(tmp_path, ending):
    path = tmp_path / f"mine{ending}"
    text = "\n".join(map(json.dumps, _rows(300))) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    task = make_task("jsonl", path=path)
    assert task.name == "mine" and task.depths == (0, 1) and task.chance == pytest.approx(1 / 3)
    texts = {split: [q.text for q in task.questions(split)] for split in ("train", "validation", "test")}
    assert sum(map(len, texts.values())) == 300 and len(set(sum(texts.values(), []))) == 300
    assert all(len(rows) > 15 for rows in texts.values())
    count = len(texts["train"])
    passes = [[task.generate("train", turn * count + n) for n in range(count)] for turn in (0, 1)]
    assert all(Counter(q.text for q in one) == Counter(texts["train"]) for one in passes)
    assert [q.text for q in passes[0]] != [q.text for q in passes[1]]
    assert passes[1][5].index == count + 5
    assert task.generate("train", 3, depth=1).depth == 1
    assert jsonl(path, evaluation_only=True).questions("test")[4].text == "Question 4?"
    with pytest.raises(ValueError, match="no question in split 'train' at depth 9"):
        task.generate("train", 0, 9)
    with pytest.raises(ValueError, match="unknown split 'held_out'"):
        task.generate("held_out", 0)


def test_a_repeated_question_counts_once_and_two_answers_are_an_error(tmp_path, caplog):
    rows = [{"question": f"q{number % 20}", "answer": f"{number % 5}"} for number in range(60)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(jsonl(path, evaluation_only=True).questions("test")) == 20
    assert "40 lines repeat a question with its answer and are left out" in caplog.text
    path.write_text(path.read_text() + json.dumps({"question": "q3", "answer": "9"}) + "\n")
    with pytest.raises(ValueError, match="line 61: this question has the answer '9', and '3' in .*line 4; keep one"):
        jsonl(path)


def test_a_name_is_an_option_of_a_file(tmp_path):
    (tmp_path / "mine.jsonl").write_text(GOOD)
    assert make_task("jsonl", path=tmp_path / "mine.jsonl", name="other").name == "other"


GOOD = '{"question": "q", "answer": "a"}'


@pytest.mark.parametrize("line, message", [
    ('{"question": "q", "answer": ', "line 2: not valid JSON"),
    ("\xff\xfe", "line 2: not valid JSON in UTF-8"),
    ("[" * 100_000, "line 2: not valid JSON"),
    ('["q", "a"]', "line 2: list instead of an object"),
    ('{"question": "q"}', "line 2: field 'answer' is missing (found: 'question')"),
    ('{"answer": "q"}', "line 2: field 'question' is missing"),
    ('{"question": "q", "answer": 5}', "line 2: field 'answer' is 5; it must be text"),
    ('{"question": null, "answer": "5"}', "line 2: field 'question' is None; it must be text"),
    ('{"question": "q", "answer": " "}', "line 2: field 'answer' is empty"),
    ('{"question": "q", "answer": "a", "depth": "2"}', "line 2: field 'depth' is '2'"),
    ('{"question": "q", "answer": "a", "depth": true}', "line 2: field 'depth' is True"),
    ('{"question": "q", "answer": "the answer is 5"}', "line 2: answer 'the answer is 5' cannot be verified"),
    ('{"question": "\\ud800", "answer": "5"}', "line 2: field 'question' holds a lone surrogate"),
    ('{"question": "not ( True ) and  ( True ) is", "answer": "False"}', "line 2: this question is a row of a packaged BBH"),
])
def test_jsonl_errors_name_file_and_line(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(f"{GOOD}\n{line}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}, {message}")):
        jsonl(path)


def test_jsonl_file_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data file .*absent.jsonl"):
        jsonl(tmp_path / "absent.jsonl")
    with pytest.raises(FileNotFoundError):
        jsonl(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(ValueError, match="has no questions"):
        jsonl(empty)
    short = tmp_path / "short.jsonl.gz"
    short.write_bytes(gzip.compress(GOOD.encode() * 50)[:-12])
    with pytest.raises(ValueError, match="broken gzip file"):
        jsonl(short)
    fake = tmp_path / "fake.jsonl.gz"
    fake.write_text(GOOD)
    with pytest.raises(ValueError, match="broken gzip file"):
        jsonl(fake)
    words = tmp_path / "words.jsonl"
    words.write_text(GOOD)
    with pytest.raises(ValueError, match="line 1: answer 'a' is not a number"):
        jsonl(words, verifier="number")


ROWS = {
    "choice": dict(question="Which?", answer="B", options=["one", "two", "three"]),
    "game24": dict(question="1 4 4 6", numbers=[1, 4, 4, 6]),
    "code": dict(question="Add.", tests=["assert add(1, 2) == 3"]),
    "text": dict(question="Who?", answer="Ada Lovelace"),
}
SAID = {"choice": "Answer: (B) two", "game24": "Answer: (6 - 1) * 4 + 4", "code": "def add(a, b):\n    return a + b",
        "text": "The answer is ada lovelace."}


@pytest.mark.parametrize("kind", ROWS)
def test_a_file_names_the_verifier_of_its_answers(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[kind]) + "\n")
    task = jsonl(path, verifier=kind, evaluation_only=True)
    question = task.generate("test", 0)
    assert [one.reward for one in task.verify_all([SAID[kind], "Answer: C", ""], [question] * 3)] == [1.0, 0.0, 0.0]
    assert task.chance == {"choice": 1 / 3, "text": 1.0}.get(kind, 0.0)


@pytest.mark.parametrize("kind,change,message", [
    ("choice", dict(options=None), "line 1: field 'options' is None; the verifier 'choice' needs texts"),
    ("choice", dict(answer="D"), "line 1: answer 'D' is no letter of its 3 options"),
    ("game24", dict(numbers=[1, "4"]), "line 1: field 'numbers' is [1, '4']; the verifier 'game24' needs whole numbers"),
    ("code", dict(tests=[]), "line 1: field 'tests' is []; the verifier 'code' needs texts"),
    ("code", dict(before=3), "line 1: field 'before' is 3; the verifier 'code' needs text"),
])
def test_rows_that_their_verifier_cannot_use(tmp_path, kind, change, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[kind] | change) + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        jsonl(path, verifier=kind)
    with pytest.raises(ValueError, match="unknown verifier 'regex'; allowed: exact, text"):
        jsonl(path, verifier="regex")
