"""What is published with the code: citation, catalog, release notes, continuous integration."""

import subprocess

import yaml

from helpers.places import ROOT
from zipquant.version import VERSION


def notes(version):
    return subprocess.run([ROOT / ".ci/release_notes", version], capture_output=True, text=True)


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_citation_names_the_version_and_the_license():
    citation = read("CITATION.cff")
    assert citation["version"] == VERSION
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_release_notes_are_the_changelog_of_the_version():
    done = notes(VERSION)
    assert done.returncode == 0
    assert "###" in done.stdout and "\n## " not in done.stdout
    assert done.stdout.strip() in (ROOT / "CHANGELOG.md").read_text()


def test_version_that_is_not_the_codes_has_no_release():
    done = notes("99.0.0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "99.0.0" in done.stderr


def test_catalog_and_actions_name_what_there_is():
    usage = read(".snakemake-workflow-catalog.yml")["usage"]
    assert usage["software-stack-deployment"]["conda"] is True
    steps = read(".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == [".ci/run"] and (ROOT / ".ci/run").exists()


def test_page_of_the_settings_names_settings_that_exist():
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    rows = (ROOT / "config/README.md").read_text().splitlines()
    named = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert named and set(named) <= set(settings)
