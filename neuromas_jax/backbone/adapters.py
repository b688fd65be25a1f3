"""The adapter bank: LoRA factors of every slot in one pytree with a leading slot axis (Hu et al. 2021).

    bank[site]["a"]: [S, L, in, R]        bank[site]["b"]: [S, L, R, out]

B is zero at birth, so a new slot leaves the backbone as it is. A slot may use fewer than R ranks: its spare columns of A and
rows of B are zero, and their gradients are zero too, so they stay zero.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone.architecture import LINEAR_SITES, SAME_INPUT, DecoderConfig
from neuromas_jax.backbone.decoder import UNROLL, Backbone, Merged
from neuromas_jax.parallel.rules import freely, undivided

Bank = dict[str, dict[str, jax.Array]]
Adapters = Bank | tuple[Merged, ...]
"""A bank `[S, L, ...]`, or what `merge` made of it, one entry per decoder layer `[S, in, out]`. A layer's rows have N for S."""
MERGED_BYTES = 2**26  # seven copies of the embedded backbone are 5 MiB, of 32M parameters 756 MiB


def init_bank(config: DecoderConfig, ranks: Sequence[int], key, sites: Sequence[str] = LINEAR_SITES) -> Bank:
    """A bank with one slot per entry of `ranks`.

    A slot's start depends on the key and its own number alone: a bank with more slots begins with the same rows. It is float32
    whatever the backbone is: a step of policy gradient is often smaller than the spacing of bfloat16.

    Raises:
      ValueError: a rank below 1, or an unknown site.
    """
    wrong = [site for site in sites if site not in LINEAR_SITES]
    if wrong or not sites:
        raise ValueError(f"adapter site {wrong[0] if wrong else sites!r}; allowed are {', '.join(LINEAR_SITES)}")
    if not ranks or min(ranks) < 1:
        raise ValueError(f"adapter ranks {tuple(ranks)}; every slot needs rank 1 or more")
    depth, rank = config.num_hidden_layers, max(ranks)
    bank = {}
    for number, site in enumerate(LINEAR_SITES):
        if site not in sites:
            continue
        fan_in, fan_out = config.site_shape(site)

        def draw(slot, fan_in=fan_in, number=number):
            slot_key = jax.random.fold_in(jax.random.fold_in(key, slot), number)
            limit = fan_in**-0.5  # uniform, as PEFT's Kaiming start
            return jax.random.uniform(slot_key, (depth, fan_in, rank), jnp.float32, -limit, limit)

        used = jnp.arange(rank)[None] < jnp.asarray(tuple(ranks))[:, None]  # [S, R]
        a = jax.vmap(draw)(jnp.arange(len(ranks))) * used[:, None, None]
        bank[site] = {"a": a, "b": jnp.zeros((len(ranks), depth, rank, fan_out), jnp.float32)}
    return bank


def bank_parameters(config: DecoderConfig, ranks: Sequence[int], sites: Sequence[str] = LINEAR_SITES) -> int:
    """Trainable parameters of a bank, spare ranks not counted."""
    per_rank = sum(sum(config.site_shape(site)) for site in sites) * config.num_hidden_layers
    return per_rank * sum(ranks)


def default_merge(config: DecoderConfig, nodes: int) -> bool:
    """Whether a rollout gives each node a copy of the weights with its adapter in them: on a CPU, in float32, where all copies
    take less than `MERGED_BYTES`. There thin products cost more than their operations; elsewhere all nodes share one wide
    product with the backbone, whose weights are read once, and in a narrower type the sum would round the adapter away.
    """
    one = sum(fan_in * fan_out for fan_in, fan_out in map(config.site_shape, LINEAR_SITES)) * config.num_hidden_layers
    fits = nodes * one * jnp.dtype(jnp.float32).itemsize <= MERGED_BYTES
    return jax.default_backend() == "cpu" and config.dtype == "float32" and config.num_hidden_layers <= UNROLL and fits


def merge(backbone: Backbone, bank: Bank, scale: float) -> tuple[Merged, ...]:
    """The backbone's weights with every slot's adapter added, `W + scale * A B`: per decoder layer, arrays `[S, in, out]`.

    Made once before a loop over tokens, which then has one product where there would be three. `take_slots` takes it as a bank.
    Sites of `SAME_INPUT` without an adapter are left out: all slots share them.

    Raises:
      ValueError: a decoder that scans over its layers, or weights in a type so narrow that the sum would lose the adapter.
    """
    config, weights, slots = backbone.config, backbone.params["layers"], len(jax.tree.leaves(bank)[0])
    if config.num_hidden_layers > UNROLL or config.dtype != "float32":
        raise ValueError(f"adapters cannot be merged into {config.num_hidden_layers} layers of {config.dtype}; they can into at "
                         f"most {UNROLL} of float32: give the program merge=False")

    def whole(weights, bank, site, layer):
        weight = jnp.broadcast_to(weights[site][layer], (slots, *weights[site][layer].shape))
        return weight + scale * (bank[site]["a"][:, layer] @ bank[site]["b"][:, layer]) if site in bank else weight

    def added(*both):
        return tuple(
            Merged({"+".join(sites): jnp.concatenate([whole(*both, site, layer) for site in sites], axis=-1)
                    for sites in SAME_INPUT if set(sites) & set(bank)})
            for layer in range(config.num_hidden_layers))

    return freely(added, "slot")(undivided(weights), bank)


def take_slots(bank: Any, slots: Sequence[int] | np.ndarray, *names: str | None) -> Any:
    """The rows of a layer's nodes, `[N, L, ...]` or `[N, in, out]`: one per entry of `slots`, repeated where nodes share one.

    Any tree will do whose arrays have such a first axis. On a mesh they lie along its node axis, and further axes as `names` say.
    """
    slots = tuple(int(slot) for slot in slots)
    run = slots == tuple(range(slots[0], slots[0] + len(slots)))
    take = freely(lambda x: x[slots[0] : slots[0] + len(slots)] if run else x[jnp.asarray(slots)], "node", *names)
    return jax.tree.map(take, bank)
