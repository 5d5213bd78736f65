"""Lines of text on a terminal: broken between words, what follows indented; elsewhere each as it is."""

import shutil
import sys
import textwrap

__all__ = ["say"]


def say(line: str, hang: int = 4, *, err: bool = False) -> None:
    """Write one line of text.

    Not for a line that ends in a command to copy: a terminal that breaks it itself copies it whole.

    Args:
        line: the text.
        hang: columns before what follows where a terminal is too narrow for it.
        err: to stderr, not to stdout.
    """
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        line = textwrap.fill(
            line,
            shutil.get_terminal_size().columns,
            subsequent_indent=" " * hang,
            break_long_words=False,
            break_on_hyphens=False,
        )
    # Not by typer, which writes bytes below the stream: a bar moves out of the way of text alone.
    print(line, file=stream)
