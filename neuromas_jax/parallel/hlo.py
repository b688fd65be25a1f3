"""What a compiled program does, read from its text: operations, traffic with memory, and what devices send to each other.

XLA's own figures count the body of a loop once (`cost_analysis`). Here a body counts as often as its loop runs: the bound that
the loop's condition compares its counter with, less the counter's start. A loop that may end early counts to its bound.
"""

import collections
import dataclasses
import math
import re

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8,
          "f64": 8, "c64": 8, "s4": 0.5, "u4": 0.5, "f8e4m3fn": 1, "f8e5m2": 1}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# Instructions that move nothing by themselves.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "while",
        "conditional", "call", "opt-barrier", "copy-done", "async-done", "async-update", "iota"}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations|branch_computations|true_computation|"
                     r"false_computation)=\{?((?:%[\w.\-]+(?:, )?)+)\}?")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of an instruction: its type, sizes, and whether it lies in a chip's own fast memory and not in HBM."""

    kind: str
    sizes: tuple[int, ...]
    near: bool

    @property
    def bytes(self) -> float:
        return math.prod(self.sizes) * WIDTHS.get(self.kind, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    arrays: tuple[Array, ...]  # of its result
    op: str
    operands: tuple[str, ...]
    rest: str  # what stands in its brackets, and its attributes


@dataclasses.dataclass
class Cost:
    """Of one device, for one run of the program.

    Attributes:
      flops: of matrix products and convolutions.
      bytes: read from and written to HBM.
      sent: kind of collective -> (how many, bytes of their results).
    """

    flops: float = 0.0
    bytes: float = 0.0
    sent: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def add(self, other: "Cost", times: float = 1, moved: bool = True) -> None:
        self.flops += times * other.flops
        self.bytes += times * other.bytes if moved else 0.0
        for kind, (count, size) in other.sent.items():
            before = self.sent.get(kind, (0.0, 0.0))
            self.sent[kind] = before[0] + times * count, before[1] + times * size


def read_program(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Computations of a program's text, instruction by name, and the name of the one it begins with."""
    found: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = found.setdefault(head[1], {})
            entry = head[1] if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            one = _instruction(line)
            current[one.name] = one
    return found, entry


def _instruction(line: str) -> Instruction:
    name, rest = line.strip().split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    op, rest = rest.split("(", 1)
    end = _closing("(" + rest, 0) - 1
    inside, attributes = rest[:end], rest[end + 1:]
    arrays = tuple(Array(kind, tuple(int(size) for size in sizes.split(",") if size), "S(1)" in (layout or ""))
                   for kind, sizes, layout in _ARRAY.findall(shape))
    return Instruction(name.removeprefix("ROOT ").lstrip("%"), arrays, op, tuple(re.findall(r"%([\w.\-]+)", inside)),
                       inside + " | " + attributes)


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing bracket in {text[:80]!r}")


def program_cost(text: str) -> Cost:
    """Cost of a compiled program, see `Cost`; `text` is `jax.stages.Compiled.as_text()`."""
    computations, entry = read_program(text)
    known: dict[str, Cost] = {}

    def of(name: str) -> Cost:
        if name not in known:
            known[name] = Cost()
            for one in computations[name].values():
                add(known[name], one, computations[name])
        return known[name]

    def add(total: Cost, one: Instruction, here: dict[str, Instruction]) -> None:
        called = [name for names in _CALLED.findall(one.rest) for name in re.findall(r"%([\w.\-]+)", names)]
        if one.op == "while":
            body, condition = _named(one.rest, "body"), _named(one.rest, "condition")
            total.add(of(body), trips(computations, one, here))
            total.add(of(condition))
            return
        if one.op == "conditional":
            total.add(max((of(name) for name in called), key=lambda cost: cost.flops + cost.bytes, default=Cost()))
            return
        if one.op in ("dot", "convolution"):
            total.flops += _dot_flops(one, here) if one.op == "dot" else _convolution_flops(one, here)
        kind = one.op.removesuffix("-start")
        if kind in COLLECTIVES and not _goes_on(one, here):
            total.add(Cost(sent={kind: (1, one.arrays[-1 if one.op == kind or len(one.arrays) < 2 else 1].bytes)}))
        for name in called if one.op in ("fusion", "call", "async-start", "custom-call") else ():
            if name in computations:
                total.add(of(name), moved=one.op in ("call", "async-start"))
        if one.op not in FREE and not one.op.endswith("-done"):
            total.bytes += _moved(computations, one, here)

    return of(entry)


def _goes_on(one: Instruction, here: dict[str, Instruction]) -> bool:
    """Whether a collective was begun in another computation: a TPU carries one on, step by step, within the fusions that run
    meanwhile, and each of them has it in its text."""
    begins = any("AsyncCollectiveStart" in other.rest and one.name in other.operands for other in here.values())
    return "chain_id=" in one.rest and not begins


def _named(rest: str, what: str) -> str:
    return re.search(rf"{what}=%([\w.\-]+)", rest)[1]


def trips(computations: dict, loop: Instruction, here: dict[str, Instruction]) -> int:
    """How often a loop runs at most: what its condition compares a counter with, less what the counter starts at."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = computations[_named(loop.rest, "condition")]
    fused = [computations[_named(one.rest, "calls")] for one in condition.values() if one.op == "fusion"]
    bounds, counters = [], [one for one in condition.values() if one.op == "get-tuple-element" and _is_counter(one)]
    for one in condition.values():
        if one.op == "compare" and "direction=LT" in one.rest:
            bounds += [_constant(condition, operand) for operand in one.operands]
            counters = [condition[operand] for operand in one.operands if condition[operand] in counters] or counters
    for inside in (condition, *fused) if not any(bounds) else ():  # where the comparison is fused
        bounds += [_constant(inside, one.name) for one in inside.values() if one.op == "constant" and _is_counter(one)]
    start = 0
    if counters and here[loop.operands[0]].op == "tuple":
        place = int(re.search(r"index=(\d+)", counters[0].rest)[1])
        start = _constant(here, here[loop.operands[0]].operands[place]) or 0
    return max(max((bound for bound in bounds if bound is not None), default=1) - start, 1)


def _is_counter(one: Instruction) -> bool:
    return len(one.arrays) == 1 and one.arrays[0].kind in ("s32", "u32") and not one.arrays[0].sizes


def _constant(inside: dict[str, Instruction], name: str) -> int | None:
    """The whole number of that name, seen through copies; None for anything else."""
    while name in inside and inside[name].op in ("copy", "convert", "bitcast"):
        name = inside[name].operands[0]
    value = inside[name].rest.split(" | ")[0].strip() if name in inside and inside[name].op == "constant" else ""
    return int(value) if re.fullmatch(r"-?\d+", value) else None


def _dot_flops(one: Instruction, here: dict[str, Instruction]) -> float:
    left = here[one.operands[0]].arrays[0].sizes
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    inner = math.prod(left[int(axis)] for axis in dims[1].split(",") if axis) if dims else 1
    return 2.0 * math.prod(one.arrays[0].sizes) * inner


def _convolution_flops(one: Instruction, here: dict[str, Instruction]) -> float:
    """As XLA writes matrix products for a TPU: axes of a batch may be axes of space, whose windows fit at one place alone."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    left, right, out = here[one.operands[0]].arrays[0].sizes, here[one.operands[1]].arrays[0].sizes, one.arrays[0].sizes
    window = re.search(r"window=\{([^}]*)\}", one.rest)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    space = sorted(label for label in labels[1] if label.isdigit())

    def per_axis(name, default):
        return fields[name].split("x") if name in fields else [default] * len(space)

    pairs = 1.0
    for number, label in enumerate(space):
        size = left[labels[1].index(label)]
        kernel, length = right[labels[2].index(label)], out[labels[3].index(label)]
        stride, low = int(per_axis("stride", "1")[number]), int(per_axis("pad", "0_0")[number].split("_")[0])
        spread, apart = int(per_axis("lhs_dilate", "1")[number]), int(per_axis("rhs_dilate", "1")[number])
        reach = (size - 1) * spread + 1
        if kernel == 1 and low == 0 and spread == 1:
            pairs *= length
            continue
        pairs *= sum(1 for place in range(length) for k in range(kernel)
                     if 0 <= (at := place * stride + k * apart - low) < reach and at % spread == 0)
    batch, features = out[labels[3].index("b")], out[labels[3].index("f")]
    groups = int((re.search(r"batch_group_count=(\d+)", one.rest) or (0, 1))[1])
    return 2.0 * batch * features * right[labels[2].index("i")] * pairs / groups


def _moved(computations: dict, one: Instruction, here: dict[str, Instruction]) -> float:
    """Bytes between HBM and the chip: operands and results, of a slice what it takes, of an update what it writes."""
    results = [array.bytes for array in one.arrays if not array.near]
    if one.op == "copy-start":  # one side of it is in fast memory, or both are copied
        return sum(array.bytes for array in one.arrays[:2] if not array.near)
    if one.op in ("dynamic-slice", "gather", "slice"):
        return 2 * sum(results)
    if one.op == "dynamic-update-slice":
        return 2 * here[one.operands[1]].arrays[0].bytes if not one.arrays[0].near else 0.0
    called = computations.get(_named(one.rest, "calls")) if one.op == "fusion" and "calls=" in one.rest else None
    total = 0.0
    written = [inner for inner in (called or {}).values() if inner.op == "dynamic-update-slice"]
    for number, name in enumerate(one.operands):
        whole = sum(array.bytes for array in here[name].arrays if not array.near) if name in here else 0.0
        total += min(whole, _read(computations, called, number, whole)) if called else whole
    if written and one.arrays:
        sizes = collections.Counter(inner.arrays[0].sizes for inner in written)
        for array in one.arrays:
            if sizes[array.sizes] > 0 and not array.near:
                total += next(called[inner.operands[1]].arrays[0].bytes for inner in written
                              if inner.arrays[0].sizes == array.sizes)
            elif not array.near:
                total += array.bytes
        return total
    return total + sum(results)


def _read(computations: dict, called: dict[str, Instruction], number: int, whole: float) -> float:
    """Bytes that a fusion reads of its operand `number`, which has `whole`: all of it, or what slices in it take."""
    parameter = next((inner.name for inner in called.values()
                      if inner.op == "parameter" and inner.rest.split(" | ")[0].strip() == str(number)), None)
    names, total = [parameter], 0.0
    for name in names:
        for inner in called.values():
            if name not in inner.operands:
                continue
            if inner.op == "bitcast":
                names.append(inner.name)
            elif inner.op in ("dynamic-slice", "gather") and inner.operands[0] == name:
                total += inner.arrays[0].bytes
            elif inner.op == "dynamic-update-slice" and inner.operands[0] == name:
                continue  # updated where it lies
            elif inner.op == "fusion":
                total += _read(computations, computations[_named(inner.rest, "calls")], inner.operands.index(name), whole)
            else:
                return whole
    return min(total, whole)
