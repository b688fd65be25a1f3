"""The paper's experiments build, say what they need, and train a step, on a small random model and a few made-up rows."""

import importlib
import json
import pathlib

import jax
import pytest

from neuromas_jax.backbone import DecoderConfig, init_backbone, save_backbone
from neuromas_jax.config import parse
from neuromas_jax.experiments.check import check
from neuromas_jax.experiments.dry_run import dry_run
from neuromas_jax.experiments.run import run_experiment
from tests.chat_folders import make_folder

pytest.importorskip("transformers")
PAPER = pathlib.Path(__file__).parents[1] / "configs" / "paper"
TASKS = sorted(path.stem for path in PAPER.glob("*.py") if path.stem != "common")
CHOICES = [dict(question=f"Is it {n}?", choices=[str(n), str(n + 1), "2", "x"], answer="A") for n in range(60)]
CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"
DATA = {
    "arc/challenge_train.jsonl": CHOICES[:40], "arc/challenge_test.jsonl": CHOICES[40:],
    **{f"mmlu/{split}.jsonl": [row | dict(subject=subject) for row in CHOICES[start : start + 20]
                               for subject in ("abstract_algebra", "college_physics", "professional_medicine")]
       for start, split in ((0, "dev"), (20, "val"), (40, "test"))},
    "humaneval/HumanEval.jsonl": [dict(prompt=f"def f(x):  # {n}\n", entry_point="f", test=CHECK) for n in range(4)],
    "mbpp/mbpp.jsonl": [dict(task_id=n, text=f"Add {n}.", test_list=["assert f(1) == 2"]) for n in range(11, 900)],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder `data` with the sets, and a small Qwen3 in `model`."""
    place = tmp_path_factory.mktemp("paper")
    for name, rows in DATA.items():
        (place / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "model").mkdir()
    make_folder("qwen", place / "model")
    config = DecoderConfig(vocab_size=420, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                           num_key_value_heads=1, head_dim=8)
    save_backbone(init_backbone(config, jax.random.key(0)), place / "model")
    return place


def config_of(task, place, topology):
    module = importlib.import_module(f"configs.paper.{task}")
    return module.get_config(f"{topology},{place / 'model'},{place / 'data'}")


@pytest.mark.parametrize("task", TASKS)
def test_every_method_of_every_task_builds_and_tells_its_prompts(task, place):
    text = dry_run(parse(config_of(task, place, "2-2-1")))
    assert "graph 2-2-1: calls 5, rounds 3, at most 1000 tokens written a question" in text
    assert "<|im_start|>user\nYou are agent 2 of layer 1.<|im_end|>" in text and "Message 1:\n(what node 0 wrote)" in text
    assert text.count("<think>\n\n</think>") == 5  # switched off for each node


def test_sizes_of_the_graphs(place):
    assert all("graph 1: calls 1" in dry_run(parse(config_of(task, place, "1"))) for task in ("arc", "navigate"))
    largest = dry_run(parse(config_of("algebra", place, "2-2-2-1")))
    assert "graph 2-2-2-1: calls 7, rounds 4" in largest and "algebra: debate" in largest
    assert "graph 1-1-1: calls 3, rounds 3" in dry_run(parse(config_of("physics", place, "1-1-1")))
    with pytest.raises(ValueError, match="topology '9-1'; the paper's are 1, 1-1-1"):
        config_of("arc", place, "9-1")


def test_a_step_of_code_is_trained_and_judged_in_the_cage(place, tmp_path):
    """The hardest of the six: rows of one set to train on, another to answer, and verdicts from other processes."""
    config = config_of("humaneval", place, "1-1-1")
    config.methods, config.seeds, config.families.humaneval.message_tokens = ("graph",), (0,), 6
    config.sweep, config.rollout = dict(), dict(questions=1, group=2)
    config.families.humaneval.buckets = (256,)
    config.training = dict(steps=1, validation_questions=1)
    config.test_questions = 2
    parsed = parse(config)
    check(parsed, tmp_path)
    run_experiment(parsed, tmp_path, worker=0)
    (record,) = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert record["n"] == 4 and record["accuracy"] == 0 and record["set"] == "humaneval"
