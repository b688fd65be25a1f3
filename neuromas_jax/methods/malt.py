"""MALT (Motwani et al. 2024): generator, verifier and refiner, each with an adapter, trained on trees of samples in two phases.

A group of n^3 episodes is a tree with n branches at each of the three calls; values, likelihood and preferences are those of
`rl.malt`. The first half of the steps is the supervised phase, sampled from the bare backbone; the second half is the preference
phase, sampled from what the first one left, where the source goes on with the first trees. The majority of three runs answers, as
in the source. The three adapters have the graph's total rank together.
"""

import dataclasses

from neuromas_jax.graph import TextGraph, text_graph
from neuromas_jax.methods import Method, Stage
from neuromas_jax.methods.inference import refining_chain
from neuromas_jax.rl.growth import Growth
from neuromas_jax.rl.malt import DPO, SFT

ROLES, RUNS = 3, 3


def malt_method(graph: TextGraph, total_rank: int, group: int, steps: int) -> Method:
    """The method, to be compared with a graph.

    Raises:
      ValueError: the group is no cube of 2 or more, or there are fewer than two steps.
    """
    branches = round(group ** (1 / ROLES))
    if branches < 2 or branches**ROLES != group:
        raise ValueError("method 'malt' samples a tree of as many branches at each of three calls, and rollout.group is "
                         f"{group}; set it to 8 or 27, or drop the method")
    if steps < 2:
        raise ValueError(f"method 'malt' has two phases, and trains for {steps} step; give it 2 or more, or drop the method")
    turns, reads, finals = refining_chain(ROLES)
    length = max(layer.message_tokens for layer in graph.layers)
    chain = text_graph("-".join("1" * turns), length, reads)
    ranks = tuple(-(-(total_rank - role) // ROLES) for role in range(ROLES))  # as even as can be
    first = Stage(chain, tuple(range(ROLES)), ranks, steps // 2, finals=finals, objective=(("credit", SFT),))
    second = dataclasses.replace(first, steps=steps - steps // 2, growth=Growth(moments="fresh"), objective=(("credit", DPO),))
    tree = tuple(branches ** (ROLES - 1 - call) for call in range(ROLES))
    return Method("malt", (first, second), "malt", votes=RUNS, tree=tree)
