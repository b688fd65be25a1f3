"""Data sets of TFDS: written by our builder, read back in a process without TensorFlow, and asked like any other file."""

import json
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from neuromas_jax.tasks import benchmark, make_task
from neuromas_jax.tasks.tfds import tfds_task, write_tfds

tfds = pytest.importorskip("tensorflow_datasets")
ROOT = Path(__file__).parents[1]


def fill(folder, count=40):
    for split in ("train", "test"):
        rows = [dict(question=f"{split}: what is {n} + {n}?", answer=f"#### {2 * n:,}") for n in range(600, 600 + count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_published_set_there_and_back_without_tensorflow(tmp_path):
    """The command writes it; another process reads it, in the same order, split and verifier."""
    command = [sys.executable, "-m", "neuromas_jax.tasks.tfds", "gsm8k", f"--folder={fill(tmp_path)}",
               f"--data_dir={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "neuromas_gsm8k in" in done.stdout, done.stderr[-2000:]
    code = ("import sys, json; from neuromas_jax.tasks import make_task; "
            f"task = make_task('tfds', name='neuromas_gsm8k', data_dir={str(tmp_path / 'out')!r}, verifier='number'); "
            "print(json.dumps([{split: [(q.text, q.answer, q.index) for q in rows] for split, rows in task.rows.items()}, "
            "'tensorflow' in sys.modules]))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, with_tensorflow = json.loads(done.stdout.splitlines()[-1])
    source = benchmark("gsm8k", tmp_path)
    assert rows == {split: [[q.text, q.answer, q.index] for q in some] for split, some in source.rows.items()}
    assert not with_tensorflow and len(rows["test"]) == 40 and rows["validation"]


@pytest.mark.parametrize("name, row, right", [
    ("arc_challenge", dict(question="Which?", choices=["one", "two"], answer=1), "Answer: B"),
    ("game24", dict(rank=901, puzzle="1 4 4 6"), "Answer: (6 - 1) * 4 + 4"),
    ("mbpp", dict(task_id=11, text="Add one.", test_list=["assert f(1) == 2"], code="-"), "def f(x):\n    return x + 1"),
])
def test_what_a_verifier_needs_is_kept(name, row, right, tmp_path):
    files = {"arc_challenge": "challenge_test", "game24": "all", "mbpp": "all"}
    (tmp_path / f"{files[name]}.jsonl").write_text(json.dumps(row) + "\n")
    source = benchmark(name, tmp_path)
    task = tfds_task(write_tfds(source, tmp_path / "out"), tmp_path / "out", source.verifier)
    assert task.rows["test"] == source.rows["test"] and task.verify(right, task.generate("test", 0)).reward == 1


def test_a_set_of_somebody_else(tmp_path):
    """Other names of fields, no split but train: rows are dealt by their question."""
    class Theirs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.0")
        name = "theirs"

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, description="x", features=tfds.features.FeaturesDict(
                {"problem": tfds.features.Text(), "value": tfds.features.Text(), "score": np.float32}))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for n in range(60):
                yield n, {"problem": f"{n} + 1?", "value": str(n + 1), "score": 0.5}

    Theirs(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    task = make_task("tfds", name="theirs:2.0.0", data_dir=str(tmp_path), verifier="number", question="problem", answer="value")
    texts = {split: {q.text for q in task.questions(split)} for split in ("train", "validation", "test")}
    assert sum(map(len, texts.values())) == 60 and all(texts.values())
    question = task.generate("train", 0)
    assert task.verify(f"Answer: {question.answer}", question).reward == 1
    assert len(tfds_task("theirs", tmp_path, "number", "problem", "value", evaluation_only=True).rows["test"]) == 60
    with pytest.raises(ValueError, match="theirs, split train, record 0: .*question"):
        tfds_task("theirs", tmp_path, "number")


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="TFDS set 'nowhere' cannot be read from .*Prepare it there with file_format="):
        tfds_task("nowhere", tmp_path)
    with pytest.raises(ValueError, match="unknown verifier 'best'"):
        tfds_task("nowhere", tmp_path, "best")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install neuromas_jax\[datasets\]"):
        tfds_task("nowhere", tmp_path)
