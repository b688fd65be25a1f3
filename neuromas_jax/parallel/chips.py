"""TPU topologies by name, and what one of their devices can do."""

from collections.abc import Sequence
import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as JAX counts them. Figures of Google Cloud's pages on each TPU version, per chip (of a tpu7x, which has two
    devices, half of it).

    Attributes:
      memory: HBM, bytes.
      bandwidth: of HBM, bytes a second.
      flops: of bfloat16 products, a second.
      links: bytes a second that it sends to other chips of its slice, over all links together, one way.
    """

    memory: float
    bandwidth: float
    flops: float
    links: float


CHIPS = {
    "v5e": Chip(16 * 2**30, 819e9, 197e12, 200e9),
    "v5p": Chip(95 * 2**30, 2765e9, 459e12, 600e9),
    "v6e": Chip(32 * 2**30, 1640e9, 918e12, 448e9),
    "tpu7x": Chip(96 * 2**30, 3690e9, 1153e12, 600e9),
}


def topology_devices(name: str, slices: int = 1) -> tuple[Sequence, Chip]:
    """Devices of a topology that need not be there, such as "v5e:16x16" or "tpu7x:2x2x1", for ahead-of-time compilation.

    Raises:
      ValueError: libtpu is not installed, another process uses it, or it does not know the topology.
    """
    version = name.split(":")[0]
    if version not in CHIPS:
        raise ValueError(f"topology {name!r}; it must be a version and a shape, such as v5e:4x4; versions: {', '.join(CHIPS)}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu asks the cloud what machine this is
    from jax.experimental import topologies

    try:
        options = {"num_slices": slices} if slices > 1 else {}
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices, CHIPS[version]
    except Exception as error:  # the runtime raises what it likes
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ValueError(f"topology {name!r} with {slices} slices cannot be described ({first}): install JAX's libtpu (pip "
                         "install -e .[tpu]), let one process use it at a time, and give a shape that the version has") from error
