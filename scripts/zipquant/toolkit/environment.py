"""The environments of rknn-toolkit2: one folder of packages for each version, made when needed.

The toolkit is compiled for NumPy 1 and needs old versions of onnx, protobuf and setuptools. They
lie in a folder of their own, which only the toolkit's process has on its path, before the packages
of Zipquant's environment: so the versions do not meet, and Zipquant's own packages are not bound by
them. What the toolkit takes in any version comes from there: PyTorch, onnxruntime, scipy, psutil.

    python -m zipquant.toolkit.environment [VERSION ...]

makes the folders ahead, such as for a cluster whose nodes have no network.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zipquant.errors import UserError
from zipquant.toolkit import versions

FOLDER = "ZIPQUANT_TOOLKITS"
"""Environment variable: the folder of the environments, in place of one in Python's own."""

PACKAGES = (
    "numpy==1.26.4",
    "protobuf==4.25.4",
    # From 1.19 on: "module 'onnx' has no attribute 'mapping'".
    "onnx==1.18.0",
    # From 81 on: "No module named 'pkg_resources'".
    "setuptools==80.9.0",
    "fast-histogram==0.14",
    # In place of opencv-python, which needs a desktop's libraries.
    "opencv-python-headless==4.11.0.86",
    "ruamel.yaml==0.19.1",
    "tqdm==4.70.1",
    "typing_extensions==4.16.0",
)
"""What lies beside the toolkit, of any version."""

DONE = "packages.txt"
"""The file that a finished environment holds: its packages, one a line."""


def root() -> Path:
    """Return the folder of the environments."""
    return Path(os.environ.get(FOLDER) or Path(sys.prefix, "toolkits")).absolute()


def is_made(version: str) -> bool:
    """Return whether the environment of a version is there, with the packages named here."""
    try:
        return (root() / version / DONE).read_text(encoding="utf-8") == _list(version)
    except OSError:
        return False


def ensure(version: str) -> Path:
    """Return the folder of a version's packages; make it where it is not there.

    It is made under a lock, and put in its place when it is whole, so that several jobs, or a job
    that is killed, leave nothing half made. pip's progress goes to standard error.

    Raises:
        UserError: there is no such version, or it cannot be installed.
    """
    versions.check(version)
    if not is_made(version):
        with _locked():
            if not is_made(version):  # by another process meanwhile
                _make(version)
    return root() / version


def _list(version: str) -> str:
    return "".join(f"{name}\n" for name in (f"rknn-toolkit2=={version}", *PACKAGES))


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    try:
        root().mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root() / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write to {root()} ({error.strerror}), where the toolkit is installed: set "
            f"{FOLDER} to a folder that can be written to"
        ) from None
    with os.fdopen(descriptor):
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _make(version: str) -> None:
    print(
        f"installing rknn-toolkit2 {version} into {root() / version}; once, about 420 MB",
        file=sys.stderr,
        flush=True,
    )
    for left in root().glob(".new-*"):  # by a process that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=root()) as temporary:
        new = Path(temporary, version)
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--no-warn-conflicts"]
        command += ["--target", str(new), *_list(version).split()]
        # Standard output may be what the compiler's messages are taken from.
        if code := subprocess.run(command, stdout=2).returncode:
            raise UserError(
                f"rknn-toolkit2 {version} cannot be installed (pip ended with {code}, see above): "
                "it needs a network, x86-64 or aarch64 Linux, and Python 3.10, 3.11 or 3.12; run "
                "the same command again"
            )
        (new / DONE).write_text(_list(version), encoding="utf-8")
        if (place := root() / version).exists():
            place.rename(Path(temporary, "old"))
        new.rename(place)


def main(*wanted: str) -> None:
    """Make the environments of some versions, or of the default one."""
    try:
        for version in wanted or (versions.DEFAULT,):
            print(ensure(version))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
