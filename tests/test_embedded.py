"""The backbone that the package ships: what is recorded beside it is true of its weights."""

import collections
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import load_backbone
from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.config import parse
from neuromas_jax.pretrain.documents import DocumentWriter
from neuromas_jax.pretrain.forward import target_logits
from neuromas_jax.pretrain.pages import count, read_pages
from neuromas_jax.pretrain.skills import SkillTest
from neuromas_jax.rollout import no_interventions
from neuromas_jax.tasks import FAMILIES, Fact, Question
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.text.tokenizer import load_tokenizer
from neuromas_jax.train.batches import pad_questions, question_ids
from neuromas_jax.train.evaluate import message_texts
from neuromas_jax.train.run import Compiled, make_run


OTHERS = Path(__file__).parents[1] / "results" / "backbones"
BACKBONES = {EMBEDDED: 0, OTHERS / "seed1": 1, OTHERS / "tagged": 0}  # folder -> seed
every_backbone = pytest.mark.parametrize("folder", BACKBONES, ids=lambda folder: Path(folder).name)


@pytest.fixture(scope="module")
def config():
    """What the embedded backbone is made from."""
    path = Path(__file__).parents[1] / "configs" / "embedded_backbone.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@every_backbone
def test_the_shipped_record_is_that_of_the_shipped_backbone(config, folder):
    record, backbone = json.loads((folder / "skills.json").read_text()), load_backbone(folder)
    assert (record["seed"], record["steps"], record["parameters"]) == (BACKBONES[folder], config.steps, backbone.size)
    assert record["documents"] == config.steps * config.batch and record["skill_questions"] == config.skill_questions
    assert record["evaluation_rows_in_documents"] == 0
    sizes = {name: getattr(backbone.config, name) for name in config.decoder}
    assert sizes == config.decoder.to_dict() and backbone.config.vocab_size == load_tokenizer(folder).vocab_size
    log = [json.loads(line) for line in (folder / "pretrain_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == config.steps and log[-1]["skills"] == record["skills"]


@every_backbone
def test_the_shipped_weights_know_the_single_steps_of_every_family(config, folder):
    """The record is of these weights and of the questions as they are drawn today; and every skill is there."""
    record, backbone = json.loads((folder / "skills.json").read_text()), load_backbone(folder)
    test = SkillTest({name: FAMILIES[name]() for name in config.families},
                     DocumentWriter(load_tokenizer(folder), PromptTemplate()), config.skill_questions, config.lengths[-1])
    assert test.fingerprint() == record["skill_test"]
    predict = jax.jit(lambda part: jnp.argmax(target_logits(backbone.params, backbone.config, part), axis=-1))
    measured = test.accuracy(lambda part: np.asarray(predict(part)))
    for family, skills in record["skills"].items():
        for skill, recorded in skills.items():
            assert abs(measured[family][skill] - recorded) <= 2 / config.skill_questions, (family, skill)  # rounding may tip one
            assert recorded >= 0.8 or skill == "direct", (family, skill, recorded)


def sampled(family, message_tokens, depth, questions=32, **options):
    """Messages of two first-layer nodes without adapters: (per node, texts of all episodes; the questions, one per text)."""
    config = parse(dict(
        families={family: dict(options=options, message_tokens=message_tokens, tokens_per_fact=2, buckets=(64,))},
        graph=dict(topology="2-1"), rollout=dict(questions=questions, group=16)))
    run = make_run(config, family, "graph_untrained")
    compiled = Compiled(run)
    asked = [run.task.generate("validation", index, depth) for index in range(questions)]
    rows = [question_ids(question, run.method.graph, run.parts.tokenizer, run.family.buckets) for question in asked]
    episodes = compiled.rollout(run.new_bank(0), pad_questions(rows, range(questions), run.family.buckets),
                                no_interventions(run.method.graph, questions, 16), jax.random.key(0))
    texts = message_texts(run.parts.tokenizer, run.program.sampling.end_id, episodes[0])
    return [[text for row in node for text in row] for node in texts], [question for question in asked for _ in range(16)]


@pytest.mark.parametrize("family, depth", [
    ("listops", 3), ("modular", 3), ("arithmetic", 4), ("boolean", 7), ("strings", 4), ("navigate", 6), ("parts", 3)])
def test_it_is_not_steered_towards_any_fact(family, depth):
    """Each of the facts that follow from a question is said about as often, by either node, whatever its place."""
    messages, asked = sampled(family, 2, depth)
    wanted = collections.Counter()  # how often each label is said where all facts of a question are said equally often
    for question in asked:
        wanted.update({fact.label: 1 / len(question.facts) / len(asked) for fact in question.facts})
    for node in messages:
        counts = collections.Counter(text.split(" ")[0] for text in node)
        shares = {label: (counts[label] / len(node), share) for label, share in wanted.items() if share > 0.02}
        assert len(shares) > 3 and all(share / 2 < said < 2 * share for said, share in shares.values()), shares


@pytest.mark.parametrize("family, depth, tokens, least_right", [
    ("listops", 2, 6, 0.95), ("modular", 2, 6, 0.95), ("arithmetic", 2, 9, 0.95), ("parts", 3, 6, 0.95),
    ("navigate", 6, 6, 0.85)])
def test_it_writes_several_facts_in_one_message(family, depth, tokens, least_right):
    """They are right where they follow in one step, also from what the message says before; `answer 7` at once is a guess.
    A lone agent's pages, with one long message or with all its own earlier ones, are no harder for it than a graph's."""
    config = parse(dict(families={family: dict(message_tokens=tokens, tokens_per_fact=2, buckets=(64,))},
                        graph=dict(topology="2-1"), rollout=dict(questions=32, group=16)))
    graph, chain, single = (read_pages(config, family, method, depth)
                            for method in ("graph", "chain_equal_calls", "single_equal_tokens"))
    for found in (graph, chain, single):
        print(family, found)
        assert found.whole > 0.95 and found.facts > 1.25 and found.facts * found.reach > 0.8, found
    # On the pages of the first layer as well: later ones also guess from what their senders left out.
    assert read_pages(config, family, "graph", depth, layers=1).right > least_right
    assert single.right > least_right and chain.right > graph.right - 0.03 and single.right > graph.right - 0.05


def test_what_is_in_reach_of_a_page_is_counted():
    facts = (Fact("A", "7", ()), Fact("B", "3", ()), Fact("answer", "9", ("A", "B")))
    question = Question("[MAX 7 3 ]", "9", 1, facts=facts)
    assert count(question, "A 7 answer 9", [], "") == dict(messages=1, whole=True, facts=2, reach=1, right=1)
    assert count(question, "answer 9", ["A 7", "B 3"], "")["right"] == 1
    assert count(question, "answer 9", ["A 7", "B 4"], "")["reach"] == 0  # what the inbox says of B is wrong
    assert count(question, "A 8 A", [], "") == dict(messages=1, whole=False, facts=2, reach=2, right=0)
    assert count(question, "7 A", [], "") == dict(messages=1, whole=False, facts=0, reach=0, right=0)
