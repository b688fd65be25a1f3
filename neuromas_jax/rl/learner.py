"""The learner's view of episodes: what lies behind every written token, recomputed so that it can be differentiated."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuromas_jax.backbone.adapters import Bank, take_slots
from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.parallel.rules import constrain, padded_rows, unpadded
from neuromas_jax.rl.scores import Scores, token_scores
from neuromas_jax.rollout.edges import split_edges
from neuromas_jax.rollout.episodes import Episodes, Program
from neuromas_jax.rollout.rollout import layer_adapters, shared_states
from neuromas_jax.rollout.sampler import count, reader


def message_states(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes
) -> tuple[Float[Array, "N B G M D"], ...]:
    """Hidden states that predict each message token, one array per layer.

    Shared blocks are read once per node and question, forward and backward, for all G episodes. Only message positions come
    out, so no logits are made where nothing was written.

    Args:
      program: the graph and its slots.
      backbone: the frozen decoder.
      bank: adapters of every slot, or None for the bare backbone.
      episodes: what every node read and wrote.
    """
    states = _padded_states(program, backbone, bank, episodes)
    return tuple(unpadded(mine, layer.fired.shape[0]) for mine, layer in zip(states, episodes))


def _padded_states(program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes) -> tuple[jax.Array, ...]:
    """`message_states` of all `padded_rows` of each layer, each on its own devices."""
    read, (bank, _) = reader(backbone, program.lora_scale), split_edges(bank)
    with jax.named_scope("shared"):
        blocks = [jnp.concatenate([getattr(layer, name) for layer in episodes]) for name in ("shared", "shared_valid")]
        shared = shared_states(program, backbone, bank, blocks, microbatch=blocks[0].shape[1])
    states = []
    for number, layer in enumerate(episodes):
        with jax.named_scope(f"layer{number}"):
            nodes, own_tokens = program.graph.nodes(number), layer.own.shape[-1]
            rows = padded_rows(nodes)
            hidden, kv = shared[number]

            def laid(x):
                return constrain(take_slots(x, rows - nodes.start, "question"), "node", "question")

            local, _ = read(
                layer_adapters(bank, program.slots, rows),
                laid(jnp.concatenate([layer.own, layer.message[..., :-1]], axis=-1)),
                laid(jnp.concatenate([layer.own_valid, layer.live[..., :-1]], axis=-1)),
                laid(jnp.broadcast_to(count(layer.shared_valid), layer.fired.shape)),
                (kv,), last=layer.message.shape[-1])
            if not own_tokens:
                first = jnp.broadcast_to(hidden, (*local.shape[:3], 1, hidden.shape[-1]))
                local = jnp.concatenate([first, local], axis=-2)
            states.append(local)
    return tuple(states)


def message_scores(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes, divergence: bool = False
) -> tuple[Scores, ...]:
    """Scores `[N, B, G, M]` of every written token, one entry per layer; with `divergence` also that from the bare backbone."""
    states = _padded_states(program, backbone, bank, episodes)
    bare = jax.lax.stop_gradient(_padded_states(program, backbone, None, episodes)) if divergence else (None,) * len(states)
    found = []
    for number, (mine, other, layer) in enumerate(zip(states, bare, episodes)):
        nodes = program.graph.nodes(number)
        message = constrain(take_slots(layer.message, padded_rows(nodes) - nodes.start, "question"), "node", "question")
        scores = token_scores(functools.partial(backbone.logits, mine), backbone.config.vocab_size, message, program.sampling,
                              None if other is None else functools.partial(backbone.logits, other))
        found.append(unpadded(scores, len(nodes)))
    return tuple(found)


def written_log_probs(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes
) -> tuple[Float[Array, "N B G M"], ...]:
    """Log-probability of each written token, 0 where not live, one array per layer."""
    found = message_scores(program, backbone, bank, episodes)
    return tuple(jnp.where(layer.live, scores.log_prob, 0.0) for scores, layer in zip(found, episodes))
