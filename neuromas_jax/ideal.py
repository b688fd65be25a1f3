"""What the algorithm needs of a machine, whatever program does it: the figures that a compiled one is held against."""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from neuromas_jax.backbone.architecture import LINEAR_SITES
from neuromas_jax.experiments.dry_run import prompt_lengths
from neuromas_jax.parallel.place import SITES, shardings
from neuromas_jax.parallel.rules import RULES, Rules, mesh_rules
from neuromas_jax.train.run import Run


def ideal_flops(run: Run) -> dict[str, float]:
    """Operations that the algorithm needs of all devices together, by program: two a weight and token, as many again on the way
    back, twice as many for what is learned; two products of attention for every token before; the head for written tokens.

    What a group shares counts once, the first token's distribution of a node without senders too. The last decoder layer gives
    keys and values of every token, and the rest of it is needed only where a token is to be written next; the last token of a
    message is read by its receivers alone. Nothing is computed again, no node is padded, no prompt is shorter than its bucket.
    """
    config, rank = run.parts.backbone.config, max(run.method.ranks)
    size = {site: math.prod(config.site_shape(site)) for site in LINEAR_SITES}
    low = {site: rank * sum(config.site_shape(site)) for site in run.config.adapters.sites}
    heads, before = config.num_attention_heads * config.head_dim, config.num_hidden_layers - 1
    questions, episodes = run.config.rollout.questions, run.config.rollout.questions * run.config.rollout.group
    linear = attention = head = adapters = 0.0

    def of_layers(sizes: dict[str, int], read: int, asked: int) -> float:
        last = sum(weights * (read if site in ("k", "v") else asked) for site, weights in sizes.items())
        return 2.0 * (before * sum(sizes.values()) * read + last)

    for node, (shared, own) in enumerate(prompt_lengths(run, run.family.buckets[-1])):
        wrote = run.method.graph.layers[run.method.graph.place(node)[0]].message_tokens
        alone = own + wrote - 1
        read, asked = questions * shared + episodes * alone, episodes * (wrote - 1) + (episodes if own else questions)
        linear += of_layers(size, read, asked)
        adapters += of_layers(low, read, asked)
        head += 2 * config.vocab_size * config.hidden_size * asked
        attention += 4 * heads * (before * (questions * shared**2 / 2 + episodes * (alone * shared + alone**2 / 2))
                                  + asked * (shared + own + wrote / 2))
    return {"rollout": linear + adapters + head + attention, "update": 2 * (linear + head) + 3 * (attention + adapters)}


def ideal_bytes(run: Run, mesh: Mesh) -> dict[str, float]:
    """Bytes that a device must read from its HBM and write to it, by program, on average over the mesh.

    What a pass over the decoder's layers has in hand stays in fast memory, but for the hidden states between two decoder layers:
    where weights are read once, all tokens of the pass go through a decoder layer before it is the next one's turn. What the
    config asks for is taken as it is (mesh, `microbatch`, `update_nodes`, `remat`, `fsdp`), what the program chooses is not. The
    terms:

    - Weights: a device's share of them, once a pass; with `fsdp` those that come from other devices are written as well. A
      rollout passes over them once for the shared blocks of all nodes, which wait for no message, and once for each layer's
      inboxes, both a microbatch at a time; and once for every further token of a layer, whose nodes, questions and episodes all
      write together. An update knows all messages: one pass forward and one back serve a microbatch of the whole graph, or with
      `update_nodes` of so many nodes of a layer. The head is read for every token of a layer's messages, and in an update once
      forward and once back; logits are never written. A device that has no node of a layer reads nothing for it.
    - Adapters, in float32: in each of these passes those of the slots that a device's nodes use.
    - Hidden states of every token that is read, before each decoder layer: the first layer reads a row of the embeddings, each
      later one what the one before it wrote, and the head those that a token is written from. An update writes and reads them
      forward, reads them again on the way back, and writes and reads their gradients. Without `remat` it also writes and reads
      what each layer keeps: queries, keys, values, what attention gave, the state between attention and MLP, gate and up.
    - Keys and values in a rollout: written once, and read by a node's inbox and by every further token of its message, those of a
      shared block once for the whole group. In an update all tokens of a node are in hand together.
    - Adam, in float32: a slot's adapters and two moments are read and written, and its gradient once for each microbatch.

    Ids, masks and scores are left out. Nothing is computed again, no node is padded, no prompt is shorter than its bucket.
    """
    config, graph, slots, program = run.parts.backbone.config, run.method.graph, run.method.slots, run.program
    node, data, model = mesh.shape["node"], mesh.shape["data"], mesh.shape["model"]
    questions, group = run.config.rollout.questions, run.config.rollout.group
    parts, before, width = questions // program.microbatch, config.num_hidden_layers - 1, jnp.dtype(config.dtype).itemsize

    whole, own = (_held(run.parts.backbone, mesh, mesh_rules(fsdp)).params for fsdp in (False, run.config.fsdp))
    passed = jax.tree.map(lambda whole, own: 2 * whole - own, whole, own)
    head = passed.pop("embed" if config.tie_word_embeddings else "lm_head")
    weights = sum(jax.tree.leaves(passed["layers"])) + passed["final_norm"]
    sites = run.config.adapters.sites if run.method.learns == "adapters" else ()
    adapter = 4 * config.num_hidden_layers * max(run.method.ranks) * sum(
        size / (mesh.shape[axis] if axis else 1)
        for site in sites for size, axis in zip(config.site_shape(site), RULES.spec(*SITES[site])))

    def passes(nodes: Sequence[int], layers: int, heads: int) -> float:
        """So many passes over the decoder's layers and its head for these nodes."""
        size = -(-len(nodes) // node)
        used = sum(len({slots[one] for one in nodes[first : first + size]}) for first in range(0, len(nodes), size)) / node
        return min(1, len(nodes) / node) * (layers * weights + heads * head) + layers * used * adapter

    few = program.update_nodes and -(-program.update_nodes // node) * node
    portions = [graph.nodes(number)[first : first + few] for number in range(graph.rounds)
                for first in range(0, graph.layers[number].width, few)] if few else [range(graph.size)]
    rollout = passes(range(graph.size), parts, 0) + sum(
        passes(graph.nodes(number), parts * bool(layer.reads) + layer.message_tokens - 1, layer.message_tokens)
        for number, layer in enumerate(graph.layers))
    update = sum(passes(portion, 2 * parts, 2 * parts) for portion in portions)

    read = asked = again = 0.0  # tokens: read, written from, and looked at by later ones
    for place, (shared, inbox) in enumerate(prompt_lengths(run, run.family.buckets[-1])):
        further = graph.layers[graph.place(place)[0]].message_tokens - 1
        read += questions * (shared + group * (inbox + further))
        asked += questions * (group * further + (group if inbox else 1))
        again += questions * ((further + bool(inbox)) * shared + group * (further * inbox + further * (further - 1) / 2))
    read, asked, again = (tokens / (data * node) for tokens in (read, asked, again))
    state, between = width * config.hidden_size, before * read + asked
    one = 2 * width * config.num_key_value_heads * config.head_dim / model  # keys and values of a token
    rollout += (2 * between + read / model) * state + (read + again) * config.num_hidden_layers * one
    update += (5 * between + 2 * read / model) * state
    if not run.parts.backbone.remat:
        inner = 2 * width * (config.num_attention_heads * config.head_dim + config.intermediate_size) / model
        update += 2 * (between * (state + inner) + config.num_hidden_layers * read * one)
    bank = sum(jax.tree.leaves(_held(jax.eval_shape(lambda: run.new_bank(0)), mesh, mesh_rules(run.config.fsdp))))
    return {"rollout": rollout, "update": update + (6 + 2 * parts) * bank}


def _held(x, mesh: Mesh, rules: Rules):
    """Bytes of each array that lie on one device."""
    return jax.tree.map(lambda x, where: math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize, x, shardings(x, mesh, rules))
