"""What all entry scripts share: a child process for the work, its limits, files checked before
they are read and recorded when they are made, and plain errors."""

import errno
import fcntl
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from zipquant.errors import UserError
from zipquant.jobs import endings, files, integrity, ledger, processes
from zipquant.jobs.endings import Ending
from zipquant.jobs.progress import CONSOLE

DONE = 77
"""Exit code of a child that has done all its work: not 0, with which C code may end a process when
it likes."""

AGAIN = "run the same command again"

WATCH_SECONDS = 0.5
"""How often the memory of a job is looked at."""

UNWRITABLE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota of the disk is used up; free some space",
    errno.EROFS: "the disk can only be read; make it writable, or set results to another folder",
    errno.EACCES: "permission denied; make the folder writable, or set results to another one",
}
"""What the errors of the operating system mean that are the disk's fault."""


def run(snakemake: Any, function: Callable[..., None], **arguments) -> None:
    """Call a library function in a child process whose whole output goes to the rule's log.

    The child keeps the toolkit's and onnxruntime's C code, which prints what it likes and may
    abort, away from the job: a dead child becomes a plain error. So does one that takes more
    memory than the rule's `mem_mb` or more time than the setting `job_hours`. Inputs that other
    jobs have made are compared with their records before, outputs are recorded after, with what
    they were made from; see `zipquant.jobs.integrity` and `zipquant.jobs.ledger`. A function may
    return why its result is not to be kept for the next run. A `UserError` is written as one line
    that begins with `error:`; the Snakefile's `onerror` shows those at the end of a run.

    The job ends with the run that it belongs to, even if that is killed: nothing goes on writing
    files behind the back of the next run.

    Args:
        snakemake: what Snakemake gives to the script.
        function: does the work.
        arguments: of the function.
    """
    log, results = snakemake.log[0], snakemake.config["results"]
    with _open_log(log) as file:
        _lock(file, log)
        file.truncate(0)
        try:
            alive = processes.of_run()
        except ProcessLookupError:
            os._exit(1)
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            try:
                _become_child(file, log)
                code = _call(snakemake, function, arguments)
            except BaseException:  # such as no room for the log's last line
                code = Ending.FAULT
            os._exit(code)
        try:
            reason, ending = _watch(child, alive, snakemake), Ending.LIMIT
        except KeyboardInterrupt:  # C code may take its time to hear of it
            processes.kill_tree(child)
            reason, ending = "the job was interrupted", Ending.FINAL
        _, status, used = os.wait4(child, 0)
        if not reason:
            reason, ending = _explain_end(os.waitstatus_to_exitcode(status), log, results)
        lines = [f"error: {reason}"] if reason else []
        lines.append(f"peak memory: {used.ru_maxrss / 1024:.0f} MB")
        lines.append(endings.line(ending))
        # The toolkit's progress bars leave the last line without its end.
        last = ("\n" + "".join(f"{line}\n" for line in lines)).encode()
        try:
            file.write(last)
        except OSError:
            try:  # no room: the reason is worth more than what stands there
                file.truncate(0)
                file.write(last)
            except OSError:
                print(*lines, sep="\n", file=sys.stderr)
    if ending != Ending.DONE and not os.path.exists(log):
        print(f"error: {results} was removed during the job: {AGAIN}", file=sys.stderr)
    sys.exit(ending)


def _open_log(log: str) -> Any:
    """Open a job's log; end the job where that cannot be."""
    try:
        if os.path.islink(log):  # what it leads to is not to be overwritten
            os.unlink(log)
        return open(log, "ab", buffering=0)
    except OSError as error:
        print(f"error: cannot write to {log} ({error.strerror}): {AGAIN}", file=sys.stderr)
        sys.exit(Ending.FINAL)


def _explain_end(code: int, log: str, results: str) -> tuple[str, Ending]:
    """Return what to add to the log on how the child has ended, and how the job ends by that.

    Args:
        code: exit code of the child; the negative number of a signal that has ended it.
        log: the job's log.
        results: the results folder.
    """
    if code == DONE:
        return "", Ending.DONE
    if _is_disk_full(log, results, crashed=code < 0):
        reason = f"{results}: {UNWRITABLE[errno.ENOSPC]}, and {AGAIN}"
        return reason, Ending.FINAL
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": most likely out of memory" if name == "SIGKILL" else ""
        return f"the job was killed by {name}{hint}; see {log}", Ending.KILLED
    if code == 0:  # C code may end the process when it likes
        return f"the job ended without a word before it was done; see {log}", Ending.FAULT
    return "", Ending.FINAL if code == Ending.FINAL else Ending.FAULT


def _is_disk_full(log: str, results: str, crashed: bool) -> bool:
    """Whether it is the disk that a job has failed at.

    Libraries say so in ways of their own, and the toolkit goes on. HDF5 crashes, and the log may
    have had no room for an error.
    """
    try:
        with open(log, errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return False
    unsaid = crashed or "error: " not in text
    return os.strerror(errno.ENOSPC) in text or (unsaid and files.is_disk_full(results))


def _lock(file: Any, log: str) -> None:
    """Keep out a second process that does the same job, such as one of another project folder."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"error: another run is doing this job, see {log}: wait for it", file=sys.stderr)
        sys.exit(1)
    except OSError:
        pass  # a file system without locks


def _become_child(file: Any, log: str) -> None:
    processes.end_with_parent()
    # Long jobs tell on the console how far they are; the rest is for the log.
    job = os.path.relpath(os.path.splitext(log)[0]).split("logs/")[-1]
    os.environ[CONSOLE] = f"{os.dup(2)}:{job}"
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)


def _watch(child: int, alive: list[int], snakemake: Any) -> str:
    """Wait until the child has ended; end it when it passes a limit, and return which.

    When a process that the job belongs to has ended, both processes of the job do.
    """
    most = snakemake.resources.get("mem_mb")
    hours = snakemake.config["job_hours"]
    start = time.monotonic()
    done = os.pidfd_open(child)
    poll = select.poll()
    for descriptor in (done, *alive):
        poll.register(descriptor, select.POLLIN)
    while True:
        ended = [descriptor for descriptor, _ in poll.poll(1000 * WATCH_SECONDS)]
        if done in ended:
            return ""
        if ended:
            processes.kill_tree(child)
            os._exit(1)
        if most and processes.memory_mb(child) > most:
            processes.kill_tree(child)
            return (
                f"the job took more than the {most} MB of memory that its rule has and was ended; "
                f"give it more: --set-resources {snakemake.rule}:mem_mb={2 * most}"
            )
        if time.monotonic() - start > 3600 * hours:
            processes.kill_tree(child)
            return f"the job took more than {hours} hours and was ended; job_hours is the limit"


def _call(snakemake: Any, function: Callable[..., None], arguments: dict) -> int:
    results = snakemake.config["results"]
    try:
        integrity.begin(results, ledger.outputs(snakemake))
        _delete_leftovers(snakemake)
        integrity.verify(results, ledger.inputs(results, snakemake))
        origin = ledger.origin(results, snakemake)
        origin.again = function(**arguments) or ""
        ledger.check_unchanged(results, snakemake, origin)
        made, left_out = ledger.split(snakemake)
        integrity.seal(results, made, origin)
        integrity.forget(results, left_out)
        code = DONE
    except BaseException as error:  # the child must never go on as if it were the job
        message, code = _explain(error), Ending.FINAL
        if message is None:
            traceback.print_exc()
            message = "this is a fault of Zipquant, or the machine's; please report the log above"
            code = Ending.FAULT
        print("error:", " ".join(message.splitlines()), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _delete_leftovers(snakemake: Any) -> None:
    """Delete what an earlier job has left that Snakemake does not know; it deletes the outputs."""
    for path in set(ledger.outputs(snakemake)) - set(snakemake.output):
        if os.path.lexists(path):
            os.unlink(path)


def _explain(error: BaseException) -> str | None:
    """Return what to tell of an error that is not Zipquant's fault; None for others."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "the job was interrupted"
    if isinstance(error, MemoryError):
        return "there is not enough memory; run fewer jobs at once (--cores)"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{UNWRITABLE[error.errno]}, and {AGAIN}"
    if os.strerror(errno.ENOSPC) in str(error):  # HDF5 has it in the text alone
        return f"{UNWRITABLE[errno.ENOSPC]}, and {AGAIN}"
    return None
