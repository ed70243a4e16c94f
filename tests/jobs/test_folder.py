"""Where results may be, and what may be in the way there."""

import os
import re
from pathlib import Path

import pytest

from zipquant.errors import UserError
from zipquant.jobs import folder, integrity


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "project"


def test_every_spelling_of_a_folder_is_the_same(project):
    Path("results").mkdir()
    Path("models").mkdir()
    Path("link").symlink_to("results")
    for given in (
        *("results", "./results", "results/", "results//", "models/../results", "link", "link/"),
        *(str(project / "results"), "../project/results"),
    ):
        assert folder.normal(given) == "results"
    assert folder.normal("../other") == str(project.parent / "other")


def test_results_of_other_settings_are_named_by_the_folder_that_nothing_else_is_in():
    made = ("a/old/x.tsv", "a/old/deep/y.tsv", "a/new/x.tsv", "b/0.tsv", "b/1.tsv", "best.json")
    for path in (Path("results", name) for name in made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        integrity.seal("results", [path])
    integrity.begin("results", ["results/c/gone.tsv"])
    wanted = ["results/a/new/x.tsv", "results/b/0.tsv", "results/never.made"]
    assert folder.of_other_settings("results", wanted) == ["a/old", "b/1.tsv", "best.json"]
    assert folder.some(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_home_folder_is_meant_by_its_sign(project):
    assert folder.normal("~/x") == str(project.parent / "home/x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("~nobody-of-this-name/x", "is not expanded"),
        ("$HOME/x", "is not expanded"),
        ("a" * 300, "more than 255 bytes"),
        ("é" * 130, "more than 255 bytes"),
        ("a/" * 2100, "too long a path"),
        ("/dev/null", "/dev/null is a file and no folder"),
        ("file/results", "file is a file and no folder"),
    ],
)
def test_what_cannot_be_a_folder_is_refused(given, message):
    Path("file").touch()
    with pytest.raises(UserError, match=message):
        folder.normal(given)


@pytest.mark.parametrize("given", ["scripts", "scripts/x", ".git", ".venv/x", "rules", "link"])
def test_the_workflows_own_folders_are_no_results(project, given):
    Path("scripts").mkdir()
    Path("link").symlink_to("scripts")
    assert folder.of_project(folder.normal(given), project)
    assert not folder.of_project("results", project)
    assert not folder.of_project("/elsewhere/scripts", project)


def check(results: str = "results") -> None:
    patterns = ["best.json", r"traces/\d+\.h5", "bundle", r"logs/\d+\.log"]
    folder.check_is_ours(
        results,
        [f"{results}/{pattern}" for pattern in patterns],
        lambda path: any(re.fullmatch(f"{results}/{pattern}", path) for pattern in patterns),
    )


@pytest.mark.parametrize("name", ["best.json", "traces/0.h5", "bundle/mine/a.txt", "logs/0.log"])
def test_file_in_the_way_is_named(name):
    path = Path("results", name)
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(UserError, match=rf"no job of Zipquant has made .*: {name}\. Move them"):
        check()
    assert path.exists()


def test_what_is_not_in_the_way_and_what_jobs_have_made_or_left_is_no_hindrance():
    for name in ("best.json", "bundle/a", "traces/0.h5", "traces/.1.part.h5", "notes.txt"):
        Path("results", name).parent.mkdir(parents=True, exist_ok=True)
        Path("results", name).touch()
    integrity.seal("results", ["results/best.json", "results/bundle"])
    integrity.begin("results", ["results/traces/0.h5"])
    Path("results/logs").mkdir()
    Path("results/logs/0.log").touch()
    check()
    Path("results/bundle/mine").symlink_to("/")
    with pytest.raises(UserError, match="bundle/mine"):
        check()


def test_folder_that_is_not_there_holds_nothing():
    check("none")
    os.mkdir("none")
    check("none")


@pytest.mark.parametrize("name", ["best.json", "traces", "traces/0.h5"])
def test_link_to_nothing_is_named_with_what_to_do(name):
    for path in ("results/best.json", "results/traces/0.h5"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    integrity.seal("results", ["results/best.json", "results/traces/0.h5"])
    link = Path("results", name)
    link.rename("elsewhere")
    link.symlink_to(Path("elsewhere").absolute())
    check()
    Path("elsewhere").rename("further")
    with pytest.raises(UserError, match=rf"results/{name} is a link to .*elsewhere, which is not"):
        check()


def test_link_to_nothing_where_a_run_would_write_is_named():
    Path("results").mkdir()
    Path("results/traces").symlink_to("nowhere")
    with pytest.raises(UserError, match="results/traces is a link to nowhere, which is not there"):
        check()
