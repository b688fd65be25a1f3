"""What is not whole on disk is never trained on: an older checkpoint serves, or the run says so."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.train import checkpoint

BELONGS = {"config": {"seed": 0}, "graph": "2-1"}


def state(step):
    rng = np.random.default_rng(step)
    return {"bank": jnp.asarray(rng.normal(size=(3, 2, 64, 8)), jnp.float32), "half": jnp.ones((5,), jnp.bfloat16) * step,
            "key": jax.random.key(step), "step": jnp.int32(step)}


def plain(tree):
    return {name: np.asarray(jax.random.key_data(x) if name == "key" else x) for name, x in tree.items()}


def same(one, other):
    one, other = plain(one), plain(other)
    return all((one[name] == other[name]).all() for name in other)


@pytest.fixture
def folder(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state(step), BELONGS)
    assert same(checkpoint.restore(tmp_path, state(0), BELONGS, 5), state(2))
    return tmp_path


def cut(path):
    for file in files(path):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def removed(path):
    for file in files(path):
        file.unlink()


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def wrong_byte(path):
    """Among the values of an array, where Orbax itself sees nothing."""
    values = max(files(path), key=lambda file: file.stat().st_size)
    content = bytearray(values.read_bytes())
    content[len(content) // 3] ^= 0xFF
    values.write_bytes(content)


def files(path):
    return [file for file in path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("damage", [cut, removed, empty, wrong_byte])
def test_an_older_checkpoint_serves_where_the_newest_is_damaged(folder, caplog, damage):
    damage(folder / "step_000002")
    assert same(checkpoint.restore(folder, state(0), BELONGS, 5), state(1))
    assert "step_000002" in caplog.text and "an older one is looked for" in caplog.text
    checkpoint.save(folder, 2, state(2), BELONGS)  # the run comes there again
    assert same(checkpoint.restore(folder, state(0), BELONGS, 5), state(2))


def test_none_that_is_whole_is_an_error_and_nothing_is_removed(folder):
    for step in (1, 2):
        cut(folder / f"step_{step:06d}")
    before = files(folder)
    with pytest.raises(checkpoint.CheckpointError, match=f"step_000001 .*no older one is whole; remove {folder} to start"):
        checkpoint.restore(folder, state(0), BELONGS, 5)
    assert files(folder) == before


def test_a_checkpoint_of_another_run_is_never_skipped(folder):
    another = ({**BELONGS, "graph": "4-1"}, 5, "made with another graph"), (BELONGS, 1, "trained for 2 steps")
    for belongs, most, message in another:
        with pytest.raises(checkpoint.CheckpointError, match=f"step_000002 was {message}"):
            checkpoint.restore(folder, state(0), belongs, most)


def test_one_that_was_half_written_is_not_there(folder):
    shutil.copytree(folder / "step_000002", folder / "step_000003.orbax-checkpoint-tmp")
    assert checkpoint.steps(folder) == [1, 2]


def test_a_checksum_knows_every_entry_and_place():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    sums = {checkpoint.checksums([values])["[0]"]}
    for place in np.ndindex(values.shape):
        other = values.copy()
        other[place] = np.nextafter(other[place], np.float32(100))
        sums.add(checkpoint.checksums([other])["[0]"])
    pair = values.copy()
    pair[0, 1, 1:3] *= -1
    for other in (values[::-1], values[:, ::-1], values[:, :, ::-1], -values, pair, values * 0, values * 0 + 1, values * 0 + 2):
        sums.add(checkpoint.checksums([np.ascontiguousarray(other)])["[0]"])
    assert len(sums) == 1 + values.size + 8


@pytest.mark.parametrize("error", [
    MemoryError("no"), PermissionError(13, "no"), ValueError("RESOURCE_EXHAUSTED: no"), OSError(5, "no")])
def test_what_says_nothing_of_the_checkpoint_is_not_damage(folder, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(checkpoint.ocp, "load", fails)
    with pytest.raises(checkpoint.CheckpointError, match="step_000002 cannot be read now .*run the same command again"):
        checkpoint.restore(folder, state(0), BELONGS, 5)


def test_a_damaged_checkpoint_goes_when_the_run_saves_again(folder):
    checkpoint.save(folder, 4, state(4), BELONGS)
    cut(folder / "step_000004")
    checkpoint.save(folder, 3, state(3), BELONGS)
    assert checkpoint.steps(folder) == [2, 3]


def test_a_checkpoint_of_before_there_were_checksums_is_read(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "checksums", lambda state: {})
    checkpoint.save(folder, 3, state(3), BELONGS)
    monkeypatch.undo()
    assert same(checkpoint.restore(folder, state(0), BELONGS, 5), state(3))
