"""Runs an exported graph with plain `transformers` and `peft`; nothing of the package that trained it is needed.

    python run_graph.py < questions.txt            # a question per line, in the folder with graph.json
    python run_graph.py --backbone=Qwen/Qwen3-0.6B < questions.txt

Prints a JSON object per question: what every node wrote, and the last one's message as the answer. Messages are the most likely
ones. Nodes run one after another, whole prompts are read for each: this is for checking and for small jobs.
"""

import argparse
import json
import pathlib
import sys

import peft
import torch
import transformers


class Graph:
    """An exported graph, read for running."""

    def __init__(self, folder: pathlib.Path, backbone: str | None = None):
        self.fields = json.loads((folder / "graph.json").read_text())
        name = self.fields["backbone"]["name"]
        where = backbone or (str(folder / name) if (folder / name).is_dir() else name)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(where)
        model = transformers.AutoModelForCausalLM.from_pretrained(where)
        first, *others = self.fields["nodes"]
        self.model = peft.PeftModel.from_pretrained(model, folder / first["adapter"], adapter_name=first["adapter"])
        for node in others:
            self.model.load_adapter(folder / node["adapter"], adapter_name=node["adapter"])
        self.model.eval()
        # What the backbone's folder says of sampling and penalties is not the graph's.
        self.model.base_model.model.generation_config = transformers.GenerationConfig()

    def encode(self, question: str) -> list[int]:
        """Ids of a question. Raises ValueError where it spells a control token: those are the template's alone."""
        ids = self.tokenizer(question, add_special_tokens=False)["input_ids"]
        control = [self.tokenizer.convert_ids_to_tokens(i) for i in ids if i in self.tokenizer.added_tokens_decoder]
        if control:
            raise ValueError(f"the question {question!r} spells the control token {control[0]!r}; write it otherwise")
        return ids

    def prompt(self, node: dict, question: list[int], written: dict[int, list[int]]) -> list[int]:
        """Ids that a node reads: start, question, tag, its inbox, cue."""
        layer = self.fields["layers"][node["layer"] - 1]
        if layer["view"] != "all":
            raise ValueError(f"layer {node['layer']} sees parts of a question ({layer['view']}); this script asks whole ones")
        parts, index = layer["prompt"], node["index"] - 1
        ids = parts["start"] + question + parts["tails"][index]
        if not layer["senders"]:
            return ids
        inbox = [k for k, heard in enumerate(layer["edges"][index]) if heard]
        for place, k in enumerate(inbox):
            ids = ids + parts["slots"][place if parts["by_place"] else k] + written[layer["senders"][k]]
        return ids + parts["cue"]

    def write(self, node: dict, prompt: list[int]) -> list[int]:
        """The most likely message of a node, without its end token."""
        sampling = self.fields["sampling"]
        self.model.set_adapter(node["adapter"])
        tokens = torch.tensor([prompt], device=self.model.device)
        with torch.no_grad():
            found = self.model.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), do_sample=False, suppress_tokens=sampling["forbidden"],
                max_new_tokens=self.fields["layers"][node["layer"] - 1]["message_tokens"], eos_token_id=sampling["end_id"],
                pad_token_id=sampling["end_id"])
        return [token for token in found[0, len(prompt):].tolist() if token != sampling["end_id"]]

    def ask(self, question: str) -> dict:
        """What every node wrote, in order, and the answer."""
        ids, written = self.encode(question), {}
        for node in self.fields["nodes"]:
            written[node["node"]] = self.write(node, self.prompt(node, ids, written))
        texts = [self.tokenizer.decode(written[node["node"]]).strip() for node in self.fields["nodes"]]
        return {"question": question, "messages": texts, "tokens": list(written.values()), "answer": texts[-1]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(__file__).parent, help="what holds graph.json")
    arguments.add_argument("--backbone", help="folder or hub name of the backbone, if it lies elsewhere now")
    arguments = arguments.parse_args()
    graph = Graph(arguments.folder, arguments.backbone)
    for line in filter(None, map(str.strip, sys.stdin)):
        print(json.dumps(graph.ask(line)), flush=True)


if __name__ == "__main__":
    main()
