"""SelfOrg (arXiv 2510.00685): agents answer, and how alike their answers are decides who reads whom before they answer again.

1. N agents answer; an answer is embedded as the mean of its tokens' vectors in the backbone's table, where the source has a small
   sentence encoder.
2. Agent n contributes psi_n = cos(r_n, mean r). It reads agent m where cos(r_m, r_n) >= TAU and psi_m > psi_n: no cycles.
3. From the strongest on, whoever has somebody to read answers again, having read the newest answers of those.
4. Answers are embedded again; the one nearest to their mean, weighted by psi, counts.

Without roles agents differ in what they sampled alone, so the k-th strongest answers again at place k of a line, whoever it is.
One round, which with N agents takes 2 N - 1 calls at most; who has nobody to read writes nothing more.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from neuromas_jax.graph import TextGraph, text_graph
from neuromas_jax.rollout.episodes import Episodes, LayerEpisodes
from neuromas_jax.rollout.interventions import Interventions

TAU = 0.5  # of 0.5, 0.7, 0.9 none mattered on validation questions


def organised_graph(calls: int, length: int) -> TextGraph:
    """N agents side by side, then a line of N - 1 places, for at most so many calls."""
    agents = (calls + 1) // 2
    return text_graph(f"{agents}-" + "-".join("1" * (agents - 1)), length, "all")


def embed(table: np.ndarray, message: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Unit vectors `[..., D]` of messages `[..., M]`: the mean of their tokens' vectors; zero where nothing was written."""
    mean = (table[message] * live[..., None]).sum(-2) / np.maximum(live.sum(-1, keepdims=True), 1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-9)


def contributions(vectors: np.ndarray) -> np.ndarray:
    """psi `[N, ...]` of unit vectors `[N, ..., D]`."""
    centre = vectors.mean(axis=0)
    centre = centre / np.maximum(np.linalg.norm(centre, axis=-1, keepdims=True), 1e-9)
    return (vectors * centre).sum(-1)


def who_reads_whom(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one question's answers `[N, D]`: agents from the strongest on, and `[reader, sender]` edges between them."""
    psi = contributions(vectors)
    order = np.argsort(-psi, kind="stable")
    return order, (vectors @ vectors.T >= TAU) & (psi[None] > psi[:, None])


def senders_of(order: np.ndarray, edges: np.ndarray) -> list[list[int]]:
    """What each place of the line reads, as nodes of the graph: nodes 0 to N - 1 are first answers, N and up the line's places.

    Place k is that of the agent `order[k + 1]`; the strongest agent never answers again. An empty list: it does not either.
    """
    agents, newest, found = len(order), {int(agent): int(agent) for agent in order}, []
    for place, agent in enumerate(order[1:]):
        found.append([newest[int(other)] for other in order if edges[agent, other]])
        if found[-1]:
            newest[int(agent)] = agents + place
    return found


def organise(compiled, bank, batch, keep: Interventions, key) -> tuple[Episodes, LayerEpisodes]:
    """Sampled episodes, one per question, and a layer of one node that says the answer that counts.

    The arguments are those of `Compiled.sample`, which runs twice: the first answers of both runs are the same, since key and
    prompts are.
    """
    run = compiled.run
    table = np.asarray(run.parts.backbone.params["embed"], np.float32)
    end_id, agents = run.program.sampling.end_id, run.method.graph.layers[0].width
    first = compiled.sample(bank, batch, keep, key)[0]
    shown = np.array(keep.shown)
    questions = first.message.shape[1]
    plans = []
    for question in range(questions):
        message, live = (np.asarray(x)[:, question, 0] for x in (first.message, first.live))
        order, edges = who_reads_whom(embed(table, message, live & (message != end_id)))
        read = senders_of(order, edges)
        plans.append((order, read))
        for place, senders in enumerate(read):
            shown[agents + place, :, question] = False
            shown[agents + place, senders, question] = True
    episodes = compiled.sample(bank, batch, dataclasses.replace(keep, shown=jnp.asarray(shown)), key)
    longest = max(layer.message.shape[-1] for layer in episodes)

    def joined(name):
        return np.concatenate([np.pad(np.asarray(getattr(layer, name))[:, :, 0], ((0, 0), (0, 0), (0, longest - getattr(
            layer, name).shape[-1]))) for layer in episodes])  # [X, B, M]

    message, live = joined("message"), joined("live")
    ran = np.ones((run.method.graph.size, questions), bool)
    chosen = np.zeros(questions, np.int64)
    for question, (order, read) in enumerate(plans):
        newest = np.arange(agents)
        for place, senders in enumerate(read):
            ran[agents + place, question] = bool(senders)
            if senders:
                newest[order[place + 1]] = agents + place
        words, real = message[newest, question], live[newest, question]
        vectors = embed(table, words, real & (words != end_id))
        centre = (np.maximum(contributions(vectors), 0)[:, None] * vectors).sum(0)
        chosen[question] = newest[np.argmax(vectors @ centre)]
    written = []
    for number, layer in enumerate(episodes):
        alive = np.asarray(layer.live) & ran[np.asarray(run.method.graph.nodes(number))][..., None, None]
        written.append(dataclasses.replace(layer, live=jnp.asarray(alive), fired=jnp.asarray(alive[..., 0])))
    return tuple(written), answer_layer(episodes[-1], message, live, chosen)


def answer_layer(last: LayerEpisodes, message: np.ndarray, live: np.ndarray, chosen: np.ndarray) -> LayerEpisodes:
    """What the chosen nodes `[B]` of all `[X, B, M]` said, as a layer of one node."""
    questions = np.arange(len(chosen))
    said, alive = (jnp.asarray(x[chosen, questions][None, :, None]) for x in (message, live))
    return dataclasses.replace(jax.tree.map(lambda x: x[-1:], last), message=said, live=alive, fired=alive[..., 0])
