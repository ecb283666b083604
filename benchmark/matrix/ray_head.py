"""The process that holds Ray on this machine for one run: python -m bdbench.matrix.ray_head CPUS [GPUS]

It starts Ray in its working directory and says so in a line of JSON on standard output: {"address": ...} or {"error": ...}.
When its standard input ends, it ends Ray: the run is over, or the run's process died. It imports nothing heavy, so that Ray
starts beside the run's imports and not behind them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from bdbench.errors import first_line

# What travels through Ray's shared memory on one machine is small: specs and outcomes.
OBJECT_STORE_BYTES = 128 * 2**20


def main(words: Sequence[str]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    try:
        import ray

        leave_out_unused_parts()
        context = ray.init(
            address="local",  # this machine, not a cluster that happens to run
            num_cpus=int(words[0]),
            num_gpus=float(words[1]) if len(words) > 1 else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=os.getcwd(),
        )
        answer = {"address": context.address_info["gcs_address"]}
    except Exception as error:  # Ray raises a dozen types for what can be amiss with a machine
        answer = {"error": first_line(error)}
    with answers:
        json.dump(answer, answers)
    if "address" in answer:
        sys.stdin.buffer.read()
        ray.shutdown()


def leave_out_unused_parts() -> None:
    """Have Ray start no dashboard, no autoscaler and no log monitor: a run on one machine asks none of them anything.

    They would take a third of the time in which Ray starts, and 250 MB. Ray has no option for it. A version of Ray that starts
    them by other names starts them.
    """
    from ray._private.node import Node

    for name in ("start_api_server", "start_monitor", "start_log_monitor"):
        setattr(Node, name, lambda node, *args, **options: None)


if __name__ == "__main__":
    main(sys.argv[1:])
