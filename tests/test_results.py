"""What is published in results/ and shown in the README belongs together, and to the backbone that the package ships."""

import json
from pathlib import Path
import zlib

import pytest

from neuromas_jax.analysis.pooling import read_records
from neuromas_jax.analysis.table import readme_table
from neuromas_jax.train.run import load_parts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "reference"
CELLS = sorted(RESULTS.glob("*/*/*/done.json"))


def test_the_readme_shows_the_published_results():
    assert readme_table(read_records(RESULTS / "results.jsonl")) in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", ["sweep", "train"])
def test_published_cells_were_trained_on_the_shipped_backbone(stage):
    done = [json.loads(path.read_text()) for path in CELLS if path.parts[-4] == stage]
    assert done and {one["backbone"] for one in done} == {load_parts("embedded").fingerprint}


def test_published_adapters_are_those_that_were_evaluated():
    for path in RESULTS.glob("train/*/*/adapters.safetensors"):
        checksum = f"{zlib.crc32(path.read_bytes()):08x}"
        assert json.loads((path.parent / "done.json").read_text())["adapters"] == checksum
        evaluation = RESULTS / "evaluation" / path.parts[-3] / path.parts[-2] / "done.json"
        assert json.loads(evaluation.read_text())["belongs"]["adapters"] == checksum


def test_published_records_are_those_of_the_evaluations():
    evaluated = [record for path in sorted(RESULTS.glob("evaluation/*/*/done.json"))
                 for record in json.loads(path.read_text())["records"]]
    published = read_records(RESULTS / "results.jsonl")
    assert sorted(map(json.dumps, evaluated)) == sorted(map(json.dumps, published))
