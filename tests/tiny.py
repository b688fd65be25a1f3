"""Small real parts for tests: the embedded tokenizer, a random tiny backbone, questions as ids."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone import DecoderConfig, init_backbone
from neuromas_jax.backbone.adapters import init_bank
from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.methods import FROZEN, ROLES, WHOLE
from neuromas_jax.rollout import Questions, Sampling
from neuromas_jax.text.tokenizer import load_tokenizer

# Methods that any small graph has.
PLAIN = tuple(name for name in WHOLE if name not in (*FROZEN, *ROLES, "graph_random", "gptswarm"))
TEXTS = ("[MAX 3 [MIN 4 9 ] ]", "not ( True ) and False is", "[SM 1 2 ]", "reverse swap a b c d")


@functools.cache
def tokenizer():
    return load_tokenizer(EMBEDDED)


def tiny_config(**changes) -> DecoderConfig:
    config = DecoderConfig(
        vocab_size=tokenizer().vocab_size + 3, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rope_theta=10_000.0,
    )
    return dataclasses.replace(config, **changes)


@functools.cache
def tiny_backbone():
    backbone = init_backbone(tiny_config(), jax.random.key(0))
    return dataclasses.replace(backbone, params={**backbone.params, "embed": backbone.params["embed"] * 20})


def few_words(vocab_size: int) -> Sampling:
    """Few words and mild odds, so that some messages end early."""
    allowed = {tokenizer().end_id, *tokenizer().encode("A B 3")}
    return Sampling(tokenizer().end_id, tuple(sorted(set(range(vocab_size)) - allowed)), temperature=3.0)


def random_bank(config, slots: int, rank: int = 3, seed: int = 1, size: float = 0.1):
    """A bank whose B factors are not zero, so that every adapter matters."""
    bank = init_bank(config, (rank,) * slots, jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed + 1), len(bank)))
    return {site: {"a": pair["a"], "b": size * jax.random.normal(next(keys), pair["b"].shape)} for site, pair in bank.items()}


def encode_questions(texts, bucket: int = 16, first_index: int = 0) -> Questions:
    tokens, valid = np.zeros((1, len(texts), bucket), np.int32), np.zeros((1, len(texts), bucket), bool)
    for row, text in enumerate(texts):
        ids = tokenizer().encode(text)
        tokens[0, row, bucket - len(ids) :], valid[0, row, bucket - len(ids) :] = ids, True
    index = jnp.arange(first_index, first_index + len(texts), dtype=jnp.int32)
    return Questions(jnp.asarray(tokens), jnp.asarray(valid), index)


def for_all(credit, program):
    """One number per episode as that of every node, `[X, B, G]`."""
    return jnp.broadcast_to(credit, (program.graph.size, *credit.shape))


def contents(folder):
    """Bytes of every file below a folder, by its path."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
