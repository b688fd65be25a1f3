"""Configs: short `ml_collections` files that read as the experiment, turned once into frozen dataclasses.

Every key is a field of a dataclass below; any other key raises, with the allowed ones, and so does a key that would not be used.
Values are checked against the fields' annotations; a list will do for a tuple. See `configs/quickstart.py`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from neuromas_jax.backbone.architecture import LINEAR_SITES
from neuromas_jax.parallel.mesh import parse_mesh
from neuromas_jax.parallel.rules import AXIS_TYPES
from neuromas_jax.rl.growth import Growth
from neuromas_jax.rl.objective import Objective
from neuromas_jax.rl.update import Optimizer
from neuromas_jax.settings import EXAMPLES, nearest, section, value_of
from neuromas_jax.text.prompt import PromptTemplate, check_template
from neuromas_jax.train.profile import parse_steps

TOO_LONG = ("error", "skip")
OPTIONS = {  # of tasks, which check the rest themselves
    "depths": tuple[int, ...], "weights": tuple[float, ...], "held_out_depth": int, "path": str, "file": str, "name": str,
    "number": bool, "evaluation_only": bool, "uneven": bool, "far": float,
}


@dataclasses.dataclass(frozen=True)
class GraphConfig:
    """The graph that is tested; see `graph.text_graph`. Its message length is the family's; topology, reads and edges are those
    of the families that set none themselves. `slots` may also be "kept": one each, and while a graph grows a node keeps its row
    of a bank that has room for all nodes to come."""

    topology: str = "4-2-1"
    reads: str | tuple[tuple[int, ...], ...] = "previous"
    edges: str | tuple[tuple[tuple[bool | int, ...], ...] | None, ...] | None = None
    slots: str | tuple[int, ...] = "per_node"


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """rank of every slot of the graph; `scale` is LoRA's alpha / rank; `sites` are the adapted linear maps.

    `start`: PEFT folders that slots begin with, one for each slot in order, or one for all; by default they are born anew.
    """

    rank: int = 4
    scale: float = 2.0
    sites: tuple[str, ...] = LINEAR_SITES
    start: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """`questions` times `group` episodes a step.

    `microbatch` questions are read at a time in prefill and update; by default a few on a CPU and all on an accelerator, where it
    trades time for memory. A batch is written in `parts`, one after the other: with 2 or more, slow verifiers (code) judge one
    while the next is written. An update goes back through `update_nodes` nodes of a layer at a time, by default through all nodes
    at once: with few, large graphs fit without `remat`. `too_long`: a question over the largest bucket is an "error" or a counted
    "skip".
    """

    questions: int = 32
    group: int = 8
    microbatch: int | None = None
    parts: int = 1
    update_nodes: int | None = None
    temperature: float = 1.0
    too_long: str = "error"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """steps of training; validation and the per-node numbers every `evaluate_every`; checkpoints every `checkpoint_every`.

    What blanking each node's message costs is measured every `influence_every` steps, a multiple of `evaluate_every`; by default
    each time, and it asks as many evaluations as the graph has nodes. `profile_steps`, such as "10:13", are traced; see
    `train.profile`.
    """

    steps: int = 150
    evaluate_every: int = 25
    influence_every: int | None = None
    checkpoint_every: int = 50
    validation_questions: int = 128
    profile_steps: str = ""


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of growing: a graph, what it is trained on, and how it goes on from the stage before.

    Attributes:
      topology, reads, edges, message_tokens, view: of the stage's graph; the family's where they are left out.
      slots: see `graph.node_slots`; where it is left out that of `config.graph`.
      steps: of training, at most.
      options: of the task, over the family's: such as the depths that the stage trains on.
      growth: see `rl.growth.Growth`; not used by a first stage that starts from nothing.
      stall: 0, or after how many validations in a row without a gain of a point the next stage begins. The steps that are left
        go to the last stage.
    """

    topology: str = ""
    reads: str | tuple[tuple[int, ...], ...] = ""
    edges: str | tuple[tuple[tuple[bool | int, ...], ...] | None, ...] | None = None
    message_tokens: int | tuple[int, ...] | None = None
    view: str | tuple[str, ...] = ""
    slots: str | tuple[int, ...] = ""
    steps: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    growth: Growth = Growth()
    stall: int = 0


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How the method `searched` grows a graph by itself; see `train.search`. Graphs change their layers, so such a family has
    message tokens and a view that are the same for all of them.

    Attributes:
      topology: of the start.
      calls: per question at most; 0 for as many as the family's own graph makes.
      trial: steps of each turn of a race between plans, after which those that are behind are dropped.
      stall: validations in a row without a gain of a point after which it grows.
      every: steps that a graph is trained for at most before the next race, or as many as its own race took; 0 for no limit.
      growing: share of all steps in which races must end.
      most: how often it grows at most.
      growth: how new nodes start and old ones go on; where new layers go is what is searched.
    """

    topology: str = "2-1"
    calls: int = 0
    trial: int = 10
    stall: int = 2
    every: int = 0
    growing: float = 0.7
    most: int = 3
    growth: Growth = Growth(rate=0.2)


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
      topology, reads, edges: of this family's graph, in place of those of `config.graph`.
      stages: how the method `grown` gets there, and what other methods of growth are compared with; the last one ends at the
        family's own graph. All methods then train for the steps of all stages together.
      search: how the method `searched` gets to a graph of its own.
      steps: of training, in place of `training.steps`.
      forced_choice: whether the answer to a question with options is the letter that the readout finds likeliest, in place of
        what it writes: in every evaluation, not in training.
      files: BBH files that are evaluated with what was trained on this family.
      adapters: for evaluation without training: folder with `<method>_seed<n>/adapters.safetensors` and `done.json`, as an
        experiment leaves them under `train/<family>`.
    """

    task: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    message_tokens: int | tuple[int, ...] = 2
    tokens_per_fact: int = 2
    buckets: tuple[int, ...] = (32,)
    view: str | tuple[str, ...] = "all"
    topology: str = ""
    reads: str | tuple[tuple[int, ...], ...] = ""
    edges: str | tuple[tuple[tuple[bool | int, ...], ...] | None, ...] | None = None
    stages: tuple[StageConfig, ...] = ()
    search: SearchConfig = SearchConfig()
    steps: int | None = None
    forced_choice: bool = False
    files: tuple[str, ...] = ()
    adapters: str = ""


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Learning rates tried per family and method, on a seed of their own, judged on validation questions; () for none.

    A trial has as many `steps` as the training that follows, unless told otherwise: learning may come in a late jump, and a sweep
    that ends before it tells nothing. With `entropy_floors` each rate is tried with each floor of the objective, 0 for none;
    `floor_weight` goes with them.
    """

    learning_rates: tuple[float, ...] = ()
    entropy_floors: tuple[float, ...] = ()
    floor_weight: float = 0.05
    seed: int = 100
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment: every family times every method times every seed.

    Attributes:
      backbone: "embedded", a folder with config.json, model.safetensors and a tokenizer, or a model of the Hugging Face Hub as
        OWNER/NAME.
      remat: compute decoder layers again in the backward pass instead of keeping their values; for large backbones.
      attention: "xla"; "cudnn" on an NVIDIA GPU in bfloat16 or "splash" on a TPU, for long prompts: see `backbone.kernels`.
      mesh: "auto" for all devices, split as `parallel.mesh.plan_mesh` says; "" for one; or devices along the axes, such as
        "node=2,data=4,model=1".
      axis_types: "auto", all left to XLA; or "explicit", so that what does not fit along node and data is an error when a program
        is traced. As XLA compiles them for a TPU, explicit types cost a rollout traffic with HBM, much of it in large graphs.
      fsdp: whether the data axis also divides the backbone's weights, which are gathered a decoder layer at a time.
      families: name -> `FamilyConfig`.
      order: names of the families in the order in which they are done; alphabetical where it is empty.
      methods: names of `methods.METHODS`.
      seeds: seeds of training; the backbone is one and the same.
      learning_rate: per trained method; "default", 2e-3 where it is left out, serves the others. A sweep takes their place.
      sweep: see `SweepConfig`.
      init_from: folder of a trained cell, or workdir of an experiment with one per family and seed, that `grown` goes on from.
      test_questions: distinct questions per depth (files are always taken whole).
      workers: processes that share the work.
    """

    backbone: str = "embedded"
    remat: bool = False
    attention: str = "xla"
    mesh: str = "auto"
    axis_types: str = "auto"
    fsdp: bool = False
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
    init_from: str = ""
    training: TrainingConfig = TrainingConfig()
    test_questions: int = 256
    workers: int = 1


def training_steps(config: Config, family: FamilyConfig) -> int:
    """Steps of every method of a family: its own, or those of its stages together, or the config's."""
    return family.steps or sum(stage.steps for stage in family.stages) or config.training.steps


def parse(config: Mapping) -> Config:
    """Turns a ConfigDict or dict into a `Config` and checks what can be checked without loading anything.

    Raises:
      ValueError: unknown or unused key, wrong type, or a value out of range.
    """
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    parsed = section(Config, values, "")
    families = parsed.families
    if not families:
        raise ValueError(f"config.families is {families!r}; name at least one family, such as {EXAMPLES['families']}")
    order = parsed.order or tuple(sorted(families))
    if sorted(order) != sorted(families):
        raise ValueError(f"config.order is {order}; "
                         f"name each of the families {', '.join(sorted(families))} once, or leave it out")
    parsed = dataclasses.replace(
        parsed, families={name: dataclasses.replace(families[name], task=families[name].task or name) for name in order},
        learning_rate={**Config().learning_rate, **parsed.learning_rate})
    _check(parsed)
    _check_rates(parsed, values)
    _check_unused(parsed, values)
    return parsed


def _check_rates(config: Config, values: Mapping) -> None:
    """Refuses learning rates and sweep settings that would decide nothing; `values` tells what the config sets itself."""
    sweep = values.get("sweep", {})
    if config.sweep.learning_rates and "learning_rate" in values:
        raise ValueError(f"config.learning_rate is {values['learning_rate']!r} beside config.sweep.learning_rates "
                         f"{config.sweep.learning_rates}, which would take its place; drop one of them")
    if sweep and "learning_rates" not in sweep:
        raise ValueError(f"config.sweep sets {', '.join(sweep)} and no learning_rates, so nothing would be swept; "
                         "add the rates to try, such as learning_rates=(1e-3, 2e-3), or drop config.sweep")
    from neuromas_jax.methods import TRAINED  # it builds on this module

    allowed = ("default", *TRAINED)  # of methods that this config leaves out too, so that `methods` can be set alone
    for name, rate in config.learning_rate.items():
        if name not in allowed:
            raise ValueError(f"config key 'learning_rate.{name}' is {rate} and would not be used, since no such method is "
                             f"trained; allowed are {', '.join(allowed)}{nearest(name, allowed)}")


def _check_unused(config: Config, values: Mapping) -> None:
    """Refuses settings of training where nothing is trained."""
    if all(family.adapters for family in config.families.values()):
        for key in ("training", "sweep", "learning_rate", "objective", "optimizer"):
            if key in values:
                raise ValueError(f"config.{key} is {values[key]!r} and would not be used, since every family names a folder of "
                                 "trained adapters, so nothing is trained; drop it, or drop `adapters` of a family")


def _check_stages(config: Config, name: str, family: FamilyConfig) -> None:
    """Refuses stages that cannot be trained, or settings beside them that would decide nothing."""
    for number, stage in enumerate(family.stages):
        place = f"families.{name}.stages.{number}"
        for field, low in (("steps", 1), ("stall", 0)):
            if getattr(stage, field) < low:
                raise ValueError(f"config key '{place}.{field}' is {getattr(stage, field)}; it must be {low} or more")
        if stage.stall and number == len(family.stages) - 1:
            raise ValueError(f"config key '{place}.stall' is {stage.stall} and would not be used, since no stage follows; "
                             "drop it")
    if family.stages and family.stages[0].growth != Growth() and not config.init_from:
        raise ValueError(f"config key 'families.{name}.stages.0.growth' would not be used, since the first stage starts from "
                         "nothing; drop it, or set config.init_from")
    if family.stages and family.steps is not None:
        raise ValueError(f"config key 'families.{name}.steps' is {family.steps} and would not be used, since the stages have "
                         f"{sum(stage.steps for stage in family.stages)} steps together; drop one of the two")
    if family.stages and config.sweep.steps is not None:
        raise ValueError(f"config key 'sweep.steps' is {config.sweep.steps}, and family {name!r} has stages, whose steps are "
                         "their own; drop it")


def _check(config: Config) -> None:
    check_template(config.prompt)
    parse_mesh(config.mesh)
    if config.axis_types not in AXIS_TYPES:
        raise ValueError(f"config.axis_types is {config.axis_types!r}; allowed: {', '.join(AXIS_TYPES)}")
    parse_steps(config.training.profile_steps)
    families = config.families.items()
    for name, value, low in (
        ("rollout.questions", config.rollout.questions, 1), ("rollout.group", config.rollout.group, 1),
        ("rollout.microbatch", config.rollout.microbatch, 1), ("rollout.parts", config.rollout.parts, 1),
        ("rollout.update_nodes", config.rollout.update_nodes, 1),
        ("training.steps", config.training.steps, 1), ("training.evaluate_every", config.training.evaluate_every, 1),
        ("training.checkpoint_every", config.training.checkpoint_every, 1),
        ("training.influence_every", config.training.influence_every, 1), ("workers", config.workers, 1),
        ("training.validation_questions", config.training.validation_questions, 1), ("test_questions", config.test_questions, 1),
        ("adapters.rank", config.adapters.rank, 1), ("sweep.steps", config.sweep.steps, 1),
        ("objective.entropy_floor", config.objective.entropy_floor, 0),
        ("objective.floor_weight", config.objective.floor_weight, 0),
        ("objective.entropy_bonus", config.objective.entropy_bonus, 0), ("objective.kl_penalty", config.objective.kl_penalty, 0),
        *((f"families.{name}.tokens_per_fact", family.tokens_per_fact, 1) for name, family in families),
        *((f"families.{name}.message_tokens", family.message_tokens, 2) for name, family in families),
        *((f"families.{name}.steps", family.steps, 1) for name, family in families),
        *((f"families.{name}.search.{field}", getattr(family.search, field), low) for name, family in families
          for field, low in (("calls", 0), ("trial", 1), ("stall", 1), ("every", 0), ("most", 0))),
    ):
        if value is not None and min(value if isinstance(value, tuple) else (value,), default=low) < low:
            raise ValueError(f"config key {name!r} is {value}; it must be {low} or more")
    for name, family in families:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
            raise ValueError(f"config key 'families' has the key {name!r}, which names folders and pictures; "
                             "write it in letters, digits and _ . -")
        shortest = min(family.message_tokens) if isinstance(family.message_tokens, tuple) else family.message_tokens
        if family.tokens_per_fact > shortest:
            raise ValueError(f"config key 'families.{name}.tokens_per_fact' is {family.tokens_per_fact} and a message has "
                             f"{shortest} tokens, so no fact fits into it; raise families.{name}.message_tokens")
    for name, value in (
        ("rollout.temperature", config.rollout.temperature), ("adapters.scale", config.adapters.scale),
        ("optimizer.clip", config.optimizer.clip), ("optimizer.eps", config.optimizer.eps),
        *((f"learning_rate.{name}", rate) for name, rate in config.learning_rate.items()),
        *(("sweep.learning_rates", rate) for rate in config.sweep.learning_rates),
    ):
        if value <= 0:
            raise ValueError(f"config key {name!r} is {value}; it must be above 0")
    for name, value in (("optimizer.b1", config.optimizer.b1), ("optimizer.b2", config.optimizer.b2)):
        if not 0 <= value < 1:
            raise ValueError(f"config key {name!r} is {value}; it must be 0 or more and below 1")
    if config.rollout.too_long not in TOO_LONG:
        raise ValueError(f"config key 'rollout.too_long' is {config.rollout.too_long!r}; allowed are {', '.join(TOO_LONG)}")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise ValueError(f"config key 'seeds' is {config.seeds}; give one or more different seeds")
    for name, seed in (*(("seeds", seed) for seed in config.seeds), ("sweep.seed", config.sweep.seed)):
        if not 0 <= seed < 2**32:
            raise ValueError(f"config key {name!r} holds {seed}; a seed is 0 or more and below 2**32")
    rates = config.sweep.learning_rates
    if len(set(rates)) != len(rates):
        raise ValueError(f"config key 'sweep.learning_rates' is {rates}; give each rate once")
    floors = config.sweep.entropy_floors
    if len(set(floors)) != len(floors) or min(floors, default=0) < 0:
        raise ValueError(f"config key 'sweep.entropy_floors' is {floors}; give each floor once, 0 for none, in nats per token")
    if floors and config.objective.floor_weight:
        raise ValueError(f"config key 'objective.floor_weight' is {config.objective.floor_weight} beside "
                         f"config.sweep.entropy_floors {floors}, which would take its place; drop one of them")
    if config.sweep.learning_rates and config.sweep.seed in config.seeds:
        raise ValueError(f"config key 'sweep.seed' is {config.sweep.seed}, which is also reported; "
                         f"choose a seed outside {config.seeds}")
    for name in ("malt", "searched"):
        if name in config.methods and config.sweep.steps is not None:
            raise ValueError(f"config key 'sweep.steps' is {config.sweep.steps}, and the method {name!r} divides its steps into "
                             "phases, of which a shorter trial would see some alone; drop it")
    every = config.training.influence_every
    if every is not None and every % config.training.evaluate_every:
        raise ValueError(f"config key 'training.influence_every' is {every}; it must be a multiple of training.evaluate_every, "
                         f"which is {config.training.evaluate_every}")
    for name, family in config.families.items():
        _check_stages(config, name, family)
        if family.search.growth.imitate or family.search.growth.place != Growth().place:
            raise ValueError(f"config key 'families.{name}.search.growth' is {family.search.growth}: a search tries the places "
                             "of new nodes itself, and has no imitation; leave out place, and take new='zero_b' or 'copy'")
        if not 0 <= family.search.growing <= 1:
            raise ValueError(f"config key 'families.{name}.search.growing' is {family.search.growing}; it is a share of all "
                             "steps, from 0 to 1")
        if family.adapters and family.steps is not None:
            raise ValueError(f"config key 'families.{name}.steps' is {family.steps} and would not be used, since the adapters "
                             f"come from {family.adapters!r}; drop one of the two")
        if not family.buckets or min(family.buckets) < 1 or list(family.buckets) != sorted(set(family.buckets)):
            raise ValueError(f"config key 'families.{name}.buckets' is {family.buckets}; give increasing lengths of 1 or more")
        for option, hint in OPTIONS.items():
            if option in family.options:
                value_of(family.options[option], hint, f"families.{name}.options.{option}")
