"""Growth of graphs: pure edits. Each takes a graph and gives a bigger one that knows where every node came from.

>>> grown = edit(text_graph("2-1"), Deepen(at=1, width=2))
>>> print(grown.graph, grown.origin)
2-2-1 (0, 1, None, None, 2)
>>> print(plan(text_graph("2-1"), text_graph("4-2-1")))
(Deepen(at=1, width=2, message_tokens=16, reads=(0,), bypass=False), Widen(layer=0, by=2))

Nothing here knows of adapters: `rl.growth` carries trained slots over and starts new ones.
"""

import dataclasses

from neuromas_jax.graph.textgraph import Layer, TextGraph

PLACES = ("middle", "front", "double")


@dataclasses.dataclass(frozen=True)
class Widen:
    """`by` more nodes at the end of a layer. They read what the layer reads, and every reader of the layer reads them."""

    layer: int
    by: int = 1


@dataclasses.dataclass(frozen=True)
class Deepen:
    """A new layer in the place `at`; the layers from there on move one further.

    Attributes:
      at: 0 (in front) to the place of the readout, which stays last.
      width: its nodes.
      message_tokens: most tokens of their messages; by default those of the layer before, or in front of the one behind.
      reads: earlier layers that it reads; by default the one before.
      bypass: whether the layers that read the one before go on reading it beside the new one; else they read the new one
        instead.
    """

    at: int
    width: int = 1
    message_tokens: int | None = None
    reads: tuple[int, ...] | None = None
    bypass: bool = True


@dataclasses.dataclass(frozen=True)
class Rewire:
    """Another set of earlier layers for a layer to read, and of edges within that (see `Layer`)."""

    layer: int
    reads: tuple[int, ...]
    edges: tuple[tuple[bool, ...], ...] | None = None


@dataclasses.dataclass(frozen=True)
class Double:
    """Two copies of the whole graph side by side, and a new readout above both old ones.

    Edges stay within each copy, so a graph that divides a question in parts divides one of twice as many.
    """


Edit = Widen | Deepen | Rewire | Double


@dataclasses.dataclass(frozen=True)
class Grown:
    """A graph and where its nodes came from.

    Attributes:
      graph: after the edits.
      origin: per node the node of the graph before that it goes on, or None for a new one.
      like: per node the old node that a new one is most alike, for rules that copy: of its own layer, by turns, or of the
        nearest one. A carried node is like itself.
    """

    graph: TextGraph
    origin: tuple[int | None, ...]
    like: tuple[int, ...]

    @property
    def new(self) -> tuple[int, ...]:
        """Numbers of the new nodes."""
        return tuple(node for node, old in enumerate(self.origin) if old is None)


def edit(graph: TextGraph, *edits: Edit) -> Grown:
    """Applies edits one after another; each counts layers as the one before left them.

    Raises:
      ValueError: a layer that is not there, or a graph that cannot be.
    """
    grown = Grown(graph, tuple(range(graph.size)), tuple(range(graph.size)))
    for one in edits:
        step = _APPLY[type(one)](grown.graph, one)
        origin = tuple(None if node is None else grown.origin[node] for node in step.origin)
        grown = Grown(step.graph, origin, tuple(grown.like[node] for node in step.like))
    return grown


def plan(graph: TextGraph, target: TextGraph, place: str = "middle") -> tuple[Edit, ...]:
    """Edits that lead from a graph to a bigger one.

    Args:
      graph: what is there.
      target: what is wanted.
      place: with "middle" the old layers before the readout stay the first ones and new layers come between them and the readout;
        with "front" new layers come in front; with "double" the graph is doubled until it has as many layers.

    Raises:
      ValueError: the target has fewer layers, or a layer of it fewer nodes, other views or message lengths than the old layer
        in its place.
    """
    if place not in PLACES:
        raise ValueError(f"place={place!r}; allowed are {', '.join(PLACES)}")
    more = target.rounds - graph.rounds
    if more < 0:
        raise ValueError(f"{target} has {target.rounds} layers and {graph} has {graph.rounds}; a graph grows, it does not "
                         f"shrink: give a target of {graph.rounds} layers or more")
    if place == "double":
        return _finish((Double(),) * more, graph, target)
    first = graph.rounds - 1 if place == "middle" else 0
    edits: list[Edit] = []
    for at in range(first, first + more):
        layer = target.layers[at]
        edits.append(Deepen(at, layer.width, layer.message_tokens, layer.reads or None, bypass=False))
    places = [place for place in range(target.rounds) if not first <= place < first + more]
    for place, old in zip(places, graph.layers):
        wanted = target.layers[place]
        for name in ("message_tokens", "view"):
            if getattr(old, name) != getattr(wanted, name):
                raise ValueError(f"layer {place} of {target} has {name} {getattr(wanted, name)!r}, and the layer of {graph} that "
                                 f"takes its place has {getattr(old, name)!r}; keep it, since its nodes were trained with it")
        if wanted.width < old.width:
            raise ValueError(f"layer {place} of {target} has width {wanted.width}, and the layer of {graph} that takes its place "
                             f"has {old.width}; give it {old.width} nodes or more, or another place ({', '.join(PLACES)})")
        if wanted.width > old.width:
            edits.append(Widen(place, wanted.width - old.width))
    return _finish(tuple(edits), graph, target)


def _finish(edits: tuple[Edit, ...], graph: TextGraph, target: TextGraph) -> tuple[Edit, ...]:
    """The edits, then the rewirings that are left. Raises ValueError where the layers reached are not those of the target."""
    reached = edit(graph, *edits).graph
    for number, (has, wanted) in enumerate(zip(reached.layers, target.layers)):
        if dataclasses.replace(has, reads=(), edges=None) != dataclasses.replace(wanted, reads=(), edges=None):
            raise ValueError(f"growing {graph} leads to {reached} with layer {number} as {has}, and {target} has {wanted} there; "
                             "change the target, or the place of new layers")
    return edits + tuple(Rewire(number, wanted.reads, wanted.edges)
                         for number, (has, wanted) in enumerate(zip(reached.layers, target.layers))
                         if (has.reads, has.edges) != (wanted.reads, wanted.edges))


def _full(senders: int, width: int, edges) -> list[list[bool]]:
    """Edges as lists, all kept where there are none."""
    return [list(row) for row in edges] if edges is not None else [[True] * senders for _ in range(width)]


def _plain(rows: list[list[bool]]):
    """Edges as a layer holds them; None where all are kept."""
    return None if all(map(all, rows)) else tuple(map(tuple, rows))


def _checked(graph: TextGraph, layer: int, what: str, last: int) -> None:
    if not 0 <= layer <= last:
        raise ValueError(f"{what} {layer} of {graph}; allowed are 0 to {last}")


def _widen(graph: TextGraph, edit: Widen) -> Grown:
    _checked(graph, edit.layer, "widening layer", graph.rounds - 2)
    if edit.by < 1:
        raise ValueError(f"widening layer {edit.layer} of {graph} by {edit.by}; give 1 or more")
    layers = list(graph.layers)
    old = layers[edit.layer]
    rows = _full(len(graph.senders(edit.layer)), old.width, old.edges)
    rows += [[True] * len(graph.senders(edit.layer)) for _ in range(edit.by)]
    layers[edit.layer] = dataclasses.replace(old, width=old.width + edit.by, edges=_plain(rows))
    for number in range(edit.layer + 1, graph.rounds):
        layer = graph.layers[number]
        if edit.layer in layer.reads and layer.edges is not None:
            stop = sum(graph.layers[source].width for source in layer.reads if source <= edit.layer)
            rows = [[*row[:stop], *[True] * edit.by, *row[stop:]] for row in layer.edges]
            layers[number] = dataclasses.replace(layer, edges=_plain(rows))
    nodes = graph.nodes(edit.layer)
    new = [nodes[index % len(nodes)] for index in range(edit.by)]
    like = [*range(nodes.stop), *new, *range(nodes.stop, graph.size)]
    origin = [*range(nodes.stop), *[None] * edit.by, *range(nodes.stop, graph.size)]
    return Grown(TextGraph(tuple(layers)), tuple(origin), tuple(like))


def _deepen(graph: TextGraph, edit: Deepen) -> Grown:
    at, width = edit.at, edit.width
    _checked(graph, at, "a new layer at", graph.rounds - 1)
    reads = edit.reads if edit.reads is not None else (at - 1,) if at else ()
    tokens = edit.message_tokens or graph.layers[max(at - 1, 0)].message_tokens
    layers = [*graph.layers[:at], Layer(width, tokens, reads, graph.layers[max(at - 1, 0)].view)]
    for number, layer in enumerate(graph.layers[at:], at):
        rows = dict(zip(layer.reads, _blocks(graph, number)))
        heard = {source + (source >= at): block for source, block in rows.items()}
        if (at - 1 in layer.reads) or (at == 0 and not layer.reads):  # it read what the new layer now stands before
            if at and not edit.bypass:
                del heard[at - 1]
            heard[at] = [[True] * width for _ in range(layer.width)]
        sources = tuple(sorted(heard))
        joined = [[kept for source in sources for kept in heard[source][row]] for row in range(layer.width)]
        layers.append(dataclasses.replace(layer, reads=sources, edges=_plain(joined)))
    first = graph.nodes(at).start
    near = graph.nodes(max(at - 1, 0))
    like = [*range(first), *[near[index % len(near)] for index in range(width)], *range(first, graph.size)]
    origin = [*range(first), *[None] * width, *range(first, graph.size)]
    return Grown(TextGraph(tuple(layers)), tuple(origin), tuple(like))


def _blocks(graph: TextGraph, number: int) -> list[list[list[bool]]]:
    """The edges of a layer cut by the layers that it reads."""
    layer, blocks, start = graph.layers[number], [], 0
    mask = graph.edge_mask(number)
    for source in layer.reads:
        stop = start + graph.layers[source].width
        blocks.append([list(row[start:stop]) for row in mask])
        start = stop
    return blocks


def _rewire(graph: TextGraph, edit: Rewire) -> Grown:
    _checked(graph, edit.layer, "rewiring layer", graph.rounds - 1)
    layers = list(graph.layers)
    layers[edit.layer] = dataclasses.replace(layers[edit.layer], reads=edit.reads, edges=edit.edges)
    same = tuple(range(graph.size))
    return Grown(TextGraph(tuple(layers)), same, same)


def _double(graph: TextGraph, edit: Double) -> Grown:
    layers, like, origin = [], [], []
    for number, layer in enumerate(graph.layers):
        rows = []
        for copy in range(2):
            for node in range(layer.width):
                row = []
                for block in _blocks(graph, number):
                    quiet = [False] * len(block[node])
                    row += [*block[node], *quiet] if copy == 0 else [*quiet, *block[node]]
                rows.append(row)
        layers.append(dataclasses.replace(layer, width=2 * layer.width, edges=_plain(rows) if layer.reads else None))
        like += [*graph.nodes(number)] * 2
        origin += [*graph.nodes(number), *[None] * layer.width]
    root = graph.layers[-1]
    layers.append(dataclasses.replace(root, width=root.width, reads=(graph.rounds - 1,), edges=None))
    like += graph.nodes(graph.rounds - 1)
    origin += [None] * root.width
    return Grown(TextGraph(tuple(layers)), tuple(origin), tuple(like))


_APPLY = {Widen: _widen, Deepen: _deepen, Rewire: _rewire, Double: _double}
