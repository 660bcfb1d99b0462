"""Build the book: execute the chapters with papermill, assemble the sources, render them with Jupyter Book.

python book/build.py                 execute every chapter, then render to _build/html
python book/build.py -f paper        the same with the parameters of notebooks/profiles/paper.yaml
python book/build.py --no-execute    render the committed reference outputs
python book/build.py --refresh       execute and write the reference outputs back to notebooks/*.ipynb
"""

from __future__ import annotations

import argparse
import ast
import base64
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).resolve().parents[1]
MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"  # one file with its glyphs, no fonts to load
HEADLINE = "fig-loop-seven"  # shown in the README, too
# From left to right as data flows; the first four serve all of them.
ROOMS = ("files", "hub", "memory", "cluster", "corpus", "embedding", "index", "retrieval", "models", "scoring", "ttt",
         "baselines", "experiment", "pretraining", "report")  # fmt: skip


class BuildError(RuntimeError):
    """A chapter failed or the rendering was not clean."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("-f", "--profile", help="name in notebooks/profiles, or a YAML file of parameters")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--no-execute", action="store_true", help="render the committed reference outputs")
    mode.add_argument("--refresh", action="store_true", help="execute and update notebooks/*.ipynb")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of _config.yml, book/, notebooks/")
    parser.add_argument("--build", type=Path, help="build folder; default: _build in the root")
    options = parser.parse_args(arguments)
    if options.refresh and options.profile:
        parser.error("--refresh uses the default parameters; leave out --profile")
    root, build = options.root.resolve(), (options.build or options.root / "_build").resolve()
    try:
        seconds = None if options.no_execute else execute(root, build / "executed", options.profile)
        if options.refresh:
            write_back(root, build / "executed")
            return 0
        assemble(root, build, seconds)
        render(build)
    except BuildError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    sys.stderr.write(f"\nThe book is at {os.path.relpath(build / 'html' / 'index.html')}\n")
    return 0


def chapters(root: Path) -> list[str]:
    """Return the names of the chapters in the table of contents, in reading order."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    return [Path(file).name for file in files if file.startswith("notebooks/")]


def execute(root: Path, folder: Path, profile: str | None = None) -> dict[str, float]:
    """Execute each chapter's text half into `folder`; return the seconds each took.

    papermill never sees the paired notebooks: it would write its parameters into their text halves.
    """
    fresh_folder(folder)
    parameters = read_profile(root, profile) if profile else {}
    names, seconds = chapters(root), {}
    for number, name in enumerate(names, start=1):
        sys.stderr.write(f"[{number}/{len(names)}] {name}\n")
        path = folder / f"{name}.ipynb"
        nbformat.write(jupytext.read(root / "notebooks" / f"{name}.md"), path)
        try:
            executed = papermill.execute_notebook(
                path, path, parameters.get(name), kernel_name="python3", language="python", cwd=root / "notebooks"
            )
        except PapermillExecutionError as error:
            raise BuildError(explain(name, error)) from error
        seconds[name] = executed.metadata.papermill.duration
        nbformat.write(strip(executed), path)
    return seconds


def explain(name: str, error: PapermillExecutionError) -> str:
    """Return the error's traceback, then which chapter and cell failed."""
    trace = "\n".join(error.traceback)
    first = error.source.strip().partition("\n")[0]
    return f"{trace}\n\nnotebooks/{name}.md: code cell {error.exec_count}, which begins `{first}`, failed."


def read_profile(root: Path, profile: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of a profile, given by name or as a YAML file, for each chapter.

    A chapter gets those that it has. What ``<profile>/<chapter>.yaml`` says is for that chapter alone, and prevails.
    """
    profiles = root / "notebooks" / "profiles"
    path = Path(profile) if profile.endswith((".yml", ".yaml")) else profiles / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in profiles.glob("*.yaml"))) or "none"
        raise BuildError(f"no profile {profile!r}: {path} does not exist; known profiles: {known}")
    common, shares, unused = read_yaml(path), {}, set()
    for name in chapters(root):
        own, known = path.with_suffix("") / f"{name}.yaml", parameter_names(root, name)
        given = read_yaml(own) if own.is_file() else {}
        unused |= set(given) - known
        shares[name] = {key: value for key, value in (common | given).items() if key in known}
    unused |= set(common).difference(*shares.values())
    if unused:
        raise BuildError(f"profile {profile!r}: no chapter that it is for has a parameter {', '.join(sorted(unused))}")
    return shares


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a file of parameters says."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def parameter_names(root: Path, name: str) -> set[str]:
    """Return the parameters of a chapter."""
    cells = jupytext.read(root / "notebooks" / f"{name}.md").cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return {statement.target.id for cell in tagged for statement in ast.parse(cell.source).body}


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove papermill's records, timestamps and random ids; keep what readers and nbval look at."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # random ids would change every refresh
        cell.metadata = {key: cell.metadata[key] for key in ("tags", "mystnb") if cell.metadata.get(key)}
    return notebook


def write_back(root: Path, folder: Path) -> None:
    """Replace each chapter's ipynb half by its executed copy."""
    for name in chapters(root):
        target = root / "notebooks" / f"{name}.ipynb"
        temporary = target.with_suffix(".ipynb.tmp")
        shutil.copyfile(folder / f"{name}.ipynb", temporary)
        temporary.replace(target)
    write_headline(root, folder)


def write_headline(root: Path, folder: Path) -> None:
    """Take the README's figure from the chapter that computed it."""
    for name in chapters(root):
        for cell in nbformat.read(folder / f"{name}.ipynb", as_version=4).cells:
            if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == HEADLINE:
                (picture,) = (output.data["image/png"] for output in cell.outputs if "data" in output)
                (root / "book" / "_static" / "headline.png").write_bytes(base64.b64decode(picture))


def assemble(root: Path, build: Path, seconds: dict[str, float] | None) -> None:
    """Collect everything Jupyter Book reads in ``build/src``."""
    source = build / "src"
    fresh_folder(source)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["html"]["extra_footer"] += f"<p>{built_from()}</p>\n"
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.copy(root / "_toc.yml", source)
    shutil.copytree(root / "book", source / "book", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (source / "notebooks").mkdir()
    reference = root / "notebooks" if seconds is None else build / "executed"
    for name in chapters(root):
        notebook = reference / f"{name}.ipynb"
        if not notebook.is_file():
            raise BuildError(f"notebooks/{name}.ipynb is missing; run `make notebooks`")
        shutil.copy(notebook, source / "notebooks")
    (source / "book" / "generated").mkdir()
    (source / "book" / "generated" / "times.md").write_text(times(root, seconds), encoding="utf-8")
    (source / "book" / "generated" / "versions.md").write_text(versions(), encoding="utf-8")
    (source / "book" / "generated" / "api.md").write_text(api(), encoding="utf-8")
    write_assets(source / "static", root / "book" / "_static")


def write_assets(static: Path, own: Path) -> None:
    """Write the scripts and styles that would otherwise come from other hosts.

    Not into ``_static``: Jupyter Book would load every script there on every page.
    """
    import vl_convert

    shutil.copytree(own, static)
    # Bare, the bundle's top-level names collide with those of Sphinx's own scripts.
    bundle = f"(function () {{\n{vl_convert.javascript_bundle()}\n}})();\n"
    (static / "vega.js").write_text(bundle, encoding="utf-8")
    shutil.copy(distribution("sphinx-mathjax-offline").locate_file(MATHJAX), static / "tex-svg.js")


def built_from() -> str:
    """Return the footer's provenance line: version, commit, date."""
    from tttnn.experiment.provenance import commit, versions

    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"tttnn {versions()['tttnn']}, commit {commit()}, built on {date} (UTC)."


def times(root: Path, seconds: dict[str, float] | None) -> str:
    """Return the table of execution times as Markdown."""
    if seconds is None:
        return "This build shows the committed reference outputs; no chapter was executed for it.\n"
    rows = "".join(f"| {name} | {seconds[name]:.0f} |\n" for name in chapters(root))
    total = f"| all chapters | {sum(seconds.values()):.0f} |\n"
    return f"| chapter | wall time (s) |\n|---|---:|\n{rows}{total}"


def versions() -> str:
    """Return the table of installed packages as Markdown."""
    found = {item.metadata["Name"]: item.version for item in distributions()}
    rows = "".join(f"| {name} | {found[name]} |\n" for name in sorted(found, key=str.lower))
    return f"| package | version |\n|---|---|\n| Python | {platform.python_version()} |\n{rows}"


def api() -> str:
    """Return one ``automodule`` per module of the package, in the order data flows."""
    parts = []
    for room in ROOMS:
        path = ROOT / "tttnn" / room
        modules = [f"tttnn.{room}"]
        if path.is_dir():
            modules += [f"tttnn.{room}.{file.stem}" for file in sorted(path.glob("[!_]*.py"))]
        elif not path.with_suffix(".py").is_file():
            continue
        for name in modules:
            level = "#" * name.count(".") + "#"
            parts.append(f"{level} `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n")
    return "\n".join(parts)


def render(build: Path) -> None:
    """Run Jupyter Book, every warning an error, and move the pages to ``build/html``."""
    output = build / "jupyter-book"
    shutil.rmtree(output, ignore_errors=True)  # stale pages would hide a broken link
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(build / "src")]
    command += ["--path-output", str(output), "-W", "--keep-going", "--quiet"]
    run = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode != 0:
        raise BuildError(f"{run.stdout}\nJupyter Book found warnings or errors; they are listed above")
    shutil.rmtree(build / "html", ignore_errors=True)
    (output / "_build" / "html").rename(build / "html")


def fresh_folder(folder: Path) -> None:
    """Make `folder` exist and be empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    sys.exit(main())
