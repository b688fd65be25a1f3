"""Set before JAX starts: CPU, a compilation cache that outlives the run, and type checks of the package's signatures."""

import dataclasses
import functools
import gc
import importlib.metadata
import os
import typing

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
if os.environ["JAX_PLATFORMS"] == "cpu":  # most programs here are small and run a few times: unoptimised, a seventh of the time
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if importlib.metadata.version("jaxlib") < "0.11":  # later ones do not know the flag, and end at one that they do not know
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ.setdefault("XLA_FLAGS", " ".join(flags))

from beartype import beartype  # noqa: E402
import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402
import pytest  # noqa: E402

CACHE = os.path.expanduser(os.environ.get("NEUROMAS_TEST_CACHE", "~/.cache/neuromas_jax/tests"))
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _of_arrays(hint) -> bool:
    return hasattr(hint, "dim_str") or any(map(_of_arrays, typing.get_args(hint)))


def check_function(function):
    """beartype on the array hints of a function: shapes, axes that must agree, kinds of numbers.

    Constructors are left alone, since JAX rebuilds registered dataclasses around what are no arrays. So are plain types: `check`
    and `parse` answer wrong ones themselves.
    """
    hints = {name: hint for name, hint in function.__annotations__.items() if _of_arrays(hint)}
    if function.__name__ == "__init__" or not hints:
        return function
    function.__annotations__ = hints
    return beartype(function)


WITH_ARRAYS = ("backbone", "rl", "rollout", "text.prompt")  # elsewhere the hook would find nothing, and slow every call down
_HOOK = install_import_hook([f"neuromas_jax.{name}" for name in WITH_ARRAYS], "tests.conftest.check_function")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that two processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU, or JAX_PLATFORMS does not name it"))


@dataclasses.dataclass(frozen=True)
class Scene:
    """A small graph with everything that runs it, and one rollout of it: messages of ragged lengths, some cut, some ended."""

    program: object
    backbone: object
    bank: object
    questions: object
    keep: object
    episodes: object


@functools.cache
def make_scene(topology="2-1", slots="per_node", message_tokens=4, group=3, size=0.3, merge=False) -> Scene:
    from neuromas_jax.backbone import init_backbone
    from neuromas_jax.graph import node_slots, text_graph
    from neuromas_jax.rollout import make_program, no_interventions
    from neuromas_jax.text.prompt import PromptTemplate
    from tests.tiny import TEXTS, encode_questions, few_words, random_bank, tiny_config, tokenizer

    graph, words = text_graph(topology, message_tokens), tokenizer()
    config = tiny_config(num_hidden_layers=1)
    backbone = init_backbone(config, jax.random.key(0))
    backbone = dataclasses.replace(backbone, params={**backbone.params, "embed": backbone.params["embed"] * 20})
    program = make_program(
        graph, node_slots(graph, slots), PromptTemplate(), words, few_words(config.vocab_size), group, 1, merge=merge)
    bank = random_bank(config, max(program.slots) + 1, size=size)
    questions = encode_questions(TEXTS[:2])
    keep = no_interventions(graph, 2, group)
    episodes = roll(program, backbone, bank, questions, keep, jax.random.key(5))
    return Scene(program, backbone, bank, questions, keep, episodes)


@functools.cache
def _rollout():
    from neuromas_jax.rollout import rollout

    return jax.jit(rollout, static_argnums=0)


def roll(*arguments):
    """`rollout`, compiled once per program."""
    return _rollout()(*arguments)


@pytest.fixture(scope="session")
def optimized():
    """The options that a run's programs are compiled with, for tests that train on a real backbone."""
    from neuromas_jax.train import run

    return run.COMPILER_OPTIONS


@pytest.fixture(scope="session", autouse=True)
def _unoptimized(optimized):
    from neuromas_jax.train import run

    run.COMPILER_OPTIONS = {}


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Drops what a file compiled: each program holds memory maps, and at the system's limit (65,530) a process dies in XLA."""
    yield
    from neuromas_jax.train.run import COMPILED

    COMPILED.clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def scene():
    return make_scene
