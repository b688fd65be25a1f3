"""The adapter bank: LoRA factors of every slot in one pytree with a leading slot axis (Hu et al. 2021).

    bank[site]["a"]: [S, L, in, R]        bank[site]["b"]: [S, L, R, out]

B is zero at birth, so a new slot leaves the backbone as it is. A slot may use fewer than R ranks: its spare columns of A and
rows of B are zero, and their gradients are zero too, so they stay zero.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from neuromas_jax.backbone.decoder import LINEAR_SITES, DecoderConfig

Bank = dict[str, dict[str, jax.Array]]


def init_bank(config: DecoderConfig, ranks: Sequence[int], key, sites: Sequence[str] = LINEAR_SITES) -> Bank:
    """A bank with one slot per entry of `ranks`.

    A slot's start depends on the key and its own number alone: a bank with more slots begins with the same rows.

    Raises:
      ValueError: a rank below 1, or an unknown site.
    """
    wrong = [site for site in sites if site not in LINEAR_SITES]
    if wrong or not sites:
        raise ValueError(f"adapter site {wrong[0] if wrong else sites!r}; allowed are {', '.join(LINEAR_SITES)}")
    if not ranks or min(ranks) < 1:
        raise ValueError(f"adapter ranks {tuple(ranks)}; every slot needs rank 1 or more")
    depth, rank = config.num_hidden_layers, max(ranks)
    dtype = jnp.dtype(config.dtype)
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
        bank[site] = {"a": a.astype(dtype), "b": jnp.zeros((len(ranks), depth, rank, fan_out), dtype)}
    return bank


def bank_parameters(config: DecoderConfig, ranks: Sequence[int], sites: Sequence[str] = LINEAR_SITES) -> int:
    """Trainable parameters of a bank, spare ranks not counted."""
    per_rank = sum(sum(config.site_shape(site)) for site in sites) * config.num_hidden_layers
    return per_rank * sum(ranks)


def take_slots(bank: Bank, slots: Sequence[int]) -> Bank:
    """The rows of a layer's nodes: `[N, L, ...]`, one row per entry of `slots`, repeated where nodes share a slot."""
    slots = tuple(slots)
    if slots == tuple(range(slots[0], slots[0] + len(slots))):
        return jax.tree.map(lambda x: x[slots[0] : slots[0] + len(slots)], bank)
    return jax.tree.map(lambda x: x[jnp.asarray(slots)], bank)
