"""One table from names of array axes to axes of a mesh, and the few places where arrays are told how to lie on it.

A mesh has the axes `node`, `data` and `model`. XLA splits the work by where arrays lie; `constrain` says so at the boundaries
where it matters: what a layer of nodes reads, its keys and values, its logits, and the messages between layers, which are the
one thing that the graph itself has to send. Without a mesh (`jax.set_mesh`) nothing is said and nothing changes.
"""

import dataclasses

import jax
from jax.sharding import PartitionSpec
import numpy as np

AXES = ("node", "data", "model")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Name of an array's axis -> axis of the mesh; None where each device has all of it.

    Attributes:
      node: nodes of a layer, each with its adapter, prompts, keys and values.
      slot: rows of the adapter bank and of its moments.
      question: of a batch.
      heads, kv_heads, mlp, vocab: of the backbone's weights and of what comes out of them.
      embed: the other axis of the backbone's weights: "data" keeps only a part of each on a device, and gathers a decoder layer
        when it is its turn (fully sharded data parallelism).
    """

    node: str | None = "node"
    slot: str | None = "node"
    question: str | None = "data"
    heads: str | None = "model"
    kv_heads: str | None = "model"
    mlp: str | None = "model"
    vocab: str | None = "model"
    embed: str | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value not in AXES:
                raise ValueError(f"rule {field.name!r} is {value!r}; it must be None or an axis of the mesh: {', '.join(AXES)}")

    def spec(self, *names: str | None) -> PartitionSpec:
        """How an array lies whose axes have these names; None for one that is whole everywhere.

        >>> Rules().spec("node", "question", None)
        PartitionSpec('node', 'data', None)

        Raises:
          ValueError: two axes of one array would lie along the same axis of the mesh, or a name that has no rule.
        """
        known = {field.name for field in dataclasses.fields(self)}
        unknown = [name for name in names if name is not None and name not in known]
        if unknown:
            raise ValueError(f"no rule for an axis {unknown[0]!r}; there are {', '.join(sorted(known))}")
        places = [name and getattr(self, name) for name in names]
        for axis in AXES:
            both = [name for name, place in zip(names, places) if place == axis]
            if len(both) > 1:
                raise ValueError(f"axes {both[0]!r} and {both[1]!r} of one array both lie along {axis!r} of the mesh; give one "
                                 "of them another rule")
        return PartitionSpec(*places)


RULES = Rules()


def mesh_rules(fsdp: bool = False) -> Rules:
    """The table; with `fsdp` the data axis also divides the backbone's weights."""
    return dataclasses.replace(RULES, embed="data") if fsdp else RULES


def mesh_size(axis: str) -> int:
    """Devices along an axis of the mesh that is set; 1 without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[axis]


def on_mesh() -> bool:
    return not jax.sharding.get_abstract_mesh().empty


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Has the first axes of an array lie as the rules say; XLA decides on the others. Without a mesh the array stays as it is.

    An axis that the mesh does not divide stays whole: that of a short part of a batch, say.
    """
    if not on_mesh():
        return x
    fitting = [axis if axis is None or x.shape[place] % mesh_size(axis) == 0 else None
               for place, axis in enumerate(RULES.spec(*names))]
    free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - len(fitting))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting, *free))


def gather(x: jax.Array) -> jax.Array:
    """The whole array on every device of the mesh."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if on_mesh() else x


def padded_rows(nodes: range) -> np.ndarray:
    """Numbers of a layer's nodes, the last one repeated until the mesh's node axis divides them. What the added ones write is
    dropped: they never move an adapter and never count."""
    size = mesh_size("node")
    return np.asarray([*nodes, *[nodes[-1]] * (-len(nodes) % size)])
