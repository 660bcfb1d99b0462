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

each_lock = pytest.mark.parametrize("lock", ["requirements.lock", "requirements-cuda.lock"])
each_chapter = pytest.mark.parametrize("name", CHAPTERS)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def reference(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in reference(name).cells if cell.cell_type == "code"]


def pins(lock: str = "requirements.lock") -> dict[str, str]:
    """Versions by name; a line for name[extra] is one for name, too."""
    lines = re.findall(r"^([^#\s]+?)(?:\[.*\])?==(\S+)", read(lock), re.MULTILINE)
    assert all(name == canonicalize_name(name) for name, _ in lines)
    return dict(lines)


def hashes(lock: str, package: str) -> list[str]:
    """Of the files of a locked package, in hexadecimal."""
    found = re.search(rf"^{re.escape(package)}==.*\n((?:    --hash=.*\n)+)", read(lock), re.MULTILINE)
    return re.findall(r"sha256:([0-9a-f]{64})", found[1]) if found else []


def project_files() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in sorted(set(run.stdout.split("\0")) - {""}) if (ROOT / name).is_file()]


@each_lock
def test_lock_has_exact_public_versions(lock):
    for name, version in pins(lock).items():
        assert re.fullmatch(r"[\w.]+", version), f"{name}=={version} is not a version of the package index"


@each_lock
def test_lock_has_hashes_and_names_no_index(lock):
    """One without a hash would be refused by pip, and an index that one user reaches is not that of another."""
    for line in re.split(r"(?<!\\)\n", read(lock).strip()):
        if not line.startswith("#"):
            assert re.fullmatch(r"[^=\n]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", line), line


def test_the_locks_differ_in_the_build_of_torch_alone():
    cpu, cuda = pins("requirements.lock"), pins("requirements-cuda.lock")
    assert cpu.items() <= cuda.items(), "run `make lock`"
    more = set(cuda) - set(cpu)
    assert {"triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= more
    assert all(name.startswith(("cuda-", "nvidia-")) for name in more - {"triton"})
    for name in set(cpu) - {"torch"}:
        assert hashes("requirements.lock", name) == hashes("requirements-cuda.lock", name), "run `make lock`"
    assert hashes("requirements.lock", "torch"), "run `make lock` where pip knows an index with torch for CPUs"
    assert set(hashes("requirements.lock", "torch")) != set(hashes("requirements-cuda.lock", "torch"))


def test_dependencies_are_pinned_within_their_bounds():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    locked = pins()
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        requirement = Requirement(line)
        assert requirement.specifier, f"{requirement.name} has no bounds"
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{line}, but {version} is locked"


def test_conda_brings_what_the_two_commands_need():
    """No packages: pip installs no folder that may be edited beside files with hashes."""
    assert yaml.safe_load(read("environment.yml"))["dependencies"] == ["python=3.11", "git", "make"]
    assert "3.11" in tomllib.loads(read("pyproject.toml"))["project"]["requires-python"]
    assert "python3.11" in read("Makefile")


def test_make_installs_from_the_lock():
    assert re.search(r"^\t.*install --use-pep517 --require-hashes -r \$\$lock$", read("Makefile"), re.MULTILINE)
    assert "make test" in read(".ci/run")


def test_the_container_is_the_bare_machine_that_is_tried():
    """Both name the same Debian and the same packages, and what is built here does not go into the container."""
    container, fresh = read("Containerfile"), read(".ci/fresh.sh")
    packages = re.search(r"--include=(\S+)", fresh)[1].split(",")
    assert packages == ["python3.11", "python3.11-venv", "git", "make"]
    assert f"--no-install-recommends {' '.join(packages)} \\" in container
    assert "FROM debian:bookworm-slim" in container and "bookworm /dev/null" in fresh
    assert {"/_build", "/.venv", "/.cache", "/runs"} <= set(read(".dockerignore").splitlines())


def stand_in(folder: Path, name: str, script: str) -> None:
    """A program that is found before the real one."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    "program, script, message",
    [
        ("uname", "echo Darwin", "a Debian root needs Linux, and this is Darwin"),
        ("unshare", "exit 1", "may"),
    ],
)
def test_fresh_says_why_it_cannot_be(program, script, message, tmp_path):
    stand_in(tmp_path / "bin", "mmdebstrap", "exit 1")
    stand_in(tmp_path / "bin", program, script)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    run = subprocess.run(["sh", ROOT / ".ci" / "fresh.sh"], env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("make fresh: ") and message in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "versions, lock", [("2.99, {torch}+cpu, {torch}", "requirements.lock"), ("2.99, {torch}", "requirements-cuda.lock")]
)
def test_make_takes_the_lock_of_the_build_that_the_index_has(versions, lock, tmp_path):
    folder = copied_to(tmp_path / "clone", "Makefile", "requirements.lock", "requirements-cuda.lock", "pyproject.toml")
    versions = versions.format(torch=pins()["torch"])
    # This Python answers for pip, and writes down what it was asked to install.
    script = f"""case "$*" in
      *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
      *"index versions torch") echo "torch (2.99)"; echo "Available versions: {versions}" ;;
      *install*) echo "$@" >> asked ;;
    esac"""
    stand_in(folder / "bin", "python3.11", script)
    subprocess.run(["make", ".venv/.ready", f"PYTHON={folder / 'bin' / 'python3.11'}"], cwd=folder, check=True)
    assert f"--require-hashes -r {lock}" in (folder / "asked").read_text().splitlines()[0]


def test_hooks_before_a_commit_are_those_of_the_lock():
    """No hook is fetched from elsewhere, and none runs another version than `make` installed."""
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/")


def test_hooks_and_tests_begin_with_what_make_lint_checks():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)[1]
    checks = {line.removeprefix("\t$(BIN)/").removesuffix(" .") for line in recipe.splitlines()}
    assert checks == {"ruff check", "ruff format --check", "mypy", "codespell"}
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert checks <= {hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks}
    assert re.search(r"^test: lint ", read("Makefile"), re.MULTILINE)


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
    assert [line for line in planned(clone) if "--require-hashes" in line]


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
