"""The loss of one graph layer, without side effects: parameters and data in, loss and sums out."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neuromas_jax.rl.scores import Scores
from neuromas_jax.rollout.episodes import LayerEpisodes


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is maximised: reward by REINFORCE, and two optional terms.

    Attributes:
      credit: name of the rule in `rl.credit`.
      entropy_bonus: weight of the mean entropy of each message token's distribution.
      kl_penalty: weight of the divergence KL(adapted || bare backbone) of each message token, over the whole vocabulary.
      entropy_floor, floor_weight: nodes whose mean entropy per token (nats) is under the floor are pulled up to it with this
        weight, and only then: a bonus that ends, for nodes that would settle before others have a use for them (ours).
      floor_nodes: whom the floor is for; None for all that somebody reads. A stage of growth sets it to those that are new.
      invalid_penalty: what a node's own step loses where nobody can read what it wrote (0.1 in the code of Dr. MAS): a readout's
        answer without a value, any other message without a label and a value.
    """

    credit: str = "leave_one_out"
    entropy_bonus: float = 0.0
    kl_penalty: float = 0.0
    entropy_floor: float = 0.0
    floor_weight: float = 0.0
    floor_nodes: tuple[int, ...] | None = None
    invalid_penalty: float = 0.0

    @property
    def regularised(self) -> bool:
        """Whether terms other than the reward weigh groups in which all episodes earned the same."""
        return bool(self.entropy_bonus or self.kl_penalty or self.floor_weight)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerSums:
    """Sums over a layer's live message tokens, per node: divide by `tokens` for means that stay right under accumulation."""

    tokens: Float[Array, "N"]
    entropy: Float[Array, "N"]
    kl: Float[Array, "N"]
    log_prob_gap: Float[Array, "N"]  # largest |learner - sampler| log-probability

    def join(self, other: "LayerSums") -> "LayerSums":
        """Sums over the rows of both."""
        gap = jnp.maximum(self.log_prob_gap, other.log_prob_gap)
        return LayerSums(self.tokens + other.tokens, self.entropy + other.entropy, self.kl + other.kl, gap)


def layer_loss(
    objective: Objective,
    scores: Scores,
    episodes: LayerEpisodes,
    credit: Float[Array, "N B G"],
    floored: Float[Array, "N"] | None = None,
) -> tuple[Float[Array, "N"], LayerSums]:
    """Loss of every node of a layer.

    loss_n = -1 / (B G) * sum over questions, episodes and tokens of credit * log-probability. The divisor is a constant:
    neither message length nor node count weighs an episode up or down. On-policy, one step: the ratio to the sampler is 1.
    With a credit of ones it is the likelihood of what was written, for imitation.

    Args:
      objective: weights of the terms.
      scores: of every message token `[N, B, G, M]`; differentiated. Those of the bare backbone count for `kl_penalty` only.
      episodes: what the layer wrote.
      credit: one number per node, question and episode: the episode's advantage, or a node's own.
      floored: 1 for nodes that the entropy floor is for; needed for `floor_weight` only.

    Returns:
      One loss per node (their sum is differentiated), and sums for the metrics.
    """
    chosen, entropy, kl = scores.log_prob, scores.entropy, scores.kl
    live = episodes.live.astype(chosen.dtype)
    episodes_count = math.prod(credit.shape[1:])
    fired = episodes.fired.astype(chosen.dtype)
    loss = -(chosen * live * (credit * fired)[..., None]).sum(axis=(1, 2, 3)) / episodes_count
    if objective.entropy_bonus:
        loss = loss - objective.entropy_bonus * (entropy * live).sum(axis=(1, 2, 3)) / episodes_count
    if objective.floor_weight:
        mean = (entropy * live).sum(axis=(1, 2, 3)) / jnp.maximum(live.sum(axis=(1, 2, 3)), 1)
        loss = loss + objective.floor_weight * floored * jnp.maximum(objective.entropy_floor - mean, 0)
    if objective.kl_penalty:
        loss = loss + objective.kl_penalty * (kl * live).sum(axis=(1, 2, 3)) / episodes_count

    def total(x):
        return jax.lax.stop_gradient((x * live).sum(axis=(1, 2, 3)))

    gap = jax.lax.stop_gradient(jnp.abs((chosen - episodes.log_probs) * live).max(axis=(1, 2, 3)))
    return loss, LayerSums(live.sum(axis=(1, 2, 3)), total(entropy), total(kl), gap)
