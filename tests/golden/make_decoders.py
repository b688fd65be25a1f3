"""Makes tests/golden/decoders: tiny random models of every family, PEFT adapters, and what torch computes with them.

Run once, with the extra `parity` installed: `python tests/golden/make_decoders.py`. Made with torch 2.13.0 (CPU),
transformers 5.23.0, peft 0.21.2. Between them both forms of every choice are read: tied and untied embeddings, float32 and
bfloat16 on disk, one file and several shards, all rotary scalings, windows that are narrower than the texts, biases.

Each folder holds the model, `adapter/` (PEFT, rank 4, alpha 8, all seven linear sites, random B) and `expected.npz`:
  tokens, valid [4, 12]   left-padded rows of 12, 7, 3 and 1 real tokens
  position_ids [4, 12]
  narrow_logits [4, 12, V]   of the model without adapter, weights and arithmetic in bfloat16
  and, with the prefix `base_` or `adapter_`, in float32: logits [4, 12, V]; greedy [4, 64], the most likely continuation;
  log_probs [4, 64], of each of its tokens.
"""

import json
import pathlib
import shutil

import numpy as np
import peft
import torch
import transformers

ROOT = pathlib.Path(__file__).parent / "decoders"
LENGTHS, NEW_TOKENS = (12, 7, 3, 1), 64
SITES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHARED = dict(vocab_size=97, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, rms_norm_eps=1e-6)
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
SLIDING, FULL = "sliding_attention", "full_attention"
MODELS = {  # head_dim unlike hidden / heads where the family allows it; windows narrower than 12 + 64 tokens
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True, rope_parameters=PLAIN)),
    "qwen3_untied": ("Qwen3", dict(hidden_size=24, head_dim=8, rope_parameters=dict(PLAIN, rope_theta=1e6))),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, rope_parameters=PLAIN, use_sliding_window=True, sliding_window=9,
                            max_window_layers=1)),
    "llama": ("Llama", dict(head_dim=16, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=24))),
    "llama_biases": ("Llama", dict(attention_bias=True, mlp_bias=True,
                                    rope_parameters=dict(PLAIN, rope_type="linear", factor=4.0))),
    "mistral": ("Mistral", dict(head_dim=16, sliding_window=7, rope_parameters=PLAIN)),
    "gemma3": ("Gemma3", dict(num_hidden_layers=3, head_dim=16, query_pre_attn_scalar=20, sliding_window=6,
                              layer_types=[SLIDING, FULL, SLIDING], rope_parameters={
                                  SLIDING: dict(PLAIN, rope_theta=100.0), FULL: dict(PLAIN, rope_type="linear", factor=2.0)})),
}


def make_model(kind: str, options: dict, seed: int):
    """A model whose every tensor matters: wide weights, norms away from their start, biases away from zero."""
    torch.manual_seed(seed)
    config_class = transformers.Gemma3TextConfig if kind == "Gemma3" else getattr(transformers, f"{kind}Config")
    model = getattr(transformers, f"{kind}ForCausalLM")(config_class(**SHARED | options))
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                tensor.add_(0.3 * torch.randn_like(tensor))
            else:
                tensor.copy_(torch.randn_like(tensor) * tensor.shape[1] ** -0.5)
    return model


def expect(model, tokens, valid, position_ids) -> dict[str, np.ndarray] | None:
    """None where two tokens are nearly tied somewhere, so that rounding would choose between them."""
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=valid, position_ids=position_ids).logits
        whole = model.generate(input_ids=tokens, attention_mask=valid, max_new_tokens=NEW_TOKENS, do_sample=False,
                               eos_token_id=None, pad_token_id=0)
        mask = torch.cat([valid, torch.ones(len(LENGTHS), NEW_TOKENS, dtype=valid.dtype)], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        steps = model(input_ids=whole, attention_mask=mask, position_ids=positions).logits[:, tokens.shape[1] - 1:-1]
    greedy = whole[:, tokens.shape[1]:]
    best = steps.topk(2, dim=-1).values
    gap = (best[..., 0] - best[..., 1]).min().item()
    if gap < 1e-3:
        return None
    assert greedy.shape[1] == NEW_TOKENS and torch.equal(steps.argmax(-1), greedy)
    log_probs = steps.log_softmax(-1).gather(-1, greedy[..., None])[..., 0]
    return dict(logits=logits.numpy(), greedy=greedy.numpy().astype(np.int32), log_probs=log_probs.numpy())


def make(name: str, kind: str, options: dict, seed: int) -> bool:
    """Writes a folder; False where its greedy tokens are nearly tied."""
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    model = make_model(kind, options, seed)
    if name == "qwen3_untied":
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="12KB")
    else:
        model.save_pretrained(folder)

    def loaded(dtype):
        return type(model).from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()

    valid = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        valid[row, -length:] = 1
    tokens = torch.randint(1, 97, valid.shape) * valid
    position_ids = (valid.cumsum(1) - 1).clamp(min=0)
    found = dict(tokens=tokens.int().numpy(), valid=valid.bool().numpy(), position_ids=position_ids.int().numpy())
    with torch.no_grad():
        narrow = loaded(torch.bfloat16)(input_ids=tokens, attention_mask=valid, position_ids=position_ids).logits
    found["narrow_logits"] = narrow.float().numpy()
    model = loaded(torch.float32)
    base = expect(model, tokens, valid, position_ids)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(SITES), task_type="CAUSAL_LM"))
    with torch.no_grad():
        for key, tensor in tuned.named_parameters():
            if "lora_" in key:
                tensor.copy_(torch.randn_like(tensor) * (tensor.shape[1] ** -0.5 if "lora_A" in key else 0.3))
    tuned.eval().save_pretrained(folder / "adapter")
    steered = expect(tuned, tokens, valid, position_ids)
    if base is None or steered is None:
        return False
    found |= {f"base_{key}": value for key, value in base.items()} | {f"adapter_{key}": value for key, value in steered.items()}
    for spare in ("adapter/README.md", "generation_config.json"):
        (folder / spare).unlink(missing_ok=True)
    described = json.loads((folder / "adapter/adapter_config.json").read_text())
    # The same on every machine.
    described |= dict(base_model_name_or_path=name, target_modules=sorted(described["target_modules"]))
    (folder / "adapter/adapter_config.json").write_text(json.dumps(described, indent=2) + "\n")
    np.savez_compressed(folder / "expected.npz", **found)
    moved = np.abs(found["base_logits"] - found["adapter_logits"]).max()
    rounded = np.abs(found["base_logits"] - found["narrow_logits"])[found["valid"]].max()
    largest = np.abs(found["base_logits"]).max()
    print(f"{name}: seed {seed}, logits up to {largest:.2f}, moved by the adapter by up to {moved:.2f}, "
          f"by bfloat16 by up to {rounded:.3f}")
    return True


def main():
    torch.set_num_threads(1)
    for name, (kind, options) in MODELS.items():
        next(seed for seed in range(100) if make(name, kind, options, seed))
    size = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    print(f"{ROOT}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
