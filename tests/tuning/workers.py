"""A worker process of a study: real trainings, too small to learn anything.

`python workers.py EXPERIMENT TRIALS URL HEARTBEAT GRACE [KEY=VALUE ...]`
"""

import sys

from flowbench.tracking import Mirror
from flowbench.tuning import tune
from flowbench.tuning.storage import explained, open_storage


def main() -> None:
    base, trials, url, heartbeat, grace, *overrides = sys.argv[1:]
    with explained(url), Mirror() as mirror:
        storage = open_storage(url, heartbeat=int(heartbeat), grace=int(grace))
        tune(base, int(trials), overrides=overrides, study="shared", storage=storage, mirror=mirror, show=print)


if __name__ == "__main__":
    main()
