"""The pure update: `(state, batch) -> (state, metrics)`.

One gradient step on every slot that wrote something worth learning from.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np
import optax

from neuromas_jax.backbone.adapters import Bank, take_slots
from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.parallel.rules import constrain, freely, join, mesh_size, padded_rows, split, unpadded
from neuromas_jax.rl.credit import CRITIC, advantages, informative
from neuromas_jax.rl.critic import Critic, criticise
from neuromas_jax.rl.learner import layer_scores, message_scores, read_own_shared, rows_of
from neuromas_jax.rl.malt import MALT, malt_credit
from neuromas_jax.rl.objective import LayerSums, Objective, layer_loss
from neuromas_jax.rollout.edges import edge_log_prob, split_edges
from neuromas_jax.rollout.episodes import Episodes, Program
from neuromas_jax.rollout.microbatch import check_microbatch, take_questions
from neuromas_jax.rollout.rollout import layer_adapters


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam with clipping, one independent copy per slot.

    Attributes:
      learning_rate: default step size; the state carries one per slot, so slots may differ.
      clip: largest gradient norm of one slot.
      b1, b2, eps: Adam's constants.
    """

    learning_rate: float = 2e-3
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8

    def transform(self) -> optax.GradientTransformation:
        """The transform of one slot, without the learning rate."""
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.scale_by_adam(self.b1, self.b2, self.eps))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnerState:
    """All that an update changes.

    Attributes:
      bank: adapters `[S, ...]`.
      moments: optax state of every slot, leading axis S.
      learning_rate: step size of every slot.
      critic: of the credit "critic"; None for the others.
      reference: the adapters that write the episodes and stay as they are, of `rl.malt`; None where the bank itself writes.
    """

    bank: Bank
    moments: optax.OptState
    learning_rate: Float[Array, "S"]
    critic: Critic | None = None
    reference: Bank | None = None

    @property
    def acting(self) -> Bank:
        """The adapters that write the training episodes."""
        return self.bank if self.reference is None else self.reference


def init_learner(optimizer: Optimizer, bank: Bank, critic: Critic | None = None) -> LearnerState:
    slots = jax.tree.leaves(bank)[0].shape[0]
    moments = jax.vmap(optimizer.transform().init)(bank)
    return LearnerState(bank, moments, jnp.full((slots,), optimizer.learning_rate, jnp.float32), critic)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UpdateMetrics:
    """Numbers of one update; nodes run over the whole graph (X), slots over the bank (S)."""

    loss: Float[Array, "X"]
    gradient_norm: Float[Array, "S"]
    moved: Bool[Array, "S"]
    layers: tuple[LayerSums, ...]
    informative: Float[Array, ""]  # share of groups with variance


def loss_of_bank(
    objective: Objective, program: Program, backbone: Backbone, bank: Bank, episodes: Episodes, credit: Float[Array, "X B G"]
):
    """Sum of all nodes' losses, with (per-node losses, per-layer sums) beside it."""
    found = message_scores(program, backbone, bank, episodes, divergence=bool(objective.kl_penalty))
    losses, sums, floored = [], [], floored_nodes(objective, program)
    for number, (scores, layer) in enumerate(zip(found, episodes)):
        rows = rows_in(program, number)
        with jax.named_scope(f"update/layer{number}"):
            loss, layer_sums = layer_loss(objective, scores, layer, credit[rows], floored[rows])
        losses.append(loss)
        sums.append(layer_sums)
    losses = jnp.concatenate(losses) + edge_losses(program, bank, episodes, credit)
    return losses.sum(), (losses, tuple(sums))


def rows_in(program: Program, number: int) -> slice:
    """Where a layer's nodes are among those of the graph."""
    nodes = program.graph.nodes(number)
    return slice(nodes.start, nodes.stop)


def floored_nodes(objective: Objective, program: Program) -> Float[Array, "X"]:
    """1 for nodes that the entropy floor is for: those named, or all that somebody reads."""
    read = range(program.graph.size - program.graph.layers[-1].width)
    nodes = read if objective.floor_nodes is None else objective.floor_nodes
    return jnp.zeros(program.graph.size).at[jnp.asarray(tuple(nodes), jnp.int32)].set(1.0)


def edge_losses(program: Program, bank: Bank, episodes: Episodes, credit: Float[Array, "X B G"]) -> Float[Array, "X"]:
    """What a node loses by whom it heard, where that is its choice as well; else 0."""
    _, logits = split_edges(bank)
    if logits is None:
        return jnp.zeros(program.graph.size)
    found = []
    for number, layer in enumerate(episodes):
        chosen = freely(functools.partial(edge_log_prob, program, number), None, "question")(logits, layer)
        found.append(-(credit[rows_in(program, number)] * chosen).mean(axis=(1, 2)))
    return jnp.concatenate(found)


def gradient_by_nodes(
    objective: Objective, program: Program, backbone: Backbone, bank: Bank, episodes: Episodes, credit: Float[Array, "X B G"]
):
    """Gradient of `loss_of_bank` and what it has beside it, a few nodes of a layer after another.

    What is kept for the way back is that of `program.update_nodes` nodes: where this fits, nothing has to be computed again
    (`Backbone.remat`). Nodes of a layer do not read each other, so their gradients are their own.
    """
    floored, losses, sums = floored_nodes(objective, program), [], []

    def of_edges(bank):
        found = edge_losses(program, bank, episodes, credit)
        return found.sum(), found

    gradient, edges = jax.grad(of_edges, has_aux=True)(bank)
    for number, layer in enumerate(episodes):
        nodes = program.graph.nodes(number)
        step = mesh_size("node")
        size = -(-min(program.update_nodes, len(nodes)) // step) * step
        rows = padded_rows(nodes, size)
        adapters, back = jax.vjp(lambda bank: layer_adapters(split_edges(bank)[0], program.slots, rows), bank)
        real = jnp.asarray(np.arange(len(rows)) < len(nodes), jnp.float32)
        mine = (adapters, rows_of(layer, rows - nodes.start), take_slots(credit, rows, "question"), floored[rows], real)
        portions = jax.tree.map(lambda x: split(constrain(x, "node"), 0, size, "node"), mine)

        def of(portion):
            adapters, layer, credit, floored, real = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, portion, 1, keepdims=False), portions)

            def loss(adapters):
                shared = read_own_shared(program, backbone, adapters, layer)
                bare = read_own_shared(program, backbone, None, layer) if objective.kl_penalty else None
                scores = layer_scores(program, backbone, adapters, layer, shared, bare)
                found, sums = layer_loss(objective, scores, layer, credit, floored)
                return (found * real).sum(), (found, sums)

            return jax.grad(loss, has_aux=True)(adapters)

        with jax.named_scope(f"update/layer{number}"):
            found = jax.lax.map(of, jnp.arange(len(rows) // size))
        slope, (loss, layer_sums) = jax.tree.map(lambda x: join(jnp.moveaxis(x, 0, 1), 0, "node"), found)
        gradient = jax.tree.map(jnp.add, gradient, back(slope)[0])
        losses.append(unpadded(loss, len(nodes)))
        sums.append(unpadded(layer_sums, len(nodes)))
    return gradient, (jnp.concatenate(losses) + edges, tuple(sums))


def accumulated_gradient(
    objective: Objective, program: Program, backbone: Backbone, bank: Bank, episodes: Episodes, credit: Float[Array, "X B G"]
):
    """Gradient of `loss_of_bank`, per-node losses and per-layer sums of the whole batch, one microbatch after another.

    An entropy floor looks at the mean of each microbatch.
    """
    batch, size = credit.shape[1], program.microbatch
    check_microbatch(size, batch)

    def of_questions(start):
        rows = take_questions(episodes, start, size)
        mine = take_questions(credit, start, size)
        if program.update_nodes:
            gradient, (losses, sums) = gradient_by_nodes(objective, program, backbone, bank, rows, mine)
        else:
            gradient, (losses, sums) = jax.grad(
                lambda bank: loss_of_bank(objective, program, backbone, bank, rows, mine), has_aux=True)(bank)
        # A microbatch divides by its own size: all are alike, so the mean over them divides by that of the batch.
        return jax.tree.map(lambda x: x * (size / batch), (gradient, losses)), sums

    def add(total, start):
        (means, sums), (new_means, new_sums) = total, of_questions(start)
        return (jax.tree.map(jnp.add, means, new_means), tuple(map(LayerSums.join, sums, new_sums))), None

    if size == batch:
        (gradient, losses), sums = of_questions(0)
    else:
        (_, losses), sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_questions, 0))
        nothing = (jax.tree.map(jnp.zeros_like, bank), losses), sums
        ((gradient, losses), sums), _ = jax.lax.scan(add, nothing, jnp.arange(0, batch, size))
    return gradient, losses, sums


def live_slots(program: Program, state: LearnerState, episodes: Episodes, weight: Bool[Array, "X B G"]) -> Bool[Array, "S"]:
    """Slots that may move: some node on the slot fired in an episode that weighs in its loss, and it is not held (rate 0)."""
    fired = jnp.concatenate([layer.fired for layer in episodes])
    live = jnp.zeros(state.learning_rate.shape, bool)
    return live.at[jnp.asarray(program.slots)].max((fired & weight).any(axis=(1, 2))) & (state.learning_rate > 0)


def learn(
    objective: Objective,
    optimizer: Optimizer,
    program: Program,
    backbone: Backbone,
    state: LearnerState,
    episodes: Episodes,
    credit: Float[Array, "X B G"],
    weight: Bool[Array, "X B G"],
) -> tuple[LearnerState, UpdateMetrics]:
    """One gradient step on every slot with a live row, for any credit: the part of `update` that knows no rewards. Pure.

    A slot's parameters, moments and step count change only if it had a live row and its rate is not 0: stale Adam moments would
    move it even on a zero gradient.

    Args:
      objective: optional terms.
      optimizer: Adam's constants.
      program: what produced the episodes.
      backbone: the frozen decoder.
      state: adapters, moments, learning rates; a slot of rate 0 is held.
      episodes: what was written.
      credit: of every node in every episode.
      weight: episodes of a node that count as live rows.
    """
    gradient, losses, sums = accumulated_gradient(objective, program, backbone, state.bank, episodes, credit)
    live = live_slots(program, state, episodes, weight)

    def where_live(new, old):
        return jnp.where(live.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    def stepped(parameter, step):
        rate = state.learning_rate.reshape(-1, *(1,) * (parameter.ndim - 1))
        return parameter - (rate * step).astype(parameter.dtype)

    with jax.named_scope("update/optimizer"):
        norms = jax.vmap(optax.global_norm)(gradient)
        direction, moments = jax.vmap(optimizer.transform().update)(gradient, state.moments)
        bank = jax.tree.map(where_live, jax.tree.map(stepped, state.bank, direction), state.bank)
        moments = jax.tree.map(where_live, moments, state.moments)
    counted = weight.any(axis=(0, 2)).mean(dtype=jnp.float32)
    return dataclasses.replace(state, bank=bank, moments=moments), UpdateMetrics(losses, norms, live, sums, counted)


def update(
    objective: Objective,
    optimizer: Optimizer,
    program: Program,
    backbone: Backbone,
    state: LearnerState,
    episodes: Episodes,
    rewards: Float[Array, "B G"],
    invalid: Bool[Array, "X B G"] | None = None,
) -> tuple[LearnerState, UpdateMetrics]:
    """One step of policy gradient on all nodes. Pure; jit it with the first three arguments static and `state` donated.

    Args:
      objective: credit rule and optional terms.
      optimizer: Adam's constants.
      program: what produced the episodes.
      backbone: the frozen decoder.
      state: adapters, moments, learning rates.
      episodes: one rollout batch.
      rewards: one per question and episode.
      invalid: nodes that wrote what nobody can read; needed for `objective.invalid_penalty` alone.
    """
    if objective.credit in MALT:
        with jax.named_scope("update/credit"):
            credit, weight = malt_credit(objective.credit, program, backbone, state.bank, episodes, rewards)
        return learn(objective, optimizer, program, backbone, state, episodes, credit, weight)
    if objective.credit == CRITIC:
        with jax.named_scope("update/credit"):
            credit, critic = criticise(program, backbone, state.critic, episodes, rewards)
        state, metrics = learn(objective, optimizer, program, backbone, state, episodes, credit, jnp.ones(credit.shape, bool))
        return dataclasses.replace(state, critic=critic), metrics
    with jax.named_scope("update/credit"):
        earned = jnp.broadcast_to(rewards, (program.graph.size, *rewards.shape))
        if objective.invalid_penalty:
            earned = earned - objective.invalid_penalty * invalid
        fired = jnp.concatenate([layer.fired for layer in episodes])
        credit = advantages(objective.credit, earned, program.slots, fired)
        weight = jnp.broadcast_to((informative(earned) | objective.regularised)[..., None], earned.shape)
    state, metrics = learn(objective, optimizer, program, backbone, state, episodes, credit, weight)
    return state, dataclasses.replace(metrics, informative=informative(rewards).mean(dtype=jnp.float32))
