"""Credit: rewards of a group -> advantages, one number per question and episode, `[B, G]`.

Every node of an episode shares the episode's reward, and with it the advantage. Per-node statistics therefore equal the group's
here; they differ only where nodes fire at different rates.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def leave_one_out(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Reward minus the mean of the group's other episodes (Kool et al. 2019; Ahmadian et al. 2024).

    Not divided by a deviation.
    """
    group = rewards.shape[-1]
    others = (rewards.sum(axis=-1, keepdims=True) - rewards) / (group - 1)
    return rewards - others


def grpo(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Reward minus the group's mean, divided by its standard deviation (Shao et al. 2024)."""
    mean, deviation = rewards.mean(axis=-1, keepdims=True), rewards.std(axis=-1, keepdims=True)
    return (rewards - mean) / (deviation + 1e-6)


def batch_mean(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Reward minus the mean of the whole batch (REINFORCE with a batch baseline)."""
    return rewards - rewards.mean()


CREDIT = {"leave_one_out": leave_one_out, "grpo": grpo, "batch_mean": batch_mean}


def informative(rewards: Float[Array, "B G"]) -> Bool[Array, "B"]:
    """Groups whose episodes did not all earn the same. The others say nothing about what to write and are masked."""
    return rewards.max(axis=-1) != rewards.min(axis=-1)


def check_credit(name: str, group: int) -> None:
    """Raises ValueError for an unknown rule, or a group of one: its rewards have no variance, so every rule would be masked."""
    if name not in CREDIT:
        raise ValueError(f"credit {name!r}; allowed are {', '.join(CREDIT)}")
    if group < 2:
        raise ValueError(f"credit {name!r} leaves out questions whose episodes all earned the same, and group is {group}; "
                         "set it to 2 or more")


def advantages(name: str, rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Advantages by a named rule, zero in groups without variance."""
    return jnp.where(informative(rewards)[:, None], CREDIT[name](rewards), 0.0)
