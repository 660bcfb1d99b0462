"""Commands, as `python -m tttnn` takes them: in this process, which has loaded torch already, or in their own."""

import logging
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from tttnn.__main__ import main


def called(*arguments, home):
    """What a command says and its exit status, when it is called in this process."""
    words, out, err = ["tttnn", *map(str, arguments)], StringIO(), StringIO()
    root, level = logging.getLogger(), logging.getLogger().level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        patch.setenv("TTTNN_HOME", str(home))
        patch.setattr(root, "handlers", [])  # it logs to its own stderr, as it does where nothing else listens
        with pytest.raises(SystemExit) as ended:
            main()
    root.setLevel(level)
    return subprocess.CompletedProcess(words, ended.value.code or 0, out.getvalue(), err.getvalue())


def started(*arguments, home):
    """The same in a process of its own: five seconds of processor time, most of them for imports."""
    command = [sys.executable, "-m", "tttnn", *map(str, arguments)]
    environment = os.environ | {"TTTNN_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)
