"""The container: the image with its two commands, and jobs that Snakemake runs in it."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import ROOT
from helpers.projects import configure, planned, run, snakemake

BASE = "docker.io/library/debian:bookworm-slim"
BUILDER = shutil.which("buildah")
USER = (1234, 1234)  # that the image does not know
SDM = ("--software-deployment-method", "apptainer")

STAND_IN = """#!/bin/sh
# In place of Apptainer: notes what it is called with, and runs the command without a container.
[ "$1" = --version ] && echo "apptainer version 1.4.5" && exit
printf '%s\\n' "$@" > {folder}/arguments
while [ "$1" != zipquant.sif ]; do shift; done
shift
exec "$@"
"""


def put_on_path(monkeypatch, folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "apptainer").write_text(text)
    (folder / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")


def test_jobs_run_in_the_image_with_its_python(fresh, tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path / "bin", STAND_IN.format(folder=tmp_path))
    (fresh / "zipquant.sif").touch()
    configure(fresh, container="zipquant.sif")
    run(fresh, "results/model.json", *SDM)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    before, after = arguments[: arguments.index("zipquant.sif")], arguments[-1]
    assert "exec" in before and before[before.index("--home") + 1] == str(fresh)
    # The first one on the image's path, whatever runs Snakemake.
    assert shlex.split(after.split(";")[-1])[0] == "python"
    # The toolkit's environment is the image's; none is made here.
    assert planned(fresh, "results/model.json", *SDM) == {}


def test_no_job_runs_in_an_image_that_is_not_asked_for(fresh, tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path / "bin", "#!/bin/sh\nexit 1\n")
    run(fresh, "results/model.json")
    (fresh / "zipquant.sif").touch()
    configure(fresh, container="zipquant.sif")
    assert planned(fresh, "results/model.json") == {}


def test_missing_image_ends_in_one_line(fresh):
    configure(fresh, container="zipquant.sif")
    done = snakemake(fresh, "--dry-run", *SDM)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode and line.startswith("error: config: container: there is no zipquant.sif")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Buildah with an image of this project; called with arguments, it runs buildah with them."""
    if not BUILDER or os.getuid():
        pytest.skip("needs buildah and root")
    folder = tmp_path_factory.mktemp("image")
    place = ["--root", folder / "store", "--runroot", folder / "run"]

    def buildah(*arguments, **options) -> subprocess.CompletedProcess:
        offline = ["unshare", "--net"] if options.pop("offline", False) else []
        command = [*offline, BUILDER, *map(str, [*place, *arguments])]
        found = {"capture_output": True, "text": True, "timeout": 1800} | options
        return subprocess.run(command, **found)

    try:
        get_base(buildah, folder)
        options = ["--pull=never", "--isolation", "chroot", "--network", "host"]
        done = buildah("build", *options, *lent(folder), "--tag", "zipquant", ROOT)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield buildah
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")


def get_base(buildah, folder: Path) -> None:
    """Fetch the base image; make one of Debian's packages where no registry is in reach."""
    if buildah("pull", BASE, timeout=120).returncode == 0:
        return
    debootstrap = shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin")
    if not debootstrap:
        pytest.skip(f"{BASE} cannot be fetched, and there is no debootstrap to make it with")
    command = [debootstrap, "--variant=minbase", "bookworm", str(folder / "debian")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if made.returncode:
        pytest.skip(f"{BASE} cannot be fetched, and debootstrap failed: {made.stdout[-300:]}")
    container = buildah("from", "scratch").stdout.strip()
    buildah("copy", container, folder / "debian", "/", check=True)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    buildah("config", "--env", f"PATH={path}", container, check=True)
    buildah("commit", "--rm", container, BASE, check=True)
    shutil.rmtree(folder / "debian")


def lent(folder: Path) -> list[str]:
    """Buildah's options by which pip in a container gets its packages as it does on this machine.

    What pip's settings name is there under /lent while a command runs; nothing of it stays.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    lines, options = ["[global]"], []
    for line in found.stdout.splitlines():
        name, value = line.split("=", 1)
        words = []
        for word in value.strip("'").split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                # With its folder: the pages of an index lead out of it.
                place = f"/lent/{len(options)}"
                options += ["--volume", f"{path.parent}:{place}:ro"]
                word = word.replace(str(path), f"{place}/{path.name}")
            words.append(word)
        lines.append(f"{name.rsplit('.', 1)[-1].strip(':')} = {' '.join(words)}")
    (folder / "pip.conf").write_text("\n".join(dict((x.split(" =")[0], x) for x in lines).values()))
    return [*options, "--volume", f"{folder / 'pip.conf'}:/etc/pip.conf:ro"]


@pytest.mark.slow
def test_image_runs_the_demo_in_any_folder_for_any_user_and_without_a_network(image, tmp_path):
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", *USER)
    container = image("from", "--pull=never", "localhost/zipquant").stdout.strip()
    run_in = ["run", "--isolation", "chroot", "--network", "host", "--user", f"{USER[0]}:{USER[1]}"]
    run_in += ["--volume", f"{tmp_path / 'data'}:/data", container, "--"]
    entry = ["make", "--no-print-directory", "-f", "/zipquant/Makefile"]
    done = image(*run_in, *entry, "demo", offline=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "next: On the board: tar xf bundle.tar." in done.stdout + done.stderr
    assert (tmp_path / "data/results/bundle.tar").exists()


@pytest.mark.slow
def test_image_runs_its_own_tests_with_the_packages_of_the_lock(image, tmp_path):
    container = image("from", "--pull=never", "localhost/zipquant").stdout.strip()
    run_in = ["run", "--isolation", "chroot", "--network", "host", *lent(tmp_path), container, "--"]
    done = image(*run_in, "make", "-f", "/zipquant/Makefile", "lint")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tests = ["sh", "-c", "cd /zipquant && python -m pytest -q tests/jobs tests/calibration"]
    done = image(*run_in, *tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_snakemake_runs_the_workflow_in_the_image_by_apptainer(image, fresh, tmp_path):
    if not shutil.which("apptainer"):
        pytest.skip("needs Apptainer")
    archive = f"docker-archive:{tmp_path}/zipquant.tar"
    image("push", "localhost/zipquant", archive, check=True)
    command = ["apptainer", "build", "--sandbox", tmp_path / "zipquant", archive]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    configure(fresh, container=str(tmp_path / "zipquant"))
    run(fresh, *SDM)
    assert (fresh / "results/bundle.tar").exists()
    assert planned(fresh, *SDM) == {}
