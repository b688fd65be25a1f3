"""What an experiment says of itself before it does anything."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest

from neuromas_jax.backbone.adapters import bank_parameters
from neuromas_jax.backbone.families import read_fields
from neuromas_jax.config import parse
from neuromas_jax.experiments.dry_run import dry_run, memory, prompt_lengths
from neuromas_jax.train.run import make_run
from tests.test_families import REAL

SMALL = dict(families=dict(listops=dict(buckets=(24, 48), topology="2-1", message_tokens=4)),
             methods=("graph", "graph_untrained"), rollout=dict(questions=4, group=3, microbatch=2))


def test_graph_prompts_and_budgets_are_told():
    text = dry_run(parse(SMALL))
    assert "graph 2-1: calls 3, rounds 2, at most 12 tokens written a question" in text
    assert "<s> [MAX 4 9 ]<node> 2 1<from1>(what node 0 wrote)<from2>(what node 1 wrote)<final> 2" in text
    assert "trainable parameters 50,688, adapters of rank 4, 4, 4; backbone 223,840 frozen, qwen3, float32" in text
    assert "not trained" in text and text.count("-- node") == 3 and "2 evaluations; nothing was trained" in text


def test_the_numbers_are_those_of_the_arrays():
    run = make_run(parse(SMALL), "listops", "graph")
    lengths = prompt_lengths(run, 48)
    first, last = run.program.prompts
    assert lengths[0] == (len(first.start) + 48 + len(first.tails[0]), 0)  # no inbox: all of it is the group's
    assert lengths[2] == (len(last.start) + 48 + len(last.tails[0]), sum(map(len, last.slots)) + 2 * 4 + len(last.cue))
    read = sum(4 * shared + 12 * own for shared, own in lengths)
    assert f"at most {read:,} tokens read" in dry_run(parse(SMALL)) and "and 144 written" in dry_run(parse(SMALL))
    needed, config = memory(run, 48), run.parts.backbone.config
    assert needed["weights"] == 4 * run.parts.backbone.size
    assert needed["adapters, moments and gradient"] == 4 * 4 * run.trainable_parameters
    widest = max(4 * sum(shared + 3 * (own + 4) for shared, own in rows) for rows in (lengths[:2], lengths[2:]))
    first, last = (4 * sum(shared + 3 * (own + 4) for shared, own in rows) for rows in (lengths[:2], lengths[2:]))
    few = memory(dataclasses.replace(run, program=dataclasses.replace(run.program, update_nodes=1)), 48)["kept for the way back"]
    assert few == needed["kept for the way back"] * max(first / 2, last) / (first + last)  # one node of a layer, not all of both
    assert needed["keys and values"] == widest * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4


def test_the_papers_number_of_parameters():
    """Rank 16 on q and v of Qwen3-0.6B: 2,293,760 a node; 6.9, 11.5 and 16.1 million for 3, 5 and 7; one agent has rank 48."""
    config = read_fields(REAL["Qwen3-0.6B"][1], "")
    counts = [bank_parameters(config, (16,) * nodes, ("q", "v")) for nodes in (1, 3, 5, 7)]
    assert counts == [2_293_760, 6_881_280, 11_468_800, 16_056_320]
    assert bank_parameters(config, (48,), ("q", "v")) == counts[1]


def test_nothing_is_written(tmp_path):
    lines = "import ml_collections", "def get_config():", f"    return ml_collections.ConfigDict({SMALL!r})"
    (tmp_path / "mine.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-B", "-m", "neuromas_jax.main", "--config=mine.py", "--workdir=runs", "--dry_run"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}, capture_output=True, text=True)
    assert "graph 2-1" in done.stdout and done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize("change,message", [
    (dict(backbone="nowhere"), "nowhere"), (dict(adapters=dict(sites=("w",))), "adapter site 'w'"),
])
def test_bad_input_is_named(change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        dry_run(parse(SMALL | change))
