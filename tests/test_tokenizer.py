"""The tokenizer: one token a word, lossless for any text, no control token out of untrusted text, equal to AutoTokenizer."""

import importlib.util
import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from neuromas_jax.backbone.hub import EMBEDDED
from neuromas_jax.pretrain.vocabulary import CONTROL_TOKENS, LABELS, build_tokenizer, save_tokenizer, vocabulary_texts
from neuromas_jax.tasks import FAMILIES
from neuromas_jax.text.tokenizer import FileTokenizer, Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def config():
    """What the embedded backbone is made from."""
    path = Path(__file__).parents[1] / "configs" / "embedded_backbone.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """The embedded backbone's tokenizer, built anew."""
    path = tmp_path_factory.mktemp("tokenizer")
    every_family = [make() for make in FAMILIES.values()]
    save_tokenizer(build_tokenizer(vocabulary_texts(every_family, config.vocabulary_questions)), path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def test_it_satisfies_the_protocol_and_names_its_control_tokens(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.pad_id, tokenizer.end_id) == (0, 2)
    assert tokenizer.added_ids == frozenset(range(len(CONTROL_TOKENS)))
    assert tokenizer.vocab_size <= 640


def test_every_word_of_the_families_is_one_token(tokenizer):
    for name, make in FAMILIES.items():
        task = make()
        for index in range(100):
            question = task.generate("validation", index)
            ids = tokenizer.encode(question.text)
            if name == "navigate":  # whole instructions are one token: question, walk, options
                walk = question.text.count("Take") + question.text.count("Turn") + question.text.count("Always")
                assert len(ids) == walk + 2
            else:
                words = question.text.replace("(", " ( ").replace(")", " ) ").split()
                assert len(ids) == len(words)


def test_words_numbers_and_labels_have_one_id_wherever_they_stand(tokenizer):
    words = [*LABELS, "True", "False", "and", "Yes", "north", "across", "[MAX", "]", *map(str, range(-99, 100))]
    for word in words:
        (alone,) = tokenizer.encode(word)
        assert tokenizer.encode(f"A {word} B")[1] == alone
    for make in FAMILIES.values():
        for fact in make().generate("validation", 1).facts:
            assert len(tokenizer.encode(fact.label)) == 1
            assert tokenizer.encode(str(fact)) == tokenizer.encode(fact.label) + tokenizer.encode(fact.value)


def test_a_message_reads_as_it_was_written(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("A 7 B -13 answer True"), tokenizer.end_id]) == "A 7 B -13 answer True"
    assert tokenizer.decode(tokenizer.encode_template("<from3> 3"), keep_added=True) == "<from3> 3"


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_comes_back(tokenizer, text):
    # The blank before the first word is the tokenizer's own, unless the text brings it along.
    assert tokenizer.decode(tokenizer.encode(text)) == text.removeprefix(" ")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(
    st.sampled_from([*CONTROL_TOKENS, "<", ">", " ", "\n", "7", "<think>"]), st.text(max_size=3),
)).map("".join))
def test_untrusted_text_never_yields_a_control_token(tokenizer, text):
    assert not tokenizer.added_ids.intersection(tokenizer.encode(text))


def test_template_text_does(tokenizer):
    assert tokenizer.encode_template("".join(CONTROL_TOKENS)) == list(range(len(CONTROL_TOKENS)))
    assert tokenizer.encode_template("<node> 2 3")[0] == CONTROL_TOKENS.index("<node>")


@pytest.mark.parametrize("shipped", [True, False], ids=["shipped", "built anew"])
def test_auto_tokenizer_gives_the_same_ids(folder, shipped):
    transformers = pytest.importorskip("transformers")
    path = EMBEDDED if shipped else folder
    auto, tokenizer = transformers.AutoTokenizer.from_pretrained(str(path)), load_tokenizer(path)
    texts = ["A 7 B -13", "<s> <node> 2 3", "größer 漢字 \n x", "", " two  blanks", "12345 ((-7 * 8)) ="]
    texts += [make().generate("validation", 3).text for make in FAMILIES.values()]
    for text in texts:
        assert auto.encode(text, add_special_tokens=False) == tokenizer.encode_template(text)
    assert (auto.pad_token_id, auto.eos_token_id, len(auto)) == (tokenizer.pad_id, tokenizer.end_id, tokenizer.vocab_size)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_shipped_tokenizer_is_what_the_config_builds(folder, name):
    assert json.loads((EMBEDDED / name).read_text()) == json.loads((folder / name).read_text())


def test_added_tokens_that_are_not_special_are_not_recognised_either(folder):
    definition = json.loads((folder / "tokenizer.json").read_text())
    size = len(definition["model"]["vocab"])
    extra = {"id": size, "content": "<think>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    definition["added_tokens"].append(extra)
    tokenizer = FileTokenizer(definition, "</s>", None)
    assert tokenizer.encode_template("<think>") == [size]
    assert size not in tokenizer.encode("<think> <think>")
    assert tokenizer.pad_id == tokenizer.end_id


def test_a_tokenizer_that_needs_its_unknown_token_says_so():
    definition = json.loads(_word_level())
    tokenizer = FileTokenizer(definition, "[END]", "[UNK]", source="words.json")
    assert tokenizer.encode("yes no") == [2, 3]
    with pytest.raises(ValueError, match=r"words.json.*maybe.*\[UNK\]"):
        tokenizer.encode("maybe")


def _word_level() -> str:
    import tokenizers

    built = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "[END]": 1, "yes": 2, "no": 3}, unk_token="[UNK]"))
    built.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    built.add_special_tokens(["[UNK]", "[END]"])
    return built.to_str()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_missing_or_cut_files_are_named(folder, tmp_path, name):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((folder / name).read_bytes()[:60])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load_tokenizer(tmp_path)


def test_an_end_token_that_is_not_there_is_named(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<stop>"}}))
    with pytest.raises(ValueError, match="<stop>.*eos_token"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no eos_token"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="more than 500"):
        build_tokenizer(["a few more words"], largest=500)
