"""Calls in a process of their own: results, errors, and deaths."""

import faulthandler
import os
import signal

import pytest

from zipquant.errors import ToolkitError, UserError
from zipquant.jobs import isolation


def test_result_comes_back_and_the_process_is_another():
    assert isolation.call(lambda a, b: [a, b, os.getpid()], a=1, b="x")[:2] == [1, "x"]
    assert isolation.call(os.getpid) != os.getpid()


def test_users_errors_pass_and_faults_are_no_failure_of_the_toolkit(capfd):
    def refuse():
        raise UserError("x is wrong")

    with pytest.raises(UserError, match=r"^x is wrong$") as caught:
        isolation.call(refuse)
    assert caught.type is UserError
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        isolation.call(lambda: 1 // 0)
    assert "1 // 0" in capfd.readouterr().err


def abort():
    faulthandler.disable()  # else pytest's prints its tables
    os.abort()


def exhaust():
    raise MemoryError


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (abort, r"aborted the process \(SIGABRT\)"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL: most likely .* too little memory"),
        (lambda: os._exit(134), "exit code 134"),
        (exhaust, "ran out of memory"),
    ],
)
def test_death_is_a_failure_of_the_toolkit(end, message):
    with pytest.raises(ToolkitError, match=message):
        isolation.call(end)
