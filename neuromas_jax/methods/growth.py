"""Growth and what it is compared with: ways to the family's graph that take the steps of all stages together.

- `grown`: the family's stages, each going on from the one before.
- `grown_anew`: the same, but every stage starts with new adapters: what the samples of the last stage do alone.
- `parent_trained_on`: the stages, but the last of them trains the graph of the one before: what its parent would have learned.
- `graph_schedule`: the family's whole graph from the first step on, trained on the stages' questions in their order.
- `graph_mixed`: the whole graph, trained on one mixture of all stages' depths in their proportions.
- `graph_tied`: the whole graph on the last stage's questions, one adapter per layer, of the same total rank: what a designer
  who knows the roles can do without growing.

`graph` itself, the whole graph on the last stage's questions, is the plainest of them.
"""

import collections
import dataclasses

from neuromas_jax.config import Config, FamilyConfig
from neuromas_jax.graph import node_slots
from neuromas_jax.graph.growth import edit, plan
from neuromas_jax.methods import Stage, family_graph
from neuromas_jax.rl.growth import Growth
from neuromas_jax.tasks import FileTask, make_task


def growth_stages(name: str, config: Config, family: FamilyConfig) -> tuple[Stage, ...]:
    """The stages of one of these methods. Raises ValueError where the family names no stages, or they do not end at its graph."""
    if not family.stages:
        raise ValueError(f"method {name!r} needs the stages of growth; set families.{family.task}.stages, such as "
                         "(dict(topology='2-1', steps=30), dict(steps=120))")
    if name == "parent_trained_on":
        *earlier, last = family.stages
        if not earlier:
            raise ValueError(f"method {name!r} trains the graph of the stage before the last for longer, and "
                             f"families.{family.task}.stages has one stage alone; give two, or drop the method")
        ungrown = dataclasses.replace(earlier[-1], steps=last.steps, options=last.options, stall=last.stall, growth=Growth())
        family = dataclasses.replace(family, stages=(*earlier, ungrown))
    carries = name.startswith("grown") or name == "parent_trained_on"
    stages = []
    for number, stage in enumerate(family.stages):
        whole = stage if carries else dataclasses.replace(
            stage, topology="", reads="", edges=None, message_tokens=None, view="", slots="")
        graph, slots = family_graph(config, family, whole)
        growth = None if number == 0 and not (config.init_from and name.startswith("grown")) else stage.growth
        if growth is not None and not carries:
            growth = Growth()
        stages.append(Stage(graph, slots, (config.adapters.rank,) * (max(slots) + 1), stage.steps,
                            tuple(sorted(stage.options.items())), growth, name == "grown_anew", stage.stall))
    if config.graph.slots == "kept" and name.startswith("grown"):
        stages = kept_rows(stages, config.adapters.rank)
    target, slots = family_graph(config, family)
    if name == "parent_trained_on":
        return tuple(stages)
    if stages[-1].graph != target or stages[-1].options:
        raise ValueError(f"the last of families.{family.task}.stages has the graph {stages[-1].graph} and options "
                         f"{dict(stages[-1].options)}; leave its graph and options out: they are the family's, here {target}")
    if name == "graph_mixed":
        return (Stage(target, slots, (config.adapters.rank,) * (max(slots) + 1), options=mixed_options(family)),)
    if name == "graph_tied":
        tied = node_slots(target, "per_layer")
        total = config.adapters.rank * (max(slots) + 1)
        return (Stage(target, tied, (-(-total // target.rounds),) * target.rounds),)
    return tuple(stages)


def kept_rows(stages: list[Stage], rank: int) -> list[Stage]:
    """The stages with one bank as large as the last of them needs from the start: nodes keep their rows, new ones take the next
    free row. Programs of the smaller graphs then serve the grown bank too, and rows without a node wait unmoved."""
    size, slots, found = stages[-1].graph.size, (), []
    for number, stage in enumerate(stages):
        if number and stage.growth:
            grown = edit(stages[number - 1].graph, *plan(stages[number - 1].graph, stage.graph, stage.growth.place))
            free = iter(range(stages[number - 1].graph.size, size))
            slots = tuple(next(free) if old is None else slots[old] for old in grown.origin)
        else:
            slots = tuple(range(stage.graph.size))
        found.append(dataclasses.replace(stage, slots=slots, ranks=(rank,) * size))
    return found


def mixed_options(family: FamilyConfig) -> tuple[tuple[str, object], ...]:
    """One mixture of the depths of all stages, each weighed by its steps."""
    weights: dict[int, float] = collections.defaultdict(float)
    for stage in family.stages:
        task = make_task(family.task, **{**family.options, **stage.options})
        if isinstance(task, FileTask):
            raise ValueError(f"method 'graph_mixed' mixes the depths of stages, and {family.task!r} is a file without any; "
                             "drop the method, or give a generated family")
        for depth, weight in zip(task.depths, task.weights):
            weights[depth] += stage.steps * weight / sum(task.weights)
    total = sum(weights.values())
    depths = tuple(sorted(weights))
    return (("depths", depths), ("weights", tuple(weights[depth] / total for depth in depths)))

