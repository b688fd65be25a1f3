"""Verifiers: exact, total and bounded."""

import time

import pytest

from neuromas_jax.tasks import FAMILIES, jsonl, make_task
from neuromas_jax.tasks.verifiers import verify
from neuromas_jax.tasks.verify import MAX_CHARACTERS, extract, number, verify_text

ADVERSARIAL = [
    None, 3, 3.0, float("nan"), b"answer 3", ["answer 3"], object(), "", " ", "answer", "answer ", "answer answer",
    "nan", "answer nan", "answer 9**9**9", "answer inf", "answer 1e999", "answer " + "9" * 1_000_000, "\0", "answer \0",
    "answer \ud800", "answer 0 1 2 3 4 5 6 7 8 9", "answer True False", "answer Yes No", "answer Yes or No",
    "answer __import__('os')", "answer True\0", "answers 3", "Answer True", "answer" * 200_000, "answer " * 200_000,
    "answer ٣", "answer 3 B 4", "answer [0,1,2,3,4,5,6,7,8,9]", "answer a b c d e f g h i j", "answer *", "answer .*",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_gold_is_right_and_all_else_is_not(name):
    task = make_task(name)
    questions = [task.generate("test", index) for index in range(100)]
    answers = {q.answer for q in questions}
    for question in questions:
        for message in (f"answer {question.answer}", f"A 7 answer 99 B 2 answer {question.answer} "):
            verdict = task.verify(message, question)
            assert (verdict.reward, verdict.outcome, verdict.answer) == (1.0, "right", question.answer)
        for other in answers - {question.answer}:
            assert task.verify(f"answer {other}", question).outcome == "wrong"
        assert task.verify(question.answer, question).outcome == "malformed"
    start = time.process_time()
    for message in ADVERSARIAL:
        verdict = task.verify(message, questions[0])
        assert verdict.reward == 0.0 and verdict.outcome in ("wrong", "malformed"), message
        verdict.answer.encode("utf-8")
    assert time.process_time() - start < 1.0


def test_extraction():
    assert extract("A 7 answer 3") == "3"
    assert extract("answer 1 answer 2") == "2"
    assert extract("answer d b c a\n") == "d b c a"
    assert extract("B 2\nanswer\t-12") == "-12"
    assert extract("answers 3") == extract("theanswer 3") == extract("answer: 3") == extract("A 7") == ""
    assert extract("answer 3" + " " * MAX_CHARACTERS) == ""


def test_letter_and_number_comparison():
    assert verify_text("answer -5", "-5").reward == 1.0
    for wrong in ("-05", "- 5", "5", "-5.0", "-5 .", "−5"):
        assert verify_text(f"answer {wrong}", "-5").reward == 0.0
    assert verify_text("answer true", "True").outcome == "wrong"
    for right in ("0.5", ".5"[1:] + "/10", "+0.50", "1/2", "00.5"):
        assert verify("number", f"answer {right}", "0.5").reward == 1.0, right
    assert verify("number", "answer 1,234", "1234").reward == 1.0
    for wrong in ("0.50000001", "5e-1", "1,2", "12,34", "1/0", "0.5/1", "0x1", "1" * 65, "½", "٠.٥"):
        assert verify("number", f"answer {wrong}", "0.5").reward == 0.0, wrong
    assert number("1/0") is None and number("0.1") * 3 == number("0.3")


def test_number_tasks_are_total(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text('{"question": "How many?", "answer": "1,000.50"}\n')
    task = jsonl(path, verifier="number", evaluation_only=True)
    question = task.generate("test", 0)
    assert task.verify("answer 1000.5", question).reward == 1.0
    for message in ADVERSARIAL:
        assert task.verify(message, question).reward == 0.0, message
