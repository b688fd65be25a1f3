"""A central critic: a learned value of what has been written so far, and advantages that run backwards through the layers.

The value before a layer is a small network of the frozen backbone's last hidden state at the end of its nodes' prompts, their
mean where the layer has several: each prompt holds the question and the messages that reach the node. Generalised advantage
estimation (Schulman et al. 2016) goes through the layers as through time, the reward coming after the last:
delta_l = V_(l+1) - V_l, and R - V_L at the end. After MARFT (arXiv 2504.16129; discount 0.99, decay 0.95, one hidden layer) and
CoLLM-CC (arXiv 2601.21972). One on-policy step, so PPO's ratio is 1 and its clip has nothing to do.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import optax

from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.rl.learner import message_states
from neuromas_jax.rollout.episodes import Episodes, Program
from neuromas_jax.rollout.microbatch import map_questions

DISCOUNT, DECAY, RATE = 0.99, 0.95, 1e-3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Critic:
    """A network with one hidden layer, and its optimizer.

    Attributes:
      params: `hidden` [D, D], `hidden_bias` [D], `out` [D], `out_bias` [].
      moments: optax state.
    """

    params: dict[str, jax.Array]
    moments: optax.OptState


def init_critic(width: int, key: jax.Array) -> Critic:
    """A critic whose value is 0 everywhere: the first advantages are those of the reward alone. `width` is the backbone's."""
    hidden = jax.random.normal(key, (width, width), jnp.float32) * width**-0.5
    params = {"hidden": hidden, "hidden_bias": jnp.zeros(width), "out": jnp.zeros(width), "out_bias": jnp.zeros(())}
    return Critic(params, optax.adam(RATE).init(params))


def values(params: dict, features: Float[Array, "K B G D"]) -> Float[Array, "K B G"]:
    """The value before each of K layers."""
    return jnp.tanh(features @ params["hidden"] + params["hidden_bias"]) @ params["out"] + params["out_bias"]


def prompt_features(program: Program, backbone: Backbone, episodes: Episodes) -> Float[Array, "K B G D"]:
    """The bare backbone's last hidden state at the end of every layer's prompts, a microbatch of questions at a time."""
    def read(episodes):
        states = message_states(program, backbone, None, episodes)
        return jnp.stack([layer[..., 0, :].mean(axis=0) for layer in states])

    return map_questions(read, program.microbatch, episodes).astype(jnp.float32)


def layer_advantages(value: Float[Array, "K B G"], rewards: Float[Array, "B G"]) -> Float[Array, "K B G"]:
    """Generalised advantage estimates of each layer's messages."""
    after = jnp.concatenate([DISCOUNT * value[1:], rewards[None]])
    found, running = [], jnp.zeros_like(rewards)
    for delta in reversed(after - value):
        running = delta + DISCOUNT * DECAY * running
        found.append(running)
    return jnp.stack(found[::-1])


def criticise(
    program: Program, backbone: Backbone, critic: Critic, episodes: Episodes, rewards: Float[Array, "B G"]
) -> tuple[Float[Array, "X B G"], Critic]:
    """Credit of every node, normalised over all of them as in MARFT, and the critic after one step towards the returns."""
    features = prompt_features(program, backbone, episodes)
    value = values(critic.params, features)
    estimate = layer_advantages(value, rewards)
    returns = jax.lax.stop_gradient(estimate + value)
    gradient = jax.grad(lambda params: ((values(params, features) - returns) ** 2).mean())(critic.params)
    steps, moments = optax.adam(RATE).update(gradient, critic.moments)
    credit = (estimate - estimate.mean()) / (estimate.std() + 1e-6)
    widths = jnp.asarray([layer.width for layer in program.graph.layers])
    nodes = jnp.repeat(credit, widths, axis=0, total_repeat_length=program.graph.size)
    return nodes, Critic(optax.apply_updates(critic.params, steps), moments)
