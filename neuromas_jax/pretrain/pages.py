"""What the bare backbone writes on each method's own pages, before any training:

    python -m neuromas_jax.pretrain.pages --config=configs/reference.py [families ...]

A comparison of trained methods is fair only if the backbone knows its steps as well on a lone agent's page (a readout with an
empty inbox and a long message; an inbox of all its own earlier messages) as on the pages of the graph's nodes.
"""

import collections
import dataclasses

from absl import app
import jax
from ml_collections import config_flags

from neuromas_jax.config import Config, parse
from neuromas_jax.methods import TRAINED, WHOLE
from neuromas_jax.rollout import no_interventions
from neuromas_jax.tasks import Question
from neuromas_jax.train.batches import pad_questions, question_ids
from neuromas_jax.train.evaluate import message_texts
from neuromas_jax.train.run import Compiled, make_run


@dataclasses.dataclass(frozen=True)
class Pages:
    """Sampled messages of all calls of a method, counted.

    Attributes:
      messages: how many; whole: share of them that are nothing but labels with values.
      facts: facts per message.
      reach: share of the facts that the page shows, or that are one step from what it shows and what the message said before.
      right: share of those whose value is right. What is further away is a guess, and no skill.
    """

    messages: int
    whole: float
    facts: float
    reach: float
    right: float


def facts_of(text: str, labels) -> list[tuple[str, str]]:
    """(label, value) pairs of a message; none where it does not begin with a label.

    >>> facts_of("A 7 B 3", {"A", "B"})
    [('A', '7'), ('B', '3')]
    """
    pairs: list[tuple[str, list[str]]] = []
    for word in text.split():
        if word in labels:
            pairs.append((word, []))
        elif pairs:
            pairs[-1][1].append(word)
        else:
            return []
    return [(label, " ".join(value)) for label, value in pairs]


def read_pages(config: Config, family: str, method: str, depth: int | None = None, layers: int | None = None) -> Pages:
    """Samples a batch of validation questions of one depth (the deepest of training by default) with new adapters, and counts
    what the nodes of the first `layers` layers (all by default) wrote."""
    run = make_run(config, family, method)
    graph, size = run.method.graph, config.rollout.questions
    depth = max(run.task.depths) if depth is None else depth
    asked = [run.task.generate("validation", index, depth) for index in range(size)]
    rows = [question_ids(question, graph, run.parts.tokenizer, run.family.buckets) for question in asked]
    episodes = Compiled(run).rollout(run.new_bank(0), pad_questions(rows, range(size), run.family.buckets),
                                     no_interventions(graph, size, config.rollout.group), jax.random.key(0))
    texts = [text for layer in episodes for text in message_texts(run.parts.tokenizer, run.program.sampling.end_id, layer)]
    counts = collections.Counter()
    for node in (node for layer in range(graph.rounds)[:layers] for node in graph.nodes(layer)):
        senders = graph.senders(graph.place(node)[0])
        for b, question in enumerate(asked):
            for g in range(config.rollout.group):
                counts.update(count(question, texts[node][b][g], [texts[sender][b][g] for sender in senders],
                                    question.view(*graph.view_of(node), graph.shares)))
    messages, facts, reach = counts["messages"], counts["facts"], counts["reach"]
    return Pages(messages, counts["whole"] / messages, facts / messages, reach / max(facts, 1), counts["right"] / max(reach, 1))


def count(question: Question, message: str, inbox: list[str], view: str) -> dict[str, int]:
    """The counts of `Pages` for one message. view: what of the question its writer sees."""
    facts, parts = {fact.label: fact for fact in question.facts}, view.split(" ; ")
    known = {label for text in inbox for label, value in facts_of(text, facts) if value == facts[label].value}
    stated = facts_of(message, facts)
    counts = {"messages": 1, "whole": bool(stated) and all(value for _, value in stated), "facts": len(stated),
              "reach": 0, "right": 0}
    for label, value in stated:
        fact = facts[label]
        seen = fact.part is None or question.parts[fact.part] in parts
        if label in known or seen and known.issuperset(fact.needs):
            counts["reach"] += 1
            if value == fact.value:
                counts["right"] += 1
                known.add(label)
    return counts


def main(arguments):
    try:
        config = parse(_CONFIG.value)
        unknown = set(arguments[1:]) - set(config.families)
        if unknown:
            raise ValueError(f"the config has no family {min(unknown)!r}; "
                             f"its families are {', '.join(config.families)}")
    except (ValueError, OSError) as error:
        raise app.UsageError(str(error)) from error
    print("| family | method | whole facts, % | facts a message | in reach, % | of these right, % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in arguments[1:] or config.families:
        for method in (name for name in TRAINED if name in WHOLE):
            if method == "graph_shared_adapter":  # before training it is the graph
                continue
            found = read_pages(config, family, method)
            print(f"| {family} | {method} | {100 * found.whole:.1f} | {found.facts:.2f} | {100 * found.reach:.1f} "
                  f"| {100 * found.right:.1f} |", flush=True)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "configs/reference.py", "The experiment.")
    app.run(main)
