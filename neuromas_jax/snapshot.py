"""Repositories of the Hugging Face Hub as local folders (extra `hub`)."""

from collections.abc import Sequence
from pathlib import Path
import re

HUB_ID = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:@([\w./-]+))?")


def snapshot(kind: str, name: str, patterns: Sequence[str] | None = None) -> Path:
    """The local folder of a Hub repository; its files are fetched once, into the Hub's own cache, which serves without a network.

    Args:
      kind: "model" or "dataset".
      name: `OWNER/NAME` or `OWNER/NAME@REVISION`.
      patterns: of the files that are wanted; all by default.

    Raises:
      FileNotFoundError: no such repository or revision, or the Hub cannot be reached and the cache has not all of it.
    """
    match = HUB_ID.fullmatch(name)
    if match is None:
        raise FileNotFoundError(f"{kind} {name!r} is no name of the Hugging Face Hub; write OWNER/NAME or OWNER/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise FileNotFoundError(f"to look for the {kind} {name!r} on the Hugging Face Hub huggingface_hub is needed: "
                                "pip install neuromas_jax[hub]") from None
    try:
        return Path(snapshot_download(match[1], repo_type=kind, revision=match[2], allow_patterns=patterns))
    except GatedRepoError as error:
        raise FileNotFoundError(f"on the Hugging Face Hub the {kind} {name!r} is given to those alone who accepted its terms: "
                                f"accept them on its page, then `hf auth login`. ({first_line(error)})") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{kind} {name!r}: the Hugging Face Hub cannot be reached or is switched off (HF_HUB_OFFLINE), "
                                f"and its cache does not hold it. Where there is a network, `hf download {match[1]} --repo-type "
                                f"{kind} --local-dir FOLDER` makes a folder to copy. ({first_line(error)})") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FileNotFoundError(f"the Hugging Face Hub does not give the {kind} {name!r}: {first_line(error)}. Check the name, "
                                "OWNER/NAME or OWNER/NAME@REVISION, and `hf auth login` for a private one.") from error


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
