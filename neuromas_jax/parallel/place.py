"""How every array of a run lies on a mesh."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from neuromas_jax.backbone.architecture import LINEAR_SITES, DecoderConfig
from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.parallel.rules import RULES, TYPED, Rules
from neuromas_jax.rl import LearnerState
from neuromas_jax.rollout import Interventions, Questions

# Axes of the backbone's weights, without that of the decoder layers in front.
SITES = {"q": ("embed", "heads"), "k": ("embed", "kv_heads"), "v": ("embed", "kv_heads"), "o": ("heads", "embed"),
         "gate": ("embed", "mlp"), "up": ("embed", "mlp"), "down": ("mlp", "embed")}
QUESTION_AXIS = {2: 0, 3: 1}  # of plain arrays by their number of axes: rewards [B, G], credit of every node [X, B, G]


def fitting(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """A spec without the axes of the mesh that do not divide the array's."""
    return PartitionSpec(*(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, shape)))


def backbone_specs(config: DecoderConfig, rules: Rules = RULES) -> dict:
    """`PartitionSpec` of every parameter, in the form of `Backbone.params`."""
    layers = {site: rules.spec(None, *SITES[site]) for site in LINEAR_SITES}
    for name in config.vectors:
        axes = SITES[name.removesuffix("_bias")][1:] if name.endswith("_bias") else (None,)
        layers[name] = rules.spec(None, *axes)
    specs = {"embed": rules.spec("vocab", "embed"), "final_norm": rules.spec(None), "layers": layers}
    return specs if config.tie_word_embeddings else {**specs, "lm_head": rules.spec("embed", "vocab")}


def bank_spec(path, shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES) -> PartitionSpec:
    """How an array with a row for each slot lies: the bank's own `[S, L, in, R]` and `[S, L, R, out]`, and moments like them.

    Rows lie along the mesh's node axis where it divides them, else decoder layers do; the axis that meets the backbone's weights
    lies as they do.
    """
    if len(shape) < 4:
        names = ["slot"] + [None] * (len(shape) - 1)
        return fitting(rules.spec(*names[: len(shape)]), shape, mesh)
    site = next(key.key for key in path if getattr(key, "key", None) in LINEAR_SITES)
    factor = next(key.key for key in path if getattr(key, "key", None) in ("a", "b"))
    entering, leaving = SITES[site]
    ends = (entering, None) if factor == "a" else (None, leaving)
    spec = fitting(rules.spec("slot", None, *ends), shape, mesh)
    return spec if spec[0] or not rules.slot else fitting(PartitionSpec(None, rules.slot, *spec[2:]), shape, mesh)


def shardings(x: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """`NamedSharding` of every array of an argument of `rollout`, `update` or `learn`, in the form of the argument.

    The backbone is spread over `model`, the rows of adapters and moments over `node`, whatever has an axis of questions over
    `data`; the rest is whole on every device, and so is an axis that the mesh does not divide.
    """

    def laid(x, *names):
        return NamedSharding(mesh, fitting(rules.spec(*names), x.shape, mesh))

    def over_questions(tree, axis):
        return jax.tree.map(lambda x: laid(x, *[None] * axis, "question"), tree)

    def row(path, x):
        keys = {getattr(key, "name", getattr(key, "key", None)) for key in path}
        whole = "critic" in keys or not x.ndim
        return NamedSharding(mesh, PartitionSpec() if whole else bank_spec(path, x.shape, mesh, rules))

    if isinstance(x, Backbone):
        specs = backbone_specs(x.config, rules)
        lying = jax.tree.map(lambda x, spec: NamedSharding(mesh, fitting(spec, x.shape, mesh)), x.params, specs)
        return Backbone(lying, x.config, x.remat, x.attention)
    if isinstance(x, (LearnerState, dict)):
        return jax.tree_util.tree_map_with_path(row, x)
    if isinstance(x, Questions):
        return Questions(*over_questions((x.tokens, x.valid), 1), over_questions(x.index, 0))
    if isinstance(x, Interventions):
        return Interventions(**{name: over_questions(value, 2 if name == "shown" else 1) for name, value in vars(x).items()})
    if isinstance(x, tuple):  # episodes
        return over_questions(x, 1)
    return jax.tree.map(lambda x: over_questions(x, QUESTION_AXIS[x.ndim]) if x.ndim in QUESTION_AXIS else laid(x), x)


def stored_shardings(state: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """`NamedSharding` of every array of what a checkpoint holds, in the form of `state`, whose shapes are enough: the learner
    lies as programs take it, so that each device reads and writes its own part; the rest is whole on every device."""
    whole = NamedSharding(mesh, PartitionSpec())
    return dataclasses.replace(jax.tree.map(lambda _: whole, state), learner=shardings(state.learner, mesh, rules))


def put(x: Any, where: Any) -> Any:
    """Arrays where `where` says, in their form. With several processes each gives its own parts of what all of them have."""
    return jax.device_put(x, where) if jax.process_count() == 1 else jax.tree.map(_across, x, where)


def _across(x, where: NamedSharding):
    """An array over the devices of all processes, each of which has it, or a part of it already."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(_across(jax.random.key_data(x), where), impl=jax.random.key_impl(x))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, where, lambda index: x[index])
    return x if x.sharding.is_equivalent_to(where, x.ndim) else _mover(where)(x)


@functools.lru_cache(maxsize=None)
def _mover(where: NamedSharding):
    """Compiled once for each place and shape, not at each call."""
    return jax.jit(lambda x: x, out_shardings=where)


def typed(function: Callable, mesh: Mesh, *where: Any) -> Callable:
    """`function` with the axes `rules.TYPED` of a mesh in the types of its arrays, which come as `where` says, one of `shardings`
    for each argument. An axis of one device is in no type."""
    axes = tuple(axis for axis in TYPED if mesh.shape[axis] > 1)
    specs = jax.tree.map(lambda x: PartitionSpec(*(axis if axis in axes else None for axis in x.spec)), where)
    return jax.sharding.explicit_axes(function, axes=axes, in_sharding=specs) if axes else function
