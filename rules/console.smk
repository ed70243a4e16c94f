# What the console shows: one line a job, when it is done, and when it begins if it takes long; about
# how long the rest takes; on a failure, at the end, what each failed job has said last. A dry run is
# left as Snakemake prints it.

import atexit
import json
import logging
import re
import shlex

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from zipquant.jobs import time_left

TAIL_LINES = 8

# Seconds from which a job is announced when it begins, and rules of which that is known beforehand.
LONG = 20
LONG_RULES = ("quantize", "plain_encoder", "lineage_build")

# What Snakemake says of itself and of every run alike.
CHATTER = (
    *("Select jobs to execute", "Execute "),
    *("Assuming unrestricted shared filesystem", "Using shell", "Conda environments"),
    *("Rules claiming more threads", "Exiting because a job execution failed"),
    *("Provided cores", "Provided resources", "Complete log(s)"),
    *("Activating singularity image", "Activating conda environment"),
)


# What comes one after the other, by the rule that ends it.
STAGES = {
    **{"features": "features", "traces": "traces", "calibration": "calibration set"},
    **{"quantize": "models", "evaluate": "evaluation", "report": "report"},
    **{"bundle": "bundle"},
}


class OneLineAJob(logging.Filter):
    """Folds what Snakemake says of a job, about eight lines, into one."""

    def __init__(self):
        super().__init__()
        self.messages = {}
        self.begun = {}
        self.finished = []
        # Of each failed job: what it was doing, and its logs.
        self.failed = {}
        self.rest = time_left.TimeLeft({}, {}, 1)

    def filter(self, record: logging.LogRecord) -> bool:
        # Not known before the first job is looked for.
        if workflow.dryrun:
            return True
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            return self.first(record)
        if event == LogEvent.JOB_INFO:
            return self.begin(record)
        if event == LogEvent.JOB_FINISHED:
            self.rest.finish(record.job_id, time.monotonic())
            self.finished.append(record.job_id)
            self.failed.pop(record.job_id, None)
            return False
        if event == LogEvent.PROGRESS:
            done = ", ".join(self.line(job) for job in self.finished)
            self.finished.clear()
            left = self.rest.in_words(time.monotonic())
            line = f"[{record.done:>3} of {record.total}] {done}"
            return put(record, f"{line}; {left}" if left else line)
        if event == LogEvent.JOB_ERROR:
            # Without what follows in some.
            name = self.messages.get(record.jobid, record.rule_name).split(": ")[0]
            self.failed[record.jobid] = (name, list(record.log))
            # Without a log there is nothing to say at the end but what Snakemake says now.
            if not said(record.log):
                return True
            return put(record, f"failed: {name}")
        if event == LogEvent.ERROR and said(sorted_logs()):
            # The job's command and exit code; the log says why.
            return not record.getMessage().startswith(
                ("RuleException", "CalledProcess")
            )
        if record.getMessage().startswith("Elapsed time"):
            return put(record, record.getMessage().partition(".")[0])
        if record.getMessage().startswith("Nothing to be done"):
            atexit.register(show_summary)
        return not record.getMessage().startswith(CHATTER)

    def first(self, record: logging.LogRecord) -> bool:
        """How many jobs there are, instead of a table of them, and about how long they take."""
        jobs = {k: n for k, n in record.stats.items() if k not in ("total", "all")}
        files = {
            k: re.sub(r"{\w+}", "*", path) for k, path in benchmark_patterns().items()
        }
        # On a cluster there are no cores, but jobs at once.
        at_once = workflow.global_resources["_cores"].value or workflow.nodes or 1
        self.rest = time_left.TimeLeft(jobs, time_left.earlier(files), at_once)
        left = self.rest.in_words(time.monotonic())
        stages = ", ".join(words for name, words in STAGES.items() if name in jobs)
        said = f"{record.stats['total']} jobs to do{': ' if stages else ''}{stages}"
        where = f"their logs are in {result('logs')}"
        return put(record, "; ".join(filter(None, (said, where, left))))

    def begin(self, record: logging.LogRecord) -> bool:
        """That a job begins, if it takes long."""
        message, now = record.rule_msg or record.rule_name, time.monotonic()
        self.messages[record.jobid], self.begun[record.jobid] = message, now
        self.rest.begin(record.jobid, record.rule_name, now)
        expected = self.rest.expected(record.rule_name)
        if (expected or 0) < LONG and record.rule_name not in LONG_RULES:
            return False
        return put(record, f"     begins: {message}")

    def line(self, job: int) -> str:
        """What a job has done, and how long it took if that matters."""
        seconds = time.monotonic() - self.begun.get(job, time.monotonic())
        return self.messages.get(job, "") + (
            f" ({seconds:.0f} s)" if seconds >= 2 else ""
        )


def put(record: logging.LogRecord, text: str) -> bool:
    """Have a plain line printed in the place of what Snakemake says."""
    record.event, record.args, record.msg = None, (), text
    return True


def show_summary() -> None:
    """Print the report's lines, at exit, so that they come last."""
    summary = Path(result("report/summary.txt"))
    if summary.exists():
        print(f"report: {result('report/index.html')}", file=sys.stderr)
        print(plain(summary.read_text()), end="", file=sys.stderr)
    archive, figures = result("bundle.tar"), Path(result("report/report.json"))
    if os.path.exists(archive):
        print(f"bundle: {archive}", file=sys.stderr)
    if figures.exists():
        for step in json.loads(figures.read_text())["verdict"].get("next", []):
            print(f"next: {plain(step)}", file=sys.stderr)


def sorted_logs() -> list[Path]:
    """The logs that this run's jobs have written."""
    logs = sorted(Path(result("logs")).rglob("*.log"))
    return [log for log in logs if log.stat().st_mtime >= STARTED]


def said(logs) -> list[str]:
    """The lines to repeat of some logs: the errors, else the last ones; a file may be missing."""
    found = []
    for path in map(Path, logs):
        if not path.is_file() or path.stat().st_mtime < STARTED:
            continue
        # The toolkit's progress bars overwrite their line: what stands there in the end counts.
        text = path.read_text(errors="replace").replace("\r", "\n")
        lines = [
            plain(re.sub(r"\x1b\[[\d;]*m", "", line)).rstrip()
            for line in text.splitlines()
        ]
        errors = [line for line in lines if line.startswith("error: ")]
        found += errors or [line for line in lines if line][-TAIL_LINES:]
    return found


def show_errors() -> None:
    """Repeat what this run's failed jobs have said last at the end, where it is looked for.

    A variant that could not be built does not fail the run, but its error is shown too.
    """
    failed = console.failed.values()
    shown = {str(log) for _, logs in failed for log in logs}
    # Jobs of which Snakemake has not said which have failed, such as those of a group.
    others = [
        ("", [log]) for log in sorted_logs() if str(log) not in shown and errors_in(log)
    ]
    if not (*failed, *others):
        return
    for name, logs in (*failed, *others):
        print(f"\n{name} failed:" if name else "", file=sys.stderr)
        for line in said(logs):
            print(line if line.startswith("error: ") else f"  {line}", file=sys.stderr)
        for log in logs:
            print(f"  (log: {log})", file=sys.stderr)


def show_next_command() -> None:
    """Print how to go on after a failure, at exit, below what has failed."""
    command = shlex.join(["snakemake", *sys.argv[1:]])
    print(
        f"\nWhat is finished is kept. When that is fixed, go on with: {command}",
        file=sys.stderr,
    )


def errors_in(log: Path) -> bool:
    return any(line.startswith("error: ") for line in said([log]))


console = OneLineAJob()
if workflow.is_main_process:
    logger.addFilter(console)
