"""Flags of the launchers for Google Cloud."""

from absl import flags

PROJECT = flags.DEFINE_string("project", None, "Of Google Cloud.", required=True)
ZONE = flags.DEFINE_string("zone", None, "Where there are TPUs of this kind.", required=True)
SLICES = flags.DEFINE_integer("slices", 1, "So many TPUs of this kind, joined over the network.", lower_bound=1)
SPOT = flags.DEFINE_bool("spot", False, "Cheaper, and may be taken away at any time.")


def where() -> list[str]:
    return [f"--project={PROJECT.value}", f"--zone={ZONE.value}"]


def spot() -> list[str]:
    return ["--spot"] if SPOT.value else []
