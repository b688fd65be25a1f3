"""Credit, objective and the pure update. Knows nothing of tasks, files or hosts."""

from neuromas_jax.rl.credit import CREDIT, CRITIC, advantages, check_credit, informative
from neuromas_jax.rl.critic import init_critic
from neuromas_jax.rl.learner import message_scores, written_log_probs
from neuromas_jax.rl.objective import Objective
from neuromas_jax.rl.update import LearnerState, Optimizer, UpdateMetrics, init_learner, learn, update

__all__ = [
    "CREDIT", "CRITIC", "LearnerState", "Objective", "Optimizer", "UpdateMetrics", "advantages", "check_credit", "informative",
    "init_critic", "init_learner", "learn", "message_scores", "update", "written_log_probs",
]
