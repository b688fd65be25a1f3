"""Where a backbone's files are: in the package, in a local folder, or on the Hugging Face Hub (extra `hub`)."""

import os
from pathlib import Path

from neuromas_jax.snapshot import HUB_ID, snapshot

EMBEDDED = Path(__file__).parent / "embedded"
FILES = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")  # of a model: no weights in other forms


def model_folder(name: str | os.PathLike) -> Path:
    """The local folder of a backbone: "embedded", a folder, or a Hub id `OWNER/NAME` or `OWNER/NAME@REVISION`.

    A folder that is there comes before an id of the same form.

    Raises:
      FileNotFoundError: no such folder, and no such model either, or the Hub cannot be reached and the cache has not all of it.
    """
    if name == "embedded":
        return EMBEDDED
    if Path(name).is_dir():
        return Path(name)
    if HUB_ID.fullmatch(str(name)) is None:
        raise FileNotFoundError(f"backbone folder {str(name)!r} does not exist. Name a local folder with config.json and "
                                "model.safetensors, a model of the Hugging Face Hub as OWNER/NAME, or 'embedded'.")
    try:
        return snapshot("model", str(name), FILES)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"backbone {str(name)!r} is no local folder, and {error}") from error
