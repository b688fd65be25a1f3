"""Everything one training or evaluation needs, built and checked from a config before anything is compiled."""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import gc
from pathlib import Path
import time
import zlib

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from neuromas_jax.backbone import Backbone, check_vocabulary, load_backbone, load_config
from neuromas_jax.backbone.adapters import Bank, bank_parameters, default_merge, init_bank
from neuromas_jax.backbone.decoder import abstract_params
from neuromas_jax.backbone.hub import model_folder
from neuromas_jax.backbone.huggingface import weights_checksum
from neuromas_jax.backbone.kernels import check_attention
from neuromas_jax.backbone.peft import start_from
from neuromas_jax.config import Config, FamilyConfig
from neuromas_jax.methods import WIRED, Method, make_method
from neuromas_jax.parallel.mesh import mesh_for
from neuromas_jax.parallel.place import put, shardings, stored_shardings, typed
from neuromas_jax.parallel.rules import mesh_rules
from neuromas_jax.rl import Objective, Optimizer, check_credit, learn, update
from neuromas_jax.rollout import Program, make_program, make_sampling, rollout
from neuromas_jax.rollout.edges import allowed_edges, edge_bank
from neuromas_jax.rollout.microbatch import check_microbatch, default_microbatch
from neuromas_jax.tasks import make_task
from neuromas_jax.text.prompt import check_context
from neuromas_jax.text.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Parts:
    """A backbone with its tokenizer, and a checksum of both: adapters belong to the backbone they were trained on."""

    backbone: Backbone
    tokenizer: Tokenizer
    fingerprint: str


@functools.cache
def load_parts(name: str, remat: bool = False, end: str = "", attention: str = "xla", mesh: Mesh | None = None,
               fsdp: bool = False) -> Parts:
    """Loads "embedded", a Hugging Face folder or a model of the Hub, see `hub.model_folder`.

    `end` is the token that ends a message, the tokenizer's own where it is empty; `remat` and `attention` are the backbone's. On
    a mesh each process reads what its own devices hold.

    Raises FileNotFoundError for missing files, ValueError for damaged or mismatched ones.
    """
    folder = model_folder(name)
    tokenizer, config = load_tokenizer(folder, end), load_config(folder)
    check_vocabulary(config, tokenizer)
    check_attention(attention, config)
    where = shardings(Backbone(abstract_params(config), config), mesh, mesh_rules(fsdp)).params if mesh else None
    backbone = load_backbone(folder, where=where)
    checksum = weights_checksum(folder, zlib.crc32(repr(config).encode() + (folder / "tokenizer.json").read_bytes()))
    return Parts(dataclasses.replace(backbone, remat=remat, attention=attention), tokenizer, f"{checksum:08x}")


@dataclasses.dataclass(frozen=True)
class Run:
    """One method on one family: static parts of training and evaluation.

    Of a method with several stages it is one of them: `method.stages` then holds that one alone. `task` is what the stage trains
    on, `target` the family's, which evaluation asks.
    """

    config: Config
    family: FamilyConfig
    method: Method
    task: object
    target: object
    parts: Parts
    program: Program
    answering: Program  # the same graph with one episode per question: greedy answers need no more
    objective: Objective
    optimizer: Optimizer
    mesh: Mesh | None = None

    @property
    def trainable_parameters(self) -> int:
        if self.method.learns == "edges":
            return int(allowed_edges(self.method.graph).sum())
        used = [self.method.ranks[slot] for slot in sorted(set(self.method.slots))]  # a bank may have spare rows
        return bank_parameters(self.parts.backbone.config, used, self.config.adapters.sites)

    def new_bank(self, seed: int) -> Bank:
        """Adapters at birth; a function of the seed, and of what `adapters.start` names, alone.

        Raises ValueError or FileNotFoundError where that does not fit.
        """
        if self.method.learns == "edges":
            return edge_bank(len(self.method.ranks), self.method.graph.size)
        key = jax.random.fold_in(jax.random.key(seed), 1)
        bank = init_bank(self.parts.backbone.config, self.method.ranks, key, self.config.adapters.sites)
        rule = self.config.adapters
        return start_from(bank, self.method.ranks, rule.start, self.parts.backbone.config, rule.scale) if rule.start else bank


def make_run(
    config: Config, family_name: str, method_name: str, learning_rate: float | None = None, stage: int = -1,
    parts: Parts | None = None,
) -> Run:
    """Builds and checks all parts of one stage, the last one by default, of one method on one family.

    `parts` stand in for those of `config.backbone`, on one device.

    Raises:
      ValueError: anything in the config, the data or the backbone's folder that does not fit, before any compile.
      FileNotFoundError: a file of the backbone or its tokenizer is missing.
    """
    family = config.families[family_name]
    method = make_method(method_name, config, family)
    return make_stage_run(config, family, dataclasses.replace(method, stages=(method.stages[stage],)), learning_rate, parts)


def make_stage_run(
    config: Config, family: FamilyConfig, method: Method, learning_rate: float | None = None, parts: Parts | None = None
) -> Run:
    """Builds and checks all parts of a method of one stage. Raises as `make_run` does."""
    objective = dataclasses.replace(config.objective, **dict(method.objective), **dict(method.stages[0].objective))
    check_credit(objective.credit, config.rollout.group, bool(method.tree))
    target = make_task(family.task, **family.options)
    options = dict(method.stages[0].options)
    task = make_task(family.task, **{**family.options, **options}) if options else target
    batch, mesh = config.rollout.questions, None
    if parts is None:
        mesh = mesh_for(config.mesh, method.graph, load_config(model_folder(config.backbone)), batch)
        parts = load_parts(config.backbone, config.remat, config.prompt.end, config.attention, mesh, config.fsdp)
    if batch % config.rollout.parts:
        raise ValueError(f"rollout.parts is {config.rollout.parts}, which does not divide a batch of {batch} questions; set "
                         "it, or rollout.questions, to another number")
    part = batch // config.rollout.parts
    microbatch = config.rollout.microbatch or default_microbatch(part, config.rollout.group, method.graph)
    check_microbatch(microbatch, part)
    sampling = make_sampling(parts.tokenizer, parts.backbone.config.vocab_size, config.rollout.temperature)
    template = dataclasses.replace(config.prompt, tokens_per_fact=family.tokens_per_fact)
    program = make_program(
        method.graph, method.slots, template, parts.tokenizer, sampling, config.rollout.group, microbatch, config.adapters.scale,
        default_merge(parts.backbone.config, method.graph.size), method.stages[0].finals, method.tree,
        config.rollout.update_nodes or 0)
    try:
        check_context(method.graph, program.prompts, family.buckets[-1], parts.backbone.config.max_position_embeddings,
                      wired=method.name in WIRED)
    except ValueError as error:
        raise ValueError(f"method {method.name!r} on task {family.task!r}: {error}") from error
    answering = dataclasses.replace(
        program, group=1, tree=(), microbatch=config.rollout.microbatch or default_microbatch(batch, 1, method.graph))
    rate = method.rate * (config.optimizer.learning_rate if learning_rate is None else learning_rate)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
    return Run(config, family, method, task, target, parts, program, answering, objective, optimizer, mesh)


# For XLA on a CPU: the quickstart's programs compile faster, in less memory, and run as fast. From jax 0.11 on the newer fusion
# emitters, which cost most of that, cannot be left out.
COMPILER_OPTIONS = {"cpu": {"xla_backend_optimization_level": 1}}
if jax.__version_info__ < (0, 11):
    COMPILER_OPTIONS["cpu"]["xla_cpu_use_fusion_emitters"] = False


class Compiled:
    """The programs of a run, compiled ahead of time per question bucket; compile seconds are kept apart from run time.

    `compile_seconds` maps (program, bucket) to seconds: one entry per trace. A call with other shapes than the bucket's is an
    error, never a silent recompile.
    """

    def __init__(self, run: Run, mesh: Mesh | None = None):
        backbone = run.parts.backbone
        self.run, self.mesh, self.rules = run, mesh or run.mesh, mesh_rules(run.config.fsdp)
        platform = self.mesh.devices.flat[0].platform if self.mesh else jax.default_backend()
        check_attention(backbone.attention, backbone.config, platform)
        self.compile_seconds: dict[tuple[str, int], float] = {}
        self._programs: dict[tuple[str, int], jax.stages.Compiled] = {}
        self.backbone = self.placed(backbone)
        self._constants = dataclasses.replace(run.optimizer, learning_rate=0.0)

    def share(self, other: "Compiled") -> None:
        """Uses the programs of another run with the same static parts (`Program`, objective, optimizer constants, batch size)."""
        self._programs, self.backbone = other._programs, other.backbone

    def placed(self, x):
        """An argument where the mesh has it."""
        abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(x))  # for a mesh without devices
        return x if self.mesh is None or abstract else put(x, shardings(x, self.mesh, self.rules))

    def lying(self, state):
        """Where this run has each array of a `TrainState`, in its form; shapes are enough."""
        if self.mesh:
            return stored_shardings(state, self.mesh, self.rules)
        here = SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: here, state)

    def everywhere(self, state):
        """A `TrainState` as a checkpoint holds it: on a mesh each device has its part, which all processes know of."""
        return put(state, self.lying(state)) if self.mesh else state

    def lower(self, function: Callable, *args, donate: tuple[int, ...] = (), **options) -> jax.stages.Lowered:
        """A traced program; arguments may be `jax.ShapeDtypeStruct`s with their shardings."""
        if self.mesh and self.run.config.axis_types == "explicit":
            function = typed(function, self.mesh, *(shardings(x, self.mesh, self.rules) for x in args))
        program = jax.jit(function, donate_argnums=donate, **options)
        with jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext():
            return program.lower(*args)

    def _call(self, name: str, bucket: int, function: Callable, *args, options: Callable[[], dict] = dict):
        args = (self.backbone, *map(self.placed, args))
        if (name, bucket) not in self._programs:
            started = time.perf_counter()
            compiler = COMPILER_OPTIONS.get(jax.default_backend())
            self._programs[name, bucket] = self.lower(function, *args, **options()).compile(compiler_options=compiler)
            self.compile_seconds[name, bucket] = time.perf_counter() - started
        return self._programs[name, bucket](*args)

    def _roll(self, name: str, program: Program, bank, questions, interventions, key, greedy: bool = False):
        def options():  # every process reads what was written
            return {"out_shardings": NamedSharding(self.mesh, PartitionSpec())} if jax.process_count() > 1 else {}

        function = functools.partial(rollout, program, greedy=greedy)
        return self._call(name, questions.tokens.shape[-1], function, bank, questions, interventions, key, options=options)

    def rollout(self, bank, questions, interventions, key):
        """`rollout.rollout` for this run: sampled episodes, a group per question."""
        size = questions.index.shape[0]  # of a whole batch, or of a part of it
        name = "rollout" if size == self.run.config.rollout.questions else f"rollout of {size}"
        return self._roll(name, self.run.program, bank, questions, interventions, key)

    def answer(self, bank, questions, interventions, key):
        """The most likely messages, one episode per question; `interventions` have a group of 1, the key decides nothing."""
        return self._roll("answer", self.run.answering, bank, questions, interventions, key, greedy=True)

    def sample(self, bank, questions, interventions, key):
        """Sampled messages, one episode per question; `interventions` have a group of 1."""
        return self._roll("sample", self.run.answering, bank, questions, interventions, key)

    def choose(self, bank, questions, interventions, key):
        """As `answer`, with as many episodes per question as `interventions` have; see `train.forced`."""
        group = interventions.blank.shape[-1]
        program = dataclasses.replace(self.run.answering, group=group)
        return self._roll(f"choose {group}", program, bank, questions, interventions, key, greedy=True)

    def learned(self, state) -> dict:
        """Options of a program that takes a learner's state and gives it back: donated, and lying where it lay."""
        whole = self.mesh and NamedSharding(self.mesh, PartitionSpec())
        return {"donate": (1,), **({"out_shardings": (shardings(state, self.mesh, self.rules), whole)} if self.mesh else {})}

    def update(self, state, episodes, rewards, bucket: int, invalid=None):
        """`rl.update.update` for this run; `state` is donated."""
        function = functools.partial(update, self.run.objective, self._constants, self.run.program)
        return self._call("update", bucket, function, state, episodes, rewards, invalid, options=lambda: self.learned(state))

    def learn(self, state, episodes, credit, bucket: int):
        """`rl.update.learn` for this run, by credit alone; rows with credit are live. `state` is donated."""
        function = functools.partial(learn, Objective(), self._constants, self.run.program)
        return self._call("learn", bucket, function, state, episodes, credit, credit != 0, options=lambda: self.learned(state))


COMPILED: dict[tuple, Compiled] = {}
MAPS, MOST_MAPS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


def spare_maps() -> None:
    """Drops programs that nobody holds, once this process has used half of the memory maps that Linux allows it.

    On a CPU each program holds hundreds of them. At the limit, 65,530 by default, XLA cannot load another one, and says that
    LLVM cannot allocate memory; an experiment of some twenty trained methods gets there.
    """
    if MOST_MAPS.exists() and MAPS.read_bytes().count(b"\n") > int(MOST_MAPS.read_text()) // 2:
        COMPILED.clear()
        jax.clear_caches()
        gc.collect()


def compiled_for(run: Run) -> Compiled:
    """Programs are shared by every family, seed and learning rate that has the same static parts and shapes."""
    constants = dataclasses.replace(run.optimizer, learning_rate=0.0)  # the rates are data, one per slot
    backbone, config = run.parts.backbone, run.config
    key = (run.program, run.objective, constants, run.mesh, config.fsdp, config.axis_types, backbone.config, backbone.remat,
           backbone.attention, run.method.ranks, run.method.learns, config.adapters.sites, config.rollout.questions)
    if key in COMPILED:
        shared = Compiled(run)
        shared.share(COMPILED[key])
        return shared
    spare_maps()
    return COMPILED.setdefault(key, Compiled(run))
