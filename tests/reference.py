"""The oracle: a text graph in plain Python, node by node and episode by episode.

No cache, no vmap, no left padding, no loop on the device: every next token is predicted by reading the whole prompt again. The
real program must match its prompts, tokens, log-probabilities and gradients.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def norm(x, weight, eps):
    return weight * x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def turn(x, positions, theta):  # x [T, heads, H]
    half = x.shape[-1] // 2
    angle = positions[:, None, None] / theta ** (np.arange(half) * 2 / x.shape[-1])
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * jnp.cos(angle) - second * jnp.sin(angle),
                            second * jnp.cos(angle) + first * jnp.sin(angle)], -1)


LENGTH = 64  # sequences are filled up on the right, where a causal model cannot look, so that `read` compiles once


def filled(ids):
    assert len(ids) <= LENGTH
    return np.asarray([*ids, *[0] * (LENGTH - len(ids))])


@functools.partial(jax.jit, static_argnames="scale")
def read(backbone, adapter, scale, ids):
    """Logits [T, V] of one sequence of token ids under one node's adapter."""
    config, params = backbone.config, backbone.params
    positions = np.arange(len(ids))
    future = positions[None, :] > positions[:, None]
    x = params["embed"][ids]
    for depth in range(config.num_hidden_layers):
        weights = {name: value[depth] for name, value in params["layers"].items()}

        def linear(site, y):
            if adapter is None:
                return y @ weights[site]
            return y @ (weights[site] + scale * adapter[site]["a"][depth] @ adapter[site]["b"][depth])

        y = norm(x, weights["attn_norm"], config.rms_norm_eps)
        q, k, v = (linear(site, y).reshape(len(ids), -1, config.head_dim) for site in "qkv")
        q = turn(norm(q, weights["q_norm"], config.rms_norm_eps), positions, config.rope_theta)
        k = turn(norm(k, weights["k_norm"], config.rms_norm_eps), positions, config.rope_theta)
        mixed = []
        for head in range(config.num_attention_heads):
            shared = head * config.num_key_value_heads // config.num_attention_heads
            score = jnp.where(future, -jnp.inf, q[:, head] @ k[:, shared].T / np.sqrt(config.head_dim))
            mixed.append(jax.nn.softmax(score) @ v[:, shared])
        x = x + linear("o", jnp.concatenate(mixed, axis=-1))
        y = norm(x, weights["mlp_norm"], config.rms_norm_eps)
        x = x + linear("down", jax.nn.silu(linear("gate", y)) * linear("up", y))
    x = norm(x, params["final_norm"], config.rms_norm_eps)
    return x @ (params["embed"].T if config.tie_word_embeddings else params["lm_head"])


def next_token_log_probs(backbone, adapter, scale, sampling, ids):
    logits = np.array(read(backbone, adapter, scale, filled(ids))[len(ids) - 1] / sampling.temperature, np.float64)
    logits[list(sampling.forbidden)] = -np.inf
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def sample(log_probs, key, position, greedy):
    """Inverts the cumulative distribution at this row's uniform number."""
    if greedy:
        return int(np.argmax(log_probs))
    cumulative = np.cumsum(np.exp(log_probs))
    uniform = float(jax.random.uniform(jax.random.fold_in(key, position), ()))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def prompt_ids(graph, template, tokenizer, question, node, inbox):
    """Ids of one node's prompt.

    `question(view, share)` gives ids; `inbox` maps senders to message ids, or to None if not shown.
    """
    layer, index = graph.place(node)
    ids = list(tokenizer.encode_template(template.start)) + list(question(*graph.view_of(node)))
    ids += tokenizer.encode_template(template.tag.format(layer=layer + 1, height=graph.rounds - layer, index=index + 1))
    for k, sender in enumerate(graph.senders(layer)):
        if graph.edge_mask(layer)[index][k] and inbox[sender] is not None:
            ids += tokenizer.encode_template(template.slot.format(k=k + 1)) + list(inbox[sender])
    length = graph.layers[layer].message_tokens
    cue = template.final if layer == graph.rounds - 1 else template.note
    facts = max(1, length // template.tokens_per_fact)
    return ids + tokenizer.encode_template(cue.format(message_tokens=length, facts=facts))


def run(
    program, template, tokenizer, backbone, bank, question, number, episode, key,
    as_read=lambda node, message: message, greedy=False,
):
    """One episode. Returns {node: (prompt ids, message ids with the end token, log-probabilities)}."""
    sampling, graph = program.sampling, program.graph
    written, messages = {}, {}
    for node in range(graph.size):
        prompt = prompt_ids(graph, template, tokenizer, question, node, messages)
        adapter = jax.tree.map(lambda x: x[program.slots[node]], bank)
        row = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, node), number), episode)
        message, scores = [], []
        for position in range(graph.layers[graph.place(node)[0]].message_tokens):
            log_probs = next_token_log_probs(backbone, adapter, program.lora_scale, sampling, prompt + message)
            message.append(sample(log_probs, row, position, greedy))
            scores.append(float(log_probs[message[-1]]))
            if message[-1] == sampling.end_id:
                break
        written[node] = prompt, message, scores
        messages[node] = as_read(node, [token for token in message if token != sampling.end_id])
    return written


def loss(program, backbone, bank, episodes, advantages):
    """REINFORCE: -mean over episodes of advantage * sum of the log-probabilities of everything that every node wrote.

    episodes: {(question, episode): result of `run`}; advantages: {(question, episode): number}.
    """
    total = 0.0
    for place, written in episodes.items():
        for node, (prompt, message, _) in written.items():
            adapter = jax.tree.map(lambda x: x[program.slots[node]], bank)
            logits = read(backbone, adapter, program.lora_scale, filled(prompt + message)) / program.sampling.temperature
            log_probs = jax.nn.log_softmax(logits.at[:, np.asarray(program.sampling.forbidden)].set(-jnp.inf))
            places = len(prompt) - 1 + np.arange(len(message))
            total = total - advantages[place] * log_probs[places, np.asarray(message)].sum()
    return total / len(episodes)
