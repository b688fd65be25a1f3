"""Tasks of reasoning-gym: an allow-list, splits that share no prompt, and verdicts that its own scorers would not give."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from neuromas_jax.config import parse
from neuromas_jax.experiments.evaluation import evaluation_sets
from neuromas_jax.tasks import make_task
from neuromas_jax.tasks.gym import ALLOWED

pytest.importorskip("reasoning_gym")
TRICKS = ["", "Answer: nan", "Answer: 9**9**9", "Answer: 1e999", "Answer: \0", "Answer: " + "1 " * 50_000,
          "Answer: 0 1 2 3 4 5 6 7"]


@pytest.mark.parametrize("name", ALLOWED)
def test_gold_answers_are_right_and_others_wrong(name):
    task = make_task("reasoning_gym", name=name)
    rows = [task.generate("train", index) for index in range(12)]
    assert {row.depth for row in rows} == {1, 2} and task.chance <= 0.5
    for row, other in zip(rows, rows[1:] + rows[:1]):
        assert task.verify(f"So, I think.\nAnswer: {row.answer}", row).outcome == "right", row
        wrong = [f"Answer: {row.answer} or {other.answer}" if other.answer != row.answer else "", *TRICKS]
        wrong += [f"Answer: {other.answer}"] if other.answer != row.answer else []
        assert not any(task.verify(text, row).reward for text in wrong), row


def test_splits_share_no_prompt_and_the_held_out_level_is_harder():
    task = make_task("reasoning_gym", name="chain_sum", depths=(1, 2), held_out_depth=3)
    asked = {split: {task.generate(split, index).text for index in range(60)} for split in ("train", "validation", "test")}
    assert not asked["train"] & asked["test"] and not asked["train"] & asked["validation"]
    hard = [task.generate("held_out", index) for index in range(5)]
    assert {row.depth for row in hard} == {3}
    assert max(map(len, asked["test"])) < max(len(row.text) for row in hard)


def test_questions_are_the_same_in_another_process():
    code = ("import json; from neuromas_jax.tasks import make_task; from neuromas_jax.tasks.gym import ALLOWED; "
            "print(json.dumps([(q.text, q.answer) for name in ALLOWED "
            "for q in [make_task('reasoning_gym', name=name).generate('train', 5)]]))")
    said = [subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
                           text=True, cwd=Path(__file__).parents[1], check=True).stdout for seed in ("1", "2")]
    assert said[0] == said[1] and len(json.loads(said[0])) == len(ALLOWED)


def test_what_is_not_allowed_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown or unsafe task 'game_of_life_halting' of reasoning-gym; allowed: aiw"):
        make_task("reasoning_gym", name="game_of_life_halting")
    with pytest.raises(ValueError, match="depth 99 is not allowed"):
        make_task("reasoning_gym", name="lcm", depths=(1, 99))
    with pytest.raises(ValueError, match="task 'reasoning_gym' needs the option 'name'"):
        make_task("reasoning_gym")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install neuromas_jax\[reasoning\]"):
        make_task("reasoning_gym", name="lcm")


def test_a_config_names_one():
    config = parse(dict(test_questions=8, families=dict(sums=dict(
        task="reasoning_gym", options=dict(name="chain_sum", depths=(1,), held_out_depth=2), buckets=(128,)))))
    sets = evaluation_sets(config, "sums")
    assert [(name, depth, len(found.questions)) for (name, depth), found in sets.items()] == [
        ("sums", 1, 8), ("sums_held_out", 2, 8)]
    assert all(found.bars(tuple(found.questions))["shallow"] <= 1 for found in sets.values())
