"""How long something takes, in words for people."""

__all__ = ["in_words"]


def in_words(seconds: float) -> str:
    """Return a duration as people say it: `0.4 s`, `48 s`, `3 min`, `2.5 h`, `4 days`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"
