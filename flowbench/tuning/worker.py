"""A helper that takes trials of a study: `python -m flowbench.tuning.worker`, started by `flowbench.tuning.workers`.

Its one request holds the arguments of `tune`; what becomes of the trials is in the study. It answers with lines for
people, `say`, and with what is being done, `doing`, and the `part` of it (0 to 1).
"""

import os
import sys
from typing import Any

from flowbench.config.extensions import import_inherited
from flowbench.errors import WorkFailedError, in_words
from flowbench.system.helpers import Served
from flowbench.system.interruption import Interrupted
from flowbench.system.progress import telling
from flowbench.tracking.relayed import RelayedMirror
from flowbench.tuning.study import tune

__all__ = ["main"]


def main() -> int:
    """Take trials until the study has enough, or this process is told to stop; return the exit status."""
    import_inherited()
    served = Served()
    request: dict[str, Any] = next(iter(served))
    try:
        with telling(lambda what, part: served.answer(doing=what, part=part)):
            tune(**request, mirror=RelayedMirror(served.answer), show=lambda line: served.answer(say=line))
    except Interrupted as stop:
        return stop.exit_code
    except WorkFailedError as error:  # too many trials failed, which the parent finds in the study and says once
        return error.exit_code
    except Exception as error:
        print(f"flowbench: {in_words(error)}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # The thread that reads stdin must not hold up the exit.
    os._exit(status)
