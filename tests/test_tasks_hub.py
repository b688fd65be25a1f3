"""Data sets of the Hub: the Hub's own library reads a small Hub on the loopback, in a process of its own."""

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import os
from pathlib import Path
import subprocess
import sys
import threading
from urllib.parse import unquote, urlparse

import pytest

from neuromas_jax.tasks import BENCHMARKS, make_task
from neuromas_jax.tasks.hub import PUBLISHED

COMMIT, OLDER = "1" * 40, "2" * 40
PROGRAM = """
import json, sys
from neuromas_jax.tasks import make_task
for name, options in json.loads(sys.argv[1]):
    try:
        task = make_task(name, **options)
        found = {split: [[one.text, one.answer] for one in rows] for split, rows in task.rows.items()}
        right = {"code": "def f(x):\\n    return x + 1"}.get(task.verifier, f"Answer: {task.rows['test'][0].answer}")
        verdict = task.verify(right, task.rows["test"][0]).reward
        print(json.dumps([found, verdict]))
    except (ValueError, OSError) as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""
ARC = dict(question="Which?", choices=dict(text=["one", "two"], label=["A", "B"]), answerKey="B")
SETS = {  # repository -> configuration -> split -> records, as the Hub has their columns
    "openai/gsm8k": {"main": {split: [dict(question=f"{split} {n} + 1?", answer=f"so #### {n + 1:,}") for n in range(1998, 2038)]
                              for split in ("train", "test")}},
    "allenai/ai2_arc": {"ARC-Challenge": {
        split: [dict(ARC, question=f"{split}?")] for split in ("train", "validation", "test")}, "ARC-Easy": {"train": [ARC]}},
    "allenai/openbookqa": {"main": {"test": [dict(ARC, question_stem=ARC["question"]) | {"id": "7"}]}},
    "tau/commonsense_qa": {"default": {"train": [ARC], "validation": [dict(ARC, question="Why?")],
                                       "test": [dict(ARC, question="How?", answerKey="")]}},
    "cais/mmlu": {"all": {split: [dict(question=f"{split} {subject}?", subject=subject, choices=["p", "q"], answer=1)
                                  for subject in ("abstract_algebra", "virology")] for split in ("dev", "validation", "test")}},
    "SaylorTwift/bbh": {"navigate": {"test": [dict(input="Back?", target="No")]}},
    "openai/openai_humaneval": {"openai_humaneval": {"test": [dict(
        task_id="HumanEval/0", prompt="def f(x):\n", canonical_solution="    return x + 1", entry_point="f",
        test="def check(f):\n    assert f(1) == 2")]}},
    "google-research-datasets/mbpp": {"full": {split: [dict(
        task_id=number, text=f"Add one, {split}.", code="-", test_list=["assert f(1) == 2"], test_setup_code="",
        challenge_test_list=[])]
        for split, number in (("train", 601), ("test", 11), ("validation", 511), ("prompt", 1))}},
    "somebody/theirs": {"main": {"train": [dict(problem=f"{n} + 1?", value=n + 1, depth=None) for n in range(60)]}},
    "somebody/halves": {"main": {split: [dict(question=f"{split} {n}?", answer=str(n)) for n in range(count)]
                                 for split, count in (("train", 50), ("validation", 5))}},
}


THEIRS = dict(name="somebody/theirs", verifier="number", question="problem", answer="value")


def files(repository, commit):
    """Path -> bytes of a repository, whose card names the configurations' files. The older commit has 40 rows at most."""
    card, found = ["---", "configs:"], {}
    for config, rows in SETS[repository].items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, records in rows.items():
            card += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
            records = records if commit == COMMIT else records[:40]
            found[f"{config}/{split}.jsonl"] = "".join(json.dumps(record) + "\n" for record in records).encode()
    return {"README.md": "\n".join([*card, "---", ""]).encode(), **found}


class Hub(BaseHTTPRequestHandler):
    """What the library asks: a repository's commit, its folders, its files."""

    def say(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        parts = unquote(urlparse(self.path).path).removeprefix("/api").split("/")[2:]
        name, rest = "/".join(parts[:2]), parts[2:]
        commit = {"main": COMMIT}.get(rest[1], rest[1]) if len(rest) > 1 else COMMIT
        if name not in SETS:
            return self.say(b"{}", 404, X_Error_Code="RepoNotFound")
        if commit not in (COMMIT, OLDER):
            return self.say(b"{}", 404, X_Error_Code="RevisionNotFound")
        held = files(name, commit)
        if "/api/" in self.path and rest[:1] == ["tree"]:
            listed = [dict(type="file", path=path, size=len(data), oid=hashlib.sha1(data).hexdigest())
                      for path, data in held.items() if path.startswith("/".join(rest[2:]))]
            return self.say(json.dumps(listed).encode(), Content_Type="application/json")
        if "/api/" in self.path:
            about = dict(id=name, sha=commit, private=False, gated=False, disabled=False, tags=[], downloads=0, likes=0,
                         siblings=[dict(rfilename=path) for path in held])
            return self.say(json.dumps(about).encode(), Content_Type="application/json")
        data = held.get("/".join(rest[2:]))
        if data is None:
            return self.say(b"{}", 404, X_Error_Code="EntryNotFound")
        return self.say(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    pytest.importorskip("datasets")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(home, asked, **environment):
    """What tasks hold, read in a process of its own, since the library reads its settings when it is imported."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(asked)], cwd=Path(__file__).parents[1], capture_output=True,
                          text=True, timeout=300, env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **environment})
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] in '["']


def test_sets_are_read_as_their_files_are_and_again_without_a_network(hub, tmp_path):
    def published(name, **options):
        return "benchmark", dict(name=name, folder="hub", **options)

    asked = [published("gsm8k"), published("arc_challenge"), published("openbookqa"), published("commonsenseqa"),
             published("mmlu", subject="virology"), published("bbh", subject="navigate"), published("humaneval"),
             published("mbpp"),
             ("hub", THEIRS), ("hub", dict(THEIRS, name=f"somebody/theirs@{OLDER}")),
             ("hub", dict(name="somebody/halves", verifier="number"))]
    found = ask(tmp_path, asked, HF_ENDPOINT=hub)
    gsm, arc, book, common, mmlu, bbh, human, mbpp, theirs, older, halves = [rows for rows, _ in found]
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for split, rows in SETS["openai/gsm8k"]["main"].items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = make_task("benchmark", name="gsm8k", folder=folder)
    assert gsm == {split: [[one.text, one.answer] for one in rows] for split, rows in own.rows.items()} and len(gsm["test"]) == 40
    assert arc == {split: [[f"{split}?\nA) one\nB) two", "B"]] for split in ("train", "validation", "test")}
    assert book["test"] == [["Which?\nA) one\nB) two", "B"]]
    assert common["test"] == [["Why?\nA) one\nB) two", "B"]]
    assert mmlu["test"] == [["test virology?\nA) p\nB) q", "B"]]
    assert [text.split()[0] for text, _ in mmlu["train"]] == ["dev", "dev"]
    assert bbh == dict(train=[], validation=[], test=[["Back?", "No"]])
    assert human["test"][0][0] == "def f(x):\n"
    assert {split: [text.split("\n")[0] for text, _ in rows] for split, rows in mbpp.items()} == {
        split: [f"Add one, {split}."] for split in ("train", "validation", "test")}
    assert sum(map(len, theirs.values())) == 60 and sum(map(len, older.values())) == 40
    assert len(halves["test"]) == 5 and len(halves["train"]) + len(halves["validation"]) == 50 and halves["validation"]
    assert [verdict for _, verdict in found] == [1] * len(asked)
    again = [asked[0], asked[-3], asked[-2]]
    assert ask(tmp_path, again, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1") == [found[0], found[-3], found[-2]]


def test_what_is_not_there_is_named(hub, tmp_path):
    missing, form, config, subject, fields, table, which, split = ask(tmp_path, [
        ("hub", dict(name="somebody/nothing")), ("hub", dict(name="./x")),
        ("hub", dict(name="allenai/ai2_arc", config="ARC-Hard")),
        ("benchmark", dict(name="bbh", folder="hub", subject="navigat")),
        ("hub", dict(name="somebody/theirs")), ("benchmark", dict(name="scan", folder="hub")),
        ("benchmark", dict(name="bbh", folder="hub")), ("benchmark", dict(name="arc_easy", folder="hub"))], HF_ENDPOINT=hub)
    assert missing.startswith("FileNotFoundError: the Hugging Face Hub does not give the dataset 'somebody/nothing'")
    assert "'./x' is no name of the Hugging Face Hub; write OWNER/NAME" in form
    assert "'ARC-Hard'" in config and "ARC-Challenge" in config and "give config= one that it has" in config
    assert "'navigat'" in subject and "give a subject that it has" in subject
    assert "somebody/theirs, split train, record 0: field 'question' is missing" in fields
    assert "'scan' is not read from the Hub; those that are: gsm8k" in table
    assert "give subject=" in which
    assert "allenai/ai2_arc has no split 'test' on the Hub (found: train)" in split
    never, revision = ask(tmp_path, [("benchmark", dict(name="aqua", folder="hub")),
                                     ("hub", dict(THEIRS, name=f"somebody/theirs@{OLDER}"))], HF_HUB_OFFLINE="1")
    assert never.startswith("FileNotFoundError: dataset 'deepmind/aqua_rat': the Hugging Face Hub cannot be reached")
    assert revision.startswith(f"FileNotFoundError: dataset 'somebody/theirs@{OLDER}': the Hugging Face Hub cannot be reached")


def test_without_its_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install neuromas_jax\[hub\]"):
        make_task("hub", name="somebody/theirs")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub").mkdir()
    with pytest.raises(FileNotFoundError, match="the folder 'hub' holds no file of the split 'test' of gsm8k"):
        make_task("benchmark", name="gsm8k", folder="hub")


def test_every_name_is_a_benchmark():
    assert set(PUBLISHED) <= set(BENCHMARKS)
