"""One pass of a whole graph as one XLA program. Messages move between layers as token ids and never leave the device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone.adapters import Adapters, Bank, merge, take_slots
from neuromas_jax.backbone.decoder import Backbone
from neuromas_jax.parallel.rules import constrain, freely, gather, on_mesh, padded_rows, unpadded
from neuromas_jax.rollout.distribution import row_uniforms
from neuromas_jax.rollout.edges import choose_edges, split_edges
from neuromas_jax.rollout.episodes import Episodes, LayerEpisodes, Program, Questions
from neuromas_jax.rollout.interventions import Interventions
from neuromas_jax.rollout.sampler import prefill, sample_layer
from neuromas_jax.text.prompt import own_block, shared_block


@jax.named_scope("rollout")
def rollout(
    program: Program,
    backbone: Backbone,
    bank: Bank,
    questions: Questions,
    interventions: Interventions,
    key: jax.Array,
    greedy: bool = False,
) -> Episodes:
    """Runs the graph on a batch of questions, `program.group` episodes each. Pure; jit it with `program` static.

    Args:
      program: graph, slots, prompts, sampling rules, group size.
      backbone: the frozen decoder that all nodes share.
      bank: adapters of every slot, or logits of its edges (`rollout.edges`), or both.
      questions: ids per distinct view.
      interventions: what is done to messages; `no_interventions` for a normal run.
      key: the key of this step. Rows fold in their node, question and episode.
      greedy: write the most likely tokens instead of samples; static.

    Returns:
      One `LayerEpisodes` per layer.
    """
    graph, group = program.graph, program.group
    batch = questions.tokens.shape[1]
    adapters, logits = split_edges(bank)
    if program.merge and adapters is not None:
        with jax.named_scope("merge"):
            adapters = merge(backbone, adapters, program.lora_scale)
    shared_by = [program.tree[graph.place(node)[0]] for node in range(graph.size)] if program.tree else ()
    uniforms = row_uniforms(key, graph.size, questions.index, group, graph.message_tokens, shared_by)
    if logits is not None:
        choose = freely(functools.partial(choose_edges, program, greedy=greedy), None, None, "question")
        chosen = choose(logits, questions.index, key)
        interventions = dataclasses.replace(interventions, shown=interventions.shown & chosen)
    with jax.named_scope("shared"):
        shared = freely(functools.partial(shared_blocks, program), None, "question")(questions)
        states = shared_states(program, backbone, adapters, shared, program.microbatch)
    episodes, written = [], []  # written: per layer, (messages as read [N, B, G, M], mask)
    for number, (layer, prompt) in enumerate(zip(graph.layers, program.prompts)):
        with jax.named_scope(f"layer{number}"):
            nodes, rows = np.asarray(graph.nodes(number)), padded_rows(graph.nodes(number))
            senders = graph.senders(number)
            if senders:
                read = freely(functools.partial(_inbox_block, program, number, rows), "node", "question")
                own = read(interventions.shown, [written[source] for source in layer.reads])
                own = tuple(constrain(x, "node", "question") for x in own)
            else:
                none = jnp.zeros((len(rows), batch, group, 0), jnp.int32)
                own = tuple(constrain(x, "node", "question") for x in (none, none.astype(bool)))
            forced = take_slots((interventions.force, interventions.given[..., : layer.message_tokens],
                                 interventions.given_length), rows, "question")
            wrote = sample_layer(
                backbone, layer_adapters(adapters, program.slots, rows), program.lora_scale, states[number], own, forced,
                take_slots(uniforms, rows, "question")[..., : layer.message_tokens], greedy, program.sampling, program.microbatch,
            )
            # Every node of the next layer may read each of these: the one thing that a graph has to send between devices.
            message, live, log_probs = (gather(x)[: len(nodes)] for x in wrote)
            own = unpadded(own, len(nodes))
            block = [x[nodes[0] : nodes[-1] + 1] for x in shared]
            heard = None if logits is None else jnp.moveaxis(
                interventions.shown[nodes][:, np.asarray(senders, np.int32)], 1, -1)
            episodes.append(LayerEpisodes(*block, *own, message, live, log_probs, live[..., 0], heard))
            read = freely(functools.partial(_as_read, nodes=nodes, end_id=program.sampling.end_id), None, "question")
            written.append(read(interventions, message, live))
    return tuple(episodes)


def layer_adapters(adapters: Adapters | None, slots: tuple[int, ...], rows: np.ndarray) -> Adapters | None:
    """The adapters of nodes `rows`, `[N, L, ...]`, each where its node is computed."""
    if adapters is None:
        return None
    return jax.tree.map(lambda x: constrain(x, "node"), take_slots(adapters, [slots[node] for node in rows]))


def shared_states(program: Program, backbone: Backbone, adapters: Adapters | None, shared, microbatch: int) -> list:
    """Per layer, the last hidden state of its nodes' shared blocks, and their keys and values.

    They wait for no message, so all nodes are read at once; on a mesh layer by layer, so that each layer's nodes are spread over
    all devices from the start.
    """
    graph = program.graph
    layers = [graph.nodes(number) for number in range(graph.rounds)]
    together = layers if on_mesh() else [range(graph.size)]
    found = []
    for nodes in together:
        rows = padded_rows(nodes)
        tokens, valid = (constrain(take_slots(x, rows, "question"), "node", "question") for x in shared)
        start = jnp.zeros(tokens.shape[:3], jnp.int32)
        found.append(prefill(backbone, layer_adapters(adapters, program.slots, rows), program.lora_scale, microbatch,
                             tokens, valid, start, ()))
    if on_mesh():
        return found
    return [jax.tree.map(lambda x: x[nodes.start : nodes.stop], found[0]) for nodes in layers]


def shared_blocks(program: Program, questions: Questions):
    """The shared block of every node `[X, B, 1, T]` and its mask, left-padded to one length for the whole graph."""
    graph, views = program.graph, program.graph.views()
    blocks = []
    for number, prompt in enumerate(program.prompts):
        seen = np.asarray([views.index(graph.view_of(node)) for node in graph.nodes(number)])
        blocks.append(shared_block(prompt, questions.tokens[seen], questions.valid[seen]))
    longest = max(tokens.shape[-1] for tokens, _ in blocks)

    def fit(x):
        return jnp.pad(x, ((0, 0),) * 3 + ((longest - x.shape[-1], 0),))

    return tuple(jnp.concatenate([fit(block[i]) for block in blocks]) for i in range(2))


def _inbox_block(program: Program, number: int, rows: np.ndarray, shown, layers: list):
    """The own blocks `[N, B, G, T]` of a layer's nodes `rows` and their mask; `layers` are the messages that they may read, and
    `shown` the interventions'."""
    graph, first = program.graph, program.graph.nodes(number).start
    ids, mask = _senders(layers)
    wired = jnp.asarray(graph.edge_mask(number))[rows - first][..., None, None]
    shown = take_slots(shown, rows)[:, np.asarray(graph.senders(number))] & wired
    inboxes = graph.inboxes(number)
    return own_block(program.prompts[number], ids, mask, shown, [inboxes[row - first] for row in rows])


def _senders(layers: list):
    """The messages of several layers as one list of senders `[K, B, G, M]`, padded to the longest."""
    longest = max(ids.shape[-1] for ids, _ in layers)

    def fit(x):
        return jnp.pad(x, ((0, 0),) * 3 + ((0, longest - x.shape[-1]),))

    return jnp.concatenate([fit(ids) for ids, _ in layers]), jnp.concatenate([fit(mask) for _, mask in layers])


def _as_read(interventions: Interventions, message, live, nodes: np.ndarray, end_id: int):
    """What readers find of a layer's messages `[N, B, G, M]`: the end token stripped, interventions applied."""
    count, batch, group, length = message.shape
    valid = live & (message != end_id)
    source = interventions.source[nodes].reshape(count, batch * group, 1)

    def fetched(x):
        return jnp.take_along_axis(x.reshape(count, batch * group, length), source, axis=1).reshape(x.shape)

    replaced = interventions.replace[nodes][..., None]
    given_valid = jnp.arange(length) < interventions.given_length[nodes][..., None]
    message = jnp.where(replaced, interventions.given[nodes][..., :length], fetched(message))
    valid = jnp.where(replaced, given_valid, fetched(valid))
    return message, valid & ~interventions.blank[nodes][..., None]


def replay(interventions: Interventions, episodes: Episodes) -> Interventions:
    """Forces every node to write what it wrote in these episodes: the same messages, scored again."""
    longest = interventions.given.shape[-1]
    given, length = [], []
    for layer in episodes:
        written = layer.live.sum(axis=-1, dtype=jnp.int32)
        given.append(jnp.pad(layer.message, ((0, 0),) * 3 + ((0, longest - layer.message.shape[-1]),)))
        length.append(written)
    return dataclasses.replace(
        interventions,
        force=jnp.ones_like(interventions.force),
        given=jnp.concatenate(given),
        given_length=jnp.concatenate(length),
    )
