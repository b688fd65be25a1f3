"""Set before JAX starts: CPU, a compilation cache that outlives the session, and type checks of the package's signatures."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

from beartype import beartype  # noqa: E402
import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

CACHE = os.path.expanduser(os.environ.get("NEUROMAS_TEST_CACHE", "~/.cache/neuromas_jax/tests"))
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def check_function(function):
    """beartype on functions. Constructors are left alone: JAX rebuilds registered dataclasses around what are no arrays."""
    return function if function.__name__ == "__init__" else beartype(function)


# rollout, rl, text, graph, methods: array shapes and plain types of every annotated function are checked at each call.
_HOOK = install_import_hook("neuromas_jax", "tests.conftest.check_function")
