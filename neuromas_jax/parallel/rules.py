"""One table from names of array axes to axes of a mesh, and the few places where arrays are told how to lie on it.

A mesh has the axes `node`, `data` and `model`. XLA splits the work by where arrays lie; `constrain` says so at the boundaries
where it matters: what a layer of nodes reads, its keys and values, its logits, and the messages between layers, which are the
one thing that the graph itself has to send. With `config.axis_types="explicit"` the first two axes are part of every array's type
inside a program: what does not fit is an error as it is traced, not a copy that nobody asked for. Without a mesh (`jax.set_mesh`)
nothing is said and nothing changes.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import PartitionSpec
import numpy as np

AXES = ("node", "data", "model")
TYPED = ("node", "data")  # those that types tell of
AXIS_TYPES = ("explicit", "auto")


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
    fitting, typed = _fitting(x.shape, *names), typed_axes()
    if typed:
        asked = [axis if axis in typed else None for axis in fitting]
        others = [None if axis in asked else axis for axis in _spec(x)[len(asked) :]]
        x = _moved(x, [*asked, *others])
    if typed and all(axis in (None, *typed) for axis in fitting):
        return x
    free = PartitionSpec.UNCONSTRAINED
    rest = [free if axis in typed else axis for axis in fitting] + [free] * (x.ndim - len(fitting))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*rest))


def _fitting(shape: tuple[int, ...], *names: str | None) -> list[str | None]:
    """Axes of the mesh that the first axes of an array lie along, None for one that the mesh does not divide."""
    return [axis if axis and mesh_size(axis) > 1 and size % mesh_size(axis) == 0 else None
            for axis, size in zip(RULES.spec(*names), shape)]


def typed_axes() -> tuple[str, ...]:
    """Axes of the mesh that array types tell of, in the program that is being traced."""
    return jax.sharding.get_abstract_mesh().explicit_axes


def _spec(x: jax.Array) -> list[str | None]:
    """How an array lies by its type, an entry for each of its axes."""
    spec = jax.typeof(x).sharding.spec
    return [*spec, *[None] * (x.ndim - len(spec))]


def _moved(x: jax.Array, spec: list[str | None]) -> jax.Array:
    """An array as its type shall be; one that lies so already as it is."""
    return x if _spec(x) == spec else jax.sharding.reshard(x, PartitionSpec(*spec))


def gather(x: jax.Array) -> jax.Array:
    """The whole array on every device along the axes that types tell of; of the whole mesh where they tell of none."""
    if typed_axes():
        return _moved(x, [None] * x.ndim)
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if on_mesh() else x


def undivided(tree: Any) -> Any:
    """Weights that a device needs whole along the axes that types tell of; as they are where these tell of none."""
    return jax.tree.map(lambda x: _moved(x, [None] * x.ndim), tree) if typed_axes() else tree


def freely(function: Callable, *names: str | None) -> Callable:
    """`function(*args)`, with what lies where inside left to XLA and all results as the rules say of these axes: for what joins
    and cuts arrays along axes that are divided, where types would have each piece moved by hand."""
    if not typed_axes():
        return function

    def inside(*args):
        shapes = jax.eval_shape(jax.sharding.auto_axes(function, out_sharding=PartitionSpec()), *args)
        specs = jax.tree.map(lambda x: PartitionSpec(*_fitting(x.shape, *names)), shapes)
        return jax.sharding.auto_axes(function, out_sharding=specs)(*args)

    return inside


def looked_up(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of a table `[R, ...]`, which lie as their numbers do; a number past the end takes the last one."""
    if not typed_axes():
        return table.at[index].get(mode="clip")
    return table.at[index].get(mode="clip", out_sharding=PartitionSpec(*_spec(index), *[None] * (table.ndim - 1)))


def reshaped(x: jax.Array, *sizes: int) -> jax.Array:
    """`x.reshape(sizes)`. JAX refuses one that changes several axes at once, even if none of them is divided: here axes that are
    divided stand before those that change, and lie as before."""
    sizes = tuple(x.size // -math.prod(sizes) if size == -1 else size for size in sizes)
    same = next((place for place, pair in enumerate(zip(x.shape, sizes)) if pair[0] != pair[1]), min(x.ndim, len(sizes)))
    if not typed_axes() or any(_spec(x)[same:]):
        return x.reshape(sizes)
    return jax.lax.reshape(x, sizes, out_sharding=PartitionSpec(*_spec(x)[:same], *[None] * (len(sizes) - same)))


def split(x: jax.Array, axis: int, size: int, name: str = "question") -> jax.Array:
    """Questions, or what `name` says, in portions of `size`: `[.., B, ..] -> [.., size, B / size, ..]`, as many of a portion on
    every device."""
    return _placed(x, (*x.shape[:axis], size, x.shape[axis] // size, *x.shape[axis + 1 :]), axis, 1, name)


def join(x: jax.Array, axis: int, name: str = "question") -> jax.Array:
    """Undoes `split`."""
    return _placed(x, (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :]), axis, 2, name)


def _placed(x: jax.Array, sizes: tuple[int, ...], axis: int, taken: int, name: str) -> jax.Array:
    """A reshape after which `axis` holds what `name` says; it took the place of so many."""
    if not typed_axes():
        return x.reshape(sizes)
    spec = _spec(x)
    others = [None] * (len(sizes) - axis - 1 - len(spec[axis + taken :])) + spec[axis + taken :]
    return jax.lax.reshape(x, sizes, out_sharding=PartitionSpec(*spec[:axis], *_fitting(sizes[axis:], name), *others))


def padded_rows(nodes: range, portion: int = 1) -> np.ndarray:
    """Numbers of a layer's nodes, the last one repeated until the mesh's node axis and `portion` divide them. What the added ones
    write is dropped: they never move an adapter and never count."""
    size = math.lcm(mesh_size("node"), portion)
    return np.asarray([*nodes, *[nodes[-1]] * (-len(nodes) % size)])


def unpadded(tree: Any, count: int) -> Any:
    """Arrays `[N, B, ...]` of `padded_rows` without the rows that were added, the questions of each on their own devices."""
    return jax.tree.map(freely(lambda x: x[:count], None, "question"), tree)
