"""Files that are written whole."""

import numpy as np
import pytest

from neuromas_jax.files import write_records, written_whole


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [{"a": 1}, {"a": 2}])
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n'
    assert [found.name for found in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_writer_that_looks_at_the_ending_writes_where_it_should(tmp_path):
    with written_whole(tmp_path / "state.npz") as temporary:
        np.savez(temporary, x=np.arange(3))
    with np.load(tmp_path / "state.npz") as stored:
        assert stored["x"].tolist() == [0, 1, 2]
