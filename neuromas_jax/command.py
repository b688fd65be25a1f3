"""What the commands share: flags that are read with clear errors, and the cache of compiled programs."""

import os
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


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in a folder, for later processes; none if it is empty."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
