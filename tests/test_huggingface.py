"""Hugging Face folders in and out, and what bad ones are answered with."""

import dataclasses
import json
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuromas_jax.backbone import DecoderConfig, check_vocabulary, init_backbone, load_backbone, load_config, save_backbone

GOLDEN = pathlib.Path(__file__).parent / "golden" / "decoders"
CONFIG = DecoderConfig(vocab_size=11, hidden_size=6, intermediate_size=10, num_hidden_layers=2, num_attention_heads=2,
                       num_key_value_heads=1, head_dim=4, rope_theta=1e4)


@pytest.fixture
def folder(tmp_path):
    """A sound folder to spoil."""
    return pathlib.Path(shutil.copytree(GOLDEN / "qwen3", tmp_path / "model"))


@pytest.fixture
def shards(tmp_path):
    return pathlib.Path(shutil.copytree(GOLDEN / "qwen3_untied", tmp_path / "shards"))


def edit_config(folder, drop=(), **changes):
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if name not in drop}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def assert_same(one, two):
    assert one.config == two.config
    assert jax.tree.structure(one.params) == jax.tree.structure(two.params)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))  # bits: -0.0 and nan too


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_is_bit_equal(tmp_path, dtype, tied):
    backbone = init_backbone(dataclasses.replace(CONFIG, dtype=dtype, tie_word_embeddings=tied), jax.random.key(0))
    save_backbone(backbone, tmp_path / "new" / "folder")
    assert_same(load_backbone(tmp_path / "new" / "folder"), backbone)


def test_shards_and_bfloat16(shards, tmp_path):
    backbone = load_backbone(shards)
    assert backbone.config.dtype == "bfloat16" and backbone.params["embed"].dtype == jnp.bfloat16
    wide = load_backbone(shards, dtype="float32")
    np.testing.assert_array_equal(wide.params["layers"]["q"], backbone.params["layers"]["q"].astype(jnp.float32))
    save_backbone(backbone, shards)  # into the same folder: one file, and no index that names the old shards
    assert_same(load_backbone(shards), backbone)


def test_configs_of_both_generations_of_transformers_read_alike(folder):
    """Version 5 writes rope_parameters and dtype; version 4 wrote rope_theta and torch_dtype."""
    new = load_config(folder)
    assert new.rope_theta == 1e4 and new.head_dim == 16 and new.tie_word_embeddings
    edit_config(folder, drop=("rope_parameters", "dtype"), rope_theta=1e4, rope_scaling=None, torch_dtype="float32",
                sliding_window=None)
    assert load_config(folder) == new


def test_extra_fields_are_written(tmp_path):
    save_backbone(init_backbone(CONFIG, jax.random.key(0)), tmp_path, extra={"eos_token_id": 2})
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 2
    assert load_config(tmp_path) == CONFIG


def test_tied_head_stored_twice_is_accepted(folder):
    edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))
    assert_same(load_backbone(folder), load_backbone(GOLDEN / "qwen3"))


def test_interrupted_save_keeps_the_former_weights(folder, monkeypatch):
    before = load_backbone(folder)

    def fail(tensors, path, metadata):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("neuromas_jax.backbone.huggingface.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_backbone(jax.tree.map(lambda x: x + 1, before), folder)
    monkeypatch.undo()
    assert_same(load_backbone(folder), before)
    assert not list(folder.glob(".*"))


# Bad folders: (how to spoil it, the error, what its message must name)


def cut_weights(folder, keep=0.5):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), FileNotFoundError, ["config.json is missing"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, ["model.safetensors", "index"]),
    "config cut short": (lambda f: (f / "config.json").write_text('{"model_type": "qw'),
                         ValueError, ["config.json", "no JSON", "copy"]),
    "config not an object": (lambda f: (f / "config.json").write_text("[1]"), ValueError, ["config.json", "list"]),
    "config not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), ValueError, ["config.json"]),
    "other family": (lambda f: edit_config(f, model_type="gpt2"), ValueError, ["'gpt2'", "qwen3", "Choose"]),
    "no family": (lambda f: edit_config(f, drop=["model_type"]), ValueError, ["None", "qwen3"]),
    "no size": (lambda f: edit_config(f, drop=["hidden_size"]), ValueError, ["hidden_size", "None"]),
    "size of zero": (lambda f: edit_config(f, num_hidden_layers=0), ValueError, ["num_hidden_layers is 0"]),
    "size as text": (lambda f: edit_config(f, vocab_size="97"), ValueError, ["vocab_size is '97'"]),
    "uneven heads": (lambda f: edit_config(f, num_key_value_heads=3), ValueError, ["num_attention_heads is 4", "(3)"]),
    "odd head": (lambda f: edit_config(f, head_dim=15), ValueError, ["head_dim is 15", "even"]),
    "other activation": (lambda f: edit_config(f, hidden_act="gelu"), ValueError, ["hidden_act", "'gelu'", "'silu'"]),
    "biases that are not stored": (lambda f: edit_config(f, attention_bias=True), ValueError, ["k_proj.bias", "lack"]),
    "windows switched off": (lambda f: edit_config(f, layer_types=["sliding_attention"] * 2),
                             ValueError, ["sliding_attention", "use_sliding_window is off"]),
    "other layers": (lambda f: edit_config(f, layer_types=["linear_attention"] * 2), ValueError, ["'linear_attention'"]),
    "too few layer types": (lambda f: edit_config(f, layer_types=["full_attention"]), ValueError, ["1 entries", "must be 2"]),
    "window of zero": (lambda f: edit_config(f, use_sliding_window=True, sliding_window=0, max_window_layers=0,
                                             layer_types=None), ValueError, ["sliding_window is 0"]),
    "model of images": (lambda f: edit_config(f, model_type="gemma3"), ValueError, ["gemma3_text", "images"]),
    "soft caps": (lambda f: edit_config(f, final_logit_softcapping=30.0), ValueError, ["final_logit_softcapping is 30.0"]),
    "scaling without a factor": (
        lambda f: edit_config(f, rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}),
        ValueError, ["low_freq_factor", "llama3"]),
    "scaled positions": (lambda f: edit_config(f, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
                         ValueError, ["'yarn'"]),
    "no theta": (lambda f: edit_config(f, drop=["rope_parameters"]), ValueError, ["rope_theta is None"]),
    "other dtype": (lambda f: edit_config(f, dtype="int8"), ValueError, ["'int8'", "bfloat16"]),
    "quantised": (lambda f: edit_config(f, quantization_config={"bits": 4}), ValueError, ["quantization_config"]),
    "weights cut short": (cut_weights, ValueError, ["model.safetensors", "bytes", "truncated", "copy it again"]),
    "weights without an end": (lambda f: cut_weights(f, 0.999), ValueError, ["truncated"]),
    "weights empty": (lambda f: cut_weights(f, 0), ValueError, ["(0 bytes)", "truncated"]),
    "weights not fetched": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ValueError, ["git lfs pull"]),
    "a tensor missing": (lambda f: edit_weights(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
                         ValueError, ["model.layers.1.mlp.up_proj.weight", "lack"]),
    "a tensor misshaped": (lambda f: edit_weights(f, lambda t: t.update({"model.norm.weight": np.ones(31, np.float32)})),
                           ValueError, ["model.norm.weight", "(31,)", "(32,)"]),
    "a tensor transposed": (
        lambda f: edit_weights(f, lambda t: t.update({"model.layers.0.self_attn.q_proj.weight": np.ones((32, 64), np.float32)})),
        ValueError, ["q_proj", "(32, 64)", "(64, 32)"]),
    "a tensor of another kind": (lambda f: edit_weights(f, lambda t: t.update({"model.norm.weight": np.ones(32, np.int8)})),
                                 ValueError, ["model.norm.weight", "I8", "BF16"]),
    "a tensor too many": (
        lambda f: edit_weights(f, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)})),
        ValueError, ["q_proj.bias", "no place"]),
    "fewer layers than stored": (lambda f: edit_config(f, num_hidden_layers=1, layer_types=None),
                                 ValueError, ["model.layers.1.", "1 layers"]),
    "embedding of another size": (lambda f: edit_config(f, vocab_size=96),
                                  ValueError, ["model.embed_tokens.weight", "(97, 32)", "(96, 32)"]),
    "no head": (lambda f: edit_config(f, tie_word_embeddings=False), ValueError, ["lm_head.weight", "tie_word_embeddings"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folder_is_refused_by_name_before_any_compile(case, folder, monkeypatch):
    spoil, kind, names = BAD[case]
    spoil(folder)
    monkeypatch.setattr(jnp, "asarray", lambda *_: pytest.fail("an array reached the device"))
    with pytest.raises(kind) as caught:
        load_backbone(folder)
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "Qwen/Qwen3-0.6B"])
def test_missing_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name}.*hf download"):
        load_backbone(name)


def test_unknown_dtype_argument(folder):
    with pytest.raises(ValueError, match="'float8', must be one of float32"):
        load_backbone(folder, dtype="float8")


BAD_SHARDS = {
    "shard missing": (lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
                      FileNotFoundError, ["model-00002-of-00003", "index"]),
    "shard cut short": (lambda f: (f / "model-00003-of-00003.safetensors").write_bytes(b"x" * 50),
                        ValueError, ["model-00003", "truncated"]),
    "index cut short": (lambda f: (f / "model.safetensors.index.json").write_text("{"), ValueError, ["index.json", "no JSON"]),
    "index without a map": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), ValueError, ["weight_map is None"]),
    "shards exchanged": (lambda f: shutil.copy(f / "model-00001-of-00003.safetensors", f / "model-00002-of-00003.safetensors"),
                         ValueError, ["holds no tensor model."]),
}


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_bad_shards_are_refused_by_name(case, shards):
    spoil, kind, names = BAD_SHARDS[case]
    spoil(shards)
    with pytest.raises(kind) as caught:
        load_backbone(shards)
    for name in names:
        assert name in str(caught.value)


def test_vocabulary_mismatch():
    tokenizer = types.SimpleNamespace(vocab_size=12, pad_id=0, end_id=2)
    with pytest.raises(ValueError, match="vocabulary mismatch: the tokenizer knows 12 ids, the embedding has 11 rows"):
        check_vocabulary(CONFIG, tokenizer)
    tokenizer.vocab_size = 9  # fewer ids than rows: the rest is never sampled
    check_vocabulary(CONFIG, tokenizer)
    tokenizer.end_id = 9
    with pytest.raises(ValueError, match=r"end_id is 9, must be in 0\.\.8"):
        check_vocabulary(CONFIG, tokenizer)
