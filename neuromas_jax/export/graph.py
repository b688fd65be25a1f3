"""A trained graph as a folder that needs nothing of this package: PEFT adapters, `graph.json`, and a script that runs it."""

import json
from pathlib import Path
import shutil
import zlib

import jax
import numpy as np

from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.backbone.peft import WEIGHTS, save_peft
from neuromas_jax.files import write_text
from neuromas_jax.train.run import Run

SCRIPT = Path(__file__).parent / "run_graph.py"
FORMAT = 1


def export_graph(run: Run, bank: dict, folder: Path) -> None:
    """Writes `graph.json`, `run_graph.py`, one PEFT folder per node, and the backbone where it is the embedded one.

    `graph.json` holds layers and wiring, every node's prompt as token ids with the template that they came from, the rules of
    sampling, and checksums of backbone and adapters.

    Args:
      run: the method on its family.
      bank: its trained adapters.
      folder: made where it does not exist.

    Raises:
      ValueError: the method has no adapters, or does more than one pass of a graph.
    """
    method, program = run.method, run.program
    if method.learns != "adapters" or method.votes > 1 or method.organised:
        raise ValueError(f"method {method.name!r} is no plain graph with adapters, so there is nothing to export; choose "
                         "one such as 'graph'")
    folder.mkdir(parents=True, exist_ok=True)
    name = run.config.backbone
    if name == "embedded":
        name = "backbone"
        shutil.copytree(EMBEDDED, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md", "skills.json"))
    nodes = []
    for node, slot in enumerate(method.slots):
        layer, index = method.graph.place(node)
        place = f"node{node:03d}"
        rank = method.ranks[slot]
        save_peft(folder / place, jax.tree.map(lambda x: x[slot], bank), run.parts.backbone.config,
                  run.config.adapters.scale, rank, name)
        nodes.append({"node": node, "layer": layer + 1, "index": index + 1, "slot": slot, "adapter": place,
                      "checksum": f"{zlib.crc32((folder / place / WEIGHTS).read_bytes()):08x}"})
    layers = []
    for number, (layer, prompt) in enumerate(zip(method.graph.layers, program.prompts)):
        wiring = np.asarray(method.graph.edge_mask(number)).tolist()
        layers.append({"width": layer.width, "message_tokens": layer.message_tokens, "reads": layer.reads, "view": layer.view,
                       "senders": list(method.graph.senders(number)), "edges": wiring,
                       "prompt": {"start": prompt.start, "tails": prompt.tails, "slots": prompt.slots, "cue": prompt.cue,
                                  "by_place": prompt.by_place}})
    template = {key: getattr(run.config.prompt, key) for key in ("start", "tag", "slot", "note", "final")}
    fields = {
        "format": FORMAT, "topology": str(method.graph), "backbone": {"name": name, "checksum": run.parts.fingerprint},
        "template": {**template, "tokens_per_fact": run.family.tokens_per_fact}, "layers": layers, "nodes": nodes,
        "sampling": {"end_id": program.sampling.end_id, "forbidden": program.sampling.forbidden,
                     "temperature": program.sampling.temperature},
    }
    write_text(folder / "graph.json", json.dumps(fields, indent=1) + "\n")
    shutil.copy(SCRIPT, folder / SCRIPT.name)
