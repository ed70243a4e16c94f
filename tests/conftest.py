"""Fixtures that tests of several folders share."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from helpers.models import zipformer2_like_encoder
from helpers.places import DEMO_MODEL
from helpers.projects import make_project, run
from helpers.streams import plain_loop, utterances
from zipquant.model import contract as contracts


@pytest.fixture(scope="session")
def demo_contract() -> contracts.Contract:
    """The contract of the demo encoder."""
    return contracts.inspect(DEMO_MODEL)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """A project that has run through, toolkit and all; never changed by a test.

    Workers of pytest-xdist share one: the first makes it, the others wait for it.
    """
    if worker_id == "master":
        project = make_project(tmp_path_factory.mktemp("finished"))
        run(project)
        return project
    folder = tmp_path_factory.getbasetemp().parent
    project, done = folder / "finished", folder / "finished.done"
    with FileLock(folder / "finished.lock"):
        if not done.exists():
            run(make_project(project))
            done.touch()
    return project


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished project, for a test to change."""
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


@pytest.fixture
def fresh(tmp_path):
    """A project that has not run yet."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Encoders of three kinds: the demo's, a Zipformer2's interface, and a fixed batch of 1."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "demo": DEMO_MODEL,
        "zipformer2": zipformer2_like_encoder(folder / "zipformer2.onnx"),
        "fixed batch": zipformer2_like_encoder(folder / "fixed.onnx", batch=1),
    }


@pytest.fixture(scope="session")
def expected(models):
    """What the plain loop gives for each model: inputs and outputs by utterance and chunk."""
    found = {}
    for name, model in models.items():
        shape = contracts.inspect(model)
        found[name] = {
            (utterance, chunk): call
            for utterance, frames in enumerate(utterances())
            for chunk, call in enumerate(
                plain_loop(model, frames, shape.chunk_frames, shape.chunk_shift)
            )
        }
    return found
