"""What a node reads, as token ids: template segments tokenised apart and joined as ids, never re-tokenised text.

A prompt has three blocks, each left-padded alone to a static length:

    [shared: start, question, tag]   [own: the inbox, then the cue]   [message]

A first-layer node has no inbox; its cue ends the shared block. For the embedded template and the second node of layer 2:

    <s> [MAX 3 5 ] <node> 2 2    <from1> B 5 <from2> C 9 <note> 1    E 9 </s>
"""

from collections.abc import Sequence
import dataclasses
import string

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int
import numpy as np

from neuromas_jax.graph import TextGraph
from neuromas_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """The fixed words of a node's prompt. No roles: a node learns its place, the question and its messages.

    `tag` may use `{layer}` and `{index}` (both from 1) and `{height}`, layers counted back from the readout, which is 1: with it
    a node keeps its tag when layers are put in front of it. `slot` may use `{k}`, the sender's number in its layer, or `{place}`,
    its place in the reader's own inbox, both from 1: with that few labels do for a wide layer. `note` and `final` may use
    `{message_tokens}` and `{facts}`: how many facts of `tokens_per_fact` tokens fit into the message. Template text may hold
    control tokens; questions and messages cannot (see `text.tokenizer`). `end` is the token that ends a message, the tokenizer's
    own end of text where it is empty. `text.chat` makes one for a chat model.
    """

    start: str = "<s>"
    tag: str = "<node> {layer} {index}"
    slot: str = "<from{k}>"
    note: str = "<note> {facts}"
    final: str = "<final> {facts}"
    tokens_per_fact: int = 2
    end: str = ""


BUDGET = ("message_tokens", "facts")
PLACEHOLDERS = {"start": (), "tag": ("layer", "height", "index"), "slot": ("k", "place"), "note": BUDGET, "final": BUDGET}


def check_template(template: PromptTemplate) -> None:
    """Raises ValueError for a placeholder that a field cannot fill, with those it can."""
    for field, allowed in PLACEHOLDERS.items():
        text = getattr(template, field)
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise ValueError(f"config key 'prompt.{field}' is {text!r} ({error}); "
                             "write a brace that stands for itself twice") from error
        for name in names:
            if name not in allowed:
                fitting = ", ".join(f"{{{one}}}" for one in allowed) or "no placeholder"
                raise ValueError(f"config key 'prompt.{field}' is {text!r} with the placeholder {{{name}}}; "
                                 f"allowed here: {fitting}")


@dataclasses.dataclass(frozen=True)
class LayerPrompt:
    """Static token ids of one graph layer, as tuples so that it is hashable."""

    start: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]  # per node: tag, and for a layer without an inbox also the cue
    slots: tuple[tuple[int, ...], ...]  # per sender: its label; with `by_place` per place of the longest inbox
    cue: tuple[int, ...]
    by_place: bool = False

    def labels(self, inbox: Sequence[int]) -> list[tuple[int, ...]]:
        """Labels of a node that reads these of its layer's senders."""
        return [self.slots[place if self.by_place else k] for place, k in enumerate(inbox)]


def layer_prompts(
    graph: TextGraph, template: PromptTemplate, tokenizer: Tokenizer, finals: Sequence[int] = ()
) -> tuple[LayerPrompt, ...]:
    """Tokenises the template for every layer of a graph. The readout is asked for the final answer, and layers `finals` are."""
    prompts = []
    for number, layer in enumerate(graph.layers):
        last = number == len(graph.layers) - 1 or number in finals
        budget = dict(message_tokens=layer.message_tokens, facts=max(1, layer.message_tokens // template.tokens_per_fact))
        cue = tuple(tokenizer.encode_template((template.final if last else template.note).format(**budget)))
        senders = graph.senders(number)
        tails = []
        for index in range(layer.width):
            tag = tuple(tokenizer.encode_template(template.tag.format(
                layer=number + 1, height=len(graph.layers) - number, index=index + 1)))
            tails.append(tag if senders else tag + cue)
        by_place = "{place}" in template.slot
        count = max(map(len, graph.inboxes(number))) if by_place else len(senders)
        slots = tuple(tuple(tokenizer.encode_template(template.slot.format(k=k + 1, place=k + 1))) for k in range(count))
        start = tuple(tokenizer.encode_template(template.start.format()))
        prompts.append(LayerPrompt(start, tuple(tails), slots, cue, by_place))
    return tuple(prompts)


def check_unforgeable(prompts: Sequence[LayerPrompt], tokenizer: Tokenizer, forbidden: Sequence[int]) -> None:
    """Every slot label, tag and cue must hold a token that no message may: else a message could pass for the template.

    Raises:
      ValueError: names the first segment that does not, why, and what to do. Labels of late senders are the likely case:
        `<from17>` is one token only where the tokenizer has it.
    """
    closed = set(forbidden)
    for layer, prompt in enumerate(prompts, 1):
        tags = [tail if prompt.slots else tail[: len(tail) - len(prompt.cue)] for tail in prompt.tails]
        named = [("slot", f"label of sender {k}", ids) for k, ids in enumerate(prompt.slots, 1)]
        named += [("tag", f"tag of node {index}", ids) for index, ids in enumerate(tags, 1)]
        named.append(("final" if layer == len(prompts) else "note", "cue", prompt.cue))
        for place, (field, name, ids) in enumerate(named):
            if closed.intersection(ids):
                continue
            allowed = sorted(closed & tokenizer.added_ids)
            fewer = ""
            if field == "slot" and place:
                count = "" if prompt.by_place else ", and count labels within each inbox, prompt.slot='<from{place}>'"
                fewer = (f", or let a node read {place} senders at most: {sparse(place, len(prompt.slots), len(prompt.tails))}"
                         f"{count}")
            raise ValueError(
                f"layer {layer}: the {name}, {tokenizer.decode(ids, keep_added=True)!r}, is made of tokens {list(ids)} "
                f"that any message may write, so a message could forge it; start prompt.{field} with one of the tokenizer's "
                f"added tokens ({', '.join(tokenizer.decode([token], keep_added=True) for token in allowed) or 'it has none'}), "
                f"or add the segment to the tokenizer as an added token{fewer}"
            )


def sparse(most: int, senders: int, width: int) -> str:
    """How to wire a layer of `width` nodes so that none reads more than `most` of its senders, in words."""
    widths = [senders]
    while most > 1 and widths[-1] > width * most:
        widths.append(-(-widths[-1] // most))
    between = f" and layers in between, such as '{'-'.join(map(str, [*widths, width]))}'" if len(widths) > 1 else ""
    return f"wire sparsely, with graph.edges 'tree', 'window:{most}' or 'random:{most}'{between}"


def check_context(graph: TextGraph, prompts: Sequence[LayerPrompt], bucket: int, limit: int | None, wired: bool = True) -> None:
    """What a node reads and writes must fit the positions that the decoder has.

    Args:
      graph: the graph.
      prompts: of its layers.
      bucket: tokens of the longest question.
      limit: tokens of prompt and message together; None for any number.
      wired: whether the config's `graph` says who reads whom, and not a method.

    Raises:
      ValueError: names the node that needs most, its tokens, the limit, and what to do.
    """
    needs = []
    for number, (layer, prompt) in enumerate(zip(graph.layers, prompts)):
        lengths = [graph.layers[source].message_tokens for source in layer.reads for _ in range(graph.layers[source].width)]
        for node, tail, inbox in zip(graph.nodes(number), prompt.tails, graph.inboxes(number)):
            read = [len(label) + lengths[k] for label, k in zip(prompt.labels(inbox), inbox)]
            others = len(prompt.start) + len(tail) + (len(prompt.cue) if layer.reads else 0)
            needs.append((bucket + others + sum(read) + layer.message_tokens, node, others, read))
    total, node, others, read = max(needs, key=lambda need: need[0])
    if limit is None or total <= limit:
        return
    number, index = graph.place(node)
    layer, senders = graph.layers[number], len(graph.senders(number))
    most = (limit - total + sum(read)) // max(read, default=1)
    way = ""
    if not wired:
        way = "drop the method, "
    elif most >= -(-senders // layer.width) or most > 1 and len(layer.reads) == 1:
        way = f"let a node read {most} senders at most: {sparse(most, senders, layer.width)}; or "
    elif len(layer.reads) > 1:
        way = "let layers read the one before alone, graph.reads 'previous', "
    raise ValueError(
        f"node {node} (layer {number + 1}, agent {index + 1}) of the graph {graph} may need {total} tokens (a question of "
        f"{bucket}, the largest bucket; {others} of the template; an inbox of {sum(read)} from {len(read)} senders; a message of "
        f"{layer.message_tokens}), and the decoder has positions for {limit} (max_position_embeddings); {way}lower "
        "message_tokens or buckets, or take a backbone with a longer context")


def pack(
    tokens: Int[Array, "*rows S"], valid: Bool[Array, "*rows S"], length: int
) -> tuple[Int[Array, "*rows T"], Bool[Array, "*rows T"]]:
    """Moves the valid tokens of each row to its right end, in order: one left-padded block of static length.

    >>> pack(jnp.array([[7, 8, 9]]), jnp.array([[True, False, True]]), 4)   # -> [[0, 0, 7, 9]]

    The caller makes sure that no row holds more than `length` valid tokens.
    """
    after = jnp.cumsum(valid[..., ::-1], axis=-1, dtype=jnp.int32)[..., ::-1]  # valid tokens from here on
    target = jnp.where(valid, length - after, length)  # length is out of bounds: dropped

    def row(tokens, target):
        return jnp.zeros(length, jnp.int32).at[target].set(tokens, mode="drop")

    for _ in tokens.shape[:-1]:  # axes stay apart: merged ones would be gathered where they lie along a mesh
        row = jax.vmap(row)
    real = jnp.arange(length, dtype=jnp.int32) >= length - valid.sum(axis=-1, keepdims=True, dtype=jnp.int32)
    return row(tokens, target), real


def padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ragged static ids as an array `[rows, longest]` and its mask."""
    longest = max((len(row) for row in rows), default=0)
    tokens, valid = np.zeros((len(rows), longest), np.int32), np.zeros((len(rows), longest), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], valid[i, : len(row)] = row, True
    return tokens, valid


def shared_block(
    prompt: LayerPrompt, question: Int[Array, "N B S"], valid: Bool[Array, "N B S"]
) -> tuple[Int[Array, "N B 1 T"], Bool[Array, "N B 1 T"]]:
    """Start, question and tag of every node and question of a layer: all that a group has in common."""
    nodes, batch, _ = question.shape
    start = jnp.broadcast_to(jnp.asarray(prompt.start, jnp.int32), (nodes, batch, len(prompt.start)))
    tail, tail_valid = padded(prompt.tails)
    shape = (nodes, batch, tail.shape[-1])
    tokens = jnp.concatenate([start, question, jnp.broadcast_to(jnp.asarray(tail)[:, None], shape)], axis=-1)
    keep = jnp.concatenate(
        [jnp.ones_like(start, bool), valid, jnp.broadcast_to(jnp.asarray(tail_valid)[:, None], shape)], axis=-1)
    tokens, keep = pack(tokens, keep, tokens.shape[-1])
    return tokens[:, :, None], keep[:, :, None]


def own_block(
    prompt: LayerPrompt,
    messages: Int[Array, "K B G M"],
    valid: Bool[Array, "K B G M"],
    shown: Bool[Array, "N K B G"],
    inboxes: Sequence[Sequence[int]] | None = None,
) -> tuple[Int[Array, "N B G T"], Bool[Array, "N B G T"]]:
    """The inbox of every node of a layer, then the cue.

    Args:
      prompt: the layer's static ids.
      messages: what the K senders wrote (padded to one length), and `valid` which of it is text.
      shown: which receiver sees which sender's slot at all; a slot that is not shown leaves neither label nor message.
      inboxes: per node the senders that it can ever see, of all K by default. The block has room for the most of them, so that a
        few edges into a wide layer make a short prompt.
    """
    senders, batch, group, _ = messages.shape
    nodes = shown.shape[0]
    if inboxes is None:
        inboxes = [range(senders)] * nodes
    index, there = padded(inboxes)
    longest = index.shape[1]
    labels = [ids for inbox in inboxes for ids in prompt.labels(inbox) + [()] * (longest - len(inbox))]
    label, real = (x.reshape(nodes, longest, -1) for x in padded(labels))
    if all(len(inbox) == senders for inbox in inboxes):  # all read all: their tokens are made once
        label, real, messages, valid = label[:1], real[:1], messages[None], valid[None]
    else:
        messages, valid = messages[index], valid[index]
        shown = jnp.take_along_axis(shown, jnp.asarray(index)[..., None, None], axis=1) & jnp.asarray(there)[..., None, None]
    rows = len(label)  # of what is read: 1, or one per node

    def spread(x):  # [n, D, s] -> [n, D, B, G, s]
        return jnp.broadcast_to(jnp.asarray(x)[:, :, None, None], (rows, longest, batch, group, x.shape[-1]))

    slot_tokens = jnp.concatenate([spread(label), messages], axis=-1)
    slot_valid = jnp.concatenate([spread(real), valid], axis=-1)

    def joined(x):  # [n, D, B, G, s] -> [n, B, G, D * s]
        return jnp.moveaxis(x, 1, 3).reshape(x.shape[0], batch, group, -1)

    cue = jnp.broadcast_to(jnp.asarray(prompt.cue, jnp.int32), (nodes, batch, group, len(prompt.cue)))
    tokens = jnp.broadcast_to(joined(slot_tokens), (nodes, batch, group, longest * slot_tokens.shape[-1]))
    keep = joined(slot_valid & shown[..., None])
    tokens = jnp.concatenate([tokens, cue], axis=-1)
    keep = jnp.concatenate([keep, jnp.ones_like(cue, bool)], axis=-1)
    return pack(tokens, keep, tokens.shape[-1])


