"""One node's adapter as a PEFT folder, `adapter_config.json` and `adapter_model.safetensors`, which `peft` reads and writes."""

from collections.abc import Sequence
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from neuromas_jax.backbone.architecture import LINEAR_SITES, DecoderConfig
from neuromas_jax.backbone.families import tensor_names
from neuromas_jax.files import read_json, write_text, written_whole

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PURPOSE = "a PEFT folder holds adapter_config.json beside adapter_model.safetensors"
# Fields under which an adapter is plain LoRA whatever they say, those that are read here, and what others must say to be so.
NEUTRAL = {"task_type", "base_model_name_or_path", "auto_mapping", "revision", "inference_mode", "lora_dropout", "peft_version",
           "layers_pattern", "megatron_core", "eva_config", "exclude_modules", "runtime_config", "qalora_group_size"}
READ = {"r", "lora_alpha", "use_rslora", "target_modules"}
ALLOWED = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal")}


def _names(config: DecoderConfig, site: str, factor: str) -> list[str]:
    """Tensors of a site's factor, one per decoder layer: those of its weights, under PEFT's prefix."""
    weight = tensor_names(config)[site]
    return [f"base_model.model.{weight.format(layer).removesuffix('weight')}lora_{factor}.weight"
            for layer in range(config.num_hidden_layers)]


def save_peft(folder: Path, adapter: dict, config: DecoderConfig, scale: float, rank: int, base: str) -> None:
    """Writes one slot's adapter.

    Args:
      folder: made where it does not exist.
      adapter: `{site: {"a": [L, in, R], "b": [L, R, out]}}`.
      config: of the decoder that it is for.
      scale: alpha / rank.
      rank: how many of the R ranks the slot uses; the others are zero and are left out.
      base: name or folder of the backbone, as `peft` notes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for site, pair in adapter.items():
        for factor, layers in (("A", np.asarray(pair["a"])[:, :, :rank]), ("B", np.asarray(pair["b"])[:, :rank])):
            for name, layer in zip(_names(config, site, factor), layers, strict=True):  # PEFT keeps A as (r, in), B as (out, r)
                tensors[name] = np.ascontiguousarray(layer.T)
    fields = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": scale * rank,
        "lora_dropout": 0.0, "bias": "none", "inference_mode": True, "target_modules": [f"{site}_proj" for site in adapter],
    }
    with written_whole(folder / WEIGHTS) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(fields, indent=1) + "\n")


def load_peft(folder: str | Path, config: DecoderConfig) -> tuple[dict, float]:
    """Reads a PEFT folder.

    Args:
      folder: what `peft` or `save_peft` wrote.
      config: of the decoder that the adapter is for.

    Returns:
      `{site: {"a": [L, in, r], "b": [L, r, out]}}` in float32 for the sites that the folder adapts, and the scale alpha / r.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: it is damaged, does more than plain LoRA on the decoder's linear maps, or was made for other sizes.
    """
    folder = Path(folder)
    fields = read_json(folder / CONFIG, PURPOSE)
    for name, value in fields.items():
        plain = value in ALLOWED[name] if name in ALLOWED else not value
        if name not in NEUTRAL | READ and not plain:
            raise ValueError(f"{folder / CONFIG}: {name} is {value!r}, and only plain LoRA on linear maps can be read. "
                             "Train the adapter without it.")
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG}: peft_type is {fields.get('peft_type')!r}, only 'LORA' can be read.")
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise ValueError(f"{folder / CONFIG}: r is {rank!r} and lora_alpha {alpha!r}; they must be a whole number of 1 or more "
                         "and a number. Copy the file again.")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder / WEIGHTS} is missing: {PURPOSE}. Copy it there.")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{folder / WEIGHTS} is truncated or damaged ({error}): copy it again.") from None
    adapter = {}
    for site in LINEAR_SITES:
        if _names(config, site, "A")[0] not in tensors:
            continue
        fan_in, fan_out = config.site_shape(site)
        pair = {}
        for factor, shape in (("A", (rank, fan_in)), ("B", (fan_out, rank))):
            rows = []
            for name in _names(config, site, factor):
                found = tensors.pop(name, None)
                if found is None or found.shape != shape:
                    raise ValueError(f"{folder / WEIGHTS}: tensor {name} is {None if found is None else found.shape}, the "
                                     f"backbone asks for {shape}; use an adapter of this backbone.")
                rows.append(found.astype(np.float32).T)
            pair[factor.lower()] = np.stack(rows)
        adapter[site] = pair
    if tensors or not adapter:
        other = next(iter(sorted(tensors)), "nothing")
        raise ValueError(f"{folder / WEIGHTS} holds {other}, for which there is no place: adapters are read for "
                         f"{', '.join(f'{site}_proj' for site in LINEAR_SITES)} in {config.num_hidden_layers} decoder layers.")
    return adapter, alpha / (rank**0.5 if fields.get("use_rslora") else rank)


def start_from(bank: dict, ranks: Sequence[int], folders: Sequence[str], config: DecoderConfig, scale: float) -> dict:
    """A new bank whose slots go on from PEFT adapters.

    A slot takes over A and B, B times what the two scales differ by; ranks that the adapter does not have, and sites that it does
    not adapt, stay as they were born, so they can be trained.

    Args:
      bank: of `adapters.init_bank`.
      ranks: of its slots.
      folders: one for each slot, or one for all.
      config: of the decoder.
      scale: of the bank, alpha / rank.

    Raises:
      FileNotFoundError, ValueError: as `load_peft`; or the folders are not as many as the slots, or an adapter has more ranks
        than its slot, or sites that the bank has not.
    """
    if len(folders) not in (1, len(ranks)):
        raise ValueError(f"config key 'adapters.start' names {len(folders)} PEFT folders and the graph has {len(ranks)} slots; "
                         "name one for each slot, or one for all")
    started = {site: dict(pair) for site, pair in bank.items()}
    read = {folder: load_peft(folder, config) for folder in dict.fromkeys(folders)}
    for slot, rank in enumerate(ranks):
        folder = folders[slot % len(folders)]
        adapter, theirs = read[folder]
        used = next(iter(adapter.values()))["a"].shape[-1]
        other = sorted(set(adapter) - set(bank))
        if used > rank or other:
            what, key = (f"rank {used}, its slot {rank}", "rank") if used > rank else (f"site {other[0]!r}", "sites")
            raise ValueError(f"{folder}: the adapter has {what}; set config key 'adapters.{key}' so that it fits")
        for site, pair in adapter.items():
            started[site]["a"] = jnp.asarray(started[site]["a"]).at[slot, :, :, :used].set(pair["a"])
            started[site]["b"] = jnp.asarray(started[site]["b"]).at[slot, :, :used].set(pair["b"] * (theirs / scale))
    return started
