"""Evaluation counts what was written: driven by scripted programs, whose messages are known."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from neuromas_jax.config import parse
from neuromas_jax.experiments import evaluation
from neuromas_jax.graph import text_graph
from neuromas_jax.methods import make_method
from neuromas_jax.rollout import LayerEpisodes
from neuromas_jax.tasks import Question, Verdict, make_task
from neuromas_jax.tasks.shallow import Shallow
from neuromas_jax.train.batches import TooLong, question_ids
from neuromas_jax.train.evaluate import evaluate, majority, wilson
from tests.tiny import tokenizer

SIZE, GROUP, LENGTH = 4, 3, 6  # questions of a batch, episodes of a question, tokens of a message
LISTOPS = make_task("listops")
KEY = jax.random.key(0)


class Scripted:
    """Stands for the compiled programs of a run: `say(node, place, number, episode, read)` gives each node's text.

    place: the question's number as the batch has it; number: how many passes went before; read: the texts that the node
    finds in its inbox, interventions applied, of senders that are shown. A text that is closed by "..." is repeated up to
    its limit, with no end token.
    """

    def __init__(self, name, say, topology="2-1", buckets=(4, 16), too_long="error", message_tokens=LENGTH):
        config = parse(dict(
            families=dict(listops=dict(message_tokens=message_tokens, buckets=buckets)), graph=dict(topology=topology),
            rollout=dict(questions=SIZE, group=GROUP, too_long=too_long)))
        family = config.families["listops"]
        self.say, self.calls = say, []
        self.run = SimpleNamespace(
            method=make_method(name, config, family), config=config, family=family, task=LISTOPS, trainable_parameters=1,
            parts=SimpleNamespace(tokenizer=tokenizer()),
            program=SimpleNamespace(sampling=SimpleNamespace(end_id=tokenizer().end_id)))

    def answer(self, bank, batch, keep, key):
        return self.rollout(bank, batch, keep, key, group=1)

    def sample(self, bank, batch, keep, key):
        return self.rollout(bank, batch, keep, key, group=1)

    def rollout(self, bank, batch, keep, key, group=GROUP):
        self.calls.append(SimpleNamespace(batch=batch, keep=keep, key=key, group=group))
        keys = [str(jax.random.key_data(call.key)) for call in self.calls]
        number, graph = list(dict.fromkeys(keys)).index(keys[-1]), self.run.method.graph
        keep, written, episodes = jax.tree.map(np.asarray, keep), {}, []
        for layer in range(graph.rounds):
            width, length = graph.layers[layer].width, graph.layers[layer].message_tokens
            message = np.zeros((width, SIZE, group, length), np.int32)
            live = np.zeros(message.shape, bool)
            for node in graph.nodes(layer):
                for b in range(SIZE):
                    for g in range(group):
                        read = [
                            "" if keep.blank[sender, b, g] else written[(sender, *divmod(int(keep.source[sender, b, g]), group))]
                            for sender in graph.senders(layer) if keep.shown[node, sender, b, g]]
                        text = self.say(node, int(batch.index[b]), number, g, read)
                        written[node, b, g] = text.removesuffix("...")
                        ids = tokenizer().encode(text.removesuffix("..."))
                        ids = (ids * length)[:length] if text.endswith("...") else [*ids, tokenizer().end_id]
                        row = node - graph.nodes(layer)[0], b, g
                        message[row][: len(ids)], live[row][: len(ids)] = ids, True
            nothing = np.zeros((width, SIZE, GROUP, 0), np.int32)
            episodes.append(LayerEpisodes(
                nothing[:, :, :1], nothing[:, :, :1] > 0, nothing, nothing > 0, message, live, live * -1.0, live[..., 0]))
        return tuple(episodes)


def ask(*answers, text="[MAX 1 2 ]"):
    """Questions with these answers, in the order in which batches number them: all are equally long."""
    return [Question(text, answer, 1, index) for index, answer in enumerate(answers)]


def single(say, name="single_equal_parameters", **options):
    return Scripted(name, lambda node, place, number, episode, read: say(place, number, episode), **options)


def test_greedy_answers_are_counted_once_each():
    """Five right of seven, with a last batch that is not full."""
    right = [True, False, True, True, True, False, True]
    questions = ask(*"1234567")
    compiled = single(lambda place, number, episode: (
        f"answer {questions[place].answer}" if right[place] else "answer 0"))
    scores = evaluate(compiled, None, questions, KEY)
    assert (scores.n, scores.right, scores.too_long, scores.asked) == (7, 5, 0, tuple(questions))
    assert scores.accuracy == 5 / 7 and scores.interval == wilson(5, 7)
    assert [call.group for call in compiled.calls] == [1, 1] and scores.format_rate == 1
    assert scores.tokens == 3  # answer, a digit and the end
    assert scores.top_messages == (("answer 0", 2 / 7),) and scores.top_labels == (("answer", 1.0),)


def test_a_last_batch_is_filled_with_other_questions():
    compiled = single(lambda place, number, episode: "answer 1")
    scores = evaluate(compiled, None, ask(*"11112"), KEY)
    assert [call.batch.index.tolist() for call in compiled.calls] == [[0, 1, 2, 3], [4, 0, 1, 2]]
    assert (scores.n, scores.right, scores.top_answer_share, scores.top_messages) == (5, 4, 1, (("answer 1", 1.0),))
    compiled.calls.clear()
    assert evaluate(compiled, None, ask(*"12"), KEY).right == 1
    assert [call.batch.index.tolist() for call in compiled.calls] == [[0, 1, 0, 1]]


def test_questions_of_like_length_are_asked_together():
    questions = [*ask("1", text="[MAX 1 [MIN 3 4 ] ]"), *ask(*"2345"), *ask("6", text="[MAX 1 [MIN 3 4 ] ]")]
    compiled = single(lambda place, number, episode: f"answer {questions[place].answer}")
    assert evaluate(compiled, None, questions, KEY).accuracy == 1
    assert [call.batch.index.tolist() for call in compiled.calls] == [[1, 2, 3, 4], [0, 5, 1, 2]]
    assert [call.batch.tokens.shape[-1] for call in compiled.calls] == [4, 16]


def test_votes_take_several_passes_and_the_last_counts_in_part():
    """Seven votes in passes of three: 3 + 3 + 1."""
    votes = {0: "1112222", 1: "3333444", 2: "5566677", 3: "8877998", 4: "0000000"}
    gold = "23587"
    compiled = single(lambda place, number, episode: "answer " + (votes[place] + "..99")[number * GROUP + episode],
                      "vote_equal_tokens", topology="4-2-1")
    assert compiled.run.method.votes == 7
    scores = evaluate(compiled, None, ask(*gold), KEY)
    # 2 by 4 to 3; 3 by 4 to 3; 6 by 3; 8 by 3; 0 by 7.
    assert (scores.n, scores.right) == (5, 3)
    assert len(compiled.calls) == 6 and {call.group for call in compiled.calls} == {GROUP}
    assert len({str(jax.random.key_data(call.key)) for call in compiled.calls}) == 3  # each pass has a key of its own
    assert scores.tokens == 7 * 3 and scores.format_rate == 1 and scores.top_answer_share == 1 / 5
    assert scores.top_messages == (("answer 0", 7 / 35),)  # of the 35 that count


def test_a_tie_goes_to_the_earliest_answer():
    """Seven votes, three and three and one."""
    votes = {0: "1212312", 1: "2121321"}
    for gold, right in (("12", 2), ("21", 0)):
        compiled = single(lambda place, number, episode: "answer " + (votes[place] + "..")[number * GROUP + episode],
                          "vote_equal_tokens", topology="4-2-1")
        assert evaluate(compiled, None, ask(*gold), KEY).right == right


def test_majority():
    one, two, none = Verdict(1.0, "right", "1"), Verdict(0.0, "wrong", "2"), Verdict(0.0, "malformed", "")
    assert majority([two, one, one]) == one
    assert majority([two, one, one, two]) == two and majority([one, two]) == one  # the earliest wins a tie
    assert majority([none, none, one]) == one  # unreadable answers do not vote
    assert majority([none, none]) == none
    assert majority([one]) == one


def relay(questions):
    """Two senders of which node 0 knows the answer; the readout says what it reads from it."""
    def say(node, place, number, episode, read):
        return {0: f"A {questions[place].answer}", 1: "B 0"}.get(node) or f"answer {read[0].removeprefix('A ')}".strip()
    return say


@pytest.mark.parametrize("name, right, format_rate", [("graph", 6, 1), ("graph_blanked", 0, 0), ("graph_shuffled", 0, 1)])
def test_messages_are_blanked_and_shuffled_as_the_method_says(name, right, format_rate):
    questions = ask(*"123456")
    compiled = Scripted(name, relay(questions))
    scores = evaluate(compiled, None, questions, KEY)
    assert (scores.n, scores.right, scores.format_rate) == (6, right, format_rate)
    blank = [np.asarray(call.keep.blank) for call in compiled.calls]
    assert all(x[:2].all() == (name == "graph_blanked") and not x[2].any() for x in blank)  # never the readout's own
    if name == "graph":
        assert scores.top_messages == (("A 1", 1 / 6), ("B 0", 1.0), ("answer 1", 1 / 6))
        assert scores.top_labels == (("A", 1.0), ("B", 1.0), ("answer", 1.0)) and scores.tokens == 3 * 3


def test_labels_and_format_are_told_by_the_facts_of_the_questions():
    """Values may be words too, as those of string edits: `B d c b a` is about B."""
    questions = [make_task("strings").read(text) for text in ("swap reverse a b c d", "swap reverse e f g h")]
    say = {0: ["B d c b a", "d c b a"], 1: ["", "B"], 2: ["answer a c b d", "answer"]}
    compiled = Scripted("graph", lambda node, place, number, episode, read: say[node][place], buckets=(16,), message_tokens=6)
    scores = evaluate(compiled, None, questions, KEY, task=make_task("strings"))
    assert scores.top_labels == (("B", 0.5), ("-", 0.5), ("answer", 1.0))
    assert scores.node_format == (0.5, 0.0, 0.5) and scores.format_rate == 0.5


def test_every_question_finds_messages_of_another_when_they_are_shuffled():
    """Also the one question of a last batch."""
    questions = ask(*"12345")
    compiled = Scripted("graph", relay(questions))
    assert evaluate(compiled, None, questions, KEY, messages="shuffled").right == 0
    assert evaluate(compiled, None, questions, KEY, messages="kept").right == 5


def test_messages_of_other_episodes_are_sampled_and_each_sender_s_is_of_another_one():
    """Senders say the question's answer and the number of their episode. Of a group of three the first episode is counted."""
    questions, read_by = ask(*"12345"), {}

    def say(node, place, number, episode, read):
        if node < 2:
            return f"{'AB'[node]} {questions[place].answer} {episode}"
        read_by[place, episode] = [text.split()[1:] for text in read]
        return f"answer {questions[place].answer if episode == 0 else 0}"

    compiled = Scripted("graph_other_episode", say)
    scores = evaluate(compiled, None, questions, KEY)
    assert (scores.n, scores.right) == (5, 5) and {call.group for call in compiled.calls} == {GROUP}
    for place, question in enumerate(questions):
        for episode, others in enumerate(["12", "20", "01"]):
            assert read_by[place, episode] == [[question.answer, other] for other in others]
    compiled = Scripted("graph", say)
    evaluate(compiled, None, questions, KEY)
    assert {call.group for call in compiled.calls} == {1} and read_by[0, 0] == [["1", "0"], ["1", "0"]]


def test_one_node_is_blanked():
    questions = ask(*"123456")
    compiled = Scripted("graph", relay(questions))
    assert evaluate(compiled, None, questions, KEY, blanked=1).right == 6
    blind = evaluate(compiled, None, questions, KEY, blanked=0)
    assert (blind.right, blind.format_rate) == (0, 0)
    assert [np.asarray(compiled.calls[-1].keep.blank)[node].all() for node in range(3)] == [True, False, False]


def test_truncation_format_and_top_answer():
    said = ["answer 1", "answer 1", "answer 1 1 1...", "A 4", "4 answer", "answer 2", "answer 2..."]
    compiled = single(lambda place, number, episode: said[place] if episode == 0 else "answer 1...")
    scores = evaluate(compiled, None, ask(*"1911144"), KEY)
    assert scores.right == 2 and scores.truncated == 2 / 7
    assert scores.format_rate == 5 / 7  # `A 4` has no answer, `4 answer` nothing after it
    assert scores.top_answer_share == 3 / 7  # answer 1, of all questions asked
    assert scores.tokens == (5 * 3 + 2 * LENGTH) / 7


def test_a_message_that_ends_at_its_limit_is_not_truncated():
    compiled = single(lambda place, number, episode: "answer 1 2 3 4", message_tokens=6)
    assert evaluate(compiled, None, ask("1"), KEY).truncated == 0


def test_questions_too_long_are_an_error_or_counted():
    long = Question("[MAX 1 [MIN 3 4 ] ]", "9", 2, 7)
    questions = [long, *ask("1", "1", "2"), long]
    for options in (dict(too_long="error"), dict(too_long="skip")):
        compiled = single(lambda place, number, episode: "answer 1", buckets=(4,), **options)
        if options["too_long"] == "error":
            with pytest.raises(TooLong, match="question 7 has 7 tokens and the largest bucket is 4"):
                evaluate(compiled, None, questions, KEY)
            assert not compiled.calls
    scores = evaluate(compiled, None, questions, KEY)
    assert (scores.n, scores.too_long, scores.right, scores.asked) == (3, 2, 2, tuple(questions[1:4]))
    with pytest.raises(ValueError, match=r"none of the 2 questions fits a bucket of \(4,\); add a larger bucket"):
        evaluate(compiled, None, [long, long], KEY)


def test_bars_are_of_the_questions_that_were_asked(monkeypatch):
    """And are worked out once for those who were asked the same."""
    fitted = []
    monkeypatch.setattr(evaluation, "bar", lambda asked, task: fitted.append(asked) or Shallow("a rule", len(asked) / 10))
    long = Question("[MAX 1 [MIN 3 4 ] ]", "9", 2, 7)
    questions = [long, long, long, *ask("1", "1", "2")]
    chosen = evaluation.EvaluationSet("listops", LISTOPS, questions, None)
    for buckets, n, share in (((4,), 3, 2 / 3), ((16,), 6, 1 / 2), ((4,), 3, 2 / 3)):
        compiled = single(lambda place, number, episode: "answer 1", buckets=buckets, too_long="skip")
        record, = evaluation.evaluate_method(compiled, None, {("listops", None): chosen}, "listops", 0, {})
        assert (record["n"], record["too_long"], record["majority"], record["shallow"]) == (n, 6 - n, share, n / 10)
        assert (record["calls"], record["rounds"], record["low"], record["high"]) == (1, 1, *wilson(2, n))
    assert fitted == [tuple(questions[3:]), tuple(questions)]


def test_a_view_of_part_of_a_question_without_parts_is_refused():
    question = ask("1")[0]
    assert len(question_ids(question, text_graph("2-1"), tokenizer(), (16,))) == 1
    for view in ("share", "common"):
        with pytest.raises(ValueError, match=f"view is '{view}', but question 0 has no parts: '.MAX 1 2 .'; "
                                             "set families.<name>.view to 'all', or take a task whose questions come in parts"):
            question_ids(question, text_graph("2-1", view=(view, "all")), tokenizer(), (16,))


@pytest.mark.parametrize("width, seen", [(1, ["ABCD"]), (2, ["AC", "BD"]), (3, ["AD", "B", "C"]), (4, ["A", "B", "C", "D"]),
                                         (5, ["A", "B", "C", "D", "A"])])
def test_every_part_is_in_the_share_of_a_node(width, seen):
    """A narrower layer that looks again finds the shares of the first one."""
    question = Question("M ; A ; B ; C ; D", "1", 1, common="M", parts=("A", "B", "C", "D"))
    graph = text_graph(f"1-{width}-1", view=("common", "share", "share"))
    ids = question_ids(question, graph, tokenizer(), (16,))
    shown = [tokenizer().decode(row) for row in ids]
    assert shown == ["M", *(" ; ".join(("M", *parts)) for parts in seen)]
    assert graph.view_of(1 + width) == ("share", 0)


@pytest.mark.parametrize("right, n, low, high", [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
])
def test_intervals_are_those_of_the_literature(right, n, low, high):
    """Newcombe 1998, table I, method 3: the score interval without continuity correction."""
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)
