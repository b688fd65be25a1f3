"""A team with roles, trained by reinforcement: a solver answers, then by turns a verifier criticises and a refiner answers anew.

As many calls as the graph has nodes, in a chain; each role has one adapter, however often it is called, and all three have the
graph's total rank together. A role is a cue (answer or note), an adapter and a place in the chain; for models that follow
instructions `prompt.tag` can name it. After the teams of MALT (Motwani et al. 2024) and Dr. MAS (arXiv 2602.08847).

- `roles_grpo`: one mean and deviation over all steps of a question's episodes.
- `roles_dr_mas`: those of each agent's own steps.
- `roles_critic`: advantages from a central critic (`rl.critic`).

In the first two a step that nobody can read loses 0.1, as in the code of Dr. MAS: without such a penalty both would be the same,
since every agent's steps earn the episode's reward.
"""

from neuromas_jax.graph import TextGraph, text_graph
from neuromas_jax.methods import Method, Stage
from neuromas_jax.methods.inference import refining_chain

SOLVER, VERIFIER, REFINER = 0, 1, 2
PENALTY = 0.1


def role_method(name: str, graph: TextGraph, total_rank: int) -> Method:
    """One of these methods, to be compared with a graph. Raises ValueError for a graph of less than 3 nodes."""
    if graph.size < 3:
        raise ValueError(f"method {name!r} has a solver, a verifier and a refiner, and the graph {graph} has {graph.size} nodes; "
                         "drop the method, or give a topology of 3 nodes or more")
    turns, reads, finals = refining_chain(graph.size)
    longest = max(layer.message_tokens for layer in graph.layers)
    slots = tuple(SOLVER if n == 0 else VERIFIER if n % 2 else REFINER for n in range(turns))
    ranks = tuple(-(-(total_rank - role) // 3) for role in (SOLVER, VERIFIER, REFINER))  # as even as can be
    chain = text_graph("-".join("1" * turns), longest, reads)
    credit = (("credit", name.removeprefix("roles_")), ("invalid_penalty", 0.0 if name == "roles_critic" else PENALTY))
    return Method(name, (Stage(chain, slots, ranks, finals=finals),), name, objective=credit)
