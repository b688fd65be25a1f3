"""Interventions on a running graph, as arrays: one compiled program serves normal runs, controls, influence and replay."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int
import numpy as np

from neuromas_jax.graph import TextGraph


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Interventions:
    """What is done to messages. Node numbers run over the whole graph; `X` is the number of nodes.

    Attributes:
      blank: readers find the node's slot empty (its label stays).
      source: which episode's message readers find, as `question * G + episode`; its own by default. A permutation of questions
        gives the shuffled control, one of a question's episodes that of other episodes.
      replace: readers find `given` instead of what the node wrote.
      force: the node itself writes `given`; the tokens are scored under its own distribution, which gives exact replay.
      given: message ids; without the end token where they replace an edge, with or without it where they are forced.
      given_length: how many of them are real.
      shown: `[receiver, sender]`: an edge that is not shown leaves neither label nor message in the receiver's inbox.
    """

    blank: Bool[Array, "X B G"]
    source: Int[Array, "X B G"]
    replace: Bool[Array, "X B G"]
    force: Bool[Array, "X B G"]
    given: Int[Array, "X B G M"]
    given_length: Int[Array, "X B G"]
    shown: Bool[Array, "X X B G"]


def no_interventions(graph: TextGraph, batch: int, group: int) -> Interventions:
    """Everything is kept as it is. Change fields with `dataclasses.replace`."""
    shape = (graph.size, batch, group)
    own = np.broadcast_to(np.arange(batch * group, dtype=np.int32).reshape(batch, group), shape)
    return Interventions(
        blank=jnp.zeros(shape, bool),
        source=jnp.asarray(own),
        replace=jnp.zeros(shape, bool),
        force=jnp.zeros(shape, bool),
        given=jnp.zeros((*shape, graph.message_tokens), jnp.int32),
        given_length=jnp.zeros(shape, jnp.int32),
        shown=jnp.ones((graph.size, *shape), bool),
    )


def blank_nodes(keep: Interventions, nodes) -> Interventions:
    """The messages of these nodes are blanked for every reader."""
    return dataclasses.replace(keep, blank=keep.blank.at[np.asarray(list(nodes), np.int32)].set(True))


def shuffle_questions(keep: Interventions, by: int = 1) -> Interventions:
    """Every reader finds the messages that were written for another question: the one `by` places further on."""
    _, batch, group = keep.source.shape
    if by % batch == 0:
        raise ValueError(f"shuffling {batch} questions by {by} gives every question its own messages; "
                         f"take a shift between 1 and {batch - 1}")
    source = jnp.asarray(np.roll(np.arange(batch * group, dtype=np.int32).reshape(batch, group), -by, axis=0))
    return dataclasses.replace(keep, source=jnp.broadcast_to(source, keep.source.shape))


def other_episodes(keep: Interventions) -> Interventions:
    """Every reader finds what was written in other episodes of its own question; senders side by side are each of another one.

    Raises ValueError where a group has fewer than 3 episodes, so that all senders would be of the same one.
    """
    nodes, batch, group = keep.source.shape
    if group < 3:
        raise ValueError(f"messages of other episodes need groups of 3 or more, and these have {group}")
    episode = (np.arange(group) + 1 + np.arange(nodes)[:, None] % (group - 1)) % group
    source = np.arange(batch)[:, None] * group + episode[:, None]
    return dataclasses.replace(keep, source=jnp.asarray(source.astype(np.int32)))
