"""Tokenizers: the protocol that the rest of the package relies on, and the loader of a Hugging Face `tokenizer.json`."""

import json
from pathlib import Path
from typing import Protocol, Sequence, runtime_checkable

import tokenizers

from neuromas_jax.files import read_json

PURPOSE = "a tokenizer folder holds tokenizer.json and tokenizer_config.json"


@runtime_checkable
class Tokenizer(Protocol):
    """What a node's prompt and the sampler need from a tokenizer.

    `encode` takes untrusted text (questions, messages): it never returns an id of `added_ids`, whatever the text says.
    `encode_template` takes the program's own template text, in which control tokens are recognised.
    """

    vocab_size: int
    pad_id: int
    end_id: int
    added_ids: frozenset[int]

    def encode(self, text: str) -> list[int]: ...

    def encode_template(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class FileTokenizer:
    """A `tokenizer.json` read through the `tokenizers` library; satisfies `Tokenizer`.

    Two tokenizers share the file: one that knows the added tokens (template text) and one from which they were taken
    out (untrusted text), so that a question or a message which spells `<final>` yields ordinary pieces. Taking them out
    rather than setting `encode_special_tokens` matters for added tokens that are not "special", as Qwen's `<think>`.
    """

    def __init__(self, definition: dict, end_token: str, pad_token: str | None, source: str = "tokenizer.json"):
        """definition: the parsed tokenizer.json. Raises ValueError where it, `end_token` or `pad_token` does not fit."""
        self._source = source
        self._trusted = _build(definition, source)
        added = definition.get("added_tokens") or []
        self.added_ids = frozenset(entry["id"] for entry in added)
        self._untrusted = _build(_without_added(definition, {entry["content"] for entry in added}), source)
        self.vocab_size = 1 + max(self._trusted.get_vocab(with_added_tokens=True).values())
        self.end_id = self._control(end_token, "eos_token")
        self.pad_id = self.end_id if pad_token is None else self._control(pad_token, "pad_token")
        # Found by trying, because it can come from a normalizer, a pre-tokenizer or not at all.
        probe = self._untrusted.encode("a", add_special_tokens=False).ids
        self._prefix_space = self._untrusted.decode(probe, skip_special_tokens=False) == " a"

    def _control(self, token: str, name: str) -> int:
        index = self._trusted.token_to_id(token)
        if index is None:
            raise ValueError(
                f"{self._source}: {name} is {token!r}, which the tokenizer does not hold; "
                f"set {name} in tokenizer_config.json to one of its added tokens."
            )
        return index

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted text; control tokens in it become ordinary pieces.

        Raises ValueError where the tokenizer cannot write the text without a control token (an unknown-word token, say).
        """
        ids = self._untrusted.encode(text, add_special_tokens=False).ids
        forbidden = self.added_ids.intersection(ids)
        if forbidden:
            names = sorted(repr(self._trusted.id_to_token(index)) for index in forbidden)
            raise ValueError(
                f"{self._source}: the text {text[:80]!r} cannot be written without the control tokens {', '.join(names)}; "
                "use a tokenizer that covers every byte."
            )
        return ids

    def encode_template(self, text: str) -> list[int]:
        """Ids of the program's own template text; control tokens are recognised, none is added."""
        return self._trusted.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], keep_added: bool = False) -> str:
        """Text of ids: without the one space that `encode` puts first, and without added tokens unless they are asked for."""
        kept = [int(index) for index in ids if keep_added or int(index) not in self.added_ids]
        text = self._trusted.decode(kept, skip_special_tokens=False)
        return text[1:] if self._prefix_space and text.startswith(" ") else text


def load_tokenizer(folder: str | Path, end: str = "") -> FileTokenizer:
    """Reads `tokenizer.json` and `tokenizer_config.json` of a Hugging Face folder; `end` ends a message in place of its own.

    Raises FileNotFoundError where a file is missing, ValueError where one is cut off, or names an end or padding token that the
    tokenizer lacks.
    Without a padding token the end token pads: padding is masked everywhere, so its id is never looked at.
    """
    folder = Path(folder)
    definition = read_json(folder / "tokenizer.json", PURPOSE)
    config = read_json(folder / "tokenizer_config.json", PURPOSE)
    end = end or _token_text(config.get("eos_token"))
    if end is None:
        raise ValueError(f"{folder / 'tokenizer_config.json'} names no eos_token; add the token that ends a message.")
    return FileTokenizer(definition, end, _token_text(config.get("pad_token")), source=str(folder / "tokenizer.json"))


def _token_text(entry) -> str | None:
    """A token in tokenizer_config.json is a string, or a record with its content."""
    return entry["content"] if isinstance(entry, dict) else entry


def _build(definition: dict, source: str) -> tokenizers.Tokenizer:
    try:
        built = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{source} is not a tokenizer that `tokenizers` can read: {error}") from error
    # Files may carry these, and either would change what a segment's ids are.
    built.no_padding()
    built.no_truncation()
    return built


def _without_added(definition: dict, contents: set[str]) -> dict:
    """The definition with no added tokens, and with their texts gone from the model's own vocabulary.

    The second part matters for models that match whole words (WordLevel, BPE with ignore_merges). Entries that the
    model needs (its unknown token) or that some merge builds stay; `encode` checks its result.
    """
    model = dict(definition["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or [])
        needed = {model.get("unk_token")} | {"".join(pair) for pair in merges}
        model["vocab"] = {word: index for word, index in vocabulary.items() if word not in contents or word in needed}
    # A post-processor may name the tokens that are gone; `encode` never asks for it.
    return {**definition, "model": model, "added_tokens": [], "post_processor": None}
