"""Configs: short `ml_collections` files that read as the experiment, turned once into frozen dataclasses.

Every key is a field of a dataclass below; any other key raises, with the allowed ones. See `configs/quickstart.py`.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from neuromas_jax.backbone.decoder import LINEAR_SITES
from neuromas_jax.rl.objective import Objective
from neuromas_jax.rl.update import Optimizer
from neuromas_jax.text.prompt import PromptTemplate

TOO_LONG = ("error", "skip")


@dataclasses.dataclass(frozen=True)
class GraphConfig:
    """The graph that is tested; see `graph.text_graph`. Its message length is the family's."""

    topology: str = "4-2-1"
    reads: Any = "previous"
    edges: Any = None
    slots: Any = "per_node"


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """rank of every slot of the graph; `scale` is LoRA's alpha / rank; `sites` are the adapted linear maps."""

    rank: int = 4
    scale: float = 2.0
    sites: tuple[str, ...] = LINEAR_SITES


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """`questions` times `group` episodes a step.

    `microbatch` questions are read at a time in prefill and update; by default one on a CPU and all on an accelerator, where it
    trades time for memory. `too_long`: a question over the largest bucket is an "error" or a counted "skip".
    """

    questions: int = 32
    group: int = 8
    microbatch: int | None = None
    temperature: float = 1.0
    too_long: str = "error"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """steps of training; validation and the per-node numbers every `evaluate_every`; checkpoints every `checkpoint_every`."""

    steps: int = 150
    evaluate_every: int = 25
    checkpoint_every: int = 50
    validation_questions: int = 128


@dataclasses.dataclass(frozen=True)
class FamilyConfig:
    """One task and what its questions need.

    Attributes:
      task: name for `tasks.make_task`; the family's own key by default.
      options: options of the task, such as depths, or the path of a JSONL file.
      message_tokens: most tokens of a message, which closes with the end token if it is shorter; one number, or one per
        layer of the graph.
      tokens_per_fact: tokens of one `label value`; the prompt tells a node how many facts its message holds.
      buckets: lengths that questions are padded to; one trace each.
      view: what the graph's nodes see of the question: one word, or one per layer.
      files: BBH files that are evaluated with what was trained on this family.
      adapters: for evaluation without training: folder with `<method>_seed<n>/adapters.safetensors` and `done.json`, as an
        experiment leaves them under `train/<family>`.
    """

    task: str = ""
    options: Any = dataclasses.field(default_factory=dict)
    message_tokens: Any = 2
    tokens_per_fact: int = 2
    buckets: tuple[int, ...] = (32,)
    view: Any = "all"
    files: tuple[str, ...] = ()
    adapters: str = ""


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Learning rates tried per family and method, on a seed of their own, judged on validation questions; () for none."""

    learning_rates: tuple[float, ...] = ()
    seed: int = 100
    steps: int = 100


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment: every family times every method times every seed.

    Attributes:
      backbone: "embedded", or a folder with config.json, model.safetensors and a tokenizer.
      remat: compute decoder layers again in the backward pass instead of keeping their values; for large backbones.
      families: name -> `FamilyConfig`.
      order: names of the families in the order in which they are done; alphabetical where it is empty.
      methods: names of `methods.METHODS`.
      seeds: seeds of training; the backbone is one and the same.
      learning_rate: per method; "default" serves the others. A sweep replaces both.
      sweep: see `SweepConfig`.
      test_questions: distinct questions per depth (files are always taken whole).
      workers: processes that share the work.
    """

    backbone: str = "embedded"
    remat: bool = False
    families: dict[str, FamilyConfig] = dataclasses.field(default_factory=dict)
    order: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("graph",)
    seeds: tuple[int, ...] = (0,)
    graph: GraphConfig = GraphConfig()
    adapters: AdapterConfig = AdapterConfig()
    prompt: PromptTemplate = PromptTemplate()
    rollout: RolloutConfig = RolloutConfig()
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    learning_rate: dict[str, float] = dataclasses.field(default_factory=lambda: {"default": 2e-3})
    sweep: SweepConfig = SweepConfig()
    training: TrainingConfig = TrainingConfig()
    test_questions: int = 256
    workers: int = 1


_SECTIONS = {
    "graph": GraphConfig, "adapters": AdapterConfig, "prompt": PromptTemplate, "rollout": RolloutConfig, "objective": Objective,
    "optimizer": Optimizer, "sweep": SweepConfig, "training": TrainingConfig,
}


def _section(kind, values: Mapping, where: str):
    """A dataclass from a mapping. Raises ValueError naming an unknown key, the allowed ones and the nearest, or a wrong type."""
    if not isinstance(values, Mapping):
        raise ValueError(f"config.{where} is {values!r}; "
                         f"give a dict with keys among {', '.join(f.name for f in dataclasses.fields(kind))}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        place = f"{where}.{key}" if where else key
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown config key {place!r}; allowed here are {', '.join(fields)}{hint}")
        wanted = {int: (int,), float: (int, float), str: (str,)}.get(fields[key].type)
        if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise ValueError(f"config key {place!r} is {value!r}; it must be of type {fields[key].type.__name__}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def parse(config: Mapping) -> Config:
    """Turns a ConfigDict or dict into a `Config` and checks what can be checked without loading anything.

    Raises:
      ValueError: unknown key, wrong type, or a value out of range.
    """
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    for name, kind in _SECTIONS.items():
        if name in values:
            values[name] = _section(kind, values[name], name)
    families = values.get("families", {})
    if not isinstance(families, Mapping) or not families:
        raise ValueError(f"config.families is {families!r}; name at least one family, such as dict(listops=dict())")
    order = tuple(values.get("order") or sorted(families))
    if sorted(order) != sorted(families):
        raise ValueError(f"config.order is {order}; "
                         f"name each of the families {', '.join(sorted(families))} once, or leave it out")
    values["families"] = {
        name: _section(FamilyConfig, {**families[name], "task": families[name].get("task") or name}, f"families.{name}")
        for name in order
    }
    parsed = _section(Config, values, "")
    _check(parsed)
    return parsed


def _check(config: Config) -> None:
    for name, value, low in (
        ("rollout.questions", config.rollout.questions, 1), ("rollout.group", config.rollout.group, 1),
        ("training.steps", config.training.steps, 1), ("training.evaluate_every", config.training.evaluate_every, 1),
        ("training.checkpoint_every", config.training.checkpoint_every, 1), ("workers", config.workers, 1),
        ("training.validation_questions", config.training.validation_questions, 1), ("test_questions", config.test_questions, 1),
        ("adapters.rank", config.adapters.rank, 1), ("sweep.steps", config.sweep.steps, 1),
    ):
        if value < low:
            raise ValueError(f"config key {name!r} is {value}; it must be {low} or more")
    rates = [*config.learning_rate.values(), *config.sweep.learning_rates]
    if not all(isinstance(rate, (int, float)) and rate > 0 for rate in rates):
        raise ValueError(f"learning rates {rates}; each must be a number above 0")
    if config.rollout.too_long not in TOO_LONG:
        raise ValueError(f"config key 'rollout.too_long' is {config.rollout.too_long!r}; allowed are {', '.join(TOO_LONG)}")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise ValueError(f"config key 'seeds' is {config.seeds}; give one or more different seeds")
    if config.sweep.learning_rates and config.sweep.seed in config.seeds:
        raise ValueError(f"config key 'sweep.seed' is {config.sweep.seed}, which is also reported; "
                         f"choose a seed outside {config.seeds}")
    for name, family in config.families.items():
        if not family.buckets or min(family.buckets) < 1 or list(family.buckets) != sorted(set(family.buckets)):
            raise ValueError(f"config key 'families.{name}.buckets' is {family.buckets}; give increasing lengths of 1 or more")
