"""Imitation: new nodes learn to write what a teacher wrote, on text that the graphs write themselves. A short supervised phase.

The teacher of a relaying node is its first sender, of a distilled one the old node that it is most alike, in the old graph. Its
sampled message is forced on the new node, whose likelihood of it is then raised; all other slots are held.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.graph.growth import Grown
from neuromas_jax.rl import LearnerState
from neuromas_jax.rl.growth import SlotOrigins
from neuromas_jax.rollout import Episodes, Interventions, no_interventions
from neuromas_jax.train.batches import next_batch
from neuromas_jax.train.run import Compiled


def teachers(grown: Grown, rule: str) -> dict[int, int]:
    """New node -> its teacher: a node of the new graph for "relay", of the old one for "distilled".

    Raises:
      ValueError: a new node of the first layer has no sender to relay.
    """
    if rule == "distilled":
        return {node: grown.like[node] for node in grown.new}
    found, graph = {}, grown.graph
    for node in grown.new:
        number, index = graph.place(node)
        senders = [sender for sender, kept in zip(graph.senders(number), graph.edge_mask(number)[index]) if kept]
        if not senders:
            raise ValueError(f"new='relay': node {node} of {graph} is in the first layer and reads no message to pass on; "
                             "use 'distilled' or 'zero_b' for layers in front")
        found[node] = senders[index % len(senders)]
    return found


def forced(keep: Interventions, episodes: Episodes, taught: dict[int, int]) -> Interventions:
    """Nodes are forced to write what their teachers wrote, cut to their own message length by the sampler.

    Args:
      keep: of the graph that is taught.
      episodes: in which the teachers wrote, with as many questions and episodes.
      taught: node -> teacher, counted through `episodes`.
    """
    longest = keep.given.shape[-1]

    def fit(x):
        x = x[..., :longest]
        return jnp.pad(x, ((0, 0),) * 3 + ((0, longest - x.shape[-1]),))

    message = jnp.concatenate([fit(layer.message) for layer in episodes])
    length = jnp.concatenate([fit(layer.live).sum(-1, dtype=jnp.int32) for layer in episodes])
    nodes, sources = np.asarray(list(taught)), np.asarray(list(taught.values()))
    return dataclasses.replace(
        keep, force=keep.force.at[nodes].set(True), given=keep.given.at[nodes].set(message[sources]),
        given_length=keep.given_length.at[nodes].set(length[sources]))


def imitate(
    old: Compiled, old_bank, compiled: Compiled, learner: LearnerState, grown: Grown, origins: SlotOrigins, cursor: int, key
) -> tuple[LearnerState, int]:
    """`growth.imitate` steps of likelihood for the new slots.

    Args:
      old: programs of the old graph, whose nodes teach under "distilled".
      old_bank: its adapters.
      compiled: programs of the grown graph.
      learner: of the grown graph.
      grown: what came from where.
      origins: the same for slots.
      cursor: number of the next training question.
      key: of the sampling.

    Returns:
      The learner and the cursor after it.
    """
    run = compiled.run
    growth, size, group = run.method.stages[0].growth, run.config.rollout.questions, run.config.rollout.group
    taught, keep = teachers(grown, growth.new), no_interventions(run.method.graph, size, group)
    rates = jnp.asarray([0.0 if slot is not None else run.optimizer.learning_rate for slot in origins.carried], jnp.float32)
    learner = dataclasses.replace(learner, learning_rate=rates)
    credit = jnp.zeros((run.method.graph.size, size, group)).at[np.asarray(list(taught))].set(1.0)
    for step in range(growth.imitate):
        graphs = run.method.graph if growth.new == "relay" else old.run.method.graph
        step_key, before = jax.random.fold_in(key, step), cursor
        _, batch, cursor, _ = next_batch(
            run.task, before, size, run.method.graph, run.parts.tokenizer, run.family.buckets, run.config.rollout.too_long)
        if growth.new == "relay":
            said = compiled.rollout(learner.bank, batch, keep, step_key)
        else:
            _, theirs, _, _ = next_batch(
                run.task, before, size, graphs, run.parts.tokenizer, run.family.buckets, run.config.rollout.too_long)
            said = old.rollout(old_bank, theirs, no_interventions(graphs, size, group), step_key)
        # The same key: what is not forced is written as before, so that a relay's senders write what was forced.
        episodes = compiled.rollout(learner.bank, batch, forced(keep, said, taught), step_key)
        learner, _ = compiled.learn(learner, episodes, credit, batch.tokens.shape[-1])
    return learner, cursor
