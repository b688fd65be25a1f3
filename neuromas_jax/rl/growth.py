"""Growth of a learner: trained slots are carried over bit for bit, new ones start by a named rule. Pure.

>>> grown = edit(graph, Widen(0, 2))
>>> learner = grow_learner(optimizer, learner, fresh, slot_origins(grown, slots, new_slots), Growth("copy", noise=0.1), key)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone.adapters import Bank
from neuromas_jax.graph.growth import PLACES, Grown
from neuromas_jax.rl.update import LearnerState, Optimizer, init_learner

RULES = ("zero_b", "copy", "relay", "distilled")
MOMENTS = ("carried", "fresh")


@dataclasses.dataclass(frozen=True)
class Growth:
    """How a bigger graph goes on from a trained smaller one.

    Attributes:
      new: how slots without a past start.
        "zero_b": B is zero: the bare backbone, as every slot of a new bank (Hu et al. 2021).
        "copy": the adapter of the node that the new one is most alike: a sibling of its layer, by turns, or one of the nearest
          layer (ours; after Net2Net, Chen et al. 2016). Without noise copies write the same until sampling tells them apart.
        "relay": zero-B, then the node learns by imitation to write what its first sender wrote, so that a new layer starts by
          passing messages on (ours; the identity layer of Net2Net).
        "distilled": zero-B, then the node learns by imitation to write what the old node that it is most alike writes in the old
          graph (ours; after distillation, Hinton et al. 2015).
      noise: with "copy", what is added to each factor: normal numbers of this share of its root mean square (ours).
      imitate: with "relay" and "distilled", steps of imitation: likelihood of the teacher's sampled messages, under which new
        slots alone move. Each counts as two steps of samples, the teacher's pass and the forced one.
      place: where new layers go: in the "middle" (between the old layers and the readout), in "front", or "double" (two copies
        of the whole graph side by side under a new readout).
      hold: steps for which carried slots do not move.
      rate: learning rate of carried slots after that, as a share of that of the new ones.
      moments: of carried slots, "carried" over or "fresh".
      hide: share of questions for which a new edge into a carried node is hidden at first; falls to 0 in a line over `hide_steps`
        (ours; after DropConnect and gated growth).
      hide_steps: see `hide`.
    """

    new: str = "zero_b"
    noise: float = 0.0
    imitate: int = 0
    place: str = "middle"
    hold: int = 0
    rate: float = 1.0
    moments: str = "carried"
    hide: float = 0.0
    hide_steps: int = 0

    def __post_init__(self):
        for name, allowed in (("new", RULES), ("place", PLACES), ("moments", MOMENTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"growth.{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        for name in ("noise", "imitate", "hold", "hide_steps", "rate", "hide"):
            if getattr(self, name) < 0 or (name in ("rate", "hide") and getattr(self, name) > 1):
                raise ValueError(f"growth.{name} is {getattr(self, name)}; it must be 0 or more"
                                 + (" and at most 1" if name in ("rate", "hide") else ""))
        imitates = self.new in ("relay", "distilled")
        for wrong, text in (
            (self.noise and self.new != "copy", f"noise {self.noise} is for new='copy', and new is {self.new!r}"),
            (imitates and not self.imitate, f"new={self.new!r} learns by imitation, and imitate is 0 steps; set 20, say"),
            (self.imitate and not imitates, f"imitate {self.imitate} is for new='relay' or 'distilled', and new is {self.new!r}"),
            (bool(self.hide) != bool(self.hide_steps), f"hide {self.hide} and hide_steps {self.hide_steps} go together"),
        ):
            if wrong:
                raise ValueError(f"growth: {text}")


@dataclasses.dataclass(frozen=True)
class SlotOrigins:
    """Where the slots of a bigger graph come from; tuples over its slots.

    Attributes:
      carried: the old slot that goes on in this one, or None for a new slot.
      like: the old slot that a rule which copies takes.
    """

    carried: tuple[int | None, ...]
    like: tuple[int, ...]


def slot_origins(
    grown: Grown, old_slots: tuple[int, ...], new_slots: tuple[int, ...], count: int | None = None
) -> SlotOrigins:
    """Follows slots through an edit: a slot goes on where any of its nodes was carried.

    One old slot may go on in several new ones, which unties them. With `count` the bank has that many rows, of which those
    without a node are new.

    Raises:
      ValueError: nodes from different old slots would share a new one, so that neither could be carried.
    """
    carried: dict[int, int | None] = {}
    like: dict[int, int] = {}
    for node, slot in enumerate(new_slots):
        like.setdefault(slot, old_slots[grown.like[node]])
        origin = grown.origin[node]
        old = None if origin is None else old_slots[origin]
        if old is not None and carried.get(slot, old) not in (old, None):
            raise ValueError(f"nodes on slots {carried[slot]} and {old} of the graph before would share slot {slot} of "
                             f"{grown.graph}; give them slots of their own")
        if old is not None or slot not in carried:
            carried[slot] = old if old is not None else carried.get(slot)
    rows = range(count or max(new_slots) + 1)
    return SlotOrigins(tuple(carried.get(slot) for slot in rows), tuple(like.get(slot, 0) for slot in rows))


def grow_learner(
    optimizer: Optimizer, old: LearnerState, fresh: Bank, origins: SlotOrigins, growth: Growth, key: jax.Array
) -> LearnerState:
    """The learner of the bigger graph, before any imitation.

    Args:
      optimizer: makes the moments of new slots, and gives the learning rate of all.
      old: the trained learner.
      fresh: a new bank of the bigger graph, `[S, ...]`, with as many ranks as the old one.
      origins: where slots come from (`slot_origins`).
      growth: how slots without a past start, and whether moments are carried.
      key: draws the noise.

    Raises:
      ValueError: banks of other sites or ranks.
    """
    shapes = [jax.tree.map(lambda x: x.shape[1:], bank) for bank in (old.bank, fresh)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the trained adapters have factors {shapes[0]}, the bigger graph's {shapes[1]}; "
                         "grow with the ranks and sites of the parent")
    state = init_learner(optimizer, fresh)
    is_new = np.asarray([slot is None for slot in origins.carried])
    carried = np.asarray([0 if slot is None else slot for slot in origins.carried])
    like = np.asarray(origins.like)

    def chosen(trained, start):
        return jnp.where(is_new.reshape(-1, *(1,) * (start.ndim - 1)), start, _rows(trained, carried))

    starts = fresh
    if growth.new == "copy":
        leaves, tree = jax.tree.flatten(old.bank)
        keys = jax.random.split(key, len(leaves))
        starts = jax.tree.unflatten(tree, [_noisy(_rows(leaf, like), growth.noise, one) for leaf, one in zip(leaves, keys)])
    moments = jax.tree.map(chosen, old.moments, state.moments) if growth.moments == "carried" else state.moments
    return LearnerState(jax.tree.map(chosen, old.bank, starts), moments, state.learning_rate, old.critic)


def _rows(x: jax.Array, numbers: np.ndarray) -> jax.Array:
    """Rows of an array bit for bit, wherever they lie: XLA sums what other devices send with zeros, which would make 0.0 of -0.0,
    so whole numbers are sent."""
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(bits[numbers], x.dtype)


def _noisy(factor: jax.Array, share: float, key: jax.Array) -> jax.Array:
    """Normal noise of a share of each slot's root mean square; spare ranks, which are zero, stay so."""
    if not share:
        return factor
    rms = jnp.sqrt(jnp.mean(factor**2, axis=tuple(range(1, factor.ndim)), keepdims=True))
    return factor + share * rms * jax.random.normal(key, factor.shape) * (factor != 0)


def slot_rates(growth: Growth, origins: SlotOrigins, rate: float, step: int) -> np.ndarray:
    """Learning rate of every slot `[S]` in the step after `step` steps of the stage: carried ones are held, then thawed."""
    old = 0.0 if step < growth.hold else rate * growth.rate
    return np.asarray([rate if slot is None else old for slot in origins.carried], np.float32)


def hidden_share(growth: Growth, step: int) -> float:
    """Share of questions for which new edges are hidden after `step` steps of the stage."""
    return growth.hide * max(0.0, 1 - step / growth.hide_steps) if growth.hide else 0.0
