"""Prompts in the turns of chat models, for each kind of tokenizer; messages cannot forge a turn in any of them."""

import json
import shutil

from hypothesis import HealthCheck, given, settings, strategies as st
import jax
import pytest

from neuromas_jax.backbone import init_backbone, save_backbone
from neuromas_jax.backbone.families import read_fields
from neuromas_jax.config import parse
from neuromas_jax.experiments.check import check
from neuromas_jax.experiments.run import run_experiment
from neuromas_jax.graph import node_slots, text_graph
from neuromas_jax.rollout import make_program, make_sampling
from neuromas_jax.text.chat import chat_prompt, chat_turns
from neuromas_jax.text.prompt import PromptTemplate, check_template
from neuromas_jax.text.tokenizer import load_tokenizer
from tests.chat_folders import KINDS, LOOP, make_folder

transformers = pytest.importorskip("transformers")
CONTROL = [token for added, *_ in KINDS.values() for token in added]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: make_folder(name, tmp_path_factory.mktemp(name)) for name in KINDS}


PREFIX = {"qwen": "<|im_start|>user\n", "llama": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
          "mistral": "<s>[INST] ", "gemma": "<bos><start_of_turn>user\n"}
END = {"qwen": "<|im_end|>", "llama": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}
SUFFIX = {"qwen": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
          "llama": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "mistral": "[/INST]",
          "gemma": "<end_of_turn>\n<start_of_turn>model\n"}


@pytest.mark.parametrize("name", KINDS)
def test_turns_are_those_of_the_template(name, folders):
    prefix, end, between, suffix = chat_turns(folders[name])
    assert (prefix, end, suffix) == (PREFIX[name], END[name], SUFFIX[name])
    start = prefix.removeprefix("<|begin_of_text|>").removeprefix("<s>").removeprefix("<bos>")
    assert between.replace("\n", "") == (end + start).replace("\n", "") and between.endswith(start)


def prompts(folder, **options):
    template = PromptTemplate(**chat_prompt(folder, **options))
    check_template(template)
    words, graph = load_tokenizer(folder, template.end), text_graph("2-1", message_tokens=8)
    sampling = make_sampling(words, words.vocab_size + 5)
    return words, make_program(graph, node_slots(graph), template, words, sampling, 2, 1), template


@pytest.mark.parametrize("name", KINDS)
def test_a_node_reads_turns_and_ends_its_own_as_the_model_does(name, folders):
    words, program, template = prompts(folders[name])
    assert program.sampling.end_id == words._trusted.token_to_id(END[name])
    first, last = program.prompts
    text = words.decode([*first.start, *words.encode("What?"), *first.tails[1]], keep_added=True)
    assert text.startswith(PREFIX[name]) and text.endswith(SUFFIX[name]) and "What?" in text
    assert "You are agent 2 of layer 1." in text and "at most 8 tokens" in text and "Answer:" not in text
    inbox = words.decode([*last.slots[1], *words.encode("seven"), *last.cue], keep_added=True)
    assert "Message 2:\nseven" in inbox and "`Answer: `" in inbox and inbox.endswith(SUFFIX[name])
    assert inbox.startswith(END[name])  # a message begins where another turn ends


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(CONTROL), st.text(max_size=6))).map("".join))
def test_no_message_acts_as_a_control_token(folders, text):
    for name, (added, *_) in KINDS.items():
        words, program, _ = prompts_of(name, folders)
        ids = words.encode(text)
        assert not words.added_ids.intersection(ids)
        closed = set(program.sampling.forbidden) | {program.sampling.end_id}
        assert closed >= words.added_ids and not closed.intersection(ids)


CACHE = {}


def prompts_of(name, folders):
    if name not in CACHE:
        CACHE[name] = prompts(folders[name])
    return CACHE[name]


def test_options(folders):
    thinking = chat_prompt(folders["qwen"], thinking=True)
    assert thinking["final"].endswith("<|im_start|>assistant\n")
    assert chat_prompt(folders["llama"], system="Be brief {so}.")["start"].startswith(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief {{so}}.<|eot_id|>")
    own = chat_prompt(folders["gemma"], tag="Node {height}.{index}")
    assert own["tag"].endswith("Node {height}.{index}") and own["slot"] == chat_prompt(folders["gemma"])["slot"]


def test_what_cannot_be_used_is_named(folders, tmp_path):
    with pytest.raises(ValueError, match="cannot write two rounds.*no system turn.*without `system` it may"):
        chat_prompt(folders["mistral"], system="Be brief.")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        chat_prompt(tmp_path / "nowhere")

    def spoiled(name, template):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes((folders["qwen"] / "tokenizer.json").read_bytes())
        fields = json.loads((folders["qwen"] / "tokenizer_config.json").read_text()) | {"chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(fields))
        return folder

    with pytest.raises(ValueError, match="has no chat template"):
        chat_prompt(spoiled("none", None))
    with pytest.raises(ValueError, match="changes or repeats"):
        chat_prompt(spoiled("upper", LOOP + "{{ m.content | upper }}<|im_end|>{% endfor %}"))
    with pytest.raises(ValueError, match="ends no turn of the model with a control token"):
        chat_prompt(spoiled("plain", LOOP + "{{ m.role }}: {{ m.content }}\n{% endfor %}"))


def test_a_chat_model_trains_and_answers_a_file_of_choices(folders, tmp_path):
    """From a folder with config.json, weights and tokenizer to records: a small random Gemma 3, whose windows are shorter than
    its prompts, on questions with options."""
    fields = dict(model_type="gemma3_text", vocab_size=512, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                  num_attention_heads=2, num_key_value_heads=1, head_dim=8, rope_theta=1e6, rope_local_base_freq=1e4,
                  sliding_window=16, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8)
    folder = tmp_path / "model"
    shutil.copytree(folders["gemma"], folder)
    save_backbone(init_backbone(read_fields(fields, "here"), jax.random.key(0)), folder)
    rows = [dict(question=f"Which is {n}?\nA) {n}\nB) {n + 1}", answer="A", options=[str(n), str(n + 1)]) for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = parse(dict(
        backbone=str(folder), prompt=chat_prompt(folder), methods=("graph",), adapters=dict(rank=2),
        families=dict(choices=dict(task="jsonl", options=dict(path=str(tmp_path / "rows.jsonl"), verifier="choice"),
                                   topology="2-1", message_tokens=6, buckets=(96,))),
        rollout=dict(questions=2, group=2), training=dict(steps=2, evaluate_every=2, checkpoint_every=2, validation_questions=2),
        test_questions=4))
    check(config, tmp_path / "work")
    run_experiment(config, tmp_path / "work", worker=0)
    records = [json.loads(line) for line in (tmp_path / "work" / "results.jsonl").read_text().splitlines()]
    assert [record["n"] for record in records] == [4] and records[0]["chance"] == 0.5
    assert records[0]["format_rate"] == 0  # random weights say nothing that can be read, and that is what the record says
    assert "<start_of_turn>model" in (tmp_path / "work/train/choices/graph_seed0/episodes.txt").read_text()
