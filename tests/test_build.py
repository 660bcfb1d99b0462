"""The build of the book loses nothing, waits for nobody in silence, and looks before it runs."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "book" / "build.py"
build = runpy.run_path(str(SCRIPT))
BuildError = build["BuildError"]

CHAPTER = """---
kernelspec:
  display_name: Python 3
  name: python3
---

# Multiply

```{code-cell}
:tags: [parameters]

k: int = 2  # neighbours, count
```

```{code-cell}
print(1 / k)
```
"""
SLOW = CHAPTER.replace("print(1 / k)", "import time\nopen('begun', 'w').close()\ntime.sleep(30 * k)")


def run_build(*arguments: object, **more: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def write(root: Path, **chapters: str) -> Path:
    """A project of these chapters."""
    (root / "notebooks" / "profiles").mkdir(parents=True, exist_ok=True)
    for name, text in chapters.items():
        (root / "notebooks" / f"{name}.md").write_text(text, encoding="utf-8")
    files = [{"file": f"notebooks/{name}"} for name in chapters]
    (root / "_toc.yml").write_text(yaml.safe_dump({"root": "book/index", "parts": [{"chapters": files}]}))
    return root


@pytest.fixture
def small(tmp_path):
    """A project of one chapter."""
    return write(tmp_path, **{"01_multiply": CHAPTER})


@pytest.fixture
def earlier(small):
    """The same after an earlier build."""
    folder = small / "_build" / "executed"
    folder.mkdir(parents=True)
    (folder / "01_multiply.ipynb").write_text("{}")
    return folder / "01_multiply.ipynb"


def test_refresh_writes_reference_outputs_without_a_trace_of_papermill(small):
    run = run_build("--root", small, "--refresh")
    assert run.returncode == 0, run.stderr
    text = (small / "notebooks" / "01_multiply.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert notebook.cells[-1].outputs[0].text == "0.5\n"
    assert "papermill" not in text and "injected-parameters" not in text and str(small) not in text
    assert (small / "notebooks" / "01_multiply.md").read_text(encoding="utf-8") == CHAPTER
    assert not list(small.rglob("*.tmp")) and not list(small.rglob("*unfinished*"))
    spent = json.loads((small / "_build" / "seconds.json").read_text())
    assert spent["profile"] == "default" and 0 < spent["seconds"]["01_multiply"] == spent["total"] < 60


def test_a_failing_chapter_stops_the_build_and_keeps_the_references_and_what_was_executed(small, earlier):
    (small / "notebooks" / "profiles" / "zero.yaml").write_text("k: 0\n", encoding="utf-8")
    run = run_build("--root", small, "--profile", "zero")  # the profile reaches the chapter, where it fails
    assert run.returncode == 1
    assert "ZeroDivisionError" in run.stderr
    assert "notebooks/01_multiply.md: code cell 3, which begins `print(1 / k)`" in run.stderr
    assert not (small / "_build" / "html").exists()
    assert not (small / "notebooks" / "01_multiply.ipynb").exists()
    assert earlier.read_text() == "{}"


def test_a_chapter_whose_process_dies_is_named(tmp_path):
    write(tmp_path, **{"01_dies": CHAPTER.replace("print(1 / k)", "import os; os._exit(9)")})
    run = run_build("--root", tmp_path, "--refresh")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "notebooks/01_dies.md: its process died, most often for want of memory" in run.stderr


def test_an_unknown_profile_is_named_before_anything_is_removed(small, earlier):
    run = run_build("--root", small, "--profile", "nosuch")
    assert run.returncode == 1
    assert "no profile 'nosuch'" in run.stderr and "known profiles: none" in run.stderr
    assert earlier.read_text() == "{}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kk: 2\n", "has a parameter kk (did you mean k?); there are k"),
        ("k: 1\nk: 2\n", "k is there twice"),
        ("- k\n", "each line must be `parameter: value`"),
        ("2\n", "each line must be `parameter: value`"),
        ("k: [1\n", "not YAML in UTF-8"),
        ("k: \xe9\n".encode("latin-1"), "not YAML in UTF-8"),
    ],
)
def test_a_profile_s_slips_are_named_with_its_file(small, text, said):
    path = small / "notebooks" / "profiles" / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BuildError) as refused:
        build["read_profile"](small, "mine")
    assert str(path) in str(refused.value) and said in str(refused.value)


def test_a_profile_s_file_for_no_chapter_is_named(small):
    profiles = small / "notebooks" / "profiles"
    (profiles / "mine").mkdir()
    (profiles / "mine.yaml").write_text("k: 3\n")
    (profiles / "mine" / "01_multipy.yaml").write_text("k: 4\n")
    with pytest.raises(BuildError, match=r"01_multipy.yaml: is for no chapter"):
        build["read_profile"](small, "mine")


def test_a_profile_with_a_byte_order_mark_is_read(small):
    (small / "notebooks" / "profiles" / "mine.yaml").write_bytes(b"\xef\xbb\xbfk: 3\r\n")
    assert build["read_profile"](small, "mine") == {"01_multiply": {"k": 3}}


def test_every_chapter_checks_its_parameters_before_the_first_one_runs():
    slips = [({"learning_rate": "2e-x"}, "learning_rate='2e-x'"), ({"corpus": "/no/such"}, "corpus='/no/such'")]
    for share, said in slips:
        with pytest.raises(BuildError, match=f"notebooks/01_ttt_nn_loop.md: .*{said}"):
            build["check_parameters"](ROOT, {"01_ttt_nn_loop": share})
    build["check_parameters"](ROOT, {"01_ttt_nn_loop": {"learning_rate": "2e-5"}, "09_what_it_costs": {}})


def test_missing_reference_outputs_are_named(small):
    (small / "_config.yml").write_text("html: {extra_footer: ''}\n", encoding="utf-8")
    (small / "book").mkdir()
    run = run_build("--root", small, "--no-execute")
    assert run.returncode == 1
    assert "notebooks/01_multiply.ipynb is missing; run `make notebooks`" in run.stderr


def test_one_chapter_alone_is_executed_and_written_back(tmp_path):
    write(tmp_path, **{"01_multiply": CHAPTER, "02_slow": SLOW})
    assert run_build("--root", tmp_path, "--refresh", "--only", "01").returncode == 0
    assert [path.name for path in (tmp_path / "notebooks").glob("*.ipynb")] == ["01_multiply.ipynb"]
    run = run_build("--root", tmp_path, "--only", "03")
    assert run.returncode == 1 and "no chapter '03': there are 01_multiply, 02_slow" in run.stderr


def start(root: Path, *arguments: object) -> subprocess.Popen:
    """Begin a build; return when its slow chapter is under way."""
    command = [sys.executable, str(SCRIPT), "--root", str(root), *map(str, arguments)]
    listening = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # also if these tests do not listen
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listening)
    for _ in range(600):
        if (root / "notebooks" / "begun").exists():
            return process
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("the chapter never began")


@pytest.fixture
def slow(tmp_path):
    """A build whose second chapter takes a minute, and the first one is done."""
    root = write(tmp_path, **{"01_multiply": CHAPTER, "02_slow": SLOW})
    process = start(root, "--refresh")
    yield root, process
    process.kill()
    process.wait()


def test_a_second_build_says_who_is_at_work_and_stops(slow):
    root, process = slow
    for more in (["--no-execute"], ["--refresh", "--build", root / "elsewhere"]):
        second = run_build("--root", root, *more)
        assert second.returncode == 1 and process.poll() is None
        assert f"another build is at work there, process {process.pid}, since 2" in second.stderr
    assert not list((root / "notebooks").glob("*.ipynb"))


def test_a_killed_build_locks_nothing_and_leaves_no_half_of_a_chapter(slow):
    root, process = slow
    process.kill()
    process.wait()
    assert not list((root / "notebooks").glob("*.ipynb")) and not list((root / "_build" / "executed").iterdir())
    assert run_build("--root", root, "--refresh", "--only", "01").returncode == 0


def test_ctrl_c_leaves_what_is_finished(slow):
    root, process = slow
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and said.splitlines()[-1].startswith("Interrupted. Finished chapters are in")
    done = nbformat.read(root / "_build" / "executing" / "01_multiply.ipynb", as_version=4)
    assert done.cells[-1].outputs[0].text == "0.5\n"
    assert not (root / "_build" / "executing" / "02_slow.ipynb").exists()
    assert list(json.loads((root / "_build" / "seconds.json").read_text())["seconds"]) == ["01_multiply"]
    assert not list((root / "notebooks").glob("*.ipynb"))


def test_a_notebook_that_was_not_executed_is_never_a_reference(small):
    folder = small / "_build" / "executed"
    folder.mkdir(parents=True)
    nbformat.write(jupytext.reads(CHAPTER, "md:myst"), folder / "01_multiply.ipynb")
    with pytest.raises(BuildError, match="was not executed to its end"):
        build["write_back"](small, folder, ["01_multiply"])
    assert not (small / "notebooks" / "01_multiply.ipynb").exists()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(BuildError, match="no lock can be had there"), build["building"](tmp_path):
        pass


@pytest.fixture
def copied(small, monkeypatch):
    """A clone whose environment still knows the package of the one it was copied from."""
    (small / "tttnn").mkdir()
    (small / "tttnn" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return small


def test_chapters_of_one_clone_never_run_another_s_package(copied):
    run = run_build("--root", copied, "--refresh")
    assert run.returncode == 1 and not (copied / "notebooks" / "01_multiply.ipynb").exists()
    assert f"would import tttnn from {ROOT / 'tttnn' / '__init__.py'}, not from {copied / 'tttnn'}" in run.stderr
    assert "Remove .venv here and let make build a new one" in run.stderr


def test_nbval_never_compares_another_clone_s_package(copied):
    for name in ("book/build.py", "notebooks/conftest.py"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(copied)]
    command += ["--nbval", "--nbval-current-env", str(copied / "notebooks")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=copied)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR and "would import tttnn from" in run.stderr


def test_folders_that_an_interrupted_pip_left_stop_nothing(tmp_path, monkeypatch):
    (tmp_path / "tttnn-0.0.9.dist-info").mkdir()
    (tmp_path / "~ttnn-0.0.9.dist-info").mkdir()
    (tmp_path / "~ttnn-0.0.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tttnn\n")
    (tmp_path / "tttnn.egg-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    table = build["versions"]()
    assert table.count("| tttnn |") == 1 and f"| papermill | {papermill.__version__} |" in table
