"""What pods would do, by ahead-of-time compilation (extra `tpu`, no TPU): `python -m benchmarks.pods [--shapes=qwen3-0.6b,...]
[--nodes=3,7,64,1024] [--chips=16,64,256,1024] [--node=8 --questions=1] [--keep=1 --update_nodes=1]`.

Writes `results/pods.jsonl`, a line a plan, and the tables of `docs/pods.md`. Slices of v5p;
`configs/pod.py` with two questions in groups of eight for each chip, so that the batch grows with the pod. A plan that is in the
file already is not compiled again; each has a process of its own.
"""

import argparse
import dataclasses
import json
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results" / "pods.jsonl", ROOT / "docs" / "pods.md"
TOPOLOGIES = {16: "v5p:2x2x4", 64: "v5p:4x4x4", 256: "v5p:4x8x8", 1024: "v5p:8x8x16"}
GRAPHS = {3: "2-1", 7: "4-2-1", 64: "32-..-1-1", 1024: "512-..-1-1"}
MARK = "<!-- tables by benchmarks/pods.py -->"


def measure(shape: str, nodes: int, chips: int, update_nodes: int, questions: int, node: int, keep: int) -> dict:
    """One plan, in this process. Knobs, each 0 for what the config does by itself: `update_nodes` of a layer are updated at a
    time, `questions` taken at a time by each place on the data axis, `node` is the length of the mesh's node axis; with `keep`
    an update keeps what every decoder layer computed, in place of computing it again (`config.remat` is False)."""
    import jax

    from configs.pod import get_config
    from neuromas_jax import aot
    from neuromas_jax.config import parse

    config = get_config()
    config.remat = not keep
    config.families.listops.topology = GRAPHS[nodes]
    config.rollout = dict(questions=2 * chips, group=8, microbatch=2 * chips, update_nodes=update_nodes or None)
    run, mesh, chip, _ = aot.plan(parse(config), TOPOLOGIES[chips], shape)
    if questions or node:
        along, model = node or mesh.shape["node"], mesh.shape["model"]
        data = chips // along // model
        config.mesh = f"node={along},data={data},model={model}"
        if questions:
            config.rollout.update(microbatch=questions * data, parts=2 * chips // (questions * data))
        run, mesh, chip, _ = aot.plan(parse(config), TOPOLOGIES[chips], shape)
    accounts = aot.account(run, mesh)
    plan = {"shape": shape, "nodes": nodes, "chips": chips, "update_nodes": update_nodes, "questions": questions,
            "node": node, "keep": keep, "topology": TOPOLOGIES[chips], "mesh": dict(mesh.shape), "jax": jax.__version__,
            "blame": aot.blame(run, accounts, mesh, chip), "memory": chip.memory}
    for name, one in accounts.items():
        times = one.times(chip) if one.cost else {}
        plan[name] = {"peak": one.peak, "compile_seconds": round(one.seconds, 1)} | (
            {"operations": one.cost.flops * chips / one.ideal, "ideal_bytes": one.ideal_bytes, "seconds": max(times.values()),
             "times": times, "cost": dataclasses.asdict(one.cost)} if one.cost else {})
    return plan


KNOBS = {"update_nodes": "nodes updated at a time: {}", "questions": "questions at a time: {}", "node": "a node axis of {}",
         "keep": "nothing computed again"}


def place(plan: dict) -> tuple:
    """What tells one plan of a backbone from another: nodes, knobs, chips."""
    return plan["nodes"], tuple(plan.get(knob, 0) for knob in KNOBS), plan["chips"]


def table(plans: list[dict]) -> str:
    """A table a backbone, with a row a plan."""
    lines, parts = [], ("rollout", "update")
    head = ("nodes", "by hand", "chips", "mesh: node, data, model", "peak GiB of 95", "operations / ideal: rollout, update",
            "HBM bytes / ideal: rollout, update", "seconds at least: rollout, update", "bound by", "time against 16 chips")
    for shape in dict.fromkeys(plan["shape"] for plan in plans):
        lines += [f"\n### {shape}\n", f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
        mine = sorted((plan for plan in plans if plan["shape"] == shape), key=place)
        seconds = {place(plan): sum(plan[part]["seconds"] for part in parts) for plan in mine if not plan["blame"]}
        for plan in mine:
            nodes, knobs, chips = place(plan)
            peak = max(plan[part]["peak"] for part in parts) / 2**30
            said = ", ".join(text.format(value) for text, value in zip(KNOBS.values(), knobs) if value)
            row = [f"{nodes:,}", said, f"{chips:,}", ", ".join(map(str, plan["mesh"].values()))]
            if plan["blame"]:
                row += [f"does not fit: {peak:.0f}", "", "", "", "", ""]
            else:
                first = seconds.get((nodes, knobs, 16))
                row += [f"{peak:.1f}", ", ".join(f"{plan[part]['operations']:.2f}" for part in parts),
                        ", ".join(f"{plan[part]['cost']['bytes'] / plan[part]['ideal_bytes']:.2f}" for part in parts),
                        ", ".join(f"{plan[part]['seconds']:.3g}" for part in parts),
                        ", ".join(max(plan[part]["times"], key=plan[part]["times"].get) for part in parts),
                        f"{seconds[place(plan)] / first:.2f}" if first else ""]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shapes", default="qwen3-0.6b,qwen3-8b,qwen3-32b")
    arguments.add_argument("--nodes", default="3,7,64,1024")
    arguments.add_argument("--chips", default="16,64,256,1024")
    arguments.add_argument("--update_nodes", default=0, type=int, help="nodes of a layer that are updated at a time; 0: all")
    arguments.add_argument("--questions", default=0, type=int, help="questions at a time for each place on the data axis; 0: all")
    arguments.add_argument("--node", default=0, type=int, help="devices along the mesh's node axis; 0: as mesh='auto' has it")
    arguments.add_argument("--keep", default=0, type=int, choices=(0, 1), help="1: without rematerialisation")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        shape, *numbers = given.one.split(",")
        print(json.dumps(measure(shape, *map(int, numbers))))
        return
    plans = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for chips in map(int, given.chips.split(",")):
        for nodes in map(int, given.nodes.split(",")):
            for shape in given.shapes.split(","):
                knobs = tuple(getattr(given, knob) for knob in KNOBS)
                if any((plan["shape"], *place(plan)) == (shape, nodes, knobs, chips) for plan in plans):
                    continue
                one = ",".join(map(str, (shape, nodes, chips, *knobs)))
                done = subprocess.run([sys.executable, "-m", "benchmarks.pods", f"--one={one}"], cwd=ROOT, capture_output=True,
                                      text=True)
                if done.returncode:
                    sys.exit(f"{shape}, {nodes} nodes, {chips} chips: {done.stderr[-3000:]}")
                plans.append(json.loads(done.stdout.splitlines()[-1]))
                RESULTS.parent.mkdir(exist_ok=True)
                with open(RESULTS, "a", encoding="utf-8") as file:
                    file.write(json.dumps(plans[-1]) + "\n")
                print(shape, nodes, chips, plans[-1]["blame"] or "fits", flush=True)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text[: text.index(MARK) + len(MARK)] + "\n" + table(plans) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
