"""Methods without training, all as graphs of the bare backbone, each with about as many calls as the graph that is tested.

- `direct`: one call, greedy.
- `self_consistency`: majority of as many sampled calls as the graph's token budget pays (Wang et al. 2022).
- `self_refine`: an answer, then by turns a critique of it and a new answer that reads both (Madaan et al. 2023); greedy. The last
  answer counts. With an even number of calls the last critique is left out.
- `debate`: three agents answer; in each further round every agent answers again, reading all answers of the round before, its own
  among them; the majority of the last round counts (Du et al. 2023). As many rounds as the calls pay, two at least.
- `mixture_of_agents`: two layers of proposers, each answering in full and the second reading the first, then one aggregator (Wang
  et al. 2024): `3-3-1` for seven calls.
- `selforg`: agents answer, and again after reading those whose answers are like theirs; see `methods.selforg`.

Agents of the last three sample, since copies of one model would all say the same. Where the source tells an agent in words what
to do, the cue does here: those who answer are asked for the final answer, critics for a note, as graph nodes are.
"""

import dataclasses
import random

from neuromas_jax.graph import Layer, TextGraph, text_graph
from neuromas_jax.methods import Method, Stage
from neuromas_jax.methods.selforg import organised_graph

AGENTS = 3


def frozen_method(name: str, graph: TextGraph, rank: int) -> Method:
    """One of these methods, to be compared with a graph.

    Raises:
      ValueError: the graph has so few nodes that the method cannot be had for as many calls.
    """
    length = max(layer.message_tokens for layer in graph.layers)
    calls, votes, sampled, finals = graph.size, 1, False, ()
    least = {"self_refine": 3, "debate": 2 * AGENTS, "mixture_of_agents": 3, "selforg": 3}.get(name, 1)
    if calls < least:
        raise ValueError(f"method {name!r} makes {least} calls or more, and the graph {graph} has {calls} nodes; "
                         "drop the method, or give a bigger topology")
    if name == "self_refine":
        turns, reads, finals = refining_chain(calls)
        made = text_graph("-".join("1" * turns), length, reads)
    elif name == "debate":
        rounds = max(2, calls // AGENTS)
        made, finals, sampled = text_graph("-".join([str(AGENTS)] * rounds), length), tuple(range(rounds - 1)), True
    elif name == "mixture_of_agents":
        half = (calls - 1) // 2
        made, finals, sampled = text_graph(f"{half}-{half}-1", length), (0, 1), True
    elif name == "selforg":
        made, sampled = organised_graph(calls, length), True
        finals = tuple(range(made.rounds - 1))
    else:
        made = text_graph("1", length)
        votes = -(-graph.token_budget // length) if name == "self_consistency" else 1
    return Method(name, (Stage(made, (0,) * made.size, (rank,), finals=finals),), None, votes=votes, sampled=sampled,
                  organised=name == "selforg")


def refining_chain(calls: int) -> tuple[int, list[tuple[int, ...]], tuple[int, ...]]:
    """Answer, critique that reads it, new answer that reads both, and so on: number of calls (odd: a last critique would be of no
    use), what each reads, and which but the last are answers."""
    turns = calls - (calls % 2 == 0)
    reads = [(), *((n - 1,) if n % 2 else (n - 2, n - 1) for n in range(1, turns))]
    return turns, reads, tuple(range(0, turns - 1, 2))


def random_graph(graph: TextGraph, seed: int = 0) -> TextGraph:
    """A random graph of as many nodes and rounds, each layer as wide as it falls, with about half of all edges from any earlier
    layer to any later one; the readout stays one node. Views and message lengths are those of the place in line of each layer.
    """
    rng = random.Random(f"{graph}/{seed}")
    count = graph.rounds - 1
    cuts = sorted(rng.sample(range(1, graph.size - 1), count - 1)) if count > 1 else []
    widths = [stop - start for start, stop in zip([0, *cuts], [*cuts, graph.size - 1])] if count else []
    layers: list[Layer] = []
    for number, (layer, width) in enumerate(zip(graph.layers, [*widths, 1])):
        reads = tuple(range(number))
        senders = sum(widths[:number])
        edges = [[rng.random() < 0.5 for _ in range(senders)] for _ in range(width)] if number else None
        for row in edges or ():
            if not any(row):
                row[rng.randrange(senders)] = True
        layers.append(dataclasses.replace(layer, width=width, reads=reads, edges=edges and tuple(map(tuple, edges))))
    last = [list(row) for row in layers[-1].edges or ()]
    for sender in range(graph.size - 1):  # nobody may be heard by no one: the readout hears those
        starts = [sum(widths[:number]) for number in range(len(layers))]
        heard = any(row[sender] for number, layer in enumerate(layers) if layer.edges and starts[number] > sender
                    for row in layer.edges)
        last[0][sender] |= not heard
    if last:
        layers[-1] = dataclasses.replace(layers[-1], edges=tuple(map(tuple, last)))
    return TextGraph(tuple(layers))
