"""MALT's credit: values of a tree of samples, then likelihood of the good ones, then preferences between siblings.

A group of G episodes is a tree (`Program.tree`): with blocks (4, 2, 1) a question has two first messages, each two second ones,
each of those two answers. A message is worth the mean reward of the episodes below it, and is good above one half. In the phase
"malt_sft" the likelihood of good messages is raised, in "malt_dpo" good messages are preferred to bad siblings, which answer the
same context. Both learn from what a fixed policy wrote: the one that the phase began with, which is also the reference of the
preferences. After Motwani et al. (2024), who sample all trees from the untrained models.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np

from neuromas_jax.backbone.adapters import Bank
from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.rl.credit import TREES
from neuromas_jax.rl.learner import written_log_probs
from neuromas_jax.rollout.episodes import Episodes, Program
from neuromas_jax.rollout.microbatch import map_questions

SFT, DPO = MALT = TREES
BETA = 0.1  # of the preferences, as Rafailov et al. (2023)
GOOD = 0.5  # values above it


def node_blocks(program: Program) -> np.ndarray:
    """How many neighbouring episodes share a message, for every node `[X]`."""
    return np.asarray([program.tree[program.graph.place(node)[0]] for node in range(program.graph.size)])


def values(rewards: Float[Array, "B G"], blocks: np.ndarray) -> Float[Array, "X B G"]:
    """Mean reward of the episodes below each node's message, repeated for all that share it.

    >>> values(jnp.asarray([[1.0, 0.0, 1.0, 1.0]]), np.asarray([4, 2, 1]))[:, 0]
    [[.75, .75, .75, .75], [.5, .5, 1., 1.], [1., 0., 1., 1.]]
    """
    batch, group = rewards.shape

    def over(block):
        means = rewards.reshape(batch, group // block, block).mean(axis=-1, keepdims=True)
        return jnp.broadcast_to(means, (batch, group // block, block)).reshape(batch, group)

    return jnp.stack([over(int(block)) for block in blocks])


def likelihood_credit(worth: Float[Array, "X B G"]) -> Float[Array, "X B G"]:
    """One for good messages, nothing for others: the gradient of supervised learning on the good ones."""
    return (worth > GOOD).astype(worth.dtype)


def preference_credit(
    worth: Float[Array, "X B G"], ratio: Float[Array, "X B G"], blocks: np.ndarray
) -> Float[Array, "X B G"]:
    """The gradient of DPO as credit of log-probabilities, over all pairs of a good message and a bad sibling.

    Of a pair whose log-ratios to the reference differ by d = ratio(good) - ratio(bad) the good one is pulled up, and the bad one
    pushed down, by beta sigmoid(-beta d). Messages of the first nodes answer the question itself and have no preferences, as in
    the source; nor have messages whose siblings are as good or as bad.

    Args:
      worth: of `values`.
      ratio: log-probability of each message now, less that under the reference.
      blocks: of `node_blocks`.
    """
    _, batch, group = worth.shape
    found = []
    above = max(blocks)
    for node, block in enumerate(int(one) for one in blocks):
        parents = [int(one) for one in blocks if one > block]
        if block == above:
            found.append(jnp.zeros_like(worth[node]))
            continue
        shape = (batch, group // min(parents), min(parents) // block, block)
        mine, good = ratio[node].reshape(shape)[..., 0], worth[node].reshape(shape)[..., 0] > GOOD
        pull = BETA * jax.nn.sigmoid(-BETA * (mine[..., :, None] - mine[..., None, :]))
        pull = jnp.where(good[..., :, None] & ~good[..., None, :], pull, 0.0)  # [.., good, bad]
        credit = pull.sum(axis=-1) - pull.sum(axis=-2)
        found.append(jnp.broadcast_to(credit[..., None], shape).reshape(batch, group))
    return jnp.stack(found)


def log_ratio(program: Program, backbone: Backbone, bank: Bank, episodes: Episodes) -> Float[Array, "X B G"]:
    """Log-probability of every message under the bank, less the sampler's; a microbatch of questions at a time."""
    def read(episodes):
        now = written_log_probs(program, backbone, bank, episodes)
        return jnp.concatenate([(one - layer.log_probs).sum(axis=-1) for one, layer in zip(now, episodes)])

    return map_questions(read, program.microbatch, episodes)


def malt_credit(
    phase: str, program: Program, backbone: Backbone, bank: Bank, episodes: Episodes, rewards: Float[Array, "B G"]
) -> tuple[Float[Array, "X B G"], Bool[Array, "X B G"]]:
    """Credit of a phase, `SFT` or `DPO`, and which messages have any."""
    blocks = node_blocks(program)
    worth = values(rewards, blocks)
    credit = likelihood_credit(worth) if phase == SFT else preference_credit(
        worth, log_ratio(program, backbone, bank, episodes), blocks)
    return credit, credit != 0
