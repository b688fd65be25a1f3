"""The learner's view of episodes: what lies behind every written token, recomputed so that it can be differentiated."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuromas_jax.backbone.adapters import Bank, take_slots
from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.parallel.rules import constrain, padded_rows
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
                return constrain(take_slots(x, rows - nodes.start), "node", "question")

            local, _ = read(
                layer_adapters(bank, program.slots, rows),
                laid(jnp.concatenate([layer.own, layer.message[..., :-1]], axis=-1)),
                laid(jnp.concatenate([layer.own_valid, layer.live[..., :-1]], axis=-1)),
                laid(jnp.broadcast_to(count(layer.shared_valid), layer.fired.shape)),
                (kv,), last=layer.message.shape[-1])
            if not own_tokens:
                first = jnp.broadcast_to(hidden, (*local.shape[:3], 1, hidden.shape[-1]))
                local = jnp.concatenate([first, local], axis=-2)
            states.append(local[: len(nodes)])
    return tuple(states)


def message_scores(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes, divergence: bool = False
) -> tuple[Scores, ...]:
    """Scores `[N, B, G, M]` of every written token, one entry per layer; with `divergence` also that from the bare backbone."""
    states = message_states(program, backbone, bank, episodes)
    bare = jax.lax.stop_gradient(message_states(program, backbone, None, episodes)) if divergence else (None,) * len(states)
    return tuple(
        token_scores(functools.partial(backbone.logits, mine), backbone.config.vocab_size, layer.message, program.sampling,
                     None if other is None else functools.partial(backbone.logits, other))
        for mine, other, layer in zip(states, bare, episodes))


def written_log_probs(
    program: Program, backbone: Backbone, bank: Bank | None, episodes: Episodes
) -> tuple[Float[Array, "N B G M"], ...]:
    """Log-probability of each written token, 0 where not live, one array per layer."""
    found = message_scores(program, backbone, bank, episodes)
    return tuple(jnp.where(layer.live, scores.log_prob, 0.0) for scores, layer in zip(found, episodes))
