"""A forced choice: the letter that the readout finds likeliest, scored as the learner scores it, over what its senders wrote."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import init_backbone
from neuromas_jax.config import parse
from neuromas_jax.experiments.check import check
from neuromas_jax.rl.learner import written_log_probs
from neuromas_jax.rollout import no_interventions
from neuromas_jax.train import run as train_run
from neuromas_jax.train.batches import pad_questions, question_ids
from neuromas_jax.train.evaluate import evaluate
from neuromas_jax.train.forced import chosen_letters, force_letters
from neuromas_jax.train.run import Compiled, Parts, make_run
from tests.tiny import random_bank, tiny_config, tokenizer

COUNTS = [3, 2, 3, 2, 3]


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Five questions of three or two options, and a small random backbone."""
    rows = [dict(question=f"[MAX {n} 2 ]", answer="AB"[n % 2], options=["one", "two", "three"][:count])
            for n, count in enumerate(COUNTS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = init_backbone(tiny_config(num_hidden_layers=1), jax.random.key(0))
    backbone = dataclasses.replace(backbone, params={**backbone.params, "embed": backbone.params["embed"] * 20})
    monkeypatch.setattr(train_run, "load_parts", lambda *_: Parts(backbone, tokenizer(), ""))
    return dict(task="jsonl", options=dict(path=str(tmp_path / "rows.jsonl"), verifier="choice", evaluation_only=True),
                message_tokens=14, buckets=(16,), forced_choice=True)


def made(family, topology="2-1", **changes):
    config = parse(dict(families=dict(choice={**family, **changes}), graph=dict(topology=topology),
                        rollout=dict(questions=2, group=2)))
    return make_run(config, "choice", "graph")


@pytest.mark.parametrize("topology", ["1", "2-1"])
def test_the_likeliest_letter_is_chosen(family, topology):
    run = made(family, topology)
    compiled, bank = Compiled(run), random_bank(run.parts.backbone.config, run.method.graph.size, size=1.0)
    questions, graph = list(run.task.questions("test")), run.method.graph
    rows = [question_ids(question, graph, tokenizer(), (16,)) for question in questions[:2]]
    batch = pad_questions(rows, (0, 1), (16,))
    keep = force_letters(no_interventions(graph, 2, 3), graph, tokenizer())
    episodes = compiled.choose(bank, batch, keep, jax.random.key(0))
    plain = compiled.answer(bank, batch, no_interventions(graph, 2, 1), jax.random.key(0))
    for mine, theirs in zip(episodes[:-1], plain[:-1]):  # senders write what they would write anyway, in every episode
        np.testing.assert_array_equal(mine.message, np.broadcast_to(theirs.message, mine.message.shape))
    scored = written_log_probs(dataclasses.replace(run.program, group=3), run.parts.backbone, bank, episodes)[-1][0]
    wanted = []
    for row, count in zip(np.asarray(scored), COUNTS):
        totals = [sum(row[option, : len(tokenizer().encode(f"Answer: {letter}"))]) for option, letter in enumerate("ABC"[:count])]
        wanted.append(f"Answer: {'ABC'[int(np.argmax(totals))]}")
    assert chosen_letters(episodes[-1], keep, graph, COUNTS[:2]) == wanted


def test_an_evaluation_scores_the_chosen_letters(family):
    run = made(family)
    compiled, bank = Compiled(run), random_bank(run.parts.backbone.config, 3, size=1.0)
    questions = list(run.task.questions("test"))
    scores = evaluate(compiled, bank, questions, jax.random.key(0))
    assert scores.n == 5 and scores.format_rate == 1  # whatever it would have written, a choice can be read
    free = evaluate(Compiled(made(family, forced_choice=False)), bank, questions, jax.random.key(0))
    assert free.format_rate < 1

    class Says:  # a readout that finds B likeliest, and C even more where there is none
        def __init__(self):
            self.run = compiled.run

        def choose(self, bank, batch, keep, key):
            episodes = compiled.choose(bank, batch, keep, key)
            liked = jnp.asarray([-3.0, -2.0, -1.0])[:, None] * (jnp.arange(14) == 0)
            return (*episodes[:-1], dataclasses.replace(episodes[-1], log_probs=jnp.broadcast_to(liked, (1, 2, 3, 14))))

    questions = [dataclasses.replace(one, answer="B" if count == 2 else "C") for one, count in zip(questions, COUNTS)]
    assert evaluate(Says(), bank, questions, jax.random.key(0)).accuracy == 1


@pytest.mark.parametrize("changes, methods, message", [
    (dict(message_tokens=3), ("graph",), "needs [0-9]+ tokens for 'Answer: C', and the readout writes 3; raise families.choice"),
    (dict(task="listops", options={}), ("graph",), "answers of task 'listops' are no letters of options"),
    ({}, ("vote_equal_tokens",), "method 'vote_equal_tokens' does more than one pass of a graph"),
])
def test_where_no_choice_can_be_made(family, changes, methods, message, tmp_path):
    config = parse(dict(families=dict(choice={**family, "adapters": "", **changes}), methods=methods, graph=dict(topology="2-1"),
                        rollout=dict(questions=2, group=2)))
    with pytest.raises(ValueError, match=message):
        check(config, tmp_path / "work")
