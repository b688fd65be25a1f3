"""A backbone named by a folder or a Hub id: which one is taken, and what is said where neither is there."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

from neuromas_jax.backbone.hub import EMBEDDED, model_folder

pytest.importorskip("huggingface_hub")
COMMIT = "0" * 40
PROGRAM = "import sys; from neuromas_jax.backbone.hub import model_folder; print(model_folder(sys.argv[1]))"


def ask(name, home, **environment):
    """`model_folder` in a process of its own, since the Hub's library reads its settings when it is imported."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, name], cwd=Path(__file__).parents[1], capture_output=True, text=True,
                          timeout=120, env={**os.environ, "HF_HOME": str(home), **environment})
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def fill_cache(home):
    """What a download leaves in the Hub's cache."""
    place = home / "hub" / "models--owner--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    shutil.copytree(EMBEDDED, place / "snapshots" / COMMIT)
    return place / "snapshots" / COMMIT


def test_a_folder_comes_before_an_id_of_the_same_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    assert model_folder("owner/tiny") == Path("owner/tiny")
    assert model_folder("embedded") == EMBEDDED
    with pytest.raises(FileNotFoundError, match="'a/b/c' does not exist. Name a local folder .* OWNER/NAME, or 'embedded'"):
        model_folder("a/b/c")


def test_a_model_in_the_cache_needs_no_network(tmp_path):
    stored = fill_cache(tmp_path)
    assert ask("owner/tiny", tmp_path, HF_HUB_OFFLINE="1") == str(stored)
    assert ask(f"owner/tiny@{COMMIT}", tmp_path, HF_HUB_OFFLINE="1") == str(stored)


@pytest.mark.parametrize("environment", [dict(HF_HUB_OFFLINE="1"), dict(HF_ENDPOINT="http://127.0.0.1:9")])
def test_without_a_network_the_error_says_what_to_do(environment, tmp_path):
    said = ask("owner/other", tmp_path, **environment)
    assert said.startswith("FileNotFoundError: backbone 'owner/other' is no local folder, and model 'owner/other': the Hugging "
                           "Face Hub cannot be reached")
    assert "`hf download owner/other --repo-type model --local-dir FOLDER`" in said


def test_without_its_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"pip install neuromas_jax\[hub\]"):
        model_folder("owner/other")
