"""The backbone that the package ships: what is recorded beside it is true of its weights."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuromas_jax.backbone import load_backbone
from neuromas_jax.backbone.huggingface import EMBEDDED
from neuromas_jax.pretrain.documents import DocumentWriter
from neuromas_jax.pretrain.forward import target_logits
from neuromas_jax.pretrain.skills import SkillTest
from neuromas_jax.tasks import FAMILIES
from neuromas_jax.text.prompt import PromptTemplate
from neuromas_jax.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def config():
    """What the embedded backbone is made from."""
    path = Path(__file__).parents[1] / "configs" / "embedded_backbone.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def test_the_shipped_record_is_that_of_the_shipped_backbone(config):
    record, backbone = json.loads((EMBEDDED / "skills.json").read_text()), load_backbone(EMBEDDED)
    assert (record["seed"], record["steps"], record["parameters"]) == (config.seed, config.steps, backbone.size)
    assert record["documents"] == config.steps * config.batch and record["skill_questions"] == config.skill_questions
    assert record["evaluation_rows_in_documents"] == 0
    sizes = {name: getattr(backbone.config, name) for name in config.decoder}
    assert sizes == config.decoder.to_dict() and backbone.config.vocab_size == load_tokenizer(EMBEDDED).vocab_size
    log = [json.loads(line) for line in (EMBEDDED / "pretrain_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == config.steps and log[-1]["skills"] == record["skills"]


def test_the_shipped_weights_know_the_single_steps_of_every_family(config):
    """The record is of these weights and of the questions as they are drawn today; and every skill is there."""
    record, backbone = json.loads((EMBEDDED / "skills.json").read_text()), load_backbone(EMBEDDED)
    test = SkillTest({name: FAMILIES[name]() for name in config.families},
                     DocumentWriter(load_tokenizer(EMBEDDED), PromptTemplate()), config.skill_questions, config.lengths[-1])
    assert test.fingerprint() == record["skill_test"]
    predict = jax.jit(lambda part: jnp.argmax(target_logits(backbone.params, backbone.config, part), axis=-1))
    measured = test.accuracy(lambda part: np.asarray(predict(part)))
    for family, skills in record["skills"].items():
        for skill, recorded in skills.items():
            assert abs(measured[family][skill] - recorded) <= 2 / config.skill_questions, (family, skill)  # rounding may tip one
            assert recorded >= 0.8 or skill == "direct", (family, skill, recorded)
