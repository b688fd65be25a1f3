"""The peer: `transformers` and `peft`, driven node by node on the same weights, adapters, prompts and sampling rules.

As its users drive it: all rows of a node in one `generate` call with a KV cache (only the last position's logits), messages
passed on as ids, no padding anywhere, `logits_to_keep` in the update, one `LoRA` adapter per node chosen by `set_adapter`, fused
Adam. The commands that end in `_tuned` do by hand what the libraries allow and do not do themselves: what the episodes of a
question have in common is read once for all of them, forward and backward, and each adapter is added to the weights before its
node writes. Run by `benchmarks.compare`; the only place that imports torch.
"""

import contextlib
import json
import pathlib
import sys
import time

from benchmarks.worker import one_thread, serve

one_thread()  # before torch counts the cores

import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

MODULES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


class Peer:
    def __init__(self, folder: pathlib.Path):
        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
        torch.manual_seed(0)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.scene = json.loads((folder / "scene.json").read_text())
        self.load, self.folder = self.scene["load"], folder
        self.questions = torch.from_numpy(np.load(folder / "questions.npz")["tokens"]).long()
        model = transformers.Qwen3ForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        rank = self.load["rank"]
        config = peft.LoraConfig(r=rank, lora_alpha=self.load["lora_scale"] * rank, target_modules=list(MODULES.values()))
        self.nodes = sum(layer["width"] for layer in self.scene["layers"])
        self.model = peft.get_peft_model(model, config, adapter_name="node0")
        for node in range(1, self.nodes):
            self.model.add_adapter(f"node{node}", config)
        self._fill(np.load(folder / "bank.npz"))
        self.model.eval()  # no dropout anywhere; gradients do not need train mode
        self.groups = [[p for name, p in self.model.named_parameters() if f".node{node}." in name] for node in range(self.nodes)]
        for group in self.groups:
            for parameter in group:
                parameter.requires_grad_(True)
        self.adams = [torch.optim.Adam(group, lr=self.load["learning_rate"], betas=(0.9, 0.95), eps=1e-8, fused=True)
                      for group in self.groups]
        self.seconds = {"prefill": 0.0, "decode": 0.0}
        self.episodes = None
        self._time_forwards()

    def _fill(self, bank):
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                for site, module in MODULES.items():
                    if f".{module}.lora_" in name:
                        letter, node = ("a" if "lora_A" in name else "b"), int(name.split(".node")[1].split(".")[0])
                        layer = int(name.split(".layers.")[1].split(".")[0])
                        parameter.copy_(torch.from_numpy(bank[f"{site}.{letter}"][node, layer].T))

    def _time_forwards(self):
        """Splits `generate` into its first forward pass (prefill), the later ones (decode) and everything else (host)."""
        started = [0.0]

        def before(*_):
            started[0] = time.perf_counter()

        def after(module, args, kwargs, output):
            phase = "decode" if kwargs["input_ids"].shape[1] == 1 else "prefill"
            self.seconds[phase] += time.perf_counter() - started[0]

        base = self.model.get_base_model()
        base.register_forward_pre_hook(before)
        base.register_forward_hook(after, with_kwargs=True)

    def prompts(self, number: int, index: int, written: list) -> torch.Tensor:
        """The prompt of a node in every episode `[B * G, T]`: the ids that our side packs on the device."""
        layer, rows = self.scene["layers"][number], len(self.questions) * self.load["group"]

        def spread(ids):
            return torch.tensor(ids, dtype=torch.long).expand(rows, len(ids))

        question = self.questions.repeat_interleave(self.load["group"], 0)
        parts = [spread(layer["start"]), question, spread(layer["tails"][index])]
        if layer["reads"]:
            inbox = [message for source in layer["reads"] for message in written[source]]
            for slot, message in zip(layer["slots"], inbox, strict=True):
                parts += [spread(slot), message]
            parts.append(spread(layer["cue"]))
        return torch.cat(parts, dim=1)

    def shared_tokens(self, number: int, index: int) -> int:
        """How many tokens of a node's prompt all episodes of a question have in common."""
        layer = self.scene["layers"][number]
        return len(layer["start"]) + self.questions.shape[1] + len(layer["tails"][index])

    def read_once(self, rows: torch.Tensor, count: int) -> transformers.DynamicCache:
        """Keys and values of the first `count` tokens of all rows, each question read once and copied for its episodes."""
        group = self.load["group"]
        kept = self.model(input_ids=rows[::group, :count], use_cache=True, logits_to_keep=1).past_key_values
        kept.batch_repeat_interleave(group)
        return kept

    def rollout(self, tuned: bool = False) -> dict:
        """One pass of the graph, node by node. Returns the shares of its time."""
        self.seconds.update(prefill=0.0, decode=0.0)
        started = time.perf_counter()
        written, self.episodes = [], []
        for number, layer in enumerate(self.scene["layers"]):
            messages = []
            for index in range(layer["width"]):
                self.model.set_adapter(f"node{len(self.episodes)}")
                prompt = self.prompts(number, index, written)
                if tuned:
                    self.model.merge_adapter([f"node{len(self.episodes)}"])
                with torch.inference_mode():
                    # One token at least is left for `generate` to read.
                    count = min(self.shared_tokens(number, index), prompt.shape[1] - 1)
                    whole = self.generate(prompt, self.read_once(prompt, count) if tuned else None)
                if tuned:
                    self.model.unmerge_adapter()
                messages.append(whole[:, prompt.shape[1]:].clone())
                self.episodes.append(torch.cat([prompt, messages[-1]], dim=1))
            written.append(messages)
        wall = time.perf_counter() - started
        shares = {phase: seconds / wall for phase, seconds in self.seconds.items()}
        return {"shares": {**shares, "host": 1 - sum(shares.values())}}

    def rollout_tuned(self) -> dict:
        return self.rollout(tuned=True)

    def generate(self, prompt: torch.Tensor, kept: transformers.DynamicCache | None) -> torch.Tensor:
        length = self.load["message_tokens"]
        return self.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=length, past_key_values=kept,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            suppress_tokens=self.scene["forbidden"], eos_token_id=None, pad_token_id=0, use_cache=True)

    def update(self, tuned: bool = False) -> dict:
        """REINFORCE with the leave-one-out baseline on the last episodes: one step of every node's own Adam."""
        length, group = self.load["message_tokens"], self.load["group"]
        reward = (self.episodes[-1][:, -length:].sum(-1) % 2 == 0).float().reshape(-1, group)
        credit = (reward - (reward.sum(-1, keepdim=True) - reward) / (group - 1)).reshape(-1)
        norms = []
        places = [(number, index) for number, layer in enumerate(self.scene["layers"]) for index in range(layer["width"])]
        for node, rows in enumerate(self.episodes):
            self.model.set_adapter(f"node{node}")
            if tuned:  # the first token of a message of layer 0 is foretold by the shared block's last one: that is read again
                count = min(self.shared_tokens(*places[node]), rows.shape[1] - length - 1)
                kept = self.read_once(rows, count)
                logits = self.model(input_ids=rows[:, count:-1], past_key_values=kept, logits_to_keep=length).logits
            else:
                logits = self.model(input_ids=rows[:, :-1], logits_to_keep=length, use_cache=False).logits
            logits[..., self.scene["forbidden"]] = -torch.inf
            chosen = torch.nn.functional.log_softmax(logits, -1).gather(-1, rows[:, -length:, None])[..., 0]
            loss = -(chosen.sum(-1) * credit).sum() / len(rows)
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(self.groups[node], self.load["clip"])))
            self.adams[node].step()
            self.adams[node].zero_grad(set_to_none=True)
        return {"gradient_norms": norms}

    def update_tuned(self) -> dict:
        return self.update(tuned=True)

    def train_step(self, tuned: bool = False) -> dict:
        self.rollout(tuned)
        self.update(tuned)
        return {}

    def train_step_tuned(self) -> dict:
        return self.train_step(tuned=True)

    def load_episodes(self) -> dict:
        """Takes over the episodes that our side wrote, so that the updates of both work on the same ones."""
        rows = np.load(self.folder / "episodes.npz")
        self.episodes = [torch.from_numpy(rows[f"node{node}"]).long() for node in range(self.nodes)]
        return {}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        peer = Peer(pathlib.Path(sys.argv[1]))
    commands = [f"{name}{how}" for name in ("rollout", "update", "train_step") for how in ("", "_tuned")]
    serve({name: getattr(peer, name) for name in [*commands, "load_episodes"]})
