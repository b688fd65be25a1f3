"""Compiles rollout and update of a config for a pod that is not there, and says whether it fits and what binds it.

    python -m neuromas_jax.aot --config=configs/pod.py --topology=v5e:16x16 [--shape=qwen3-8b] [--slices=2] [--config.fsdp=True]

Needs the libtpu that belongs to JAX (`pip install -e .[tpu]`), no TPU and no weights: with `--shape` the backbone is one of the
sizes below, with the embedded tokenizer. `config.mesh` is taken as it is, "auto" splits the topology's devices.
"""

import dataclasses
import math
import re
import sys
import time

from absl import app, flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags

from neuromas_jax.backbone import Backbone, DecoderConfig, load_config
from neuromas_jax.backbone.decoder import abstract_params
from neuromas_jax.backbone.hub import EMBEDDED, model_folder
from neuromas_jax.config import Config, parse
from neuromas_jax.ideal import ideal_bytes, ideal_flops
from neuromas_jax.parallel.chips import Chip, topology_devices
from neuromas_jax.parallel.hlo import Cost, program_cost
from neuromas_jax.parallel.mesh import check_mesh, make_mesh, parse_mesh, plan_mesh
from neuromas_jax.parallel.place import shardings
from neuromas_jax.parallel.rules import mesh_rules
from neuromas_jax.rl import init_learner, update
from neuromas_jax.rollout import Questions, no_interventions, rollout
from neuromas_jax.text.tokenizer import load_tokenizer
from neuromas_jax.train.run import Compiled, Parts, Run, make_run

GIB = 2**30
QWEN3 = dict(vocab_size=151_936, head_dim=128, num_key_value_heads=8, dtype="bfloat16", max_position_embeddings=40_960)
SHAPES = {  # of the models' own config.json
    "qwen3-0.6b": DecoderConfig(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, **QWEN3),
    "qwen3-8b": DecoderConfig(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
                              tie_word_embeddings=False, **QWEN3),
    "qwen3-32b": DecoderConfig(hidden_size=5120, intermediate_size=25600, num_hidden_layers=64, num_attention_heads=64,
                               tie_word_embeddings=False, **QWEN3),
}


@dataclasses.dataclass(frozen=True)
class Account:
    """What a device does in one of the two programs, or would, were there room for it.

    Attributes:
      arguments, temporary, peak: bytes; `peak` is of all that is held at once, donated arguments once.
      donated: bytes of arguments whose place results take.
      cost: of one run of the program, loops times their trips; None where XLA found no room and gave `temporary` alone.
      ideal: floating point operations that the algorithm needs, all devices together.
      ideal_bytes: to and from HBM that the algorithm needs, of one device; see `ideal`.
      seconds: to compile it.
    """

    arguments: float
    temporary: float
    peak: float
    donated: float
    cost: Cost | None
    ideal: float
    ideal_bytes: float
    seconds: float

    def times(self, chip: Chip) -> dict[str, float]:
        """Seconds that products, memory and links would take by themselves; the longest binds."""
        sent = sum(size for _, size in self.cost.sent.values())
        return {"products": self.cost.flops / chip.flops, "memory": self.cost.bytes / chip.bandwidth, "links": sent / chip.links}


def abstract_run(config: Config, shape: str = "") -> Run:
    """The run of a config's first family and first method, with a backbone that is only a shape."""
    family, method = next(iter(config.families)), config.methods[0]
    if shape and shape not in SHAPES:
        raise ValueError(f"--shape={shape}; allowed: {', '.join(SHAPES)}, or leave it out for that of config.backbone")
    folder = EMBEDDED if shape else model_folder(config.backbone)
    decoder = SHAPES[shape] if shape else load_config(folder)
    backbone = Backbone(abstract_params(decoder), decoder, config.remat, config.attention)
    # What is chosen by the backend that runs: here that of a TPU, whatever this machine has.
    part = config.rollout.questions // config.rollout.parts
    config = dataclasses.replace(config, rollout=dataclasses.replace(
        config.rollout, microbatch=config.rollout.microbatch or part))
    run = make_run(config, family, method, parts=Parts(backbone, load_tokenizer(folder, config.prompt.end), "shape"))
    return dataclasses.replace(run, program=dataclasses.replace(run.program, merge=False))


def arguments(run: Run, parts: int = 1):
    """Shapes of what the rollout of one of so many parts and an update take: bank, questions, interventions, key; state, rewards.
    """
    graph, rollouts, bucket = run.method.graph, run.config.rollout, run.family.buckets[-1]
    part = rollouts.questions // parts
    tokens = jax.ShapeDtypeStruct((len(graph.views()), part, bucket), jnp.int32)
    questions = Questions(tokens, jax.ShapeDtypeStruct(tokens.shape, bool), jax.ShapeDtypeStruct((part,), jnp.int32))
    keep = jax.eval_shape(lambda: no_interventions(graph, part, rollouts.group))
    bank = jax.eval_shape(lambda: run.new_bank(0))
    state = jax.eval_shape(lambda bank: init_learner(run.optimizer, bank), bank)
    rewards = jax.ShapeDtypeStruct((rollouts.questions, rollouts.group), jnp.float32)
    return bank, questions, keep, jax.eval_shape(lambda: jax.random.key(0)), state, rewards


def account(run: Run, mesh) -> dict[str, Account]:
    """Compiles rollout and update for a mesh, one after the other (libtpu holds a lock), and reads what they cost.

    A batch that is written in parts needs room for one of them, and has the cost of all.
    """
    compiled, rules = Compiled(run, mesh), mesh_rules(run.config.fsdp)

    def laid(x):
        return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), x, shardings(x, mesh, rules))

    bank, questions, keep, key, state, rewards = arguments(run)
    parts = run.config.rollout.parts
    backbone = laid(run.parts.backbone)
    constants = dataclasses.replace(run.optimizer, learning_rate=0.0)
    episodes = jax.eval_shape(lambda *x: rollout(run.program, *x), run.parts.backbone, bank, questions, keep, key)

    def roll(*x):
        return rollout(run.program, *x)

    def learn(backbone, state, episodes, rewards):
        return update(run.objective, constants, run.program, backbone, state, episodes, rewards)

    found, ideal, least = {}, ideal_flops(run), ideal_bytes(run, mesh)
    for name, function, given, options, runs in (
        ("rollout", roll, arguments(run, parts)[:4], {}, parts),
        ("update", learn, (state, episodes, rewards), compiled.learned(state), 1),
    ):
        started, given = time.perf_counter(), (backbone, *map(laid, given))
        try:
            program = compiled.lower(function, *given, **options).compile()
        except jax.errors.JaxRuntimeError as error:
            size = re.search(r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([GMT])\)", str(error), re.DOTALL)
            if not size:
                raise
            own = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(given))
            wanted = float(size[1]) * 2 ** {"M": 20, "G": 30, "T": 40}[size[2]]
            found[name] = Account(own, wanted, own + wanted, 0, None, ideal[name], least[name], time.perf_counter() - started)
            continue
        memory, cost = program.memory_analysis(), Cost()
        cost.add(program_cost(program.as_text()), runs)
        peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + (
            memory.output_size_in_bytes - memory.alias_size_in_bytes)
        found[name] = Account(memory.argument_size_in_bytes, memory.temp_size_in_bytes, peak, memory.alias_size_in_bytes,
                              cost, ideal[name], least[name], time.perf_counter() - started)
    return found


def blame(run: Run, accounts: dict[str, Account], mesh, chip: Chip) -> str:
    """Which array is to blame for what does not fit, and which knob makes it smaller; "" where all fits."""
    worst = max(accounts, key=lambda name: accounts[name].peak)
    if accounts[worst].peak <= chip.memory and all(one.cost for one in accounts.values()):
        return ""
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(run.parts.backbone.params)) / mesh.shape["model"]
    weights /= mesh.shape["data"] if run.config.fsdp else 1
    over = f"{worst} needs {accounts[worst].peak / GIB:.1f} GiB of {chip.memory / GIB:.0f}: "
    if weights > accounts[worst].temporary:
        return over + (f"the backbone's weights are the most of it, {weights / GIB:.1f} GiB on each device; set "
                       "config.fsdp=True, or a longer model axis in config.mesh")
    data, rollouts = mesh.shape["data"], run.config.rollout
    if worst == "update":
        kept, wide = "hidden states that are kept for the way back", run.method.graph.layers[0].width
        knobs = ["config.remat=True"] * (not run.config.remat)
        knobs += ["a smaller config.rollout.microbatch (a multiple of the data axis)"] * (run.program.microbatch > data)
        knobs += [f"config.rollout.update_nodes={max(1, wide // 4)}"] * (not run.program.update_nodes)
    else:
        kept, more = "keys and values of the widest layer", 2 * rollouts.parts
        knobs = [f"config.rollout.parts={more}"] * (rollouts.questions % (more * data) == 0)
    knobs += ["a longer node axis in config.mesh"] * (mesh.shape["node"] < run.method.graph.layers[0].width)
    return over + (f"temporaries are the most of it, {accounts[worst].temporary / GIB:.1f} GiB, mostly {kept}; set "
                   f"{', or '.join(knobs + ['fewer questions'])}, or take more devices")


def report(run: Run, accounts: dict[str, Account], mesh, chip: Chip, why: str) -> str:
    """Per device, in words: memory, operations against the ideal, traffic, and the roofline that binds."""
    devices = mesh.devices.size
    lines = [f"graph {run.method.graph}, {run.method.graph.size} nodes; {devices} devices; mesh "
             + ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items()), why]
    for name, one in accounts.items():
        if one.cost is None:
            lines += [f"{name}: XLA compiles no program for it, after {one.seconds:.0f} s",
                      f"  memory of a device, GiB: arguments {one.arguments / GIB:.2f}, temporaries {one.temporary / GIB:.2f} of "
                      f"{chip.memory / GIB:.0f}"]
            continue
        times = one.times(chip)
        binds = max(times, key=times.get)
        sent = ", ".join(f"{kind} {count:.0f} times, {size / 2**20:.1f} MiB in all"
                         for kind, (count, size) in sorted(one.cost.sent.items()))
        lines += [
            f"{name}: compiled in {one.seconds:.0f} s",
            f"  memory of a device, GiB: arguments {one.arguments / GIB:.2f}, temporaries {one.temporary / GIB:.2f}, peak "
            f"{one.peak / GIB:.2f} of {chip.memory / GIB:.0f}; donated {one.donated / GIB:.2f}",
            f"  operations of a device {one.cost.flops:.3g}, ideal {one.ideal / devices:.3g}: "
            f"{one.cost.flops * devices / one.ideal:.2f} times",
            f"  bytes to and from HBM {one.cost.bytes:.3g}, ideal {one.ideal_bytes:.3g}: "
            f"{one.cost.bytes / one.ideal_bytes:.2f} times",
            f"  sends {sent or 'nothing'}",
            f"  at least {times[binds]:.3g} s, bound by {binds} ("
            + ", ".join(f"{key} {value:.3g} s" for key, value in times.items()) + ")",
        ]
    return "\n".join(lines)


def plan(config: Config, topology: str, shape: str = "", slices: int = 1):
    """The run, its mesh on a topology's devices, the chip, and why the mesh is as it is."""
    devices, chip = topology_devices(topology, slices)
    wanted, questions, why = parse_mesh(config.mesh), config.rollout.questions, "mesh as the config has it"
    run = abstract_run(dataclasses.replace(config, mesh=""), shape)
    decoder, graph = run.parts.backbone.config, run.method.graph
    if wanted is None or wanted == "auto":
        wanted, why = plan_mesh(graph, decoder, questions, len(devices), chip.memory)
    check_mesh(wanted, decoder, questions, len(devices))
    return run, make_mesh(wanted, devices), chip, why


def main(arguments):
    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments {arguments[1:]}; give --config, --topology, --shape, --slices, or "
                             "--config.name=value")
    try:
        run, mesh, chip, why = plan(parse(_CONFIG.value), _TOPOLOGY.value, _SHAPE.value, _SLICES.value)
        accounts = account(run, mesh)
        fault = blame(run, accounts, mesh, chip)
        print(report(run, accounts, mesh, chip, why), fault or "it fits", sep="\n")
        sys.exit(1 if fault else 0)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", "configs/pod.py", "The experiment, as an ml_collections file.", lock_config=False, accept_new_attributes=True)
    _TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "TPU version and shape of its slice, such as v5e:16x16 or v5p:4x4x8.")
    _SHAPE = flags.DEFINE_string("shape", "", f"Sizes of the backbone in place of config.backbone's: {', '.join(SHAPES)}.")
    _SLICES = flags.DEFINE_integer("slices", 1, "How many slices.")
    app.run(main)
