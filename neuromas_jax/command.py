"""What the commands share: flags that are read with clear errors, their folders, and the cache of compiled programs."""

from importlib.util import find_spec
import os
from pathlib import Path
import sys
import traceback

from absl import app
import jax


def parse_flags(arguments):
    """Flags as `app.run` reads them, with a clear end where the config file is missing or an override names a section that it
    does not set."""
    try:
        return app.parse_flags_with_usage(arguments)
    except OSError as error:
        print(f"error: the config cannot be read: {error}; give --config a Python file such as configs/quickstart.py",
              file=sys.stderr)
        sys.exit(2)
    except (AttributeError, KeyError) as error:
        files = {os.path.basename(frame.filename) for frame in traceback.extract_tb(error.__traceback__)}
        if any(os.path.basename(word.split("=")[-1]) in files for word in arguments if word.endswith(".py")):
            raise  # a mistake in the file itself: its lines say more
        print(f"error: a --config.section.key flag names the section {error}, which the config file does not set; "
              "set it there first, such as config.objective = dict(credit='grpo')", file=sys.stderr)
        sys.exit(2)


def local_folder(name: str, flag: str = "--workdir") -> Path:
    """The folder that a flag names.

    Raises ValueError for none, and for a bucket such as gs://: cells are locked and files replaced as only a file system does it.
    """
    if not name:
        raise ValueError(f"{flag} is empty; name a folder, such as runs/mine")
    scheme, found, rest = name.partition("://")
    if found:
        bucket, _, inside = rest.partition("/")
        how = f"gcsfuse --implicit-dirs --rename-dir-limit=1000000 {bucket} /mnt/{bucket}, then " if scheme == "gs" else ""
        raise ValueError(f"{flag} is {name!r}, which is no folder of a file system; mount it and name it there: {how}"
                         f"{flag}=/mnt/{bucket}/{inside} (launch/cloud_tpu.py does it by itself; --compilation_cache alone takes "
                         "gs://)")
    return Path(name).expanduser()


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in a folder, for later processes; none if it is empty.

    Raises ValueError for gs:// where no package reaches it: JAX would warn at every program, and keep none.
    """
    if folder.startswith("gs://") and not find_spec("gcsfs") and not find_spec("tensorflow"):
        raise ValueError(f"--compilation_cache is {folder!r}, and the package gcsfs is not installed; pip install gcsfs (the "
                         "extra tpu has it), or name a local folder")
    if folder:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
