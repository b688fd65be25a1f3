"""What an experiment would do and need, before it does anything: `python -m neuromas_jax.main --config=... --dry_run`."""

import math

import jax
import jax.numpy as jnp

from neuromas_jax.config import Config, training_steps
from neuromas_jax.train.batches import question_ids
from neuromas_jax.train.run import Run, make_run

GIB = 2**30


def dry_run(config: Config) -> str:
    """Graph, an example prompt of every node, budgets, and estimates of memory and operations, for every family and method.

    Raises ValueError or FileNotFoundError as `train.run.make_run`.
    """
    parts = []
    for family in config.families:
        for number, method in enumerate(config.methods):
            run = make_run(config, family, method)
            parts.append("\n".join([f"== {family}: {method}", *budget(run), *(prompts(run) if number == 0 else ())]))
    cells = len(config.families) * len(config.methods) * len(config.seeds)
    return "\n\n".join([*parts, f"{cells} evaluations; nothing was trained, compiled or written"])


def prompt_lengths(run: Run, bucket: int) -> list[tuple[int, int]]:
    """Per node the most tokens that it reads of a question of so many: what a group shares, and what an episode has itself."""
    found = []
    for number, prompt in enumerate(run.program.prompts):
        graph, layer = run.method.graph, run.method.graph.layers[number]
        message = max((graph.layers[source].message_tokens for source in layer.reads), default=0)
        inboxes = graph.inboxes(number)
        room = max(map(len, inboxes)) * (max(map(len, prompt.slots), default=0) + message) + len(prompt.cue) if layer.reads else 0
        found += [(len(prompt.start) + bucket + len(tail), room) for tail in prompt.tails]
    return found


def memory(run: Run, bucket: int) -> dict[str, float]:
    """Estimates in bytes of the largest arrays; XLA's own temporaries come on top.

    Weights; adapters with their moments and gradient; keys and values of the widest layer in a rollout; and hidden states that
    an update keeps for its way back, of one microbatch and of all nodes or `update_nodes` of them: with `remat` one per decoder
    layer and token, else about eight, and the MLP's three.
    """
    config, graph, rollout = run.parts.backbone.config, run.method.graph, run.config.rollout
    width = jnp.dtype(config.dtype).itemsize
    bank = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(lambda: run.new_bank(0)))) * 4
    lengths, layers = prompt_lengths(run, bucket), []
    for number, layer in enumerate(graph.layers):
        read = [lengths[node] for node in graph.nodes(number)]
        layers.append(rollout.questions * sum(shared + rollout.group * (own + layer.message_tokens) for shared, own in read))
    per_token = config.hidden_size if run.parts.backbone.remat else 8 * config.hidden_size + 3 * config.intermediate_size
    part, few = run.program.microbatch / rollout.questions, run.program.update_nodes
    kept = max(size * min(1, few / layer.width) for size, layer in zip(layers, graph.layers)) if few else sum(layers)
    return {
        "weights": run.parts.backbone.size * width,
        "adapters, moments and gradient": 4 * bank,
        "keys and values": max(layers) * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width,
        "kept for the way back": part * kept * per_token * width * config.num_hidden_layers,
    }


def budget(run: Run) -> list[str]:
    """Sizes, in words; those of a training step where the method is trained."""
    graph, rollout, bucket, backbone = run.method.graph, run.config.rollout, run.family.buckets[-1], run.parts.backbone
    lines = [f"graph {graph}: calls {graph.size}, rounds {graph.rounds}, at most {graph.token_budget} tokens written a question"]
    if run.method.trained_as != run.method.name:
        return [*lines, f"uses what {run.method.trained_as} has learned" if run.method.trained_as else "not trained"]
    episodes, lengths = rollout.questions * rollout.group, prompt_lengths(run, bucket)
    read = sum(rollout.questions * shared + episodes * own for shared, own in lengths)
    written, needed = graph.token_budget * episodes, memory(run, bucket)
    ranks = ", ".join(str(run.method.ranks[slot]) for slot in sorted(set(run.method.slots)))
    return [
        *lines,
        f"trainable parameters {run.trainable_parameters:,}, adapters of rank {ranks}; backbone {backbone.size:,} frozen, "
        f"{backbone.config.model_type}, {backbone.config.dtype}",
        f"a step: {rollout.questions} questions x {rollout.group} episodes; at most {read:,} tokens read (what a group shares, "
        f"once) and {written:,} written; about {backbone.config.training_flops(read, written):.3g} floating point operations; "
        f"{training_steps(run.config, run.family)} steps",
        "memory, estimated in GiB: " + ", ".join(f"{name} {size / GIB:.2f}" for name, size in needed.items())
        + f"; together {sum(needed.values()) / GIB:.2f}",
    ]


def prompts(run: Run) -> list[str]:
    """What every node would read of the first question, with its control tokens; messages are named and not written."""
    tokenizer, graph = run.parts.tokenizer, run.method.graph
    split = "train" if run.family.adapters == "" and getattr(run.task, "evaluation_only", False) is False else "test"
    question = run.task.generate(split, 0)
    views = dict(zip(graph.views(), question_ids(question, graph, tokenizer, run.family.buckets)))
    lines = [graph.draw(), f"its first question of split {split}: {question.text!r}, answer {question.answer!r}"]
    for node in range(graph.size):
        number, index = graph.place(node)
        prompt = run.program.prompts[number]
        text = tokenizer.decode([*prompt.start, *views[graph.view_of(node)], *prompt.tails[index]], keep_added=True)
        inbox = graph.inboxes(number)[index]
        for k, label in zip(inbox, prompt.labels(inbox)):
            text += f"{tokenizer.decode(label, keep_added=True)}(what node {graph.senders(number)[k]} wrote)"
        text += tokenizer.decode(prompt.cue, keep_added=True) if graph.senders(number) else ""
        lines += [f"-- node {node} (layer {number + 1}, agent {index + 1}) reads:", text]
    return lines
