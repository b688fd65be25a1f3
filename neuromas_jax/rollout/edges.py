"""Learned edges: whom a node listens to is one more thing that its slot decides, by a coin per edge and episode.

A bank may hold `edges` beside the adapters' sites, or alone, over a frozen backbone:

    bank["edges"]["logits"]: [S, X]    a slot's logit for each node of the graph as a sender

An edge that the graph allows is shown with probability sigmoid(logit). Greedy runs show the edges with a logit above 0. After
GPTSwarm (Zhuge et al. 2024), whose agents are frozen and whose edges alone are learned, by REINFORCE.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np

from neuromas_jax.backbone.adapters import Bank
from neuromas_jax.graph import TextGraph
from neuromas_jax.rollout.distribution import row_uniforms
from neuromas_jax.rollout.episodes import LayerEpisodes, Program

EDGES = "edges"


def edge_bank(slots: int, nodes: int) -> Bank:
    """A bank of edges alone: every edge is shown half of the time."""
    return {EDGES: {"logits": jnp.zeros((slots, nodes), jnp.float32)}}


def split_edges(bank: Bank | None) -> tuple[Bank | None, Float[Array, "S X"] | None]:
    """Adapters, None where there are none, and edge logits, None where edges are given."""
    if not bank or EDGES not in bank:
        return bank, None
    return {site: pair for site, pair in bank.items() if site != EDGES} or None, bank[EDGES]["logits"]


def allowed_edges(graph: TextGraph) -> np.ndarray:
    """`[reader, sender]`: edges that the graph has."""
    found = np.zeros((graph.size, graph.size), bool)
    for number in range(graph.rounds):
        for reader, row in zip(graph.nodes(number), graph.edge_mask(number)):
            for sender, kept in zip(graph.senders(number), row):
                found[reader, sender] = kept
    return found


def choose_edges(program: Program, logits: Float[Array, "S X"], index, key, greedy: bool) -> Bool[Array, "X X B G"]:
    """Which sender every node listens to in every episode."""
    size, group = program.graph.size, program.group
    mine = logits[jnp.asarray(program.slots)]  # [reader, sender]
    if greedy:
        return jnp.broadcast_to((mine > 0)[..., None, None], (size, size, index.shape[0], group))
    uniforms = row_uniforms(jax.random.fold_in(key, 1), size, index, group, size)  # [reader, B, G, sender]
    return jnp.moveaxis(uniforms < jax.nn.sigmoid(mine)[:, None, None], -1, 1)


def edge_log_prob(program: Program, number: int, logits: Float[Array, "S X"], layer: LayerEpisodes) -> Float[Array, "N B G"]:
    """Log-probability of the edges that a layer's nodes chose in each episode; edges that the graph lacks were no choice."""
    graph = program.graph
    senders = np.asarray(graph.senders(number), np.int32)
    mine = logits[jnp.asarray(program.layer_slots(number))][:, senders][:, None, None]
    wired = jnp.asarray(graph.edge_mask(number), bool).reshape(mine.shape[0], 1, 1, len(senders))
    chosen = jnp.where(layer.heard, jax.nn.log_sigmoid(mine), jax.nn.log_sigmoid(-mine))
    return jnp.where(wired, chosen, 0.0).sum(axis=-1)
