"""What the paper's experiments have in common; `docs/paper.md` says which of it is the paper's and which is ours.

    python -m neuromas_jax.main --config=configs/paper/arc.py:2-2-1 --workdir=runs/paper/arc_2-2-1 --dry_run
    python -m neuromas_jax.main --config=configs/paper/arc.py:2-2-1,models/gemma-3-1b-it,data --workdir=...

What follows the colon: topology, folder of the backbone, folder that holds the data sets' folders; later ones may be left out.
"""

import ml_collections

from neuromas_jax.text.chat import chat_prompt

TOPOLOGIES = ("1", "1-1-1", "2-2-1", "2-2-2-1")
SINGLE = ("graph", "graph_untrained", "vote_equal_tokens")
RIVALS = (
    "graph_shared_adapter", "graph_random", "graph_blanked", "graph_shuffled", "graph_other_episode",
    "single_equal_parameters", "single_equal_tokens", "chain_equal_calls", "malt", "roles_grpo", "roles_dr_mas", "roles_critic",
    "gptswarm", "direct", "self_consistency", "self_refine", "mixture_of_agents", "selforg",
)
MOST = ("debate",)  # three debaters and two rounds: more calls than the smaller graphs make


def paper(argument: str, name: str, task: dict, **prompt):
    """A task's config.

    Args:
      argument: see above; "" for a `2-2-1` graph on `models/Qwen3-0.6B` with data in `data`.
      name: of the family.
      task: its fields; `folder` and `train_folder` of its options are completed by the data folder.
      prompt: words of `text.chat.chat_prompt`.

    Raises:
      ValueError: a topology that the paper does not have.
    """
    topology, backbone, data = (*argument.split(","), "", "")[:3]
    topology, backbone, data = topology or "2-2-1", backbone or "models/Qwen3-0.6B", data or "data"
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology {topology!r}; the paper's are {', '.join(TOPOLOGIES)}: write configs/paper/{name}.py:2-2-1")
    options = {key: f"{data}/{value}" if key.endswith("folder") else value for key, value in task.get("options", {}).items()}
    config = ml_collections.ConfigDict()
    config.backbone = backbone
    config.remat = True
    config.prompt = chat_prompt(backbone, **prompt)
    config.families = {name: dict(task, options=options, topology=topology, message_tokens=200, buckets=(256, 512, 1024))}
    config.methods = SINGLE + (RIVALS if topology != "1" else ()) + (MOST if topology == "2-2-2-1" else ())
    rank = 48 if topology == "1" else 16  # of Qwen3-0.6B 6.9 M parameters for one agent and for three
    config.adapters = dict(rank=rank, scale=2.0, sites=("q", "v"))
    config.rollout = dict(questions=8, group=8, too_long="skip")
    config.sweep = dict(learning_rates=(1e-5, 3e-5, 1e-4), seed=100)
    config.seeds = (0, 1, 2)
    config.training = dict(steps=200, evaluate_every=25, checkpoint_every=25, influence_every=200)
    config.test_questions = 2000  # all of them
    return config
