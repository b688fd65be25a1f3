"""What a trained graph is compared with, all over the same rollout, prompts, parser and accounting.

A method is a graph, a slot map and a rank, or several in stages: no method has a loop of its own. Where one method only evaluates
what another has trained, `trained_as` names it. Budgets are counted in message tokens, so they stay equal where layers write
messages of unequal length.
"""

import dataclasses

from neuromas_jax.config import Config, FamilyConfig, StageConfig, training_steps
from neuromas_jax.graph import TextGraph, node_slots, text_graph
from neuromas_jax.rl.growth import Growth


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a method's training.

    Attributes:
      graph: what runs.
      slots: adapter slot of every node.
      ranks: rank of every slot.
      steps: of training; None where the experiment decides.
      options: of the task, (name, value) pairs over the family's.
      growth: how it goes on from the stage before; None for the first one.
      anew: whether all slots start anew all the same, as a control.
      stall: see `config.StageConfig`.
      finals: layers before the last one whose nodes are asked for the final answer too.
      objective: fields of `rl.Objective` of this stage, (name, value) pairs over the method's.
    """

    graph: TextGraph
    slots: tuple[int, ...]
    ranks: tuple[int, ...]
    steps: int | None = None
    options: tuple[tuple[str, object], ...] = ()
    growth: Growth | None = None
    anew: bool = False
    stall: int = 0
    finals: tuple[int, ...] = ()
    objective: tuple[tuple[str, object], ...] = ()


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
      name: its name.
      stages: how it is trained; the last one is what answers.
      trained_as: the method whose adapters it uses; None for the untrained graph.
      messages: "kept", "blanked", "shuffled" or "other_episode" between layers.
      votes: answers per question that are counted, of each node of the last layer; 1 for one pass.
      objective: fields of `rl.Objective` that are the method's own, (name, value) pairs over the config's.
      sampled: whether one pass samples its messages; else they are the most likely ones. Votes are always sampled.
      learns: "adapters", or "edges" over the bare backbone (`rollout.edges`).
      rate: multiplies every learning rate, where the source has rates of another size.
      tree: sampling in training, see `rollout.Program`.
      organised: whether messages decide who reads whom while it answers (`methods.selforg`).
    """

    name: str
    stages: tuple[Stage, ...]
    trained_as: str | None
    messages: str = "kept"
    votes: int = 1
    sampled: bool = False
    objective: tuple[tuple[str, object], ...] = ()
    learns: str = "adapters"
    rate: float = 1.0
    tree: tuple[int, ...] = ()
    organised: bool = False

    @property
    def graph(self) -> TextGraph:
        return self.stages[-1].graph

    @property
    def slots(self) -> tuple[int, ...]:
        return self.stages[-1].slots

    @property
    def ranks(self) -> tuple[int, ...]:
        return self.stages[-1].ranks

    @property
    def calls(self) -> int:
        """Model calls per question: every node once, for every vote."""
        return self.graph.size * self.votes

    @property
    def rounds(self) -> int:
        """Calls that must wait for each other; votes run side by side."""
        return self.graph.rounds


GROWN = ("grown", "grown_anew", "parent_trained_on", "graph_schedule", "graph_mixed", "graph_tied")
ROLES = ("roles_grpo", "roles_dr_mas", "roles_critic")
FROZEN = ("direct", "self_consistency", "self_refine", "debate", "mixture_of_agents", "selforg")
WHOLE = (  # methods without stages
    "graph", "graph_untrained", "graph_shared_adapter", "graph_blanked", "graph_shuffled", "graph_other_episode",
    "graph_random",
    "single_equal_parameters", "single_equal_tokens", "chain_equal_calls", "vote_equal_tokens", *ROLES, "gptswarm", *FROZEN,
)
METHODS = (*WHOLE, "malt", *GROWN, "searched")
MESSAGES = {"graph_blanked": "blanked", "graph_shuffled": "shuffled", "graph_other_episode": "other_episode"}
WIRED = ("graph", "graph_untrained", "graph_shared_adapter", *MESSAGES, *GROWN)  # as config.graph says
TRAINED = (
    "graph", "graph_shared_adapter", "graph_random", "single_equal_parameters", "single_equal_tokens", "chain_equal_calls",
    *ROLES, "gptswarm", "malt", *GROWN, "searched")


def check_methods(names) -> None:
    """Raises ValueError for an unknown or repeated method."""
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}; allowed are {', '.join(METHODS)}")
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"methods {tuple(names)}; name one or more, each once")


def make_method(name: str, config: Config, family: FamilyConfig) -> Method:
    """Builds a method for one family.

    - `graph`: the config's graph, one adapter per slot of rank r.
    - `graph_untrained`: the same with new adapters: the bare backbone in every node.
    - `graph_shared_adapter`: one slot for all nodes, of rank r times the number of slots: equal total rank.
    - `graph_blanked`, `graph_shuffled`: the trained graph whose readers find empty messages, or those of another question.
    - `graph_other_episode`: the trained graph, sampled, whose readers find messages of other episodes of the same question, those
      of senders side by side from different ones. Lost is what an episode's messages have in common beyond their question; in two
      layers that is nothing, since the first one's nodes do not hear of each other.
    - `single_equal_parameters`: one call, a message as long as the longest of a node, one adapter of the total rank.
    - `single_equal_tokens`: one call whose one message has the whole graph's token budget; the total rank.
    - `chain_equal_calls`: one agent (one adapter of the total rank) called as often as the graph has nodes, each call reading
      all its earlier messages and writing one as long as the node's in its place, layer by layer.
    - `vote_equal_tokens`: majority of sampled answers of `single_equal_parameters`, as many as reach the graph's token budget:
      one for each node where all messages are equally long.
    - `graph_random`: a random graph of as many nodes, trained as the graph is; see `methods.inference.random_graph`.
    - `roles_grpo`, `roles_dr_mas`, `roles_critic`: solver, verifier and refiner trained together; see `methods.roles`.
    - `malt`: generator, verifier and refiner trained on trees of samples; see `methods.malt`.
    - `gptswarm`: frozen nodes, learned edges; see `methods.swarm`.
    - `direct`, `self_consistency`, `self_refine`, `debate`, `mixture_of_agents`, `selforg`: the bare backbone; see
      `methods.inference`.
    - `searched`: a graph that grows by itself to as many calls; this is its start, see `train.search`.
    - `grown`, `grown_anew`, `parent_trained_on`, `graph_schedule`, `graph_mixed`, `graph_tied`: see `methods.growth`.

    Raises:
      ValueError: an unknown method, a graph that cannot be built, or one whose last layer has several nodes.
    """
    check_methods([name])
    graph, slots = family_graph(config, family)
    rank = config.adapters.rank
    ranks = (rank,) * (max(slots) + 1)
    total = (sum(ranks),)
    if name in GROWN:
        from neuromas_jax.methods.growth import growth_stages  # it builds on this module

        return Method(name, growth_stages(name, config, family), name)
    if name == "searched":
        for option in ("message_tokens", "view"):
            value = getattr(family, option)
            if isinstance(value, tuple) or value == "share":
                raise ValueError(f"families.{family.task}.{option} is {value!r}, and a search changes a graph's layers: give one "
                                 f"{'number' if option == 'message_tokens' else 'of all and common'} for all of them")
        start, slots = family_graph(config, family, StageConfig(topology=family.search.topology))
        if start.size > (family.search.calls or graph.size):
            raise ValueError(f"families.{family.task}.search starts with {start}, which makes more calls than the "
                             f"{family.search.calls or graph.size} allowed; give a smaller topology, or more calls")
        return Method(name, (Stage(start, tuple(range(start.size)), (rank,) * start.size),), name)
    longest = max(layer.message_tokens for layer in graph.layers)
    if name in FROZEN:
        from neuromas_jax.methods.inference import frozen_method

        return frozen_method(name, graph, rank)
    if name in ROLES:
        from neuromas_jax.methods.roles import role_method

        return role_method(name, graph, total[0])
    if name == "gptswarm":
        from neuromas_jax.methods.swarm import swarm_method

        return swarm_method(graph)
    if name == "malt":
        from neuromas_jax.methods.malt import malt_method

        return malt_method(graph, total[0], config.rollout.group, training_steps(config, family))
    if name == "graph_random":
        from neuromas_jax.methods.inference import random_graph

        return Method(name, (Stage(random_graph(graph), tuple(range(graph.size)), (rank,) * graph.size),), name)
    if name.startswith("graph"):
        if name == "graph_shared_adapter":
            return Method(name, (Stage(graph, node_slots(graph, "shared"), total),), name)
        return Method(name, (Stage(graph, slots, ranks),), None if name == "graph_untrained" else "graph",
                      MESSAGES.get(name, "kept"), sampled=name == "graph_other_episode")
    if name == "chain_equal_calls":
        lengths = [layer.message_tokens for layer in graph.layers for _ in range(layer.width)]
        chain = text_graph("-".join("1" * graph.size), lengths, "all")
        return Method(name, (Stage(chain, node_slots(chain, "shared"), total),), name)
    length = graph.token_budget if name == "single_equal_tokens" else longest
    single = (Stage(text_graph("1", length), (0,), total),)
    if name == "vote_equal_tokens":
        votes = -(-graph.token_budget // longest)
        return Method(name, single, "single_equal_parameters", votes=votes)
    return Method(name, single, name)


def family_graph(config: Config, family: FamilyConfig, stage: StageConfig = StageConfig()) -> tuple[TextGraph, tuple[int, ...]]:
    """The graph of a family, or of a stage on the way there, and the slots of its nodes.

    Raises ValueError for a graph that cannot be built or has several readouts.
    """
    options = config.graph
    topology = stage.topology or family.topology or options.topology
    graph = text_graph(
        topology, stage.message_tokens or family.message_tokens, stage.reads or family.reads or options.reads,
        stage.view or family.view, stage.edges or family.edges or options.edges)
    if graph.layers[-1].width > 1:
        raise ValueError(f"topology {topology!r} ends in a layer of {graph.layers[-1].width} nodes, but only one answer "
                         "is rewarded; the last layer must have one node, such as '4-2-1'")
    words = stage.slots or options.slots
    return graph, node_slots(graph, "per_node" if words == "kept" else words)  # kept: see `methods.growth.kept_rows`
