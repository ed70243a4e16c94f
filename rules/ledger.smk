# What decides whether a job has to run: see zipquant/jobs/ledger.py. Included last, it knows all rules.

import atexit

from snakemake.io import _IOFile
from snakemake_interface_executor_plugins.settings import DeploymentMethod
from zipquant.jobs import folder, ledger


def libraries_are_known() -> bool:
    """Whether jobs use the libraries of this process; other environments are Snakemake's matter."""
    methods = workflow.deployment_settings.deployment_method
    in_container = DeploymentMethod.APPTAINER in methods and config["container"]
    return DeploymentMethod.CONDA not in methods and not in_container


LEDGER = ledger.Ledger(config["results"], libraries_are_known)


def look_at_inputs() -> None:
    """Hold on to what the inputs are now, so that no job reads others."""
    for job in workflow.dag.needrun_jobs():
        LEDGER.look(job)
    try:
        LEDGER.seen.save()
    except UserError as error:
        stop(error)


def products() -> list:
    """Patterns of all files that jobs write."""
    found = []
    for rule in workflow.rules:
        found += rule.products()
        found += [_IOFile(path, rule) for path in rule.params.get(ledger.ALSO, [])]
    return found


def note_other_settings() -> None:
    """Name what other settings have made and this run does not use; it stays, for another run with those.

    A comparison of recipes is a target of its own.
    """
    wanted = {path for job in workflow.dag.jobs for path in ledger.outputs(job)}
    if not {*rules.report.output, *rules.bundle.output} <= wanted:
        return
    found = folder.of_other_settings(config["results"], wanted)
    if found := [name for name in found if not name.startswith("lineage")]:
        print(
            f"note: not of this run but of other settings, in {config['results']}: {plain(folder.some(found))}",
            file=sys.stderr,
        )


try:
    ledger.install(LEDGER)
    if workflow.is_main_process:
        patterns = products()
        folder.check_is_ours(
            config["results"],
            patterns,
            lambda path: any(pattern.match(path) for pattern in patterns),
        )
except UserError as error:
    stop(error)
