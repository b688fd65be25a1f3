"""Where a backbone's files are: in the package, in a local folder, or on the Hugging Face Hub (extra `hub`)."""

import os
from pathlib import Path
import re

EMBEDDED = Path(__file__).parent / "embedded"
FILES = ("*.json", "*.jinja", "*.safetensors", "tokenizer.model")  # of a model: no weights in other forms
HUB_ID = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:@([\w./-]+))?")


def model_folder(name: str | os.PathLike) -> Path:
    """The local folder of a backbone: "embedded", a folder, or a Hub id `OWNER/NAME` or `OWNER/NAME@REVISION`.

    A folder that is there comes before an id of the same form. Files of the Hub are fetched once, into its own cache.

    Raises:
      FileNotFoundError: no such folder, and no such model either, or the Hub cannot be reached and the cache has not all of it.
    """
    if name == "embedded":
        return EMBEDDED
    if Path(name).is_dir():
        return Path(name)
    match = HUB_ID.fullmatch(str(name))
    if match is None:
        raise FileNotFoundError(f"backbone folder {str(name)!r} does not exist. Name a local folder with config.json and "
                                "model.safetensors, a model of the Hugging Face Hub as OWNER/NAME, or 'embedded'.")
    place = f"backbone {str(name)!r} is no local folder"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise FileNotFoundError(f"{place}, and to look for it on the Hugging Face Hub huggingface_hub is needed: "
                                "pip install neuromas_jax[hub]") from None
    try:
        return Path(snapshot_download(match[1], revision=match[2], allow_patterns=list(FILES)))
    except GatedRepoError as error:
        raise FileNotFoundError(f"{place}, and on the Hugging Face Hub it is given to those alone who accepted its terms: accept "
                                f"them on its page, then `hf auth login`. ({_first_line(error)})") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{place}, the Hugging Face Hub cannot be reached or is switched off (HF_HUB_OFFLINE), and its "
                                f"cache does not hold the model. Where there is a network, `hf download {match[1]} --local-dir "
                                f"FOLDER` makes a folder to copy. ({_first_line(error)})") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FileNotFoundError(f"{place}, and the Hugging Face Hub does not give it: {_first_line(error)}. Check the name, "
                                "OWNER/NAME or OWNER/NAME@REVISION, and `hf auth login` for a private one.") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
