"""What a run writes down: a kill loses no more than the last line, and a resumed run writes nothing twice."""

import contextlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from neuromas_jax.rl import Objective
from neuromas_jax.tasks import Verdict
from neuromas_jax.train import checkpoint, metrics
from neuromas_jax.train.loop import Window, cut_episodes, train, write_episodes
from neuromas_jax.train.metrics import whole
from neuromas_jax.train.metrics import Metrics, cut_log, read_log, read_metrics
from neuromas_jax.train.profile import Profile, parse_steps
from tests.test_stopped import compiled  # noqa: F401  (a tiny run whose programs are compiled once)
from tests.tiny import tokenizer

RECORDS = [{"step": step, "reward": step / 8} for step in (1, 2, 3)]
WHOLE = "".join(json.dumps(record) + "\n" for record in RECORDS)


@pytest.mark.parametrize("torn", [b'{"step": 4, "rew', b"{", b"\0\0\0\0\0", b"\xc3"])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(WHOLE.encode() + torn)
    assert read_metrics(tmp_path) == RECORDS
    Metrics(tmp_path, 9, 10, "again").close()
    assert path.read_text() == WHOLE  # the next record starts a line of its own


def test_records_after_the_step_are_dropped_and_a_whole_last_line_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(WHOLE.rstrip("\n"))  # only the line break was cut off
    cut_log(path, 3)
    assert read_log(path) == RECORDS and path.read_text().endswith("\n")
    cut_log(path, 2)
    assert read_log(path) == RECORDS[:2]
    cut_log(path, 0)
    assert path.read_text() == "" and not list(tmp_path.glob("*.tmp"))


def test_a_damaged_line_elsewhere_is_named_and_nothing_is_changed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(WHOLE.replace('{"step": 2', '{"step" 2'))
    before = path.read_text()
    for use in (lambda: Metrics(tmp_path, 9, 10, "again"), lambda: cut_log(path, 9), lambda: read_metrics(tmp_path)):
        with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: .*is not a JSON record .*remove that line and run again"):
            use()
    assert path.read_text() == before


def write(path, step, scene, rewards):
    """Episodes of the small graph as step `step` of a run."""
    run = SimpleNamespace(parts=SimpleNamespace(tokenizer=tokenizer()), method=SimpleNamespace(graph=scene.program.graph),
                          program=scene.program, objective=Objective())
    questions = [SimpleNamespace(index=index, text=f"question\n\n{index}", answer="7") for index in (40, 41)]
    verdicts = [[Verdict(float(reward), "7", "right") for reward in row] for row in rewards]
    write_episodes(run, path, step, questions, scene.episodes, verdicts, rewards)


def test_episodes_are_the_first_of_their_group_whatever_they_earned(tmp_path, scene):
    write(tmp_path / "episodes.txt", 5, scene(), np.asarray([[0, 1, 1], [1, 0, 0]], np.float32))
    blocks = (tmp_path / "episodes.txt").read_text().split("== step ")[1:]
    assert [block.splitlines()[0] for block in blocks] == [
        f"5, question {index}, episode 0 of 3 (the first, whatever it earned)" for index in (40, 41)]
    assert "reward 0, advantage -1.000; the group earned 0.67" in blocks[0]
    assert "reward 1, advantage +1.000; the group earned 0.33" in blocks[1]


def test_episodes_after_the_step_are_dropped_and_one_that_was_cut_off(tmp_path, scene):
    path, rewards, whole = tmp_path / "episodes.txt", np.ones((2, 3), np.float32), {0: ""}
    cut_episodes(path, 0)
    assert not path.exists()
    for step in (5, 10, 100):
        write(path, step, scene(), rewards)
        whole[step] = path.read_text()
    for torn in range(1, 60, 7):
        path.write_text(whole[100] + whole[5][:torn])
        cut_episodes(path, 100)
        assert path.read_text() == whole[100]
    for step in (10, 5, 0):
        cut_episodes(path, step)
        assert path.read_text() == whole[step]


def test_a_run_killed_while_it_wrote_goes_on_and_writes_nothing_twice(compiled, tmp_path):  # noqa: F811
    train(compiled, tmp_path, 0, 2)
    whole = (tmp_path / "episodes.txt").read_text()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2] and whole.count("== step 2, ") == 2
    newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    shutil.rmtree(tmp_path / "checkpoints" / f"step_{newest:06d}")
    for name in ("metrics.jsonl", "episodes.txt"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[: len(text) - 20])
    train(compiled, tmp_path, 0, 2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    assert (tmp_path / "episodes.txt").read_text() == whole


@pytest.mark.parametrize("step", [0, 60])
def test_a_resumed_run_hides_the_events_after_its_checkpoint_and_no_others(tmp_path, monkeypatch, step):
    """TensorBoard hides what has a step of `purge_step` or more; the record of the checkpoint's own step is not written again."""
    asked = {}
    monkeypatch.setattr(metrics, "SummaryWriter", lambda folder, **options: asked.update(options) or contextlib.nullcontext())
    Metrics(tmp_path, step, 90, "train")
    assert asked["purge_step"] == step + 1


def test_a_window_tells_of_how_many_steps_its_means_are():
    window = Window()
    layer = SimpleNamespace(live=np.ones((1, 2, 2, 3), bool), own_valid=np.ones((1, 2, 2, 4), bool),
                            shared_valid=np.ones((1, 2, 1, 5), bool))  # a block that a group shares counts once
    for rewards in ([[1, 0], [0, 0]], [[1, 1], [0, 0]]):
        window.add((layer,), np.asarray(rewards, np.float32), 0.5, 1)
    assert window.take() == {"reward": 3 / 8, "tokens_per_second": 24.0, "tokens": 24, "read_tokens": 52,
                             "seconds": 1.0, "skipped_questions": 2, "steps": 2}
    assert (window.steps, window.rows, window.tokens, window.read) == (0, 0, 0, 0)


def test_steps_that_no_record_counts_are_made_up_for():
    """Killed after step 9 of a checkpoint at 8, with records every 5: the second one counts two steps of five."""
    records = [dict(step=5, steps=5, tokens=50), dict(step=10, steps=2, tokens=20), dict(step=15, steps=5, tokens=40)]
    assert whole(records, "tokens") == [50, 50, 40] and whole(records, "read_tokens") == [0, 0, 0]


def test_the_steps_that_are_asked_for_are_traced(tmp_path):
    import jax.numpy as jnp

    profile = Profile(tmp_path, "2:4")
    for step in (1, 2, 3, 4):
        profile.before(step)
        assert profile._running == (step in (2, 3))
        jnp.ones(3).sum().block_until_ready()
    assert list(tmp_path.glob("profile/process0/plugins/profile/*/*.xplane.pb"))


@pytest.mark.parametrize("text", ["10", "3:3", "0:2", "a:b"])
def test_steps_to_trace_that_mean_nothing(text):
    with pytest.raises(ValueError, match=f"'training.profile_steps' is '{text}'; it must be two steps, first:end, such as"):
        parse_steps(text)
