"""Graphs out to plain `transformers` + `peft`, and PEFT adapters in."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuromas_jax.backbone import load_backbone
from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.backbone.peft import load_peft, save_peft, start_from
from neuromas_jax.config import parse
from neuromas_jax.experiments.check import check
from neuromas_jax.export import export_graph
from neuromas_jax.rollout import no_interventions
from neuromas_jax.train.batches import pad_questions, question_ids
from neuromas_jax.train.loop import description, system
from neuromas_jax.train.run import Compiled, make_run
from tests.tiny import random_bank

DECODERS = pathlib.Path(__file__).parent / "golden" / "decoders"
CONFIG = load_backbone(DECODERS / "qwen3").config
LISTOPS = dict(listops=dict(buckets=(48,), topology="2-2-1", message_tokens=4, reads="all"))


@pytest.fixture
def peft_folder(tmp_path):
    return pathlib.Path(shutil.copytree(DECODERS / "qwen3" / "adapter", tmp_path / "adapter"))


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_what_peft_wrote_is_read_and_written_again(name, tmp_path):
    config = load_backbone(DECODERS / name).config
    adapter, scale = load_peft(DECODERS / name / "adapter", config)
    assert scale == 2 and adapter["q"]["a"].shape == (config.num_hidden_layers, 32, 4)
    save_peft(tmp_path / "new", adapter, config, scale, 4, name)
    mine, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "new", DECODERS / name / "adapter"))
    assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)
    again, same = load_peft(tmp_path / "new", config)
    assert same == scale and all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(adapter)))


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BAD = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), FileNotFoundError, ["adapter_config.json is missing"]),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), FileNotFoundError, ["model.safetensors is missing"]),
    "cut": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), ValueError, ["damaged"]),
    "DoRA": (lambda f: edit(f, use_dora=True), ValueError, ["use_dora is True"]),
    "ranks of their own": (lambda f: edit(f, rank_pattern={"q_proj": 8}), ValueError, ["rank_pattern"]),
    "another kind": (lambda f: edit(f, peft_type="IA3"), ValueError, ["'IA3'", "LoRA"]),
    "no kind": (lambda f: edit(f, peft_type=""), ValueError, ["peft_type"]),
    "a start that changes the backbone": (lambda f: edit(f, init_lora_weights="pissa"), ValueError, ["init_lora_weights"]),
    "what nobody knows yet": (lambda f: edit(f, use_newest_trick=True), ValueError, ["use_newest_trick is True"]),
    "no rank": (lambda f: edit(f, r=None), ValueError, ["r is None"]),
    "another rank": (lambda f: edit(f, r=8), ValueError, [FIRST, "(4, 32)", "(8, 32)"]),
    "a layer missing": (lambda f: edit_weights(f, lambda t: t.pop(FIRST.replace("layers.0", "layers.1"))),
                        ValueError, ["layers.1", "None"]),
    "another module": (lambda f: edit_weights(f, lambda t: t.update({"base_model.model.lm_head.lora_A.weight": np.ones(4)})),
                       ValueError, ["lm_head", "no place"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_does_not_fit_is_refused(case, peft_folder):
    spoil, kind, names = BAD[case]
    spoil(peft_folder)
    with pytest.raises(kind) as caught:
        load_peft(peft_folder, CONFIG)
    assert all(name in str(caught.value) for name in names), caught.value


def test_slots_start_from_peft_adapters(peft_folder):
    """Each slot's product is the adapter's, at another scale and with ranks to spare; those are as at birth, B zero."""
    other = pathlib.Path(shutil.copytree(peft_folder, peft_folder.parent / "other"))
    edit(other, use_rslora=True)
    born = random_bank(CONFIG, 2, rank=6)
    born = {site: {"a": pair["a"], "b": jnp.zeros_like(pair["b"])} for site, pair in born.items()}
    bank = start_from(born, (6, 6), (str(peft_folder), str(other)), CONFIG, 0.5)
    adapter, _ = load_peft(peft_folder, CONFIG)
    for site, pair in adapter.items():
        for slot, scale in enumerate((8 / 4, 8 / 4**0.5)):
            product = 0.5 * bank[site]["a"][slot] @ bank[site]["b"][slot]
            np.testing.assert_allclose(product, scale * pair["a"] @ pair["b"], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(bank[site]["a"][slot, :, :, 4:], born[site]["a"][slot, :, :, 4:])
            assert not np.asarray(bank[site]["b"][slot, :, 4:]).any()
    with pytest.raises(ValueError, match="names 2 PEFT folders and the graph has 3 slots"):
        start_from(random_bank(CONFIG, 3, rank=6), (6, 6, 6), (str(peft_folder), str(other)), CONFIG, 0.5)
    with pytest.raises(ValueError, match="rank 4, its slot 3.*adapters.rank"):
        start_from(random_bank(CONFIG, 1, rank=3), (3,), (str(peft_folder),), CONFIG, 0.5)


def test_a_run_starts_from_peft_adapters(tmp_path):
    """By the config: graph nodes begin with a stored adapter, a checkpoint knows of it, and what does not fit ends the check."""
    plain = make_run(parse(dict(families=LISTOPS, methods=("graph",))), "listops", "graph")
    bank = random_bank(plain.parts.backbone.config, 1, rank=2)
    save_peft(tmp_path / "start", jax.tree.map(lambda x: x[0], bank), plain.parts.backbone.config, 2.0, 2, "embedded")
    config = parse(dict(families=LISTOPS, methods=("graph",), adapters=dict(start=(str(tmp_path / "start"),))))
    run = make_run(config, "listops", "graph")
    found = run.new_bank(0)
    for node in range(5):
        np.testing.assert_array_equal(found["up"]["b"][node, :, :2], bank["up"]["b"][0])
    assert system(run) == system(plain)  # the same home, so that adapters may be exchanged,
    assert description(run, 0) != description(plain, 0)  # but not the same training
    check(config, tmp_path / "work")
    wrong = dataclasses.replace(config, adapters=dataclasses.replace(config.adapters, rank=1))
    with pytest.raises(ValueError, match="adapters.rank"):
        check(wrong, tmp_path / "work")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # of torch and its libraries
def test_an_exported_graph_says_the_same_in_plain_transformers_and_peft(tmp_path):
    """Every node's message, token by token, and its logits through `peft`; and nothing of this package is imported there."""
    reason = "torch, transformers and peft are not installed; the extra `parity` brings them"
    torch = pytest.importorskip("torch", reason=reason)
    transformers, peft = (pytest.importorskip(name, reason=reason) for name in ("transformers", "peft"))
    config = parse(dict(families=LISTOPS, methods=("graph",)))
    run = make_run(config, "listops", "graph")
    graph, backbone = run.method.graph, run.parts.backbone
    bank = random_bank(backbone.config, graph.size, rank=config.adapters.rank, size=0.15)
    export_graph(run, bank, tmp_path)
    (tmp_path / "backbone/generation_config.json").write_text('{"repetition_penalty": 1.5, "do_sample": true, "top_k": 3}')
    questions = [run.task.generate("test", index) for index in range(6)]
    done = subprocess.run([sys.executable, "-I", "run_graph.py"], cwd=tmp_path, capture_output=True, text=True,
                          input="\n".join(question.text for question in questions))
    assert done.returncode == 0, done.stderr
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    batch = pad_questions([question_ids(question, graph, run.parts.tokenizer, (48,)) for question in questions], range(6), (48,))
    keep = no_interventions(graph, 6, 1)
    run = dataclasses.replace(run, answering=dataclasses.replace(run.answering, microbatch=6))
    episodes = Compiled(run).answer(bank, batch, keep, jax.random.key(0))
    end, said = run.program.sampling.end_id, set()
    for number, answer in enumerate(theirs):
        rows = [(ids[number, 0], live[number, 0]) for layer in episodes for ids, live in zip(layer.message, layer.live)]
        mine = [[token for token in np.asarray(ids)[np.asarray(live)].tolist() if token != end] for ids, live in rows]
        assert mine == answer["tokens"]
        said.update(map(tuple, mine))
    assert len(said) > 6  # they do not all say the same
    facts = json.loads((tmp_path / "graph.json").read_text())
    assert facts["topology"] == "2-2-1" and [node["adapter"] for node in facts["nodes"]] == [f"node{n:03d}" for n in range(5)]
    tokens = np.asarray([facts["layers"][0]["prompt"]["start"] + list(range(20, 40))])
    for node in range(graph.size):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "backbone")
        model = peft.PeftModel.from_pretrained(model, tmp_path / f"node{node:03d}").eval()
        with torch.no_grad():
            wanted = model(input_ids=torch.from_numpy(tokens)).logits.numpy()
        block = jnp.asarray(tokens, jnp.int32)[:, None]
        hidden, _ = backbone(block, jnp.ones_like(block, bool), jnp.zeros((1, 1), jnp.int32), (),
                             jax.tree.map(lambda x: x[node], bank), config.adapters.scale)
        np.testing.assert_allclose(backbone.logits(hidden)[:, 0], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_a_method_without_a_plain_graph_is_not_exported(tmp_path):
    config = parse(dict(families=LISTOPS, methods=("graph", "vote_equal_tokens")))
    run = make_run(config, "listops", "vote_equal_tokens")
    with pytest.raises(ValueError, match="'vote_equal_tokens' is no plain graph"):
        export_graph(run, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists() and (EMBEDDED / "model.safetensors").exists()
