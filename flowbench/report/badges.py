"""The labels that a figure carries, and what each one says."""

__all__ = ["BADGES", "meaning", "tone"]

BADGES = {
    "paper's preset": ("good", "The shipped preset of the paper, unchanged and run to its end."),
    "quick": ("plain", "A small model on a small budget, for seeing that everything works."),
    "custom": ("plain", "Settings of one's own: no reproduction of the paper's figure."),
    "limited": (
        "warn",
        "Measured on some of the images or windows only, for trying things: compared with no published figure.",
    ),
    "counts match": ("plain", "As many images as published; their bytes are not known, since decoders differ."),
    "own data": ("plain", "Images or a series of one's own, known by their fingerprint."),
    "unverified": ("warn", "The data has no known fingerprint, or another one."),
    "other resampling": (
        "warn",
        "Its images were resized in another way than those of the published figures: no reproduction of them.",
    ),
    "other task": (
        "warn",
        "Of other grey levels, columns, steps ahead or windows than the published figures: compared with none of them.",
    ),
    "dirty": ("warn", "Made with uncommitted changes in flowbench's own tree."),
    "stale": ("warn", "The config, the code's numerics or the data differ from today's."),
    "not run": ("plain", "Nothing was measured."),
    "skipped": ("warn", "Could not be run here; the reason stands beside it."),
    "failed": ("bad", "The run ended with an error; the reason stands beside it."),
    "damaged": ("bad", "A file of the run is lost or not readable."),
}
"""Name → (tone, meaning). Tones: good, plain, warn, bad."""


def tone(badge: str) -> str:
    """Return a badge's tone, which chooses its colour; an unknown one is plain."""
    return BADGES.get(badge, ("plain", ""))[0]


def meaning(badge: str) -> str:
    """Return what a badge says, for a hover text and the legend; empty for an unknown one."""
    return BADGES.get(badge, ("plain", ""))[1]
