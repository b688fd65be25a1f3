"""The learner's view of episodes: what lies behind every written token, recomputed so that it can be differentiated."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from neuromas_jax.backbone.adapters import Adapters, Bank, take_slots
from neuromas_jax.backbone.decoder import KV, Backbone
from neuromas_jax.parallel.rules import constrain, padded_rows, unpadded
from neuromas_jax.rl.scores import Scores, token_scores
from neuromas_jax.rollout.edges import split_edges
from neuromas_jax.rollout.episodes import Episodes, LayerEpisodes, Program
from neuromas_jax.rollout.rollout import layer_adapters, shared_states
from neuromas_jax.rollout.sampler import count, prefill, reader

Shared = tuple[Float[Array, "N B 1 1 D"], KV]
"""Of a layer's nodes: the last hidden state of their shared blocks, and their keys and values."""


def read_shared(program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes) -> list[Shared]:
    """The shared blocks of all nodes, read once for all G episodes of a question; an entry for each layer."""
    bank, _ = split_edges(bank)
    blocks = [jnp.concatenate([getattr(layer, name) for layer in episodes]) for name in ("shared", "shared_valid")]
    with jax.named_scope("update/shared"):
        return shared_states(program, backbone, bank, blocks, microbatch=blocks[0].shape[1])


def read_own_shared(program: Program, backbone: Backbone, adapters: Adapters | None, layer: LayerEpisodes) -> Shared:
    """The same of some nodes of one layer, with an adapter for each."""
    start = jnp.zeros_like(layer.shared, shape=layer.shared.shape[:3])
    with jax.named_scope("shared"):
        return prefill(backbone, adapters, program.lora_scale, start.shape[1], layer.shared, layer.shared_valid, start, ())


def rows_of(layer: LayerEpisodes, rows: np.ndarray) -> LayerEpisodes:
    """What these nodes of a layer read and wrote, each where it is computed."""
    return jax.tree.map(lambda x: constrain(take_slots(x, rows, "question"), "node", "question"), layer)


def layer_states(
    program: Program, backbone: Backbone, adapters: Adapters | None, layer: LayerEpisodes, shared: Shared
) -> Float[Array, "N B G M D"]:
    """Hidden states that predict each message token of some nodes of one layer.

    Only message positions come out, so no logits are made where nothing was written.

    Args:
      program: the graph and its slots.
      backbone: the frozen decoder.
      adapters: one for each of the nodes, None for the bare backbone.
      layer: what they read and wrote.
      shared: what `read_shared` found for them.
    """
    hidden, kv = shared
    local, _ = reader(backbone, program.lora_scale)(
        adapters, jnp.concatenate([layer.own, layer.message[..., :-1]], axis=-1),
        jnp.concatenate([layer.own_valid, layer.live[..., :-1]], axis=-1),
        constrain(jnp.broadcast_to(count(layer.shared_valid), layer.fired.shape), "node", "question"), (kv,),
        last=layer.message.shape[-1])
    if layer.own.shape[-1]:
        return local
    first = jnp.broadcast_to(hidden, (*local.shape[:3], 1, hidden.shape[-1]))
    return jnp.concatenate([first, local], axis=-2)


def layer_scores(
    program: Program, backbone: Backbone, adapters: Adapters | None, layer: LayerEpisodes, shared: Shared,
    bare: Shared | None = None,
) -> Scores:
    """Scores `[N, B, G, M]` of every token that some nodes of one layer wrote; with `bare`, which is `shared` of the bare
    backbone, also the divergence from that. The rest as `layer_states` has it."""
    mine = layer_states(program, backbone, adapters, layer, shared)
    other = None if bare is None else jax.lax.stop_gradient(layer_states(program, backbone, None, layer, bare))
    return token_scores(
        functools.partial(backbone.logits, mine), backbone.config.vocab_size, layer.message, program.sampling,
        None if other is None else functools.partial(backbone.logits, other))


def of_layers(program: Program, bank: Bank | None, episodes: Episodes):
    """Number, nodes, episodes and adapters of each layer; of `padded_rows` on a mesh."""
    bank, _ = split_edges(bank)
    for number, layer in enumerate(episodes):
        nodes = program.graph.nodes(number)
        rows = padded_rows(nodes)
        yield number, nodes, rows_of(layer, rows - nodes.start), layer_adapters(bank, program.slots, rows)


def message_states(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes
) -> tuple[Float[Array, "N B G M D"], ...]:
    """`layer_states` of all nodes, one array per layer; a bank of None is the bare backbone."""
    shared, found = read_shared(program, backbone, bank, episodes), []
    for number, nodes, layer, adapters in of_layers(program, bank, episodes):
        with jax.named_scope(f"update/layer{number}"):
            found.append(unpadded(layer_states(program, backbone, adapters, layer, shared[number]), len(nodes)))
    return tuple(found)


def message_scores(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes, divergence: bool = False
) -> tuple[Scores, ...]:
    """`layer_scores` of all nodes, one entry per layer; with `divergence` also that from the bare backbone."""
    shared, found = read_shared(program, backbone, bank, episodes), []
    bare = read_shared(program, backbone, None, episodes) if divergence else [None] * len(episodes)
    for number, nodes, layer, adapters in of_layers(program, bank, episodes):
        with jax.named_scope(f"update/layer{number}"):
            scores = layer_scores(program, backbone, adapters, layer, shared[number], bare[number])
            found.append(unpadded(scores, len(nodes)))
    return tuple(found)


def written_log_probs(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes
) -> tuple[Float[Array, "N B G M"], ...]:
    """Log-probability of each written token, 0 where not live, one array per layer."""
    found = message_scores(program, backbone, bank, episodes)
    return tuple(jnp.where(layer.live, scores.log_prob, 0.0) for scores, layer in zip(found, episodes))
