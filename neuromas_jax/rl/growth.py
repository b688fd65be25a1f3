"""Growth of a learner: trained slots are carried over bit for bit, new ones start by a named rule. Pure.

>>> grown = edit(graph, Widen(0, 2))
>>> learner = grow_learner(optimizer, learner, fresh, carried_slots(grown, slots, new_slots), NewSlots("copy", noise=0.1), key)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone.adapters import Bank
from neuromas_jax.graph.growth import Grown
from neuromas_jax.rl.update import LearnerState, Optimizer, init_learner

RULES = ("birth", "copy")


@dataclasses.dataclass(frozen=True)
class NewSlots:
    """How slots without a past start.

    Attributes:
      rule: "birth" (B is zero: the bare backbone, as every slot of a new bank; Hu et al. 2021) or "copy" (the adapter of the node
        that the new one is most alike: a sibling of its layer, by turns, or one of the nearest layer; ours).
      noise: with "copy", what is added to each factor: normal numbers of this share of its root mean square (ours). Copies
        without noise read and write the same until sampling tells them apart.
    """

    rule: str = "birth"
    noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class SlotOrigins:
    """Where the slots of a bigger graph come from; tuples over its slots.

    Attributes:
      carried: the old slot that goes on in this one, or None for a new slot.
      like: the old slot that a rule which copies takes.
    """

    carried: tuple[int | None, ...]
    like: tuple[int, ...]


def slot_origins(grown: Grown, old_slots: tuple[int, ...], new_slots: tuple[int, ...]) -> SlotOrigins:
    """Follows slots through an edit: a slot goes on where any of its nodes was carried.

    One old slot may go on in several new ones, which unties them.

    Raises:
      ValueError: nodes from different old slots would share a new one, so that neither could be carried.
    """
    carried: dict[int, int | None] = {}
    like: dict[int, int] = {}
    for node, slot in enumerate(new_slots):
        like.setdefault(slot, old_slots[grown.like[node]])
        origin = grown.origin[node]
        old = None if origin is None else old_slots[origin]
        if old is not None and carried.get(slot, old) != old:
            raise ValueError(f"nodes on slots {carried[slot]} and {old} of the graph before would share slot {slot} of "
                             f"{grown.graph}; give them slots of their own")
        if old is not None or slot not in carried:
            carried[slot] = old if old is not None else carried.get(slot)
    count = max(new_slots) + 1
    return SlotOrigins(tuple(carried[slot] for slot in range(count)), tuple(like[slot] for slot in range(count)))


def grow_learner(
    optimizer: Optimizer, old: LearnerState, fresh: Bank, origins: SlotOrigins, new: NewSlots, key: jax.Array
) -> LearnerState:
    """The learner of the bigger graph.

    Args:
      optimizer: makes the moments of new slots, and gives their learning rate.
      old: the trained learner.
      fresh: a new bank of the bigger graph, `[S, ...]`, with as many ranks as the old one.
      origins: where slots come from (`slot_origins`).
      new: how slots without a past start.
      key: draws the noise.

    Raises:
      ValueError: an unknown rule, negative noise or noise that nothing is added to, or banks of other sites or ranks.
    """
    if new.rule not in RULES:
        raise ValueError(f"rule {new.rule!r} for new slots; allowed are {', '.join(RULES)}")
    if new.noise < 0 or (new.noise and new.rule != "copy"):
        raise ValueError(f"noise {new.noise} with rule {new.rule!r}; give 0 or more, and with 'copy' alone")
    shapes = [jax.tree.map(lambda x: x.shape[1:], bank) for bank in (old.bank, fresh)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the trained adapters have factors {shapes[0]}, the bigger graph's {shapes[1]}; "
                         "grow with the ranks and sites of the parent")
    state = init_learner(optimizer, fresh)
    is_new = np.asarray([slot is None for slot in origins.carried])
    carried = jnp.asarray([0 if slot is None else slot for slot in origins.carried])
    like = jnp.asarray(origins.like)

    def chosen(trained, start):
        return jnp.where(is_new.reshape(-1, *(1,) * (start.ndim - 1)), start, trained[carried])

    if new.rule == "copy":
        leaves, tree = jax.tree.flatten(old.bank)
        keys = jax.random.split(key, len(leaves))
        starts = jax.tree.unflatten(tree, [_noisy(leaf[like], new.noise, one) for leaf, one in zip(leaves, keys)])
    else:
        starts = fresh
    return LearnerState(jax.tree.map(chosen, old.bank, starts), jax.tree.map(chosen, old.moments, state.moments),
                        chosen(old.learning_rate, state.learning_rate))


def _noisy(factor: jax.Array, share: float, key: jax.Array) -> jax.Array:
    """Normal noise of a share of each slot's root mean square; spare ranks, which are zero, stay so."""
    if not share:
        return factor
    rms = jnp.sqrt(jnp.mean(factor**2, axis=tuple(range(1, factor.ndim)), keepdims=True))
    return factor + share * rms * jax.random.normal(key, factor.shape) * (factor != 0)
