"""The project's files agree with each other, and every chapter keeps the house rules."""

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
FILES = [entry["file"] for part in TOC["parts"] for entry in part["chapters"]]
CHAPTERS = [Path(file).name for file in FILES if file.startswith("notebooks/")]
MACHINE_PATH = re.compile(r"/(?:home|Users|root)/\w|[A-Z]:\\Users|file:///\w")

READY = ".venv/.ready"

each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def reference(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in reference(name).cells if cell.cell_type == "code"]


def pins(lock: str = "requirements.lock") -> dict[str, str]:
    lines = [line for line in read(lock).splitlines() if line and not line.startswith(("#", "-c "))]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def project_files() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in sorted(set(run.stdout.split("\0")) - {""}) if (ROOT / name).is_file()]


def test_lock_has_exact_public_versions():
    for name, version in chain(pins().items(), pins("requirements-cuda.lock").items()):
        assert re.fullmatch(r"[\w.]+", version), f"{name}=={version} is not a version of the package index"


def test_the_cuda_build_of_torch_gets_exact_versions_too():
    """Constraints: they pin what torch asks for on one index and install nothing on another."""
    assert "-c requirements-cuda.lock" in read("requirements.lock").splitlines()
    assert f"torch=={pins()['torch']}" in read("requirements-cuda.lock").splitlines()[0], "run `make lock`"
    cuda = pins("requirements-cuda.lock")
    assert {"triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= set(cuda)
    assert not set(cuda) & set(pins())


def test_dependencies_are_pinned_within_their_bounds():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    locked = pins()
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        requirement = Requirement(line)
        assert requirement.specifier, f"{requirement.name} has no bounds"
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{line}, but {version} is locked"


def test_conda_installs_from_the_same_lock():
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    assert [entry for entry in dependencies if isinstance(entry, str)] == ["python=3.11", "pip"]
    assert dependencies[-1] == {"pip": ["-r requirements.lock", "-e ."]}
    assert "3.11" in tomllib.loads(read("pyproject.toml"))["project"]["requires-python"]
    assert "python3.11" in read("Makefile")


def test_make_installs_from_the_lock():
    assert re.search(r"^\t.*install -r requirements\.lock$", read("Makefile"), re.MULTILINE)
    assert "make test" in read(".ci/run")


def test_hooks_before_a_commit_are_those_of_the_lock():
    """No hook is fetched from elsewhere, and none runs another version than `make` installed."""
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/")


@pytest.mark.parametrize("command", ["make book", "make test", "papermill notebooks/", "hf download"])
def test_readme_shows_the_commands(command):
    assert command in read("README.md")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_exist(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", read(page)):
        assert (ROOT / target).exists(), f"{page} points to {target}, which does not exist"


def test_the_changelog_knows_this_version():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    headings = re.findall(r"^## (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].startswith(f"{version} - ")


def test_citation_names_the_report():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert citation["preferred-citation"]["url"].endswith("2511.16691")


def test_no_machine_path_in_any_file():
    # A path of one part, as homes in containers are, is a word that text may hold: /data, /models.
    places = {str(place) for place in (ROOT, Path.home(), Path(sys.prefix)) if len(place.parts) > 2} - {"/usr/local"}
    for path in project_files():
        if path == Path(__file__) or path.suffix == ".safetensors":
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        found = MACHINE_PATH.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found and found.group()}"
        assert not [place for place in places if place in text], path.relative_to(ROOT)


def test_every_notebook_is_a_chapter():
    halves = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert halves == set(CHAPTERS)
    assert halves == {path.stem for path in (ROOT / "notebooks").glob("*.md")}


@each_chapter
def test_chapter_halves_agree(name):
    def essence(notebook):
        keys = ("tags", "mystnb")
        return [
            (cell.cell_type, cell.source, {key: cell.metadata[key] for key in keys if cell.metadata.get(key)})
            for cell in notebook.cells
        ]

    text = jupytext.read(ROOT / "notebooks" / f"{name}.md")
    assert essence(text) == essence(reference(name)), "run `make notebooks`"


@each_chapter
def test_chapter_was_executed(name):
    cells = [cell for cell in code_cells(name) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) / 3
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "progress bars or warnings"


@each_chapter
def test_chapter_keeps_no_trace_of_the_run(name):
    notebook = reference(name)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "mystnb"}
        assert "injected-parameters" not in cell.metadata.get("tags", [])


@each_chapter
def test_chapter_explains_its_parameters(name):
    cells = code_cells(name)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == cells[:1], "the first code cell, and only that one, is tagged `parameters`"
    lines = tagged[0].source.splitlines()
    for statement in ast.parse(tagged[0].source).body:
        line = lines[statement.end_lineno - 1]
        assert isinstance(statement, ast.AnnAssign), f"write `name: type = value  # meaning, unit`: {line}"
        ast.literal_eval(statement.value)  # derived values belong in the next cell
        assert re.search(r"  # \S+ ?\S*", line), f"says nothing about its parameter: {line}"


@each_chapter
def test_chapter_code_is_short(name):
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code_cells(name)]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 30


@each_chapter
def test_chapter_figures_have_captions_and_labels(name):
    for cell in code_cells(name):
        for label in re.findall(r"""["'](fig-[\w-]+)["']""", cell.source):
            shown = cell.metadata.get("mystnb", {}).get("figure", {})
            assert shown.get("name") == label, f"{label} has no `mystnb` figure metadata of that name"
            assert shown.get("caption"), f"{label} has no caption"


def copied_to(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        shutil.copy(ROOT / name, folder)
    return folder


def planned(folder: Path) -> list[str]:
    """What `make book` would do, each command once."""
    run = subprocess.run(["make", "-n", "book"], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile and an environment that `make` has just made there."""
    folder = copied_to(tmp_path / "clone", "Makefile", "requirements.lock", "requirements-cuda.lock", "pyproject.toml")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=folder, check=True)
    (folder / ".venv" / ".place").write_text(f"{folder}\n")
    for age, name in enumerate(("Makefile", "requirements.lock", "requirements-cuda.lock", "pyproject.toml", READY)):
        (folder / name).touch()
        os.utime(folder / name, (10**9 + age, 10**9 + age))
    return folder


def test_an_environment_that_is_ready_is_used(clone):
    assert not [line for line in planned(clone) if "install" in line or "venv" in line.split()]


@pytest.mark.parametrize("damage", ["copied", "no python", "no place", "old"])
def test_an_environment_that_is_not_this_clones_is_installed_anew(clone, damage):
    if damage == "copied":
        clone = shutil.copytree(clone, clone.with_name("copy"), symlinks=True)
    elif damage == "no python":
        (clone / ".venv" / "bin" / "python").unlink()
    elif damage == "no place":
        (clone / ".venv" / ".place").unlink()
    else:
        os.utime(clone / "requirements.lock")
    assert [line for line in planned(clone) if "install -r requirements.lock" in line]


def test_an_environment_without_pip_is_made_anew(clone):
    os.utime(clone / "requirements.lock")
    made = clone / "made"
    # This Python makes no environment: it writes down that it was asked to.
    stand_in = clone / "python"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {made}\nexit 1\n')
    stand_in.chmod(0o755)
    run = subprocess.run(["make", "book", f"PYTHON={stand_in}"], cwd=clone, capture_output=True, text=True)
    assert run.returncode != 0
    assert made.read_text().strip() == "-m venv --clear .venv"


@pytest.mark.parametrize("home", ["/data", "/models", "/", "/nonexistent"])
def test_homes_of_containers_are_no_machine_paths(home, monkeypatch):
    monkeypatch.setenv("HOME", home)
    test_no_machine_path_in_any_file()
