"""Running a graph: sampling, interventions, episodes."""

from neuromas_jax.rollout.distribution import Sampling, log_distribution, make_sampling
from neuromas_jax.rollout.episodes import Episodes, LayerEpisodes, Program, Questions, make_program
from neuromas_jax.rollout.interventions import Interventions, blank_nodes, no_interventions, other_episodes, shuffle_questions
from neuromas_jax.rollout.rollout import replay, rollout

__all__ = [
    "Episodes", "Interventions", "LayerEpisodes", "Program", "Questions", "Sampling", "blank_nodes", "log_distribution",
    "make_program", "make_sampling", "no_interventions", "other_episodes", "replay", "rollout", "shuffle_questions",
]
