"""Builds the embedded backbone's tokenizer: byte-level, so that any text can be written, with one token for every word
and phrase of the generated families, always the same id.

Text is cut into pieces by a regular expression; a piece that the vocabulary holds is one token, any other falls apart
into its bytes (a BPE model without merges). No training takes place, so equal texts give an equal file.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from neuromas_jax.tasks import Task

PAD, START, END = "<pad>", "<s>", "</s>"
SLOTS = 16  # messages of an inbox whose label is one token; the label of a later one falls apart into bytes
CONTROL_TOKENS = (PAD, START, END, "<node>", "<note>", "<final>", *(f"<from{k}>" for k in range(1, SLOTS + 1)))

# The fixed wording of BBH navigate as single pieces: a walk of 8 instructions is 10 tokens and not 50.
PHRASES = (
    r" If you follow these instructions, do you return to the starting point\?",
    r" Always face forward\.",
    r" Take (?:1 step|(?:[2-9]|10) steps)(?: (?:left|right|forward|backward))?\.",
    r" Turn (?:left|right|around)\.",
    r"\nOptions:\n- Yes\n- No",
)
PIECES = (
    *PHRASES,
    r" ?\[?[A-Za-z]+",  # words, with the bracket that opens a ListOps operator
    r" ?-?[0-9]{1,2}(?![0-9])",  # numbers of one or two digits with their sign
    r" ?-?[0-9]",  # longer numbers: sign and first digit, then digit by digit
    r" ?.",
)
LARGEST_NUMBER = 99
LABELS = (*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "answer")


def _byte_level(text: str) -> str:
    """The text as the ByteLevel pre-tokenizer writes it (blank as `Ġ`, line break as `Ċ`); other ASCII stays itself."""
    return text.replace(" ", "Ġ").replace("\n", "Ċ").replace(r"\n", "Ċ")


def _pre_tokenizer():
    pattern = "|".join(_byte_level(piece) for piece in PIECES)
    return pre_tokenizers.Sequence(
        [
            # One blank goes before the first word, so that a word has one id wherever its segment begins.
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
        ]
    )


def vocabulary_texts(tasks: Iterable[Task], count: int) -> Iterable[str]:
    """The first `count` training questions of each task and their facts: every word that the families write."""
    for task in tasks:
        for index in range(count):
            question = task.generate("train", index)
            yield question.text
            for part in question.parts:
                yield f"{question.common} ; {part}"
            for fact in question.facts:
                yield fact.label
                # Numbers beyond two digits are no words: they fall apart into digits, as `build_tokenizer` says.
                if re.fullmatch(r"-?[0-9]+", fact.value) is None:
                    yield fact.value


def build_tokenizer(texts: Iterable[str], largest: int = 640) -> tokenizers.Tokenizer:
    """A tokenizer whose vocabulary is: control tokens, the 256 bytes, numbers, labels, and every piece of `texts`.

    Raises ValueError where that makes more than `largest` tokens.
    """
    cut = _pre_tokenizer()
    numbers = [f" {number}" for number in range(-LARGEST_NUMBER, LARGEST_NUMBER + 1)]
    numbers += [str(number) for number in range(-9, 10)]  # as in `((-1 + 2`
    words = {_byte_level(f" {label}") for label in LABELS}
    for text in texts:
        words.update(piece for piece, _ in cut.pre_tokenize_str(text))
    ordered = [*CONTROL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ordered += [word for word in map(_byte_level, numbers) if word not in ordered]
    ordered += sorted(words.difference(ordered))
    if len(ordered) > largest:
        raise ValueError(
            f"the vocabulary has {len(ordered)} tokens, more than {largest}; raise `largest` or add a pattern to PIECES "
            f"that cuts these texts into fewer words (last ones: {ordered[-5:]})"
        )
    model = models.BPE(vocab={word: index for index, word in enumerate(ordered)}, merges=[], ignore_merges=True)
    built = tokenizers.Tokenizer(model)
    built.pre_tokenizer = cut
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return built


def save_tokenizer(built: tokenizers.Tokenizer, folder: str | Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`.

    `TokenizersBackend` makes AutoTokenizer read tokenizer.json as it is; without it another class takes its place.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    built.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "TokenizersBackend",
        "bos_token": START,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
