"""GPTSwarm (Zhuge et al. 2024): frozen agents, learned edges.

As many agents as the graph has nodes, in line; each may read any before it, and every such edge has a logit, 0 at first. An
episode draws its own graph, reward trains the logits by REINFORCE, less the mean of the batch where the source has a moving
average, and the graph of all edges with p > 0.5 answers. Every agent is asked for the final answer, and the last one's counts.
Learning rates are a hundred times those of adapters: the source has 0.1.
"""

from neuromas_jax.graph import TextGraph, text_graph
from neuromas_jax.methods import Method, Stage


def swarm_method(graph: TextGraph) -> Method:
    """The method, to be compared with a graph. Raises ValueError for a graph of one node, which has no edge to learn."""
    if graph.size < 2:
        raise ValueError(f"method 'gptswarm' learns edges, and the graph {graph} has one node; drop the method, or give a "
                         "topology such as '2-1'")
    length = max(layer.message_tokens for layer in graph.layers)
    line = text_graph("-".join("1" * graph.size), length, "all")
    stage = Stage(line, tuple(range(line.size)), (1,) * line.size, finals=tuple(range(line.size - 1)))
    return Method("gptswarm", (stage,), "gptswarm", objective=(("credit", "batch_mean"),), learns="edges", rate=100.0)
