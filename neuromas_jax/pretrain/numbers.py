"""Where the embeddings of numbers start: on circles, so that adding is turning.

A token's vector holds, for each period p, the point at the angle 2 pi n / p of a number n; the other entries stay random.
Sums and differences are learned in fewer steps from there. After the Fourier features of FoNE (Zhou et al.,
arXiv 2502.09741); the periods are ours.
"""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np

from neuromas_jax.backbone import Backbone
from neuromas_jax.text.tokenizer import Tokenizer

PERIODS = (2, 5, 10, 20, 40, 100, 200, 400)  # the last but one tells all numbers from -99 to 99 apart
_NUMBER = re.compile(r" ?(-?[0-9]+)")


def circles(number: int) -> np.ndarray:
    """cos and sin of a number's angle for each period: [2 * len(PERIODS)], of mean square 1."""
    angles = 2.0 * np.pi * number / np.array(PERIODS)
    return np.sqrt(2.0) * np.stack([np.cos(angles), np.sin(angles)], axis=1).reshape(-1)


def place_numbers(backbone: Backbone, tokenizer: Tokenizer) -> Backbone:
    """The backbone with the first entries of every number token's embedding on circles, of the spread that embeddings have.

    Raises ValueError where the embedding is narrower than the circles.
    """
    embed = np.array(backbone.params["embed"])
    width = 2 * len(PERIODS)
    if embed.shape[1] < width:
        raise ValueError(f"hidden_size is {embed.shape[1]}; number embeddings need {width} or more, or fewer PERIODS")
    spread = embed.std()
    for index in range(tokenizer.vocab_size):
        number = _NUMBER.fullmatch(tokenizer.decode([index]))
        if number:
            embed[index, :width] = spread * circles(int(number[1]))
    return dataclasses.replace(backbone, params={**backbone.params, "embed": jnp.asarray(embed)})
