"""Credit: rewards of a group -> advantages, one number per node, question and episode, `[X, B, G]`.

All nodes of an episode earn its reward; a node that wrote something invalid may earn less. Rules compare a node's earnings with
those of the question's other episodes. Where all nodes earn the same and all fire, statistics per agent are those of the group.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np


def leave_one_out(earned: Float[Array, "X B G"], slots, fired) -> Float[Array, "X B G"]:
    """What a node earned minus the mean of the group's other episodes (Kool et al. 2019; Ahmadian et al. 2024).

    Not divided by a deviation.
    """
    group = earned.shape[-1]
    others = (earned.sum(axis=-1, keepdims=True) - earned) / (group - 1)
    return earned - others


def grpo(earned: Float[Array, "X B G"], slots, fired) -> Float[Array, "X B G"]:
    """Earnings minus the mean of the group, divided by its standard deviation (Shao et al. 2024).

    The group is all steps of all nodes in a question's episodes, as trainers of several agents have it.
    """
    return _standardised(earned, fired, np.zeros(len(slots), np.int32))


def dr_mas(earned: Float[Array, "X B G"], slots, fired) -> Float[Array, "X B G"]:
    """The same with mean and deviation of each agent's own steps (Dr. MAS, arXiv 2602.08847).

    An agent is a slot; a step of it is a node that fired. One that fired twice in an episode counts twice.
    """
    return _standardised(earned, fired, np.asarray(slots))


def _standardised(earned, fired, agents):
    """`(earned - mean) / deviation` over the fired steps of each (agent, question)."""
    weight = fired.astype(earned.dtype)
    mine = jnp.asarray(agents[:, None] == agents[None], earned.dtype)  # [X, X]: nodes of the same agent

    def total(x):
        return jnp.einsum("xy,ybg->xb", mine, x)[..., None]

    count = jnp.maximum(total(weight), 1)
    mean = total(earned * weight) / count
    deviation = jnp.sqrt(total((earned - mean) ** 2 * weight) / count)
    return (earned - mean) / (deviation + 1e-6)


def batch_mean(earned: Float[Array, "X B G"], slots, fired) -> Float[Array, "X B G"]:
    """Earnings minus the node's mean over the whole batch (REINFORCE with a batch baseline)."""
    return earned - earned.mean(axis=(1, 2), keepdims=True)


CREDIT = {"leave_one_out": leave_one_out, "grpo": grpo, "batch_mean": batch_mean, "dr_mas": dr_mas}
CRITIC = "critic"  # learned, see `rl.critic`; it compares no episodes of a group
TREES = ("malt_sft", "malt_dpo")  # phases of the method `malt`, see `rl.malt`


def informative(rewards: Float[Array, "*nodes B G"]) -> Bool[Array, "*nodes B"]:
    """Groups whose episodes did not all earn the same. The others say nothing about what to write and are masked."""
    return rewards.max(axis=-1) != rewards.min(axis=-1)


def check_credit(name: str, group: int, tree: bool = False) -> None:
    """Raises ValueError for an unknown rule, or a group of one: its rewards have no variance, so every rule would be masked."""
    if name not in (*CREDIT, CRITIC, *(TREES if tree else ())):
        raise ValueError(f"credit {name!r}; allowed are {', '.join((*CREDIT, CRITIC))}")
    if group < 2 and name != CRITIC:
        raise ValueError(f"credit {name!r} leaves out questions whose episodes all earned the same, and group is {group}; "
                         "set it to 2 or more")


def advantages(
    name: str, earned: Float[Array, "X B G"], slots: tuple[int, ...], fired: Bool[Array, "X B G"]
) -> Float[Array, "X B G"]:
    """Advantages by a named rule, zero for nodes that earned the same in all episodes of a question.

    Args:
      name: of `CREDIT`.
      earned: what each node earned: the episode's reward, less a penalty where the rule of the task has one.
      slots: agent of every node.
      fired: which nodes ran.
    """
    return jnp.where(informative(earned)[..., None], CREDIT[name](earned, slots, fired), 0.0)
