"""`TextGraph`: layers of language-model nodes and who reads whom. Static data, no parameters, nothing of RL.

>>> graph = text_graph("4-2-1", message_tokens=3)
>>> print(graph)
4-2-1
>>> graph.layers[1].reads      # the second layer reads the first
(0,)
>>> text_graph("2-2-1", reads="all").layers[2].reads
(0, 1)

Nodes are numbered from 0, layer by layer. The *slot* of a node (its row in the adapter bank) is a map apart from the graph:
see `node_slots`.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

VIEWS = ("all", "share", "common")


@dataclasses.dataclass(frozen=True)
class Layer:
    """Nodes that run side by side.

    Attributes:
      width: number of nodes.
      message_tokens: most tokens a node writes (2 or more); a shorter message closes with the end token.
      reads: indices of the earlier layers whose messages every node of this layer may read.
      view: what of the question a node sees: "all"; its "share" of a question in parts (see `TextGraph.shares`); only what is
        "common" to the parts.
      edges: None (every node reads every sender), or one row per node of this layer with one bool per sender, senders in the
        order of `reads`.
    """

    width: int
    message_tokens: int
    reads: tuple[int, ...] = ()
    view: str = "all"
    edges: tuple[tuple[bool, ...], ...] | None = None


@dataclasses.dataclass(frozen=True)
class TextGraph:
    """Layers of nodes; the last layer is the readout. Frozen and hashable: static under `jit`.

    Raises:
      ValueError: a layer is empty, reads itself, a later layer or none, its edges have the wrong shape, or they leave a node
        without a sender or without a reader.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self):
        if not self.layers:
            raise ValueError("a graph needs at least one layer; write one as text_graph('4-2-1')")
        for number, layer in enumerate(self.layers):
            name = f"layer {number} of {self}"
            if layer.width < 1:
                raise ValueError(f"{name} has width {layer.width}; a layer has 1 node or more")
            if layer.message_tokens < 2:
                raise ValueError(
                    f"{name} has message_tokens {layer.message_tokens}; 2 or more are needed"
                )
            if layer.view not in VIEWS:
                raise ValueError(f"{name} has view {layer.view!r}; allowed are {', '.join(VIEWS)}")
            if list(layer.reads) != sorted(set(layer.reads)):
                raise ValueError(f"{name} reads {layer.reads}; name each earlier layer once, in increasing order")
            wrong = [source for source in layer.reads if not 0 <= source < number]
            if wrong:
                allowed = f"0 to {number - 1}" if number else "none (the first layer reads only the question)"
                raise ValueError(f"{name} reads layer {wrong[0]}, itself or a later one; allowed are {allowed}")
            if number and not layer.reads:
                raise ValueError(f"{name} reads no layer, so nothing before it can reach it; "
                                 f"let it read one of 0 to {number - 1}")
            if layer.edges is not None:
                senders = sum(self.layers[source].width for source in layer.reads)
                shape = (len(layer.edges), sorted({len(row) for row in layer.edges}))
                if shape != (layer.width, [senders]):
                    raise ValueError(f"{name} has edges of shape {shape}; needed are {layer.width} rows of {senders} senders")
                deaf = [node for node, row in zip(self.nodes(number), layer.edges) if not any(row)]
                if deaf:
                    raise ValueError(f"{name}: the edges of node {deaf[0]} are all False, so nothing before it can reach it; "
                                     f"let it read one of {', '.join(map(str, self.senders(number)))}")
        unread = set(range(len(self.layers) - 1)) - {source for layer in self.layers for source in layer.reads}
        if unread:
            raise ValueError(f"no layer of {self} reads layer {min(unread)}; its messages would reach nobody")
        heard = set()
        for number, layer in enumerate(self.layers):
            kept = [True] * len(self.senders(number)) if layer.edges is None else map(any, zip(*layer.edges))
            heard.update(sender for sender, one in zip(self.senders(number), kept) if one)
        unheard = set(range(self.size - self.layers[-1].width)) - heard
        if unheard:
            raise ValueError(f"no node of {self} reads node {min(unheard)}, so its messages would reach nobody; "
                             "give it an edge to a later layer, or leave it out")
        if all(layer.view == "common" for layer in self.layers):
            raise ValueError(f"every layer of {self} has the view 'common', so no node sees the parts of a question; "
                             "give one of them 'share' or 'all'")

    @property
    def size(self) -> int:
        """Number of nodes."""
        return sum(layer.width for layer in self.layers)

    @property
    def rounds(self) -> int:
        """Layers that must wait for each other: sequential calls per question."""
        return len(self.layers)

    @property
    def message_tokens(self) -> int:
        """Largest message length of any layer."""
        return max(layer.message_tokens for layer in self.layers)

    @property
    def token_budget(self) -> int:
        """Most tokens all nodes write for one question."""
        return sum(layer.width * layer.message_tokens for layer in self.layers)

    def nodes(self, layer: int) -> range:
        """Node numbers of a layer."""
        first = sum(before.width for before in self.layers[:layer])
        return range(first, first + self.layers[layer].width)

    def place(self, node: int) -> tuple[int, int]:
        """(layer, index in the layer) of a node, both from 0."""
        for number in range(len(self.layers)):
            if node in self.nodes(number):
                return number, node - self.nodes(number).start
        raise ValueError(f"node {node} is not in {self}; allowed are 0 to {self.size - 1}")

    def senders(self, layer: int) -> tuple[int, ...]:
        """Node numbers that a layer may read, in the fixed order of its inbox."""
        return tuple(node for source in self.layers[layer].reads for node in self.nodes(source))

    def edge_mask(self, layer: int) -> tuple[tuple[bool, ...], ...]:
        """One row per node of the layer, one bool per sender."""
        edges = self.layers[layer].edges
        return edges if edges is not None else ((True,) * len(self.senders(layer)),) * self.layers[layer].width

    def inboxes(self, layer: int) -> tuple[tuple[int, ...], ...]:
        """Per node of the layer whom it reads, as places among the layer's senders."""
        return tuple(tuple(k for k, read in enumerate(row) if read) for row in self.edge_mask(layer))

    @property
    def shares(self) -> int:
        """How many shares a question in parts is dealt into: one for each node of the first layer that sees shares, else 1.

        Later layers look at the same shares again, so that every part is in the share of some node.
        """
        return next((layer.width for layer in self.layers if layer.view == "share"), 1)

    def views(self) -> tuple[tuple[str, int], ...]:
        """The distinct (view, share) pairs that the nodes see; share is 0 unless the view is "share"."""
        return tuple(dict.fromkeys(self.view_of(node) for node in range(self.size)))

    def view_of(self, node: int) -> tuple[str, int]:
        layer, index = self.place(node)
        view = self.layers[layer].view
        return (view, index if view == "share" else 0)

    def __str__(self) -> str:
        return "-".join(str(layer.width) for layer in self.layers)

    def draw(self) -> str:
        """The graph as lines of text: each layer, what it reads and writes."""
        lines = []
        for number, layer in enumerate(self.layers):
            nodes = self.nodes(number)
            reads = "question" if layer.view == "all" else f"question ({layer.view})"
            for source in layer.reads:
                reads += f" + layer {source + 1}"
            if layer.edges is not None:
                kept = sum(sum(row) for row in layer.edges)
                reads += f" ({kept} of {layer.width * len(self.senders(number))} edges)"
            role = "readout" if number == len(self.layers) - 1 else "layer"
            boxes = " ".join(f"[{node}]" for node in nodes)
            lines.append(f"{role:>7} {number + 1}: {boxes:<{4 * max(x.width for x in self.layers)}}  reads {reads}; "
                         f"writes {layer.message_tokens} tokens")
        return "\n".join(lines)


def text_graph(
    topology: str,
    message_tokens: int | Sequence[int] = 16,
    reads: str | Sequence[Sequence[int]] = "previous",
    view: str | Sequence[str] = "all",
    edges: str | Sequence | None = None,
) -> TextGraph:
    """Builds a graph from its written form.

    Args:
      topology: widths joined by "-", first layer first, such as "4-2-1"; "512-..-1" halves from one to the other, and
        "8-..-2-1-1" goes on from there.
      message_tokens: most tokens of a message; one number, or one per layer.
      reads: "previous", "all" (every earlier layer), or one sequence of earlier layers per layer.
      view: "all", "share" or "common"; one word, or one per layer.
      edges: None or "all", "tree" (the senders of a layer are dealt out in order, none read twice: in `4-2-1` nodes 0 and 1 are
        read by node 4, nodes 2 and 3 by node 5), "window:k" (each node reads the k senders around its own place), "random:k" or
        "random:k:seed" (k each, drawn so that all senders are read about equally often), or per layer None or rows of bools (see
        `Layer.edges`). All but "all" keep inboxes short where layers are wide.

    Raises:
      ValueError: with the offending value and the allowed ones.
    """
    if not isinstance(topology, str) or not re.fullmatch(r"[1-9][0-9]*(-(\.\.-)?[1-9][0-9]*)*", topology):
        raise ValueError(
            f"topology {topology!r} is not a graph; write the width of each layer, 1 or more, joined by '-', such as '4-2-1', or "
            "'512-..-1' for halves"
        )
    widths = _widths(topology.split("-"))

    def per_layer(name, value, single):
        values = [value] * len(widths) if isinstance(value, single) else list(value)
        if len(values) != len(widths):
            raise ValueError(f"{name} has {len(values)} entries for the {len(widths)} layers of {topology}; "
                             "give one, or one per layer")
        return values

    if isinstance(reads, str):
        rules = {"previous": lambda n: (n - 1,) if n else (), "all": lambda n: tuple(range(n))}
        if reads not in rules:
            raise ValueError(f"reads={reads!r}; allowed are 'previous', 'all', or one sequence of layers per layer")
        reads = [rules[reads](number) for number in range(len(widths))]
    if isinstance(edges, str):
        pattern, *numbers = edges.split(":")
        counts = {"all": (0,), "tree": (0,), "window": (1,), "random": (1, 2)}.get(pattern, ())
        if len(numbers) not in counts or not all(number.isdigit() for number in numbers) or numbers[:1] == ["0"]:
            raise ValueError(f"edges={edges!r}; allowed are 'all', 'tree', 'window:k', 'random:k' and 'random:k:seed' with k of "
                             "1 or more, or one entry per layer, None or rows of bools")
        draw = {"tree": _tree, "window": _window, "random": _random}.get(pattern)
        edges = draw and [draw(sum(widths[source] for source in layer), width, *map(int, numbers))
                          for layer, width in zip(reads, widths)]
    edges = per_layer("edges", edges, type(None))
    return TextGraph(tuple(
        Layer(width, tokens, tuple(source), seen, None if mask is None else tuple(tuple(map(bool, row)) for row in mask))
        for width, tokens, source, seen, mask in zip(
            widths, per_layer("message_tokens", message_tokens, int), per_layer("reads", reads, str),
            per_layer("view", view, str), edges)
    ))


def _widths(words: list[str]) -> list[int]:
    """Widths of a written topology; ".." stands for halves down, or doubles up, to the next one."""
    widths: list[int] = []
    for word in words:
        if word != "..":
            width = int(word)
            while widths and widths[-1] == -1:
                widths.pop()
                while (following := widths[-1] // 2 if widths[-1] > width else 2 * widths[-1]) != width and (
                        min(widths[-1], width) < following < max(widths[-1], width)):
                    widths.append(following)
            widths.append(width)
        else:
            widths.append(-1)
    return widths


def _window(senders: int, width: int, count: int):
    """Edges of a layer whose nodes read `count` neighbouring senders each, around their own place; and more where the windows
    would leave a sender unread."""
    if not senders or senders <= count:
        return None
    rows = []
    for node in range(width):
        middle = (2 * node + 1) * senders // (2 * width)
        first = min(max(middle - count // 2, 0), senders - count)
        rows.append([first <= k < first + count for k in range(senders)])
    return _all_read(rows, lambda k: k * width // senders)


def _random(senders: int, width: int, count: int, seed: int = 0):
    """Edges of a layer whose nodes read `count` senders each, drawn from decks of all senders: nearly regular on both sides."""
    if not senders or senders <= count:
        return None
    rng, deck, rows = random.Random(f"{seed}/{senders}/{width}/{count}"), [], []
    for _ in range(width):
        chosen: set[int] = set()
        while len(chosen) < count:
            deck = deck or rng.sample(range(senders), senders)
            place = next((place for place, k in enumerate(deck) if k not in chosen), None)
            if place is None:
                deck = []
                continue
            chosen.add(deck.pop(place))
        rows.append([k in chosen for k in range(senders)])
    return _all_read(rows, lambda k: rng.randrange(width))


def _all_read(rows: list[list[bool]], reader):
    """The edges, and one to node `reader(k)` from every sender `k` that nobody reads."""
    for k in range(len(rows[0])):
        if not any(row[k] for row in rows):
            rows[reader(k)][k] = True
    return rows


def _tree(senders: int, width: int):
    """Edges of a layer whose senders are dealt out in order; each sender has one reader, each node a sender."""
    if not senders or width == 1:
        return None
    return [[k * width // senders == node if senders >= width else k == node * senders // width for k in range(senders)]
            for node in range(width)]


def node_slots(graph: TextGraph, sharing: str | Sequence[int] = "per_node") -> tuple[int, ...]:
    """The slot of every node: its row in the adapter bank.

    Args:
      graph: the graph.
      sharing: "per_node", "per_layer", "shared" (one slot for all), or one slot number per node.

    Raises:
      ValueError: unknown word, wrong length, or slots that are not 0..k-1 with none left out.
    """
    named = {
        "per_node": tuple(range(graph.size)),
        "per_layer": tuple(graph.place(node)[0] for node in range(graph.size)),
        "shared": (0,) * graph.size,
    }
    if isinstance(sharing, str):
        if sharing not in named:
            raise ValueError(f"slots={sharing!r}; allowed are {', '.join(named)}, or one slot number per node")
        return named[sharing]
    slots = tuple(int(slot) for slot in sharing)
    if len(slots) != graph.size:
        raise ValueError(f"the slot map has {len(slots)} entries; "
                         f"{graph} has {graph.size} nodes, so give {graph.size} slot numbers")
    if sorted(set(slots)) != list(range(max(slots) + 1)):
        raise ValueError(f"the slot map {slots} leaves slots out; number them 0 to {len(set(slots)) - 1}")
    return slots


def graph_of(layers: Sequence[dict]) -> TextGraph:
    """The graph whose layers were stored as JSON, as `dataclasses.asdict(graph)["layers"]` has them.

    Raises:
      TypeError, ValueError: they are no layers of a graph.
    """
    return TextGraph(tuple(Layer(**{name: _tuples(value) for name, value in layer.items()}) for layer in layers))


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
