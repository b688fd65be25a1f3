"""What is published in results/ and shown in the README belongs together, and to the backbone that the package ships."""

import itertools
import json
from pathlib import Path
import re
import runpy
import zlib

import pytest

from neuromas_jax.analysis.pooling import difference, gather, read_records
from neuromas_jax.analysis.table import readme_table
from neuromas_jax.config import parse
from neuromas_jax.experiments.cells import identity, read_done, sweep_cells, train_cells
from neuromas_jax.experiments.publish import readers_copy
from neuromas_jax.experiments.suite import parse_suite
from neuromas_jax.train.run import load_parts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "reference"
CELLS = sorted(RESULTS.glob("*/*/*/done.json"))


def load(name):
    return parse(runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]())


def test_the_readme_shows_the_published_results():
    assert readme_table(read_records(RESULTS / "results.jsonl")) in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", ["sweep", "train"])
def test_published_cells_were_trained_on_the_shipped_backbone(stage):
    done = [json.loads(path.read_text()) for path in CELLS if path.parts[-4] == stage]
    assert done and {one["backbone"] for one in done} == {load_parts("embedded").fingerprint}


def test_published_cells_are_those_of_the_reference_config():
    """Every one has the seed, rate and steps that it asks for, and its family is complete."""
    config = load("reference")
    records = read_records(RESULTS / "results.jsonl")
    families = [name for name in config.families if name in {record["family"] for record in records}]
    for family in families:
        stages = {"sweep": sweep_cells(config, family), "train": train_cells(config, RESULTS, family)}
        for stage, cells in stages.items():
            for cell in cells:
                folder = cell.folder(RESULTS, stage)
                done = json.loads((folder / "done.json").read_text())
                assert (done["seed"], done["learning_rate"], done["steps"]) == (cell.seed, cell.learning_rate, cell.steps)
                assert done["made_with"] == identity(config, family, cell.method, cell.seed, cell.learning_rate), folder
    found = {(record["family"], record["method"], record["seed"]) for record in records}
    assert found == set(itertools.product(families, config.methods, config.seeds))


def test_the_quickstart_trains_at_the_rates_that_the_sweep_chose():
    swept = {cell.method: cell.learning_rate for cell in train_cells(load("reference"), RESULTS, "listops")}
    given = load("quickstart").learning_rate
    assert {method: given.get(method, given["default"]) for method in swept} == swept


def test_the_graph_divides_listops_where_a_single_call_fails_and_beats_every_rival_in_fewer_rounds():
    one = next(one for one in gather(read_records(RESULTS / "results.jsonl")) if (one.name, one.depth) == ("listops", 3))
    graph = one.pools["graph"]
    assert one.pools["single_equal_parameters"].mean() < 0.4 and graph.mean() > 0.9 and len(graph.records) == 3
    for rival in ("single_equal_tokens", "chain_equal_calls"):
        assert difference(graph, one.pools[rival])[1] > 0  # the low end of the interval
    assert graph.records[0]["rounds"] < one.pools["chain_equal_calls"].records[0]["rounds"]


@pytest.mark.parametrize("file", ["multistep_arithmetic_two", "navigate"])
def test_the_graph_passes_every_bar_on_two_files(file):
    """20 points over the majority class and the untrained graph, 10 over the best shallow rule, and clear of one short call."""
    one = next(one for one in gather(read_records(RESULTS / "results.jsonl")) if one.name == f"bbh_{file}")
    graph, bars = one.pools["graph"], one.pools["graph"].records[0]
    assert len(graph.records) == 3 and bars["n"] == 250
    assert graph.mean() > max(bars["majority"] + 0.2, bars["shallow"] + 0.1, one.pools["graph_untrained"].mean() + 0.2)
    assert graph.interval[0] > one.pools["single_equal_parameters"].interval[1]


def test_published_adapters_are_those_that_were_evaluated():
    published = sorted(RESULTS.glob("train/*/*/adapters.safetensors"))
    assert published
    for path in published:
        checksum = f"{zlib.crc32(path.read_bytes()):08x}"
        assert json.loads((path.parent / "done.json").read_text())["adapters"] == checksum
        evaluation = RESULTS / "evaluation" / path.parts[-3] / path.parts[-2] / "done.json"
        assert json.loads(evaluation.read_text())["belongs"]["adapters"] == checksum


def test_published_records_are_those_of_the_evaluations():
    evaluated = [record for path in sorted(RESULTS.glob("evaluation/*/*/done.json"))
                 for record in json.loads(path.read_text())["records"]]
    published = read_records(RESULTS / "results.jsonl")
    assert sorted(map(json.dumps, evaluated)) == sorted(map(json.dumps, published))


def test_the_document_of_the_claims_is_what_was_published():
    """And every picture that it shows is there, and no other."""
    document = ROOT / "docs" / "claims.md"
    text = document.read_text(encoding="utf-8")
    assert text == readers_copy(ROOT / "results" / "claims", document)
    pictures = re.findall(r"\]\(([^)]+\.png)\)", text)
    assert pictures and {(document.parent / picture).resolve() for picture in pictures} == set(ROOT.glob("results/claims/*.png"))


def test_published_cells_of_the_claims_are_those_of_their_config():
    """Each finished cell was trained by the suite as it stands, on a backbone that is here."""
    suite = parse_suite(runpy.run_path(str(ROOT / "configs" / "claims.py"))["get_config"]())
    for name, config in suite.experiments.items():
        folder = ROOT / "results" / "claims" / name
        for family in config.families:
            for cell in sweep_cells(config, family):
                if done := read_done(cell.folder(folder, "sweep")):
                    mine = identity(cell.configured(config), family, cell.method, cell.seed, cell.learning_rate)
                    assert done["made_with"] == mine, cell
                    assert done["backbone"] == load_parts(config.backbone).fingerprint
