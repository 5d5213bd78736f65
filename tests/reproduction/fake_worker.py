"""A worker that trains nothing: the seed says what becomes of a run, and a file in its folder when it was at work."""

import os
import signal
import time
from pathlib import Path

from flowbench.system.helpers import Served
from flowbench.system.interruption import StopRequest

FINE, SKIPPED, FAILED, DIES_ONCE, DIES, CLAIMED_ONCE, LONG = range(7)


def at_work(run: Path, seed: int) -> dict[str, str]:
    (run / "threads").write_text(os.environ["OMP_NUM_THREADS"])
    first = not (run / "begun").exists()
    (run / "begun").write_text("")
    if seed == DIES or (seed == DIES_ONCE and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == CLAIMED_ONCE and first:
        return {"state": "claimed"}
    if seed == LONG:
        with StopRequest() as stop:
            (run / "at work").write_text("")
            while stop.signal is None:
                time.sleep(0.01)
        (run / "saved").write_text(stop.signal.name)
        os._exit(128 + stop.signal)
    reasons = {SKIPPED: ("skipped", "no data"), FAILED: ("failed", "diverged")}
    state, reason = reasons.get(seed, ("done", ""))
    return {"state": state, "reason": reason}


if __name__ == "__main__":
    served = Served()
    for request in served:
        run, seed = Path(request["run"]), request["experiment"]["seed"]
        run.mkdir(parents=True, exist_ok=True)
        begun = time.time()
        answer = at_work(run, seed)
        time.sleep(0.05)
        (run / "times").write_text(f"{begun} {time.time()}")
        served.answer(**answer)
