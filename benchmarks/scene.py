"""What both sides of a benchmark run on: one folder with weights, adapters, questions and the static ids of every prompt.

Graph 4-2-1, 16 questions x 8 episodes, questions of 96 tokens, messages of 16. The end token is forbidden, so that every message
has exactly 16 tokens on both sides and nobody gains from stopping early.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np

from neuromas_jax.backbone import DecoderConfig, init_backbone, load_config, save_backbone
from neuromas_jax.backbone.adapters import default_merge, init_bank
from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.graph import node_slots, text_graph
from neuromas_jax.rollout import Sampling
from neuromas_jax.rollout.episodes import Program, make_program
from neuromas_jax.rollout.microbatch import default_microbatch
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.text.tokenizer import load_tokenizer

SIZES = {
    "embedded": load_config(EMBEDDED),  # the sizes of the backbone that the package ships
    "32M": DecoderConfig(vocab_size=8192, hidden_size=512, intermediate_size=1536, num_hidden_layers=9, num_attention_heads=8,
                         num_key_value_heads=4, head_dim=64, rope_theta=1e4),
    "120M": DecoderConfig(vocab_size=16384, hidden_size=768, intermediate_size=2304, num_hidden_layers=16, num_attention_heads=12,
                          num_key_value_heads=4, head_dim=64, rope_theta=1e4),
}


@dataclasses.dataclass(frozen=True)
class Load:
    """How much work one repetition is."""

    topology: str = "4-2-1"
    questions: int = 16
    group: int = 8
    question_tokens: int = 96
    message_tokens: int = 16
    rank: int = 4
    lora_scale: float = 2.0
    learning_rate: float = 2e-3
    clip: float = 1.0


def write_scene(folder: pathlib.Path, size: str, load: Load) -> int:
    """Draws weights, adapters and questions, and writes them for both sides. Returns the number of backbone parameters."""
    backbone = init_backbone(SIZES[size], jax.random.key(0))
    save_backbone(backbone, folder / "model")
    program = make_scene_program(load, backbone.config)
    bank = init_bank(backbone.config, (load.rank,) * program.graph.size, jax.random.key(1))
    draw = np.random.default_rng(2)
    factors = {}
    for site, pair in bank.items():
        factors[f"{site}.a"] = np.asarray(pair["a"])
        factors[f"{site}.b"] = draw.normal(0, 0.02, pair["b"].shape).astype(np.float32)  # not zero: an adapter that is at work
    np.savez(folder / "bank.npz", **factors)
    words = draw.integers(max(program.sampling.forbidden) + 1, backbone.config.vocab_size, (load.questions, load.question_tokens))
    np.savez(folder / "questions.npz", tokens=words.astype(np.int32))
    layers = [{"width": layer.width, "reads": layer.reads,
               "start": prompt.start, "tails": prompt.tails, "slots": prompt.slots, "cue": prompt.cue}
              for layer, prompt in zip(program.graph.layers, program.prompts)]
    facts = {"load": dataclasses.asdict(load), "layers": layers, "forbidden": program.sampling.forbidden}
    (folder / "scene.json").write_text(json.dumps(facts))
    return backbone.size


def make_scene_program(load: Load, config: DecoderConfig) -> Program:
    """The program of our side. Every added token is forbidden, the end among them; the rest of the vocabulary is open."""
    tokenizer = load_tokenizer(EMBEDDED)
    sampling = Sampling(tokenizer.end_id, tuple(sorted(tokenizer.added_ids)))
    graph = text_graph(load.topology, message_tokens=load.message_tokens)
    return make_program(graph, node_slots(graph), PromptTemplate(), tokenizer, sampling, load.group,
                        default_microbatch(load.questions, load.group, graph), load.lora_scale,
                        default_merge(config, graph.size))


def read_load(folder: pathlib.Path) -> Load:
    return Load(**json.loads((folder / "scene.json").read_text())["load"])


def score(messages: np.ndarray) -> np.ndarray:
    """The reward of readout messages `[..., M]`, on the host: 1 where the ids add up to an even number."""
    return (messages.sum(axis=-1) % 2 == 0).astype(np.float32)
