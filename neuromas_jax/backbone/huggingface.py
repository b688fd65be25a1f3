"""Backbones in and out of ordinary Hugging Face folders: `config.json` and `model.safetensors`, or shards with an index.

Everything is checked on the host, with numpy, before any array reaches a device or any program is compiled. No torch.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from neuromas_jax.backbone.architecture import LINEAR_SITES, DecoderConfig
from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.backbone.families import EMBED, FINAL_NORM, LM_HEAD, family_of, read_fields, tensor_names, write_fields
from neuromas_jax.files import read_json, write_text, written_whole

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = ("float32", "bfloat16", "float16")
STORED_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def load_config(folder: str | os.PathLike) -> DecoderConfig:
    """Reads `config.json`.

    Raises:
      FileNotFoundError: no such folder, or no `config.json` in it.
      ValueError: not JSON, a family that is not supported, a missing field, or an option that the decoder does not have.
    """
    path = _folder(folder) / CONFIG
    fields = read_json(path, "a Hugging Face model folder holds config.json beside its weights")
    family_of(fields.get("model_type"), path)
    dtype = fields.get("dtype", fields.get("torch_dtype")) or "float32"
    if dtype not in DTYPES:
        raise ValueError(f"{path}: dtype is {dtype!r}, must be one of {', '.join(DTYPES)}. Convert the weights first.")
    if fields.get("quantization_config"):
        raise ValueError(f"{path}: quantization_config is set, but only plain weights ({', '.join(DTYPES)}) can be read. "
                         "Use the model's unquantised folder.")
    return dataclasses.replace(read_fields(fields, str(path)), dtype=dtype)


def load_backbone(folder: str | os.PathLike, dtype: str | None = None, where: Mapping[str, Any] | None = None) -> Backbone:
    """Reads `config.json` and the weights beside it.

    Args:
      folder: a local folder with `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`.
      dtype: one of `DTYPES`; None keeps what `config.json` names (float32 where it names none).
      where: a `jax.sharding.Sharding` for every parameter, in the form of `Backbone.params`; by default all is on one device.
        Each process then reads from the files what its own devices hold, a decoder layer at a time, and no more.

    Raises:
      FileNotFoundError: a missing folder or file.
      ValueError: what `load_config` raises; a truncated or damaged file; a tensor that is missing, has another shape than
        `config.json` says, a type that is not a plain float, or no place in the decoder.
    """
    folder = _folder(folder)
    config = load_config(folder)
    if dtype is not None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, must be one of {', '.join(DTYPES)}, or None for what {CONFIG} names.")
        config = dataclasses.replace(config, dtype=dtype)
    tensors = _Tensors(folder)
    params = _expected(config)
    tensors.check_names({name for names, _, _ in params.values() for name in names}, config)
    for names, shape, _ in params.values():  # all headers, before any array is made
        tensors.check(names, shape)
    found = {}
    for key, (names, shape, transpose) in params.items():
        stored = _Stored(tensors, names, transpose, key[0] == "layers", config.dtype)
        target = where and (where[key[0]] if len(key) == 1 else where[key[0]][key[1]])
        whole = tuple(reversed(shape)) if transpose else shape
        whole = (len(names), *whole) if key[0] == "layers" else whole
        found[key] = jax.make_array_from_callback(whole, target, stored.part) if target else jnp.asarray(stored.part(()))
    nested = {key[0]: array for key, array in found.items() if len(key) == 1}
    nested["layers"] = {key[1]: array for key, array in found.items() if len(key) == 2}
    return Backbone(nested, config)


def weights_checksum(folder: str | os.PathLike, start: int = 0) -> int:
    """CRC-32 of all parameters as `load_backbone` gives them, one after another, with one of them in memory at a time."""
    folder, config = _folder(folder), load_config(folder)
    tensors, params = _Tensors(folder), _expected(config)
    for key in sorted(params):  # the order in which JAX walks through the tree
        names, _, transpose = params[key]
        for name in names:  # decoder layers stand behind each other
            start = zlib.crc32(_Stored(tensors, [name], transpose, False, config.dtype).part(()), start)
    return start


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A parameter in its files: `part(index)` reads what an index of slices asks for, `()` for all."""

    tensors: "_Tensors"
    names: list[str]  # of its tensors, one per decoder layer
    transpose: bool
    stacked: bool
    dtype: str

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        layers = self.names[index[0]] if self.stacked and index else self.names
        index = index[1:] if self.stacked else index
        stored = index[::-1] if self.transpose else index
        found = [self.tensors.read(name, stored, self.dtype) for name in layers]
        found = [layer.T if self.transpose else layer for layer in found]
        return np.stack(found) if self.stacked else np.ascontiguousarray(found[0])


def save_backbone(backbone: Backbone, folder: str | os.PathLike, extra: Mapping[str, Any] | None = None) -> None:
    """Writes `config.json` and `model.safetensors`, which `transformers` and `load_backbone` both read.

    A file appears whole or not at all: an interrupted save leaves the former file as it was.

    Args:
      backbone: its arrays are written in the type they have.
      folder: made where it does not exist; other files in it stay.
      extra: more fields of `config.json`, for example `{"eos_token_id": 2}`.

    Raises:
      ValueError: a family that is not supported.
      OSError: the folder cannot be written.
    """
    config, folder = backbone.config, pathlib.Path(folder)
    fields = {**write_fields(config), **(extra or {})}
    tensors = {}
    for key, (names, _, transpose) in _expected(config).items():
        array = np.asarray(backbone.params[key[0]] if len(key) == 1 else backbone.params[key[0]][key[1]])
        for name, layer in zip(names, array if key[0] == "layers" else [array], strict=True):
            tensors[name] = np.ascontiguousarray(layer.T if transpose else layer)
    folder.mkdir(parents=True, exist_ok=True)
    # transformers refuses a file that does not say which framework wrote it; the layout is the same for all of them.
    with written_whole(folder / WEIGHTS) as path:
        save_file(tensors, path, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(fields, indent=2, sort_keys=True) + "\n")
    # An index left by an earlier, sharded save would name weights that are no longer the folder's.
    (folder / INDEX).unlink(missing_ok=True)


def check_vocabulary(config: DecoderConfig, tokenizer: Any) -> None:
    """Refuses a tokenizer that can write ids for which the embedding has no row.

    The embedding may have more rows than the tokenizer has ids (Qwen3 rounds up); those ids are forbidden in messages.

    Args:
      tokenizer: anything with `vocab_size`, `pad_id` and `end_id`.

    Raises:
      ValueError: the two do not belong together.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"vocabulary mismatch: the tokenizer knows {tokenizer.vocab_size} ids, the embedding has "
                         f"{config.vocab_size} rows; it must have at least as many. Use the tokenizer.json that came with the "
                         "weights.")
    for name in ("pad_id", "end_id"):
        value = getattr(tokenizer, name)
        if not 0 <= value < tokenizer.vocab_size:
            raise ValueError(f"the tokenizer's {name} is {value}, must be in 0..{tokenizer.vocab_size - 1}. "
                             "Use the tokenizer.json and tokenizer_config.json that came with the weights.")


def _expected(config: DecoderConfig) -> dict[tuple[str, ...], tuple[list[str], tuple[int, ...], bool]]:
    """Path of a parameter -> names of its tensors, the shape of each as stored, and whether it is stored transposed.

    torch keeps a linear layer as (out, in); here it is (in, out).
    """
    expected = {("embed",): ([EMBED], (config.vocab_size, config.hidden_size), False),
                ("final_norm",): ([FINAL_NORM], (config.hidden_size,), False)}
    if not config.tie_word_embeddings:
        expected["lm_head",] = ([LM_HEAD], (config.vocab_size, config.hidden_size), True)
    for parameter, pattern in tensor_names(config).items():
        names = [pattern.format(layer) for layer in range(config.num_hidden_layers)]
        linear = parameter in LINEAR_SITES
        shape = config.site_shape(parameter)[::-1] if linear else (config.vectors[parameter],)
        expected["layers", parameter] = (names, shape, linear)
    return expected


# ------------------------------------------------------------------------------------------------------------------- files


class _Tensors:
    """The named tensors of a folder, in one file or many. Opening checks every header; data is read on demand."""

    def __init__(self, folder: pathlib.Path):
        self.files: dict[str, Any] = {}  # tensor -> open file
        self.paths: dict[str, pathlib.Path] = {}
        if (folder / WEIGHTS).is_file():
            self._open(folder / WEIGHTS)
            return
        index = folder / INDEX
        if not index.is_file():
            raise FileNotFoundError(f"{folder} holds neither {WEIGHTS} nor {INDEX}. Copy the weights there in safetensors form.")
        places = read_json(index, "").get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ValueError(f"{index}: weight_map is {places!r}, must map tensor names to files. Copy the file again.")
        for name in sorted(set(places.values())):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing, and {INDEX} names it. Copy all shards into the folder.")
            self._open(folder / name)
        for tensor, name in places.items():
            if self.paths.get(tensor) != folder / name:
                raise ValueError(f"{folder / name} holds no tensor {tensor}, and {INDEX} says it does. "
                                 "Copy shards and index again, from one and the same model.")

    def _open(self, path: pathlib.Path) -> None:
        try:
            file = safe_open(path, framework="np")
            names = list(file.keys())
        except SafetensorError as error:
            head = path.open("rb").read(24)
            hint = ("It is a Git LFS pointer, not the weights: run `git lfs pull`."
                    if head.startswith(b"version https://git-lfs") else "It is truncated or damaged: copy it again.")
            raise ValueError(f"{path} ({path.stat().st_size} bytes) is no complete safetensors file: {error}. {hint}") from None
        self.files.update(dict.fromkeys(names, file))
        self.paths.update(dict.fromkeys(names, path))

    def check_names(self, expected: set[str], config: DecoderConfig) -> None:
        missing = sorted(expected - set(self.files))
        if missing:
            hint = " (or set tie_word_embeddings in config.json, if the head is the embedding)" if missing == [LM_HEAD] else ""
            raise ValueError(f"the weights lack tensor {missing[0]}{_more(missing)}, which {CONFIG} "
                             f"({config.num_hidden_layers} decoder layers) asks for. "
                             f"Use weights and {CONFIG} of one and the same model{hint}.")
        # A tied head is stored twice by some tools, rotary frequencies by old ones; both say nothing new.
        known = {LM_HEAD} if config.tie_word_embeddings else set()
        surplus = sorted(x for x in set(self.files) - expected - known if not x.endswith("rotary_emb.inv_freq"))
        if surplus:
            raise ValueError(f"{self.paths[surplus[0]]} holds tensor {surplus[0]}{_more(surplus)}, for which a "
                             f"{config.model_type} decoder of {config.num_hidden_layers} layers has no place. "
                             f"Use weights and {CONFIG} of one and the same model.")

    def check(self, names: list[str], shape: tuple[int, ...]) -> None:
        for name in names:
            part = self.files[name].get_slice(name)
            stored, found = part.get_dtype(), tuple(part.get_shape())
            if found != shape:
                raise ValueError(f"{self.paths[name]}: tensor {name} has shape {found}, must be {shape} by {CONFIG}. "
                                 f"Use weights and {CONFIG} of one and the same model.")
            if stored not in STORED_DTYPES:
                raise ValueError(f"{self.paths[name]}: tensor {name} is stored as {stored}, must be one of "
                                 f"{', '.join(STORED_DTYPES)}. Use the model's unquantised weights.")

    def read(self, name: str, index: tuple[slice, ...], dtype: str) -> np.ndarray:
        """What `index` asks for of a tensor, `()` for all of it."""
        file = self.files[name]
        return (file.get_slice(name)[index] if index else file.get_tensor(name)).astype(jnp.dtype(dtype), copy=False)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _folder(folder: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"backbone folder {str(folder)!r} does not exist. "
                                "Name a local folder with config.json and model.safetensors; "
                                "for a model of the Hub, `hf download OWNER/NAME --local-dir FOLDER` makes one.")
    return path
