# What the console shows: one line a job, when it is done; a dry run is left as Snakemake prints it.

import atexit
import logging

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent


class OneLineAJob(logging.Filter):
    """Folds what Snakemake says of a job, about eight lines, into one."""

    def __init__(self):
        super().__init__()
        self.messages = {}
        self.finished = []

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            self.messages[record.jobid] = record.rule_msg or record.rule_name
            return False
        if event == LogEvent.JOB_FINISHED:
            self.finished.append(record.job_id)
            return False
        if event == LogEvent.PROGRESS:
            done = ", ".join(self.messages.get(job, "") for job in self.finished)
            self.finished.clear()
            record.event, record.args = None, ()
            record.msg = f"[{record.done:>3} of {record.total}] {done}"
            return True
        if record.getMessage().startswith("Nothing to be done"):
            atexit.register(show_summary)
        return not record.getMessage().startswith(
            ("Select jobs to execute", "Execute ")
        )


if workflow.is_main_process and not workflow.dryrun:
    logger.addFilter(OneLineAJob())
