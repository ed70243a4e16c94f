# What is tried again, where a profile sets `retries`: jobs that were killed, ran out of memory or time,
# or met a fault. An error in what the user gave comes again however often it is tried.
# Included before the console, which takes the events that it shows in its own way from the log.

import logging

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from zipquant.jobs import endings


def is_final(log: Path) -> bool:
    """Whether a job of this run has ended so that another try cannot help."""
    if not log.is_file() or log.stat().st_mtime < STARTED:
        return False
    return endings.of_log(log) == endings.Ending.FINAL


class NoRetriesOfFinalErrors(logging.Filter):
    """Takes a rule's retries away when another try of one of its jobs cannot help; the run fails now.

    Snakemake reports an error before it decides whether to try again. A group is tried again if
    one of its rules may be.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "event", None)
        jobs = []
        if event == LogEvent.JOB_ERROR:
            jobs = [vars(record)]
        elif event == LogEvent.GROUP_ERROR:
            jobs = record.job_error_info
        if any(is_final(Path(log)) for job in jobs for log in job["log"]):
            for job in jobs:
                workflow.get_rule(job["rule_name"]).restart_times = 0
        return True


if workflow.is_main_process and not workflow.dryrun:
    logger.addFilter(NoRetriesOfFinalErrors())
