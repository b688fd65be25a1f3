"""The mesh that a run uses, and how its arrays lie on it."""

from collections.abc import Sequence
import dataclasses
import functools
import math

from absl import logging
import jax
from jax.sharding import AxisType, Mesh
import numpy as np

from neuromas_jax.backbone.architecture import LINEAR_SITES, DecoderConfig
from neuromas_jax.graph import TextGraph
from neuromas_jax.parallel.rules import AXES


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis."""

    node: int = 1
    data: int = 1
    model: int = 1

    @property
    def size(self) -> int:
        return self.node * self.data * self.model


def check_mesh(shape: MeshShape, config: DecoderConfig, questions: int, devices: int) -> None:
    """Raises ValueError where a mesh does not fit the devices, the batch or the backbone."""
    for axis in AXES:
        if getattr(shape, axis) < 1:
            raise ValueError(f"mesh axis {axis!r} is {getattr(shape, axis)}; it must be 1 or more")
    if shape.size != devices:
        raise ValueError(f"the mesh node={shape.node}, data={shape.data}, model={shape.model} has {shape.size} devices, and "
                         f"there are {devices}; give numbers whose product is {devices}, or mesh='auto'")
    if questions % shape.data:
        raise ValueError(f"mesh axis 'data' is {shape.data}, which does not divide rollout.questions={questions}; change one of "
                         "the two")
    for name, size in (("num_key_value_heads", config.num_key_value_heads), ("num_attention_heads", config.num_attention_heads),
                       ("intermediate_size", config.intermediate_size)):
        if size % shape.model:
            raise ValueError(f"mesh axis 'model' is {shape.model}, which does not divide the backbone's {name}={size}; choose a "
                             f"divisor of {math.gcd(config.num_key_value_heads, config.intermediate_size)}")


def plan_mesh(graph: TextGraph, config: DecoderConfig, questions: int, devices: int, memory: float) -> tuple[MeshShape, str]:
    """A split for so many devices, and why.

    First `model` is as small as leaves the weights room in half of a device's memory. Then of all splits of the rest the one in
    which a device computes the fewest rows: a layer of `n` nodes on a node axis of `k` takes as long as `ceil(n / k)` nodes. Of
    equal ones that with the longest data axis, which sends nothing between layers.

    Args:
      graph: whose layers are spread.
      config: the backbone.
      questions: of a batch.
      devices: how many there are.
      memory: of one device in bytes; 0 where it is not known.
    """
    weights = backbone_bytes(config)
    heads = math.gcd(config.num_key_value_heads, config.intermediate_size)
    models = [size for size in range(1, devices + 1) if devices % size == 0 and heads % size == 0]
    model = next((size for size in models if not memory or weights / size <= memory / 2), models[-1])
    rest = devices // model
    splits = [(node, rest // node) for node in range(1, rest + 1) if rest % node == 0 and questions % (rest // node) == 0]
    if not splits:
        raise ValueError(f"no mesh of {devices} devices: with model={model}, data must divide rollout.questions={questions}; "
                         "change rollout.questions, or give config.mesh by hand")

    def rows(node: int, data: int) -> int:
        return sum(-(-layer.width // node) for layer in graph.layers) * questions // data

    node, data = min(splits, key=lambda split: (rows(*split), split[0]))
    useful = graph.size * questions / (rows(node, data) * rest)
    why = (f"model={model}: weights of {weights / 2**30:.1f} GiB"
           + (f", {weights / model / 2**30:.1f} of {memory / 2**30:.0f} GiB on each device" if memory else "")
           + f"; node={node}, data={data}: {rows(node, data)} rows of a node and question on each device, {useful:.0%} of them "
           "needed")
    return MeshShape(node, data, model), why


def backbone_bytes(config: DecoderConfig) -> float:
    linear = config.num_hidden_layers * sum(math.prod(config.site_shape(site)) for site in LINEAR_SITES)
    head = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    return (linear + head) * np.dtype(jax.numpy.dtype(config.dtype)).itemsize


def make_mesh(shape: MeshShape, devices: Sequence | None = None) -> Mesh:
    """A mesh of these devices, neighbours along `model`, whose traffic is the heaviest.

    Its axes are automatic for what is done outside of programs; inside, `place.typed` can make `node` and `data` explicit.
    """
    devices = jax.devices() if devices is None else devices
    if shape.size != len(devices):
        raise ValueError(f"a mesh of {shape.size} devices from {len(devices)}")
    sizes = tuple(getattr(shape, axis) for axis in AXES)
    if len(devices) > 1 and getattr(devices[0], "platform", "") == "tpu":
        from jax.experimental import mesh_utils

        placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        placed = np.asarray(devices).reshape(sizes)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@functools.cache  # a plan is worked out and logged once
def mesh_for(text: str, graph: TextGraph, config: DecoderConfig, questions: int) -> Mesh | None:
    """The mesh that `config.mesh` names: "auto", "node=2,data=4" or "" for one device; None where one device does all.

    Raises ValueError for another text, or numbers that do not fit devices, batch or backbone.
    """
    shape = parse_mesh(text)
    if shape is None:
        return None
    devices = jax.devices()
    if shape == "auto":
        if len(devices) == 1:
            return None
        memory = 0 if devices[0].platform == "cpu" else (devices[0].memory_stats() or {}).get("bytes_limit", 0)
        shape, why = plan_mesh(graph, config, questions, len(devices), memory)
        logging.info("mesh: %s", why)
    check_mesh(shape, config, questions, len(devices))
    return make_mesh(shape) if shape.size > 1 else None


def parse_mesh(text: str) -> MeshShape | str | None:
    """`config.mesh` as numbers of devices, "auto", or None where it is empty. Raises ValueError for anything else."""
    if text in ("", "auto"):
        return text or None
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return MeshShape(**{axis.strip(): int(size) for axis, size in pairs})
    except (ValueError, TypeError):
        raise ValueError(f"config.mesh is {text!r}; it must be 'auto', '' for one device, or devices along axes, such as "
                         "'node=2,data=4,model=1'") from None
