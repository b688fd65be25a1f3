"""The decoder equals torch `transformers` and `peft`, against committed goldens and, where torch is installed, live.

`tests/golden/make_decoders.py` says what the goldens hold.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import decoder, load_backbone, save_backbone
from neuromas_jax.backbone.decoder import Cache
from neuromas_jax.backbone.peft import load_peft

GOLDEN = pathlib.Path(__file__).parent / "golden" / "decoders"
MODELS = sorted(path.name for path in GOLDEN.iterdir())
STEERING = ("base", "adapter")


@functools.cache
def load(name: str, dtype: str = "float32"):
    return load_backbone(GOLDEN / name, dtype=dtype), np.load(GOLDEN / name / "expected.npz")


def steering(name: str, which: str):
    backbone, expected = load(name)
    adapter, scale = load_peft(GOLDEN / name / "adapter", backbone.config) if which == "adapter" else (None, 1.0)
    return backbone, expected, adapter, scale


def assert_logits_equal(ours, theirs, valid):
    """Within 1e-4 of the largest logit at every real position."""
    np.testing.assert_allclose(np.asarray(ours)[valid], theirs[valid], rtol=1e-4, atol=1e-4 * np.abs(theirs[valid]).max())


@pytest.mark.parametrize("which", STEERING)
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_torch(name, which):
    backbone, expected, adapter, scale = steering(name, which)
    tokens, valid = jnp.asarray(expected["tokens"])[:, None], jnp.asarray(expected["valid"])[:, None]
    hidden, _ = jax.jit(backbone.__class__.__call__)(backbone, tokens, valid, jnp.zeros((4, 1), jnp.int32), (), adapter, scale)
    logits = backbone.logits(hidden)
    assert logits.dtype == jnp.float32
    assert_logits_equal(logits[:, 0], expected[f"{which}_logits"], expected["valid"])


def test_goldens_would_notice_a_missing_adapter():
    for name in MODELS:
        _, expected = load(name)
        assert np.abs(expected["base_logits"] - expected["adapter_logits"])[expected["valid"]].max() > 1


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_as_near_to_float32_as_torch_is(name):
    """Weights and arithmetic in bfloat16: its mean distance from float32 is at most a quarter more than torch's, not nought."""
    backbone, expected = load(name, "bfloat16")
    assert backbone.params["embed"].dtype == jnp.bfloat16
    tokens, valid = jnp.asarray(expected["tokens"])[:, None], jnp.asarray(expected["valid"])[:, None]
    hidden, _ = jax.jit(backbone.__class__.__call__)(backbone, tokens, valid, jnp.zeros((4, 1), jnp.int32))
    ours, theirs = (np.abs(logits - expected["base_logits"])[expected["valid"]].mean()
                    for logits in (np.asarray(backbone.logits(hidden))[:, 0], expected["narrow_logits"]))
    assert 0 < ours < 1.25 * theirs, (ours, theirs)


@pytest.mark.parametrize("scanned,which", [(False, "base"), (False, "adapter"), (True, "adapter")])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_continuation_with_a_cache_equals_torch(name, which, scanned, monkeypatch):
    """Tokens and log-probabilities, one token at a time onto blocks read before, with layers written out and scanned."""
    monkeypatch.setattr(decoder, "UNROLL", 0 if scanned else decoder.UNROLL)
    backbone, expected, adapter, scale = steering(name, which)
    rows, length = expected[f"{which}_greedy"].shape
    tokens, valid = jnp.asarray(expected["tokens"])[:, None], jnp.asarray(expected["valid"])[:, None]
    hidden, prompt = backbone(tokens, valid, jnp.zeros((rows, 1), jnp.int32), (), adapter, scale)
    before = valid.sum(-1, dtype=jnp.int32)
    first = jnp.argmax(backbone.logits(hidden[:, :, -1]), axis=-1)

    @jax.jit
    def step(token, position, written):
        going = jnp.ones((rows, 1, 1), bool)
        hidden, written = backbone(
            token[..., None], going, before + position, (prompt,), adapter, scale, Cache(written, position))
        return jax.nn.log_softmax(backbone.logits(hidden[:, :, -1])), written

    written = prompt.columns(0).columns(length)
    log_probs = jax.nn.log_softmax(backbone.logits(hidden[:, :, -1]))
    chosen, scores = [], []
    for position in range(length):
        token = first if position == 0 else jnp.argmax(log_probs, axis=-1)
        chosen.append(token[:, 0])
        scores.append(jnp.take_along_axis(log_probs, token[..., None], -1)[:, 0, 0])
        log_probs, written = step(token.astype(jnp.int32), jnp.int32(position), written)
    np.testing.assert_array_equal(np.stack(chosen, 1), expected[f"{which}_greedy"])
    np.testing.assert_allclose(np.stack(scores, 1), expected[f"{which}_log_probs"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma3"])
def test_blocks_read_apart_and_shared_equal_one_block(name, scanned, monkeypatch):
    """A prompt shared by a group, then one block per episode, gives what torch gives for the whole row, also where a window ends
    within the prompt and each episode's padding moves it."""
    monkeypatch.setattr(decoder, "UNROLL", 0 if scanned else decoder.UNROLL)
    backbone, expected, adapter, scale = steering(name, "adapter")
    tokens, cut = expected["tokens"][0], 5
    shared, rest = jnp.asarray(tokens[None, None, :cut]), tokens[cut:]
    own = np.stack([np.pad(rest[: len(rest) - episode], (episode, 0)) for episode in range(3)])[None]
    valid = np.arange(len(rest)) >= np.arange(3)[None, :, None]
    _, prompt = backbone(shared, jnp.ones_like(shared, bool), jnp.zeros((1, 1), jnp.int32), (), adapter, scale)
    hidden, _ = backbone(jnp.asarray(own), jnp.asarray(valid), jnp.full((1, 3), cut), (prompt,), adapter, scale)
    for episode in range(3):
        wanted = expected["adapter_logits"][0, cut : len(tokens) - episode]
        assert_logits_equal(backbone.logits(hidden[0, episode, episode:]), wanted, slice(None))


@pytest.mark.parametrize("scanned", [False, True])
def test_last_columns_are_those_of_the_whole_block(scanned, monkeypatch):
    """Hidden states of the last columns alone, with their gradient, and keys and values of all."""
    if scanned:
        monkeypatch.setattr(decoder, "UNROLL", 0)
    backbone, expected, adapter, scale = steering("gemma3", "adapter")
    tokens = jnp.asarray(expected["tokens"][:2])[:, None]
    block = tokens, jnp.ones_like(tokens, bool).at[0, 0, :3].set(False), jnp.zeros((2, 1), jnp.int32)

    def read(adapter, last):
        hidden, kv = backbone(*block, (), adapter, scale, last=last)
        return (hidden[:, :, -2:] ** 2).sum(), (hidden, kv)

    whole, part, more = (jax.grad(read, has_aux=True)(adapter, last) for last in (None, 2, 1000))
    assert part[1][0].shape[2] == 2
    np.testing.assert_array_equal(more[1][0], whole[1][0])
    np.testing.assert_allclose(part[1][0], whole[1][0][:, :, -2:], atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4),
                 (part[0], part[1][1]), (whole[0], whole[1][1]))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # of torch and its libraries
@pytest.mark.parametrize("which", STEERING)
@pytest.mark.parametrize("name", MODELS)
def test_saved_folder_loads_in_live_transformers(name, which, tmp_path):
    """Both ways: what we save is what transformers and peft read, and the logits agree."""
    reason = "torch, transformers and peft are not installed; the extra `parity` brings them"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    peft = pytest.importorskip("peft", reason=reason)
    backbone, expected, adapter, scale = steering(name, which)
    save_backbone(backbone, tmp_path)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if which == "adapter":
        model = peft.PeftModel.from_pretrained(model, GOLDEN / name / "adapter")
    tokens, valid = np.asarray(expected["tokens"], np.int64), expected["valid"]
    with torch.no_grad():
        theirs = model.eval()(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(valid).long(),
                              position_ids=torch.from_numpy(expected["position_ids"]).long()).logits.numpy()
    assert_logits_equal(theirs, expected[f"{which}_logits"], valid)
    hidden, _ = backbone(jnp.asarray(expected["tokens"])[:, None], jnp.asarray(valid)[:, None],
                         jnp.zeros((4, 1), jnp.int32), (), adapter, scale)
    assert_logits_equal(backbone.logits(hidden)[:, 0], theirs, valid)
