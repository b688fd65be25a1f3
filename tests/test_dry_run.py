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
from neuromas_jax.train.run import load_parts, make_run
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


def with_context(limit, **changes):
    """The run of a small graph on the embedded backbone, as if that had positions for so many tokens."""
    parts = load_parts("embedded")
    decoder = dataclasses.replace(parts.backbone.config, max_position_embeddings=limit)
    parts = dataclasses.replace(parts, backbone=dataclasses.replace(parts.backbone, config=decoder))
    config = parse(SMALL | dict(prompt=dict(slot="<from{place}>")) | changes)
    return make_run(config, "listops", config.methods[0], parts=parts)


def test_an_inbox_that_does_not_fit_the_decoder_is_an_error_that_says_how_to_wire():
    """Node 8 of 8-4-1 reads 8 messages of 4 tokens with their labels: 54 for question and template, 40, and 4."""
    wide = dict(families=dict(listops=dict(buckets=(24, 48), topology="8-4-1", message_tokens=4)))
    assert prompt_lengths(with_context(None, **wide), 48)[8] == (52, 42)  # start, question and tag; inbox and cue
    assert with_context(98, **wide)
    with pytest.raises(ValueError, match=(
            "^method 'graph' on task 'listops': node 8 .layer 2, agent 1. of the graph 8-4-1 may need 98 tokens .a question of "
            "48, the largest bucket; 6 of the template; an inbox of 40 from 8 senders; a message of 4., and the decoder has "
            "positions for 80 .max_position_embeddings.; let a node read 4 senders at most: wire sparsely, with graph.edges "
            "'tree', 'window:4' or 'random:4'; or lower message_tokens or buckets, or take a backbone with a longer context$")):
        with_context(80, **wide)
    for edges in ("tree", "window:4", "random:4"):
        assert with_context(80, **wide, graph=dict(edges=edges))


@pytest.mark.parametrize("limit, topology, changes, way", [
    (70, "8-1", {}, "let a node read 2 senders at most: wire .* and layers in between, such as '8-4-2-1'; or"),
    (70, "4-2-1-1", dict(graph=dict(reads="all")), "let layers read the one before alone, graph.reads 'previous', lower"),
    (65, "8-4-1", {}, "lower message_tokens"),  # one sender at most: nothing could come together
    (50, "8-4-1", {}, "lower message_tokens"),
    (70, "4-2-1", dict(methods=("chain_equal_calls",)), "drop the method, lower message_tokens or buckets, or take a backbone"),
])
def test_what_to_do_is_what_helps(limit, topology, changes, way):
    families = dict(listops=dict(buckets=(24, 48), topology=topology, message_tokens=4))
    with pytest.raises(ValueError, match=f"positions for {limit} .max_position_embeddings.; {way}"):
        with_context(limit, families=families, **changes)


def test_layers_in_between_do_what_the_error_says():
    families = dict(listops=dict(buckets=(24, 48), topology="8-4-2-1", message_tokens=4))
    for edges in ("tree", "window:2", "random:2"):
        assert with_context(70, families=families, graph=dict(edges=edges))


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
