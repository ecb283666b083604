"""The trials of all studies in Ray Tune: its processes are kept for many trials, and its searcher asks the studies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Self

from ray import tune
from ray.tune.search import Searcher

from bdbench.errors import StorageError
from bdbench.matrix.ray_start import ray_started
from bdbench.matrix.studies import Request
from bdbench.matrix.tune_worker import Ended, IsOver, Suggest, TrialEnded, TuneWorker, VictimEnded
from bdbench.protocol.trials import Measured
from bdbench.specs.work import VictimSpec

METRIC = "training_iteration"  # Tune wants one of every trial; what is maximized is the studies' affair
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is a KeyboardInterrupt, as everywhere
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),  # what is to be kept is beside the result
    "RAY_AIR_NEW_OUTPUT": "0",
}


class RayTuning:
    """Ray on this machine for the length of a `with` block: `slots` processes, each with the worker's threads.

    On a GPU each process takes `gpus_per_cell` of one. Ray starts when there is work. Raises UsageError if it does not.
    """

    def __init__(self, worker: TuneWorker, slots: int, gpus_per_cell: float) -> None:
        self._worker = worker
        gpus = gpus_per_cell if worker.site.torch_device().type == "cuda" else 0
        self._resources = {"cpu": worker.site.threads, "gpu": gpus}
        self._cpus = slots * worker.site.threads
        self._stack = ExitStack()
        self._ray: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)

    def _start(self) -> None:
        if self._ray is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            self._ray = self._stack.enter_context(ray_started(self._cpus))

    def prepare(self, victims: Sequence[VictimSpec], ended: VictimEnded) -> None:
        """`TuneWorker.prepare` for each victim; `ended` gets what became of it."""
        if not victims:
            return
        self._start()
        options = {"num_cpus": self._resources["cpu"], "num_gpus": self._resources["gpu"], "max_retries": 0}
        run, shipped = self._ray.remote(**options)(TuneWorker.prepare), self._ray.put(self._worker)
        running = {run.remote(shipped, victim): victim for victim in victims}
        while running:
            (task,), _ = self._ray.wait(list(running), num_returns=1)
            try:
                outcome = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                outcome = Ended(error=f"its process died: {error}")
            ended(running.pop(task), outcome)

    def run(self, suggest: Suggest, is_over: IsOver, ended: TrialEnded) -> None:
        """Run trials until `is_over`: those that `suggest` gives; None means that others must end first."""
        self._start()
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what becomes of a trial, its result says
        searcher = StudySearcher(suggest, is_over, ended)
        folder = tempfile.mkdtemp(prefix="bdbench-tune-")
        try:
            tune.Tuner(
                tune.with_resources(tune.with_parameters(KeptProcess, worker=self._worker), self._resources),
                tune_config=tune.TuneConfig(
                    metric=METRIC,
                    mode="max",
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    storage_path=folder,
                    name="tuning",
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                ),
            ).fit()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if searcher.unstored:
            raise searcher.unstored


class KeptProcess(tune.Trainable):
    """One process for many trials, which keeps its imports."""

    def setup(self, config: dict[str, Any], worker: TuneWorker) -> None:
        self._worker = worker
        self._request = config["request"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._request = new_config["request"]
        return True

    def step(self) -> dict[str, Any]:
        return {"ended": json.dumps(asdict(self._worker.run(self._request))), "done": True}


class StudySearcher(Searcher):
    """What Tune asks for trials. A StorageError of `ended` ends the tuning, and is kept in `unstored`."""

    def __init__(self, suggest: Suggest, is_over: IsOver, ended: TrialEnded) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._suggest, self._is_over, self._ended = suggest, is_over, ended
        self._running: dict[str, Request] = {}
        self.unstored: StorageError | None = None

    def suggest(self, trial_id: str) -> Any:
        request = None if self.unstored else self._suggest()
        if request is None:
            return Searcher.FINISHED if self.unstored or self._is_over() else None
        self._running[trial_id] = request
        return {"request": request}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result and not error:
            raw = json.loads(result["ended"])
            outcome = Ended(**raw | {"measured": tuple(Measured(**values) for values in raw["measured"])})
        else:
            outcome = Ended(error="its process died: it was killed, or ran out of memory")
        try:
            self._ended(self._running.pop(trial_id), outcome)
        except StorageError as unstored:
            self.unstored = unstored

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the studies suggest the same again."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a tuning goes on from its folder of trials, not from Tune's checkpoints")
