"""Small tokenizers of both kinds with chat templates, in folders as the Hub has them."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

WORDS = ["You are agent 1 of layer 2. Message 3: What is three plus four? Write the final answer to the question. " * 3]
# In the manner of Qwen3, Llama 3, Mistral and Gemma 3: added tokens, end of text, and the turns as a template.
LOOP = "{% for m in messages %}"
KINDS = {
    "qwen": (["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"], "<|im_end|>", (
        LOOP + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}")),
    "llama": (["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>", (
        "<|begin_of_text|>" + LOOP + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        "{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n{# {{ date_string }} #}")),
    "mistral": (["<s>", "</s>", "[INST]", "[/INST]"], "</s>", (
        "<s>" + LOOP + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}"
        "</s>{% else %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}")),
    "gemma": (["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<eos>", (
        "<bos>" + LOOP + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<end_of_turn>\n{% endfor %}{{ '<start_of_turn>model\n' }}")),
}


def make_folder(name: str, folder: Path) -> Path:
    """Writes the tokenizer of a kind: byte-level BPE, or BPE over words with a mark for spaces and bytes to fall back on."""
    added, end, template = KINDS[name]
    if name in ("qwen", "llama"):
        built = tokenizers.Tokenizer(models.BPE())
        built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    else:
        built = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        built.normalizer = normalizers.Replace(" ", "▁")
        built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False,
                                      special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))])
    built.train_from_iterator(WORDS, trainer)
    text = json.loads(built.to_str())
    text["added_tokens"] = []  # bytes are ordinary pieces
    built = tokenizers.Tokenizer.from_str(json.dumps(text))
    built.add_special_tokens([token for token in added if "think" not in token])
    built.add_tokens([token for token in added if "think" in token])
    built.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "TokenizersBackend", "eos_token": end, "chat_template": template}))
    return folder
