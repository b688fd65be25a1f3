"""Makes tests/golden/qwen3: tiny random Qwen3 models, PEFT adapters, and what torch computes with them.

Run once, with the extra `parity` installed: `python tests/golden/make_qwen3.py`. Made with torch 2.13.0 (CPU),
transformers 5.23.0, peft 0.21.2. Two models, so that both forms of every choice are read:

  tied     tied embeddings, rope theta 1e4, float32, one file
  untied   its own head, rope theta 1e6, bfloat16 on disk (computed in float32), several shards with an index

Each folder holds the model, `adapter/` (PEFT, rank 4, alpha 8, all seven linear sites, random B) and `expected.npz`:
  tokens, valid [4, 12]   left-padded rows of 12, 7, 3 and 1 real tokens
  position_ids [4, 12]
  and, with the prefix `base_` or `adapter_`: logits [4, 12, V]; greedy [4, 16], the most likely continuation;
  log_probs [4, 16], of each of its tokens.
"""

import json
import pathlib
import shutil

import numpy as np
import peft
import torch
import transformers

ROOT = pathlib.Path(__file__).parent / "qwen3"
LENGTHS, NEW_TOKENS = (12, 7, 3, 1), 16
SITES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MODELS = {
    "tied": dict(seed=0, hidden_size=32, head_dim=16, tie_word_embeddings=True, rope_theta=1e4),
    "untied": dict(seed=0, hidden_size=24, head_dim=8, tie_word_embeddings=False, rope_theta=1e6),
}


def make_model(seed: int, hidden_size: int, head_dim: int, tie_word_embeddings: bool, rope_theta: float):
    """A model whose every tensor matters: wide weights, norms away from one, head_dim unlike hidden / heads."""
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=97, hidden_size=hidden_size, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, tie_word_embeddings=tie_word_embeddings, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta})
    model = transformers.Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.copy_(1 + 0.3 * torch.randn_like(tensor))
            else:
                tensor.copy_(torch.randn_like(tensor) * tensor.shape[1] ** -0.5)
    return model


def expect(model, tokens, valid, position_ids) -> dict[str, np.ndarray]:
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
    assert greedy.shape[1] == NEW_TOKENS and torch.equal(steps.argmax(-1), greedy)
    assert gap > 1e-3, f"two tokens are nearly tied ({gap}); take another seed"
    log_probs = steps.log_softmax(-1).gather(-1, greedy[..., None])[..., 0]
    return dict(logits=logits.numpy(), greedy=greedy.numpy().astype(np.int32), log_probs=log_probs.numpy())


def main():
    torch.set_num_threads(1)
    shutil.rmtree(ROOT, ignore_errors=True)
    for name, options in MODELS.items():
        folder = ROOT / name
        model = make_model(**options)
        if name == "untied":
            model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="12KB")
        else:
            model.save_pretrained(folder)
        model = transformers.Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

        valid = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
        for row, length in enumerate(LENGTHS):
            valid[row, -length:] = 1
        tokens = torch.randint(1, 97, valid.shape) * valid
        position_ids = (valid.cumsum(1) - 1).clamp(min=0)
        expected = dict(tokens=tokens.int().numpy(), valid=valid.bool().numpy(), position_ids=position_ids.int().numpy())
        for key, value in expect(model, tokens, valid, position_ids).items():
            expected[f"base_{key}"] = value

        tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(SITES), task_type="CAUSAL_LM"))
        with torch.no_grad():
            for key, tensor in tuned.named_parameters():
                if "lora_" in key:
                    tensor.copy_(torch.randn_like(tensor) * (tensor.shape[1] ** -0.5 if "lora_A" in key else 0.3))
        tuned.eval().save_pretrained(folder / "adapter")
        for spare in ("adapter/README.md", "generation_config.json"):
            (folder / spare).unlink(missing_ok=True)
        described = json.loads((folder / "adapter/adapter_config.json").read_text())
        # The same on every machine.
        described |= dict(base_model_name_or_path=name, target_modules=sorted(described["target_modules"]))
        (folder / "adapter/adapter_config.json").write_text(json.dumps(described, indent=2) + "\n")
        for key, value in expect(tuned, tokens, valid, position_ids).items():
            expected[f"adapter_{key}"] = value
        np.savez_compressed(folder / "expected.npz", **expected)
        difference = np.abs(expected["base_logits"] - expected["adapter_logits"]).max()
        largest = np.abs(expected["base_logits"]).max()
        print(f"{name}: logits up to {largest:.2f}, the adapter moves them by up to {difference:.2f}")
    size = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    print(f"{ROOT}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
