"""Pieces of work as jobs of a Slurm cluster, through submitit: one job for each piece.

FOLDER/jobs.jsonl   a line for each job that was submitted: its number and a checksum of its work
FOLDER/JOB_*        what submitit keeps of a job: its work, its output and its result
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aru_lab.arguments import check_choice, check_positive, check_whole
from aru_lab.errors import ConfigError, Interrupted, LabError, MachineError
from aru_lab.experiments.attempts import attempt
from aru_lab.files import Form, check_form, read_lines
from aru_lab.runs.folder import append_result

LOCAL, SLURM = "local", "slurm"
CLUSTERS = (SLURM, LOCAL)
MOST_IN_ARRAY = 500  # Slurm's own limit is 1001 by default
MOST_RESTARTS = 20  # of a job whose time is over
POLL_SECONDS = 2.0
LATE_SECONDS = 20.0  # until a shared disk shows the result of a job that has left the queue
JOBS = "jobs.jsonl"
_LINE: Form = {"job": str, "work": str}


@dataclass(frozen=True)
class Slurm:
    """What each job asks for, and the folder, on a disk that all nodes share, of the jobs' files.

    Args:
        folder: of the files that submitit writes.
        partition: where the jobs run; None takes the cluster's default.
        time: limit of a job in minutes. A job that reaches it is queued again and goes on.
        memory: of a job in GB; None takes the cluster's default.
        cpus: CPU cores of a job, and threads of its work.
        gpus: GPUs of a job.
        cluster: "slurm", or "local" for processes that submitit starts on this machine.

    Raises:
        ConfigError: a value is out of range.
    """

    folder: Path
    partition: str | None = None
    time: int = 1440
    memory: float | None = None
    cpus: int = 1
    gpus: int = 0
    cluster: str = SLURM

    def __post_init__(self) -> None:
        check_whole("time", self.time, 1)
        check_positive("memory", self.memory, optional=True)
        check_whole("cpus_per_task", self.cpus, 1)
        check_whole("gpus_per_task", self.gpus, 0)
        check_choice("cluster", self.cluster, CLUSTERS)

    def check_installed(self) -> None:
        """Refuse to begin without submitit or Slurm.

        Raises:
            ConfigError: submitit is not installed, or this machine has no Slurm.
        """
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError(
                "executor: got slurm, for which submitit is not installed; install it with "
                '`pip install "aru_kernels[slurm]"`.'
            )
        if self.cluster == SLURM and (absent := [name for name in ("sbatch", "squeue") if shutil.which(name) is None]):
            raise ConfigError(
                f"executor: got slurm, expected a machine from which jobs are submitted: {', '.join(absent)} can't be "
                "found."
            )


class Work:
    """What a job does: the work on one item. A job that is queued again does it again, and so continues it."""

    def __init__(self, function: Callable[[Any, Callable[[float], None]], Any]) -> None:
        self.function = function

    def __call__(self, item: Any) -> Any:
        """The result, or the error, of the item."""
        # Slurm sends SIGTERM to a job that makes room for others. Training would stop for it, and the job would count
        # as done; it has to last until Slurm ends it and queues it again.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return attempt(self._within_time, item, lambda fraction: None)

    def _within_time(self, item: Any, report: Callable[[float], None]) -> Any:
        from submitit.core.utils import UncompletedJobError

        try:
            return self.function(item, report)
        except UncompletedJobError as error:
            raise MachineError(
                f"{' '.join(str(error).split()).rstrip('.')}; what is finished is kept, and the same command goes on."
            ) from None

    def checkpoint(self, item: Any) -> Any:
        """What a job that is queued again has to do; submitit calls it."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, item)


def run_on_cluster(
    function: Callable[[Any, Callable[[float], None]], Any],
    items: Sequence[Any],
    slurm: Slurm,
    label: str,
    note: Callable[[int, Any], None],
    tell: Callable[[str], None],
) -> None:
    """Work on all items in jobs, and wait for them. A job of an earlier call that still runs is not submitted again.

    Args:
        function: as in `run_jobs`.
        items: what to work on.
        slurm: what each job asks for.
        label: name of the jobs in the queue.
        note: called with an index and its result or LabError, as they come.
        tell: called with a sentence on the jobs.

    Raises:
        ConfigError: submitit or Slurm is not installed.
        MachineError: Slurm refuses the jobs; the sentence has its reason.
        Interrupted: Ctrl-C; the jobs run on.
    """
    slurm.check_installed()
    waiting: dict[int, Any] = {}
    try:
        waiting = _submitted(Work(function), items, slurm, label, tell)
        left_since: dict[int, float] = {}
        while waiting:
            queued = _queued([job.job_id for job in waiting.values()], slurm, waiting)
            for k, job in list(waiting.items()):
                if job.paths.result_pickle.exists():
                    if slurm.cluster == LOCAL:
                        job.wait()  # so that its process leaves nothing behind
                    note(k, _result(job))
                elif queued is None or job.job_id in queued:
                    left_since.pop(k, None)
                    continue
                elif time.monotonic() - left_since.setdefault(k, time.monotonic()) > LATE_SECONDS:
                    note(k, _lost(job))
                else:
                    continue
                del waiting[k]
            if waiting:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped waiting; {len(waiting)} of {len(items)} jobs stay in the queue or run on ({_numbers(waiting)}; "
            "`scancel` ends them). The same command waits for them again."
        ) from None


def _submitted(
    work: Work, items: Sequence[Any], slurm: Slurm, label: str, tell: Callable[[str], None]
) -> dict[int, Any]:
    """A job for every item: one of an earlier call that is still in the queue, or a new one."""
    import submitit

    keys = [hashlib.sha256(pickle.dumps((work.function, item))).hexdigest() for item in items]
    earlier = {
        line["work"]: submitit.SlurmJob(slurm.folder, line["job"])
        for line in read_lines(slurm.folder / JOBS, lambda line: check_form(line, _LINE), LabError)
        if line["work"] in set(keys) and slurm.cluster == SLURM
    }
    queued = _queued([job.job_id for job in earlier.values()], slurm, {}) or set()
    jobs = {k: earlier[key] for k, key in enumerate(keys) if key in earlier and earlier[key].job_id in queued}
    if jobs:
        tell(f"{len(jobs)} jobs of an earlier command are still in the queue; they are waited for.")
    new = [k for k in range(len(items)) if k not in jobs]
    if not new:
        return jobs
    with _refusals():
        slurm.folder.mkdir(parents=True, exist_ok=True)
        executor = submitit.AutoExecutor(slurm.folder, cluster=slurm.cluster, slurm_max_num_timeout=MOST_RESTARTS)
        executor.update_parameters(
            name="".join(char if char.isalnum() else "-" for char in f"aru {label}"),
            timeout_min=slurm.time,
            cpus_per_task=slurm.cpus,
            **({"mem_gb": slurm.memory} if slurm.memory is not None else {}),
            **({"gpus_per_node": slurm.gpus} if slurm.gpus else {}),
            **({"slurm_partition": slurm.partition} if slurm.partition is not None else {}),
            slurm_additional_parameters={"requeue": True},
        )
        for start in range(0, len(new), MOST_IN_ARRAY):
            part = new[start : start + MOST_IN_ARRAY]
            for k, job in zip(part, executor.map_array(work, [items[k] for k in part]), strict=True):
                jobs[k] = job
                append_result({"job": job.job_id, "work": keys[k]}, slurm.folder / JOBS)
    tell(f"{len(new)} jobs submitted ({_numbers({k: jobs[k] for k in new})}); their output is in {slurm.folder}.")
    return jobs


def _numbers(jobs: dict[int, Any]) -> str:
    """The numbers of jobs, an array's once."""
    return " ".join(sorted({job.job_id.partition("_")[0] for job in jobs.values()}))


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what sbatch says to a job that it refuses into a sentence."""
    from submitit.core.utils import FailedJobError

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints it, too
            yield
    except FailedJobError as error:
        said = str(error)
        lines = [line.removeprefix("sbatch: error: ") for line in said.splitlines() if "sbatch: error" in line]
        raise MachineError(f"Slurm refuses the jobs: {' '.join(lines or said.split())}") from None


def _queued(numbers: Sequence[str], slurm: Slurm, jobs: dict[int, Any]) -> set[str] | None:
    """Those of the jobs that wait or run; None where Slurm does not answer."""
    if slurm.cluster == LOCAL:
        return {job.job_id for job in jobs.values() if not job.done()}
    if not numbers:
        return set()
    command = ["squeue", "--noheader", "--array", "--format=%i", "--me"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None
    return set(numbers) & set(done.stdout.split())


def _result(job: Any) -> Any:
    outcome = pickle.loads(job.paths.result_pickle.read_bytes())
    if outcome[0] == "success":
        return outcome[1]
    last = outcome[1].strip().splitlines()[-1]
    return MachineError(f"The job {job.job_id} failed ({last}); its output is in {job.paths.stderr}.")


def _lost(job: Any) -> LabError:
    return MachineError(
        f"The job {job.job_id} ended without a result (was it cancelled, or is there enough --memory?); what is "
        f"finished is kept, and its output is in {job.paths.stderr}."
    )
