"""What the README shows in Python runs, and what it names is there."""

from pathlib import Path
import re

import ml_collections
import pytest

from neuromas_jax.config import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```python\n.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
LINES = re.findall(r"^ {4}(config\..*)$", PROSE, re.MULTILINE)


def test_there_is_something_to_run():
    assert len(BLOCKS) >= 2 and LINES


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_blocks_run_and_configs_parse(block, capsys):
    found = {}
    exec(block, found)
    if "get_config" in found:
        parse(found["get_config"]())


@pytest.mark.parametrize("line", LINES)
def test_lines_of_configs_parse(line):
    config = ml_collections.ConfigDict()
    exec(line, {"config": config})
    if "families" not in config:
        config.families = dict(listops=dict())
    parse(config)


def test_files_that_the_readme_names_exist():
    linked = [path for path in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in path]
    named = re.findall(r"`((?:configs|launch|tests|colabs|neuromas_jax|benchmarks|results)/[\w/.]*)`", README)
    missing = [path for path in linked + named if not (ROOT / path).exists()]
    assert linked and named and not missing
