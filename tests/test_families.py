"""Real models by their `config.json` alone: sizes, and the choices that nobody would see in a small checkpoint."""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from neuromas_jax.backbone.architecture import Kind, RopeScaling
from neuromas_jax.backbone.decoder import init_backbone
from neuromas_jax.backbone.families import read_fields, write_fields
from neuromas_jax.backbone.rotary import frequencies

GOLDEN = pathlib.Path(__file__).parent / "golden" / "decoders"
LLAMA3 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
          "rope_type": "llama3"}
# Fields as the models' config.json have them, and their number of parameters as their owners count them.
REAL = {
    "Qwen3-0.6B": (596_049_920, dict(
        model_type="qwen3", vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, rope_theta=1000000, rope_scaling=None, sliding_window=None,
        use_sliding_window=False, max_window_layers=28, attention_bias=False, tie_word_embeddings=True, hidden_act="silu")),
    "Qwen2.5-0.5B": (494_032_768, dict(
        model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, rope_theta=1000000.0, sliding_window=32768, use_sliding_window=False,
        max_window_layers=24, tie_word_embeddings=True, hidden_act="silu")),
    "Llama-3.2-1B": (1_235_814_400, dict(
        model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, rope_theta=500000.0, rope_scaling=LLAMA3,
        attention_bias=False, mlp_bias=False, tie_word_embeddings=True, hidden_act="silu", rms_norm_eps=1e-5)),
    "gemma-3-1b": (999_885_952, dict(
        model_type="gemma3_text", vocab_size=262144, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26,
        num_attention_heads=4, num_key_value_heads=1, head_dim=256, rope_theta=1000000, rope_local_base_freq=10000,
        rope_scaling=None, sliding_window=512, sliding_window_pattern=6, query_pre_attn_scalar=256, attention_bias=False,
        attn_logit_softcapping=None, final_logit_softcapping=None, hidden_activation="gelu_pytorch_tanh")),
    "Mistral-7B-v0.1": (7_241_732_096, dict(
        model_type="mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, rope_theta=10000.0, sliding_window=4096, tie_word_embeddings=False,
        hidden_act="silu", rms_norm_eps=1e-5)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_models_have_their_number_of_parameters(name):
    parameters, fields = REAL[name]
    config = read_fields(fields, name)
    shapes = jax.eval_shape(lambda: init_backbone(config, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == parameters


def test_choices_of_real_models():
    configs = {name: read_fields(fields, name) for name, (_, fields) in REAL.items()}
    far = Kind(0, 1e6, None)
    assert configs["Qwen3-0.6B"].kinds == configs["Qwen2.5-0.5B"].kinds == (far,)
    assert configs["Qwen2.5-0.5B"].biases == ("q", "k", "v") and configs["Qwen2.5-0.5B"].head_dim == 64
    assert configs["Llama-3.2-1B"].kinds == (Kind(0, 5e5, RopeScaling(32.0, 1.0, 4.0, 8192)),)
    assert configs["Mistral-7B-v0.1"].kinds == (Kind(4096, 1e4, None),)
    gemma = configs["gemma-3-1b"]
    assert gemma.kinds == (Kind(512, 1e4, None), far) and gemma.layer_kinds == ((0,) * 5 + (1,)) * 4 + (0, 0)
    assert read_fields(dict(REAL["Qwen3-0.6B"][1], max_position_embeddings=40960), "").max_position_embeddings == 40960
    assert gemma.max_position_embeddings is None  # the file names none here
    assert gemma.query_scale == 1 / 16 and gemma.tie_word_embeddings and gemma.embed_scale == pytest.approx(33.94, abs=0.01)


def test_llama3_stretches_low_frequencies_alone():
    """Wavelengths below 8192 / 4 stay, those above 8192 take 32 times as long, and between them the factor rises."""
    plain, scaled = frequencies(64, 5e5, None), frequencies(64, 5e5, RopeScaling(32.0, 1.0, 4.0, 8192))
    wavelength, ratio = 2 * np.pi / plain, plain / scaled
    np.testing.assert_allclose(ratio[wavelength < 2048], 1)
    np.testing.assert_allclose(ratio[wavelength > 8192], 32)
    between = ratio[(wavelength > 2048) & (wavelength < 8192)]
    assert len(between) > 2 and np.all(np.diff(between) > 0) and between[0] > 1 and between[-1] < 32


@pytest.mark.parametrize("name", [*REAL, *sorted(path.name for path in GOLDEN.iterdir())])
def test_config_written_and_read_again_is_the_same(name):
    fields = REAL[name][1] if name in REAL else json.loads((GOLDEN / name / "config.json").read_text())
    config = read_fields(fields, name)
    written = json.loads(json.dumps(write_fields(config)))
    assert read_fields(written, name) == config
    # transformers 4 does not know rope_parameters; that of Gemma says more there than version 4 can.
    assert read_fields({**written, "rope_parameters": None}, name) == config


def test_what_only_other_families_have_leaves_a_qwen3_backbone_its_name():
    """Checkpoints know a backbone by the text of its config: what was trained before stays valid."""
    config = read_fields(dict(REAL["Qwen3-0.6B"][1], max_position_embeddings=40960), "")
    assert repr(config) == (
        "DecoderConfig(vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, "
        "num_attention_heads=16, num_key_value_heads=8, head_dim=128, rms_norm_eps=1e-06, rope_theta=1000000.0, "
        "tie_word_embeddings=True, "
        "model_type='qwen3', dtype='float32')")
    assert "biases=('q',)" in repr(dataclasses.replace(config, biases=("q",)))
