"""A helper for tests: it does what a request says."""

import os
import signal
import sys
import time
from pathlib import Path

from flowbench.system.helpers import Served
from flowbench.system.interruption import StopRequest

if __name__ == "__main__":
    served = Served()
    for request in served:
        print("printed by a library")  # stdout is for answers: this must not be one
        if request["do"] == "say":
            print(request["words"], file=sys.stderr, flush=True)
        if request["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if request["do"] == "leave":
            os._exit(0)
        if request["do"] == "tell":
            served.answer(doing="evaluating", part=0.9)
            served.answer(doing="training", part=0.5)
            time.sleep(request["seconds"])
            served.answer(say="trial 0: complete")
            os._exit(0)
        if request["do"] == "work":
            with StopRequest() as stop:
                served.answer(state="at work")
                while stop.signal is None:
                    time.sleep(0.01)
            Path(request["saved"]).write_text(stop.signal.name)
            os._exit(128 + stop.signal)
        served.answer(state="done", request=request)
