"""Pretraining: documents state right facts and nothing of the evaluation files.

The fast path equals the decoder, and a tiny run learns.
"""

import re
import collections
import importlib.util
import json
from pathlib import Path
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone.architecture import DecoderConfig
from neuromas_jax.backbone.decoder import init_backbone
from neuromas_jax.backbone.huggingface import load_backbone
from neuromas_jax.pretrain.batches import DROPPED_ROWS, WRITTEN_ROWS, BatchMaker, QuestionSource, ahead, deeper, pack_documents
from neuromas_jax.pretrain.documents import SKILLS, DocumentWriter, Mixture, corrupt
from neuromas_jax.pretrain.forward import target_logits
from neuromas_jax.pretrain.numbers import PERIODS, circles, place_numbers
from neuromas_jax.pretrain.train import train
from neuromas_jax.pretrain.vocabulary import build_tokenizer, save_tokenizer, vocabulary_texts
from neuromas_jax.tasks import FAMILIES
from neuromas_jax.tasks.splits import evaluation_rows, normalise
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.text.tokenizer import load_tokenizer

EQUAL = {name: 1.0 for name in FAMILIES}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(vocabulary_texts([make() for make in FAMILIES.values()], 1000)), path)
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def writer(tokenizer):
    return DocumentWriter(tokenizer, PromptTemplate())


def small_config(**changes):
    spec = importlib.util.spec_from_file_location("embedded", Path(__file__).parents[1] / "configs" / "embedded_backbone.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.decoder.update(hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config.update(steps=30, batch=32, warmup=5, log_every=5, test_every=30, checkpoint_every=10, skill_questions=4,
                  vocabulary_questions=1000, lengths=(48, 112))
    config.update(changes)
    return config


def read_document(tokenizer, document):
    """A document's text apart: (view, inbox messages, cue word, count, message)."""
    text = tokenizer.decode(document.tokens, keep_added=True)
    head, _, own = text.removeprefix("<s>").partition("<node>")
    cue = "<final>" if "<final>" in own else "<note>"
    inbox, _, rest = own.partition(cue)
    count, _, message = rest.removesuffix("</s>").strip().partition(" ")
    return head.removeprefix(" "), [slot.strip() for slot in re.split(r"<from[0-9]+>", inbox)[1:]], cue, int(count), message


def facts_of(text, question):
    """(label, value) pairs of a message whose labels are the question's."""
    labels, pairs = {fact.label for fact in question.facts}, []
    for word in text.split():
        if word in labels:
            pairs.append([word, []])
        else:
            pairs[-1][1].append(word)
    return [(label, " ".join(value)) for label, value in pairs]


@pytest.mark.parametrize("family", FAMILIES)
def test_messages_hold_true_facts_in_the_asked_number(family, tokenizer, writer):
    rng, task = random.Random(family), FAMILIES[family]()
    first_labels, ready = collections.Counter(), []
    for index in range(150):
        question = task.generate("train", index)
        document = writer.write(question, rng)
        assert document.tokens[-1] == tokenizer.end_id
        view, inbox, cue, count, message = read_document(tokenizer, document)
        truth = {fact.label: fact.value for fact in question.facts}
        pairs = facts_of(message, question)
        assert len(pairs) <= count and all(truth[label] == value for label, value in pairs)
        if cue == "<final>":
            assert pairs[-1] == ("answer", question.answer)
            assert "answer" not in [label for label, _ in pairs[:-1]]
            shown = {label for slot in inbox for label, value in facts_of(slot, question) if truth[label] == value}
            ready.append(shown.issuperset(question.facts[-1].needs))
        elif pairs:
            first_labels[pairs[0][0]] += 1
        if question.parts:
            assert view in (question.text, question.common,
                            *(question.view("share", node) for node in range(len(question.parts))))
    assert np.mean(ready) > 0.6
    assert first_labels  # every family states something


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_can_be_known_is_a_target(family, tokenizer, writer):
    """Of a message: the end, values one step from what is shown, and labels unless they were drawn for practice.

    No wrong value.
    """
    rng, task = random.Random(family), FAMILIES[family]()
    wrong = DocumentWriter(tokenizer, PromptTemplate(), Mixture(wrong=1.0, final_ready=0.0, focus=0.0, cut=0.0))
    far = practised = 0
    for index in range(80):
        for author in (writer, wrong):
            question = task.generate("train", index)
            document = author.write(question, rng)
            view, inbox, _, _, message = read_document(tokenizer, document)
            facts = {fact.label: fact for fact in question.facts}
            parts = {number for number, part in enumerate(question.parts) if part in view.split(" ; ")}
            shown, expected = set(), 0

            def known(label, shown):
                mine = facts[label]
                return label in shown or (set(mine.needs) <= shown and (mine.part is None or mine.part in parts))

            for label, value in (pair for slot in inbox for pair in facts_of(slot, question)):
                if facts[label].value == value:
                    expected += known(label, shown) * len(author.text(value))
                    shown.add(label)
            place = cue = max(document.tokens.index(token) if token in document.tokens else -1 for token in (4, 5))
            assert not any(document.weights[: document.tokens.index(3)])
            assert sum(document.weights[:cue]) == expected and (author is writer or not expected)
            place, labels = place + 2, []
            for label, value in facts_of(message, question):
                size, is_known = len(author.text(label)), known(label, shown)
                labels += document.weights[place : place + size]
                far += not is_known
                place, size = place + size, len(author.text(value))
                assert document.weights[place : place + size] == [float(is_known)] * size
                place, shown = place + size, shown | {label}
            assert document.weights[place:] == [1.0] and len(set(labels)) <= 1
            practised += labels[:1] == [0.0]
    assert far and 0.5 < practised / 160 < 0.8


def test_labels_are_not_steered(tokenizer, writer):
    task, rng = FAMILIES["listops"](), random.Random(0)
    question = next(q for q in (task.generate("train", index) for index in range(100)) if q.depth == 3)
    first = collections.Counter()
    for _ in range(15000):
        document = writer.write(question, rng)
        _, _, cue, _, message = read_document(tokenizer, document)
        if cue == "<note>" and document.weights[document.tokens.index(4) + 2] == 1.0:  # a label that is learned
            first[message.split()[0]] += 1
    counts = [first[fact.label] for fact in question.facts]
    assert len(counts) == 7 and min(counts) > 0.75 * max(counts), counts


@pytest.mark.parametrize("skill", SKILLS)
def test_skill_documents_ask_what_they_say(skill, tokenizer, writer):
    rng, task = random.Random(skill), FAMILIES["listops"]()
    for index in range(60):
        question = task.generate("validation", index)
        document = writer.skill(question, skill, rng)
        if document is None:
            continue
        _, inbox, cue, _, message = read_document(tokenizer, document)
        ((label, value),) = facts_of(message, question)
        (fact,) = [fact for fact in question.facts if fact.label == label]
        assert tokenizer.decode(document.tokens[slice(*document.probe)]) == value == fact.value
        shown = {text.split()[0] for text in inbox}
        assert (cue == "<final>") == (skill == "answer")
        assert (label in shown) == (skill == "copy")
        if skill in ("combine", "answer"):
            assert shown.issuperset(fact.needs)
        if skill == "direct":
            assert fact.needs and not shown.intersection(fact.needs)


@pytest.mark.parametrize("value", ["True", "No", "0", "9", "10", "-37", "a b c d"])
def test_corrupted_values_are_wrong_and_of_the_same_kind(value):
    rng = random.Random(value)
    for _ in range(50):
        other = corrupt(value, rng)
        assert other != value and len(other.split()) == len(value.split())


def test_evaluation_rows_never_enter_the_text(tokenizer, writer):
    rows = evaluation_rows()
    assert len(rows) > 600
    source = QuestionSource(EQUAL, {"navigate": (9,), "arithmetic": (5,)}, 0.2)
    maker = BatchMaker(source, writer, 64, (48, 112), seed=5)
    seen = 0
    for step in range(20):
        for part in maker.batch(step):
            for row, size in zip(part.tokens, part.lengths):
                text = tokenizer.decode(row[:size], keep_added=True).removeprefix("<s>").partition("<node>")[0]
                assert normalise(text) not in rows
                seen += size > 0
    assert seen > 1000
    assert not any(counts[DROPPED_ROWS] or counts[WRITTEN_ROWS] for counts in maker.counts.values())


def test_evaluation_rows_are_dropped_and_counted_even_from_a_careless_generator(writer, monkeypatch):
    source = QuestionSource({"boolean": 1.0}, {}, 0.0)
    row = FAMILIES["boolean"]().read("not ( True ) and ( True ) is")
    turns = iter(range(10**9))
    other = FAMILIES["boolean"]().generate("train", 0)
    monkeypatch.setattr(source, "draw", lambda rng: other if next(turns) % 3 else row)
    maker = BatchMaker(source, writer, 16, (112,), seed=0)
    text = " ".join(str(writer.tokenizer.decode(tokens)) for tokens in maker.batch(0)[0].tokens)
    assert maker.counts[0][DROPPED_ROWS] > 3 and maker.counts[0][WRITTEN_ROWS] == 0
    assert normalise(row.text) not in normalise(text)


def test_evaluation_rows_that_are_written_are_counted(writer, monkeypatch):
    row = FAMILIES["boolean"]().read("not ( True ) and ( True ) is")
    maker = BatchMaker(QuestionSource({"boolean": 1.0}, {}, 0.0), writer, 16, (112,), seed=0)
    document = writer.write(row, random.Random(0))
    monkeypatch.setattr(maker, "_draw", lambda rng, counts: document)
    maker.batch(7)
    assert maker.counts[7][WRITTEN_ROWS] == 16


def test_boolean_training_stays_away_from_the_length_of_the_file():
    source = QuestionSource({"boolean": 1.0}, dict(small_config().extra_depths), 0.5)
    rng = random.Random(0)
    assert 8 not in {source.draw(rng).depth for _ in range(200)}


def test_deeper_questions_stay_apart_from_the_held_out_ones():
    task = FAMILIES["listops"]()
    deep = deeper(task, (task.held_out_depth,))
    drawn = {deep.generate("train", index).text for index in range(300)}
    assert {deep.generate("train", index).depth for index in range(20)} == {task.held_out_depth}
    assert not drawn.intersection(task.generate("held_out", index).text for index in range(300))


def test_unknown_families_and_shares_are_refused():
    with pytest.raises(ValueError, match="unknown family 'lisp'.*listops"):
        QuestionSource({"lisp": 1.0}, {}, 0.0)
    with pytest.raises(ValueError, match="positive sum"):
        QuestionSource({"listops": 0.0}, {}, 0.0)
    with pytest.raises(ValueError, match="unknown family 'lisp'"):
        QuestionSource({"listops": 1.0}, {}, 0.0, {"lisp": {}})


def test_options_of_a_family_reach_its_questions():
    source = QuestionSource({"arithmetic": 1.0}, {"arithmetic": (5,)}, 0.5, {"arithmetic": {"far": 1.0}})
    rng = random.Random(0)
    questions = [source.draw(rng) for _ in range(60)]
    assert min(abs(int(question.answer)) for question in questions) >= 40
    assert {question.depth for question in questions} >= {3, 4, 5}


def test_batches_depend_on_seed_and_step_alone(writer):
    def maker(seed):
        return BatchMaker(QuestionSource(EQUAL, {}, 0.0), writer, 32, (48, 112), seed)

    first, other = maker(0), maker(1)
    straight = [first.batch(step) for step in range(3)]
    for parts, again in zip(straight[1:], ahead(maker(0), 1, 3)):
        jax.tree.map(np.testing.assert_array_equal, parts, again)
    assert not np.array_equal(straight[0][0].tokens, other.batch(0)[0].tokens)
    assert np.isclose(sum(part.weights.sum() for part in straight[0]), 1.0)


def test_an_error_in_the_document_thread_reaches_the_loop(writer):
    maker = BatchMaker(QuestionSource(EQUAL, {}, 0.0), writer, 16, (112,), 0)
    maker.batch = lambda step: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(ahead(maker, 0, 2))


def test_the_fast_path_equals_the_decoder(tokenizer, writer):
    config = DecoderConfig(tokenizer.vocab_size, 32, 64, 2, 4, 2, 8, rope_theta=1000.0)
    backbone = init_backbone(config, jax.random.key(0))
    rng, task = random.Random(0), FAMILIES["listops"]()
    documents = [writer.write(task.generate("train", index), rng) for index in range(6)]
    documents = [document for document in documents if len(document.tokens) <= 96]
    part = pack_documents(documents, 8, 96)
    valid = jnp.arange(96, dtype=jnp.int32)[None] < part.lengths[:, None]
    hidden, _ = backbone(jnp.asarray(part.tokens)[:, None], valid[:, None], jnp.zeros((8, 1), jnp.int32))
    expected = backbone.logits(hidden[:, 0].reshape(8 * 96, -1)[part.where])
    used = part.weights > 0
    np.testing.assert_allclose(target_logits(backbone.params, config, part)[used], expected[used], atol=2e-5)
    np.testing.assert_array_equal(part.targets[used], part.tokens.reshape(-1)[part.where[used] + 1])


def test_numbers_start_on_circles(tokenizer):
    config = DecoderConfig(tokenizer.vocab_size, 32, 64, 2, 4, 2, 8, rope_theta=1000.0)
    before = init_backbone(config, jax.random.key(0))
    after = place_numbers(before, tokenizer)
    old, new = np.asarray(before.params["embed"]), np.asarray(after.params["embed"])
    changed = {int(row) for row in np.flatnonzero((old != new).any(axis=1))}
    assert changed == {index for index in range(tokenizer.vocab_size) if re.fullmatch(r" ?-?[0-9]+", tokenizer.decode([index]))}
    assert abs(new.std() - old.std()) < 0.02 * old.std()
    # Turning by 17 leads from any number to the one 17 further, whatever the number.
    angles = 2 * np.pi * 17 / np.array(PERIODS)
    for number in (-60, -3, 0, 41):
        (row,), (target,) = tokenizer.encode(str(number)), tokenizer.encode(str(number + 17))
        points = new[row, : 2 * len(PERIODS)].reshape(-1, 2) @ np.array([1, 1j])
        turned = points * np.exp(1j * angles)
        np.testing.assert_allclose(turned, new[target, : 2 * len(PERIODS)].reshape(-1, 2) @ np.array([1, 1j]), atol=1e-4)
    assert len({tuple(circles(number).round(4)) for number in range(-99, 100)}) == 199
    with pytest.raises(ValueError, match="hidden_size is 8; number embeddings need 16"):
        place_numbers(init_backbone(DecoderConfig(tokenizer.vocab_size, 8, 16, 1, 2, 1, 4), jax.random.key(0)), tokenizer)


def test_a_tiny_run_learns_resumes_and_exports(tmp_path, monkeypatch):
    """30 steps lower the loss; a run cut after 10 steps ends with the same weights as a straight one."""
    export, again = tmp_path / "run" / "export", tmp_path / "cut" / "export"
    summary = train(small_config(), tmp_path / "run")
    log = [json.loads(line) for line in (export / "pretrain_log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"] and log[-1]["step"] == 30
    assert set(summary["skills"]) == set(FAMILIES) and json.loads((export / "skills.json").read_text()) == summary
    assert summary["evaluation_rows_dropped"] == 0
    straight = load_backbone(export)
    assert load_tokenizer(export).vocab_size == straight.config.vocab_size
    assert {path.name for path in export.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "pretrain_log.jsonl", "skills.json"}

    config = small_config()
    whole = BatchMaker.batch
    with monkeypatch.context() as patch:
        # Stops three steps after a checkpoint, as a kill would.
        patch.setattr(BatchMaker, "batch", lambda self, step: whole(self, step) if step < 13 else _stop())
        with pytest.raises(RuntimeError, match="stopped"):
            train(config, tmp_path / "cut")
    train(config, tmp_path / "cut")
    for one, other in zip(jax.tree.leaves(straight.params), jax.tree.leaves(load_backbone(again).params)):
        np.testing.assert_array_equal(one, other)
    steps = [json.loads(line)["step"] for line in (again / "pretrain_log.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 20, 25, 30]
    with pytest.raises(ValueError, match="another config"):
        train(small_config(seed=1), tmp_path / "run")
    misspelt = small_config()
    misspelt.learning_rates = 1e-3
    unknown = "config key 'learning_rates' is unknown; a pretraining config has exactly seed, decoder"
    with pytest.raises(ValueError, match=unknown):
        train(misspelt, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def _stop():
    raise RuntimeError("stopped")
