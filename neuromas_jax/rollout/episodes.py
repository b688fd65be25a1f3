"""What one pass of a graph writes down, and the static program it runs."""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int

from neuromas_jax.graph import TextGraph
from neuromas_jax.rollout.distribution import Sampling
from neuromas_jax.text.prompt import LayerPrompt, PromptTemplate, check_unforgeable, layer_prompts
from neuromas_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything static about running a graph: one trace per program and question bucket.

    Attributes:
      graph: the graph.
      slots: adapter slot of every node.
      prompts: static prompt ids, per layer.
      sampling: rules of the one distribution.
      group: episodes per question, G.
      microbatch: questions that prefill and update read at a time.
      update_nodes: nodes of a layer that an update goes back through at a time; 0 for all of all layers at once.
      lora_scale: LoRA alpha / rank.
      merge: whether a rollout adds each adapter to a copy of the weights first (`adapters.merge`); equal to rounding.
      tree: per layer, how many neighbouring episodes of a group share what its nodes write, so that a group is a tree of samples:
        (4, 2, 1) has two first messages, two answers to each and two to each of those; () where no episodes share.
    """

    graph: TextGraph
    slots: tuple[int, ...]
    prompts: tuple[LayerPrompt, ...]
    sampling: Sampling
    group: int
    microbatch: int
    lora_scale: float = 2.0
    merge: bool = False
    tree: tuple[int, ...] = ()
    update_nodes: int = 0

    def layer_slots(self, layer: int) -> tuple[int, ...]:
        return tuple(self.slots[node] for node in self.graph.nodes(layer))


def make_program(
    graph: TextGraph,
    slots: tuple[int, ...],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    sampling: Sampling,
    group: int,
    microbatch: int,
    lora_scale: float = 2.0,
    merge: bool = False,
    finals: tuple[int, ...] = (),
    tree: tuple[int, ...] = (),
    update_nodes: int = 0,
) -> Program:
    """Tokenises the template; `finals` are layers before the readout that are asked for the final answer too, `tree` and
    `update_nodes` as in `Program`.

    Raises:
      ValueError: a group without an episode, or a segment of the template that a message could write as well.
    """
    if group < 1:
        raise ValueError(f"group {group}; a question needs 1 episode or more")
    prompts = layer_prompts(graph, template, tokenizer, finals)
    check_unforgeable(prompts, tokenizer, sampling.forbidden)
    return Program(graph, slots, prompts, sampling, group, microbatch, lora_scale, merge, tree, update_nodes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Questions:
    """A batch of questions as ids.

    Attributes:
      tokens: one row per distinct view (`TextGraph.views`) and question, left-padded to the bucket.
      valid: which of them are real.
      index: the question's number, which seeds its episodes (`train.batches.pad_questions`).
    """

    tokens: Int[Array, "W B S"]
    valid: Bool[Array, "W B S"]
    index: Int[Array, "B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerEpisodes:
    """What the nodes of one layer read and wrote.

    Attributes:
      shared, shared_valid: the prompt block that a group has in common.
      own, own_valid: inbox and cue; length 0 in a layer that reads no messages.
      message: sampled ids, the end token included.
      live: which of them were sampled (up to and including the end token).
      log_probs: the sampler's log-probability of each; 0 where not live.
      fired: whether the node ran in this episode.
      heard: which of its senders the node listened to, where edges are learned (`rollout.edges`); None where they are given.
    """

    shared: Int[Array, "N B 1 Ts"]
    shared_valid: Bool[Array, "N B 1 Ts"]
    own: Int[Array, "N B G To"]
    own_valid: Bool[Array, "N B G To"]
    message: Int[Array, "N B G M"]
    live: Bool[Array, "N B G M"]
    log_probs: Float[Array, "N B G M"]
    fired: Bool[Array, "N B G"]
    heard: Bool[Array, "N B G K"] | None = None


Episodes = tuple[LayerEpisodes, ...]
"""One entry per layer of the graph. The readout's message holds the answer."""
