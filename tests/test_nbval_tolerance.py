"""The tolerance of the chapters' regression test lets small numerical differences pass, and nothing else."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "notebooks" / "conftest.py"
_spec = importlib.util.spec_from_file_location("notebooks_conftest", CONFTEST)
conftest = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(conftest)


@pytest.mark.parametrize(
    ("reference", "rerun"),
    [
        ("bits per byte 1.500", "bits per byte 1.515"),  # 1 % off
        ("loss 0.001", "loss 0.019"),  # near zero, within the absolute tolerance
        ("12,345.0 bytes", "12,346.0 bytes"),
        ("falls to 51%", "falls to 52%"),
        ("falls to 51 %", "falls to 49 %"),
        ("a  10.0\nb   2.5", "a   9.99\nb   2.51"),  # narrower numbers, other padding
        ('{"x": 1.5e-3, "y": -2.0}', '{"x": 1.501e-3, "y": -2.001}'),
        ("<td>41.0</td>", "<td>41.2</td>"),
    ],
)
def test_small_numerical_differences_pass(reference, rerun):
    assert conftest.Tolerant(reference) == conftest.Tolerant(rerun)
    assert not conftest.Tolerant(reference) != conftest.Tolerant(rerun)  # noqa: SIM202, nbval asks this way


@pytest.mark.parametrize(
    ("reference", "rerun"),
    [
        ("bits per byte 1.500", "bits per byte 1.650"),  # 10 % off
        ("bits per byte 1.500", "bits per char 1.500"),  # another word
        ("gain -1.5", "gain 1.5"),
        ("12,345 documents", "12,346 documents"),  # whole numbers are counts and ids: exact
        ("falls to 51%", "falls to 55%"),
        ("1.5 %", "1.5"),
        ("1.0 2.0", "1.0"),
        ("fingerprint 3fa97c", "fingerprint 3fa98c"),  # digits inside a word are exact
        ("fig-3a, k20", "fig-3a, k21"),
        ("loss nan", "loss 1.0"),
    ],
)
def test_other_differences_fail(reference, rerun):
    assert conftest.Tolerant(reference) != conftest.Tolerant(rerun)
    assert not conftest.Tolerant(reference) == conftest.Tolerant(rerun)  # noqa: SIM201


STORED = [("loss 1.51", True), ("loss 1.80", False), ("cost 1.50", False)]


@pytest.mark.parametrize(("stored", "passes"), STORED)
def test_nbval_uses_the_tolerance(tmp_path, stored, passes):
    """As `make test` calls it: in processes that share the files, each file with one kernel for all its cells."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    output = nbformat.v4.new_output("stream", name="stdout", text=f"{stored}\n")
    first = nbformat.v4.new_code_cell("loss = 1.5", execution_count=1)
    cell = nbformat.v4.new_code_cell("print(f'loss {loss:.2f}')", execution_count=2, outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[first, cell]), tmp_path / "sample.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command += ["--nbval", "--nbval-current-env", "--numprocesses=1", "--dist=loadfile", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == (0 if passes else 1), run.stdout
    assert "plugin exception" not in run.stdout
