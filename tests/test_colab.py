"""Every colab runs."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
import pytest

from tests.conftest import CACHE

COLABS = sorted((Path(__file__).parents[1] / "colabs").glob("*.ipynb"))


@pytest.mark.parametrize("path", COLABS, ids=lambda path: path.stem)
def test_colab_runs(path, monkeypatch):
    """All cells, with one step of training and few questions."""
    monkeypatch.setenv("COLAB_STEPS", "1")
    monkeypatch.setenv("COLAB_QUESTIONS", "16")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", CACHE)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "reward" in printed and "depth 3" in printed
