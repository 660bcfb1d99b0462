"""Build the book: execute the chapters with papermill, assemble the sources, render them with Jupyter Book.

python book/build.py                 execute every chapter, then render to _build/html
python book/build.py -f paper        the same with the parameters of notebooks/profiles/paper.yaml
python book/build.py --only 03       execute chapter 3, render the others' committed reference outputs
python book/build.py --no-execute    render the committed reference outputs
python book/build.py --refresh       execute and write the reference outputs back to notebooks/*.ipynb

The seconds that each part took are in seconds.json of the build folder.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import dataclasses
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from bs4 import BeautifulSoup
from jupyter_client import KernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).resolve().parents[1]
MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"  # one file with its glyphs, no fonts to load
HEADLINE = "fig-loop-seven"  # shown in the README, too
API = "book/api"  # has a page below it for each room of the package
KERNEL = "python3"
LOCK = "lock"
# From left to right as data flows; those of the first two lines serve all others.
ROOMS = ("errors", "files", "operations", "parameters", "plugins", "device", "fetch", "hub", "provenance",
         "ray_cluster", "rows", "memory",
         "corpus", "models", "embedding", "index", "retrieval", "scoring", "ttt", "methods", "together",
         "conformance", "experiment", "pretraining", "studies", "analysis", "report")  # fmt: skip


class BuildError(RuntimeError):
    """A chapter failed or the rendering was not clean."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parse(arguments)
    root, build = options.root.resolve(), (options.build or options.root / "_build").resolve()
    # Who refreshes writes into the clone, too, wherever the build folder is.
    places = {build, root / "_build"} if options.refresh else {build}
    try:
        with contextlib.ExitStack() as held:
            for place in sorted(places):
                held.enter_context(building(place))
            make(root, build, options)
    except BuildError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\nInterrupted. Finished chapters are in {shown(build / 'executing')}\n")
        return 130
    if not options.refresh:
        sys.stderr.write(f"\nThe book is at {shown(build / 'html' / 'index.html')}\n")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("-f", "--profile", help="name in notebooks/profiles, or a YAML file of parameters")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--no-execute", action="store_true", help="render the committed reference outputs")
    mode.add_argument("--refresh", action="store_true", help="execute and update notebooks/*.ipynb")
    parser.add_argument("--only", action="append", metavar="CHAPTER", help="execute this one, by the start of its name")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of _config.yml, book/, notebooks/")
    parser.add_argument("--build", type=Path, help="build folder; default: _build in the root")
    options = parser.parse_args(arguments)
    if options.refresh and options.profile:
        parser.error("--refresh uses the default parameters; leave out --profile")
    if options.no_execute and options.only:
        parser.error("--no-execute executes none; leave out --only")
    return options


def make(root: Path, build: Path, options: argparse.Namespace) -> None:
    """Do what the options say: all that can be looked at before the first chapter runs comes first."""
    names = [] if options.no_execute else chosen(root, options.only)
    shares = read_profile(root, options.profile) if options.profile else {}
    check_package(root)
    check_parameters(root, {name: shares.get(name, {}) for name in names})
    footer = built_from()
    pages = {
        "versions.md": versions(),
        "api.md": api_table(),
        "report_claims.md": claims(),
        "names.md": command_line_names(),
        **api(),
    }
    timer = Timer(build / "seconds.json", options.profile)
    seconds = execute(root, build, names, shares, timer)
    if options.refresh:
        write_back(root, build / "executed", names)
        return
    assemble(root, build, seconds, footer, pages)
    with timer.timing("render"):
        render(build)


@contextlib.contextmanager
def building(folder: Path) -> Iterator[None]:
    """Be the only build in a folder. The system gives the lock back even if the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "which has just begun"
            text = f"{shown(folder)}: another build is at work there, {holder}; wait until it is done"
            raise BuildError(text) from error
        except OSError as error:
            text = f"{shown(folder)}: no lock can be had there ({error.strerror}); give --build a folder elsewhere"
            raise BuildError(text) from error
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} (UTC)\n")
        file.flush()
        yield


class Timer:
    """Seconds that each part of a build took, written as soon as they are known."""

    def __init__(self, path: Path, profile: str | None) -> None:
        self.path, self.parts = path, {}
        self.facts = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "profile": profile or "default"}

    @contextlib.contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Time a part, which may fail."""
        from tttnn.files import write_json

        begun = time.monotonic()
        yield
        self.parts[part] = round(time.monotonic() - begun, 1)
        write_json(self.path, {**self.facts, "seconds": self.parts, "total": round(sum(self.parts.values()), 1)})


def chapters(root: Path) -> list[str]:
    """Return the names of the chapters in the table of contents, in reading order."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    return [Path(file).name for file in files if file.startswith("notebooks/")]


def chosen(root: Path, only: list[str] | None) -> list[str]:
    """Return the chapters to execute: those whose name begins as one of `only`, or all."""
    names = chapters(root)
    for start in only or ():
        if not any(name.startswith(start) for name in names):
            raise BuildError(f"no chapter {start!r}: there are {', '.join(names)}")
    return [name for name in names if name.startswith(tuple(only or [""]))]


def execute(
    root: Path, build: Path, names: list[str], shares: dict[str, dict[str, Any]], timer: Timer
) -> dict[str, float]:  # fmt: skip
    """Execute the text halves of chapters into ``build/executed``; return the seconds each took.

    They wait in ``build/executing`` until all are done: a build that fails or is interrupted leaves those of the one
    before as they are, and there what it has finished.
    """
    waiting, done = build / "executing", build / "executed"
    waiting.mkdir(exist_ok=True)
    done.mkdir(exist_ok=True)
    for number, name in enumerate(names, start=1):
        sys.stderr.write(f"[{number}/{len(names)}] {name}\n")
        with timer.timing(name):
            execute_chapter(root, waiting, name, shares.get(name, {}))
    for name in names:
        (waiting / f"{name}.ipynb").replace(done / f"{name}.ipynb")
    return dict(timer.parts)


def execute_chapter(root: Path, folder: Path, name: str, parameters: dict[str, Any]) -> None:
    """Execute one chapter into a folder; what is not finished has another name there.

    papermill never sees the paired notebooks: it would write its parameters into their text halves.
    """
    unfinished = folder / f"{name}.unfinished.ipynb"
    nbformat.write(read_chapter(root, name), unfinished)
    try:
        executed = papermill.execute_notebook(
            unfinished, unfinished, parameters, kernel_name=KERNEL, language="python", cwd=root / "notebooks"
        )
    except PapermillExecutionError as error:
        raise BuildError(explain(name, error)) from error
    except DeadKernelError as error:
        text = f"notebooks/{name}.md: its process died, most often for want of memory; {shown(unfinished)} has the rest"
        raise BuildError(text) from error
    nbformat.write(strip(executed), unfinished)
    unfinished.replace(folder / f"{name}.ipynb")


def read_chapter(root: Path, name: str) -> nbformat.NotebookNode:
    """Return the text half of a chapter."""
    path = root / "notebooks" / f"{name}.md"
    if not path.is_file():
        raise BuildError(f"{path}: no such chapter, but _toc.yml names it")
    return jupytext.read(path)


def check_package(root: Path) -> None:
    """Refuse to run chapters of one clone with the package of another, as a copied clone with its .venv would."""
    own = root / "tttnn" / "__init__.py"
    if not own.is_file():
        return
    find = "from importlib.util import find_spec; print(find_spec('tttnn').origin)"
    for python in {sys.executable, KernelManager(kernel_name=KERNEL).format_kernel_cmd()[0]}:
        run = subprocess.run([python, "-c", find], cwd=root / "notebooks", capture_output=True, text=True)
        place = run.stdout.strip()
        if run.returncode != 0 or Path(place).resolve() != own.resolve():
            raise BuildError(
                f"The chapters would import tttnn from {place or 'nowhere'}, not from {own}: {python} was set up for "
                f"another clone. Remove .venv here and let make build a new one, or run: "
                f"{python} -m pip install --no-deps --no-build-isolation -e {root}"
            )


def check_parameters(root: Path, shares: dict[str, dict[str, Any]]) -> None:
    """Let each chapter check its parameters before the first one runs."""
    for name, share in shares.items():
        cells = [cell.source for cell in read_chapter(root, name).cells if cell.cell_type == "code"]
        if not any("chapter_parameters(" in cell for cell in cells):
            continue
        from tttnn.errors import ParameterError
        from tttnn.report.chapter import chapter_parameters

        space: dict[str, Any] = {}
        exec(compile(cells[0], name, "exec", dont_inherit=True), space)
        try:
            with contextlib.chdir(root / "notebooks"):
                chapter_parameters(space | share)
        except ParameterError as error:
            raise BuildError(f"notebooks/{name}.md: {error}") from error


def explain(name: str, error: PapermillExecutionError) -> str:
    """Return the error's traceback, then which chapter and cell failed."""
    trace = "\n".join(error.traceback)
    first = error.source.strip().partition("\n")[0]
    return f"{trace}\n\nnotebooks/{name}.md: code cell {error.exec_count}, which begins `{first}`, failed."


def read_profile(root: Path, profile: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of a profile, given by name or as a YAML file, for each chapter.

    A chapter gets those that it has. What ``<profile>/<chapter>.yaml`` says is for that chapter alone, and prevails.
    """
    profiles, names = root / "notebooks" / "profiles", chapters(root)
    own_file = profile.endswith((".yml", ".yaml"))
    path = Path(profile).expanduser() if own_file else profiles / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in profiles.glob("*.yaml"))) or "none"
        raise BuildError(f"no profile {profile!r}: {path} does not exist; known profiles: {known}")
    for found in sorted(path.with_suffix("").glob("*.y*ml")):
        if found.stem not in names or found.suffix != ".yaml":
            raise BuildError(f"{found}: is for no chapter; call it <chapter>.yaml, with one of {', '.join(names)}")
    common, shares = read_yaml(path), {}
    for name in names:
        own, known = path.with_suffix("") / f"{name}.yaml", parameter_names(root, name)
        given = read_yaml(own) if own.is_file() else {}
        refuse_unknown(own, set(given) - known, known)
        shares[name] = {key: value for key, value in (common | given).items() if key in known}
    every = set().union(*(parameter_names(root, name) for name in names))
    refuse_unknown(path, set(common) - every, every)
    return shares


def refuse_unknown(path: Path, unknown: set[str], known: set[str]) -> None:
    """Stop at names that are no parameters; name those there are."""
    for name in sorted(unknown):
        near = get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        there = ", ".join(sorted(known))
        raise BuildError(f"{path}: no chapter that it is for has a parameter {name}{hint}; there are {there}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a file of parameters says."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        found, tree = yaml.safe_load(text), yaml.compose(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BuildError(f"{path}: not YAML in UTF-8: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise BuildError(f"{path}: each line must be `parameter: value`")
    names = [key.value for key, _ in tree.value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BuildError(f"{path}: {', '.join(twice)} is there twice; keep one")
    return found


def parameter_names(root: Path, name: str) -> set[str]:
    """Return the parameters of a chapter."""
    tagged = [cell for cell in read_chapter(root, name).cells if "parameters" in cell.metadata.get("tags", [])]
    return {statement.target.id for cell in tagged for statement in ast.parse(cell.source).body}


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove papermill's records, timestamps and random ids; keep what readers and nbval look at."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # random ids would change every refresh
        cell.metadata = {key: cell.metadata[key] for key in ("tags", "mystnb") if cell.metadata.get(key)}
    return notebook


def write_back(root: Path, folder: Path, names: list[str]) -> None:
    """Replace the ipynb half of chapters by the executed copy."""
    for name in names:
        executed = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        cells = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
        if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
            raise BuildError(f"{shown(folder / f'{name}.ipynb')} was not executed to its end; build it again")
    for name in names:
        target = root / "notebooks" / f"{name}.ipynb"
        temporary = target.with_suffix(".ipynb.tmp")
        shutil.copyfile(folder / f"{name}.ipynb", temporary)
        temporary.replace(target)
    write_headline(root, folder, names)


def write_headline(root: Path, folder: Path, names: list[str]) -> None:
    """Take the README's figure from the chapter that computed it."""
    for name in names:
        for cell in nbformat.read(folder / f"{name}.ipynb", as_version=4).cells:
            if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == HEADLINE:
                (picture,) = (output.data["image/png"] for output in cell.outputs if "data" in output)
                (root / "book" / "_static" / "headline.png").write_bytes(base64.b64decode(picture))


def assemble(root: Path, build: Path, seconds: dict[str, float], footer: str, pages: dict[str, str]) -> None:
    """Collect everything Jupyter Book reads in ``build/src``."""
    from tttnn.provenance import commit
    from tttnn.report.pages import with_origins

    source = build / "src"
    fresh_folder(source)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["html"]["extra_footer"] += f"<p>{footer}</p>\n"
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    write_contents(root, source / "_toc.yml", [page for page in pages if page.startswith("api_")])
    shutil.copytree(root / "book", source / "book", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (source / "notebooks").mkdir()
    notebooks = {}
    for name in chapters(root):
        notebook = (build / "executed" if name in seconds else root / "notebooks") / f"{name}.ipynb"
        if not notebook.is_file():
            raise BuildError(f"notebooks/{name}.ipynb is missing; run `make notebooks`")
        notebooks[name] = nbformat.read(notebook, as_version=4)
        dressed = with_origins(notebooks[name], name, commit())
        nbformat.write(dressed, source / "notebooks" / notebook.name)
    (source / "book" / "generated").mkdir()
    for name, text in {**pages, "times.md": times(notebooks, seconds)}.items():
        (source / "book" / "generated" / name).write_text(text, encoding="utf-8")
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
    from tttnn.provenance import commit, versions

    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"tttnn {versions()['tttnn']}, commit {commit()}, built on {date} (UTC)."


def times(notebooks: dict[str, nbformat.NotebookNode], seconds: dict[str, float]) -> str:
    """Return when, where and how long each chapter ran, as Markdown, by its own provenance."""
    from tttnn.report.formats import readable
    from tttnn.report.pages import ran

    rows = ""
    for name, notebook in notebooks.items():
        facts = ran(notebook)
        spent = facts.get("wall time since the kernel started", "not known").removesuffix(" s")
        told = [facts.get(fact, "not known") for fact in ("date (UTC)", "commit", "device")]
        rows += f"| [](../notebooks/{name}) | {spent} | {' | '.join(map(readable, told))} |\n"
    lead = (
        f"This build executed {len(seconds)} of {len(notebooks)} chapters; the others show reference outputs."
        if seconds
        else "This build shows the committed reference outputs; no chapter was executed for it."
    )
    return f"{lead}\n\n| chapter | wall time (s) | executed (UTC) | commit | machine |\n|---|---:|---|---|---|\n{rows}"


def versions() -> str:
    """Return the table of installed packages as Markdown."""
    found = {}
    for item in distributions():
        # An interrupted pip leaves folders without metadata, name or version; Python itself overlooks them.
        with contextlib.suppress(FileNotFoundError):
            if (name := item.metadata.get("Name")) and item.metadata.get("Version"):
                found.setdefault(name, item.version)  # the first on the path is the one that is imported
    rows = "".join(f"| {name} | {found[name]} |\n" for name in sorted(found, key=str.lower))
    return f"| package | version |\n|---|---|\n| Python | {platform.python_version()} |\n{rows}"


def claims() -> str:
    """Return what is known of the report, line by line with its source, as a Markdown table."""
    from tttnn.analysis.published import report_claims

    known = report_claims().astype(object).fillna("")
    known["value"] = [f"{row.value:g} {row.unit}" if row.value != "" else "in words" for row in known.itertuples()]
    columns = {"figure_or_section": "where", "model": "model", "dataset": "data", "quantity": "what", "value": "value",
               "source_label": "source", "note": "remark"}  # fmt: skip
    lines = [["line", *columns.values()], ["---"] * (1 + len(columns))]
    lines += [[row.Index, *(getattr(row, name) for name in columns)] for row in known.itertuples()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def api() -> dict[str, str]:
    """Return a page for each room of the package, in the order data flows: one ``automodule`` per module."""
    pages = {}
    for room in ROOMS:
        path = ROOT / "tttnn" / room
        modules = [f"tttnn.{room}"]
        if path.is_dir():
            modules += [f"tttnn.{room}.{file.stem}" for file in sorted(path.glob("[!_]*.py"))]
        elif not path.with_suffix(".py").is_file():
            continue
        parts = [
            f"{'#' * name.count('.')} `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in modules
        ]
        pages[f"api_{room}.md"] = "\n".join(parts)
    return pages


def api_table() -> str:
    """Return the rooms as a Markdown table: what each holds, in the words of its docstring."""
    lines = ["| module | holds |", "|---|---|"]
    for page in api():
        room = page.removeprefix("api_").removesuffix(".md")
        path = ROOT / "tttnn" / room
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        holds = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0].replace("\n", " ")
        lines.append(f"| [`tttnn.{room}`](generated/api_{room}.md) | {holds} |")
    return "\n".join(lines) + "\n"


def command_line_names() -> str:
    """Return strategies, methods and variants by the names that the command line takes, as Markdown tables."""
    from tttnn.experiment.variants import VARIANTS
    from tttnn.methods import METHODS
    from tttnn.retrieval.strategies import STRATEGIES

    def row(*cells: str) -> str:
        return f"| {' | '.join(cells)} |"

    def numbers(fields: Iterable[str]) -> str:
        return ",".join(f"<{field}>" for field in fields)

    lines = [row("`--strategy`", "which documents"), "|---|---|"]
    for name, rule in STRATEGIES.items():
        lines.append(row(f"`{name}{':<value>' if rule.value else ''}`", rule.about))
    lines += ["", row("`--method`", "what is done with them"), "|---|---|"]
    for name, kind in METHODS.items():
        taken = numbers(field.name for field in dataclasses.fields(kind))
        lines.append(row(f"`{name}{':' * bool(taken)}{taken}`", kind.about))
    lines += ["", ":::{dropdown} Variants, as `variants` names them", "", row("variant", "stands for"), "|---|---|"]
    for name, variant in VARIANTS.items():
        switches = [f"{switch}={value}" for switch, value in variant.switches.items()]
        rate = [f"{variant.rate:g} times the rate"] if variant.rate != 1 else []
        lines.append(row(f"`{name}`", ", ".join([variant.strategy, variant.method, *switches, *rate])))
    return "\n".join([*lines, ":::", ""])


def write_contents(root: Path, target: Path, pages: Iterable[str]) -> None:
    """Write the table of contents with the pages of the API below their overview."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    for entry in (entry for part in contents["parts"] for entry in part["chapters"]):
        if entry["file"] == API:
            entry["sections"] = [{"file": f"book/generated/{Path(page).stem}"} for page in pages]
    target.write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")


def render(build: Path) -> None:
    """Run Jupyter Book, every warning an error, and move the pages to ``build/html``."""
    output = build / "jupyter-book"
    shutil.rmtree(output, ignore_errors=True)  # stale pages would hide a broken link
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(build / "src")]
    command += ["--path-output", str(output), "-W", "--keep-going", "--quiet"]
    run = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode != 0:
        raise BuildError(f"{run.stdout}\nJupyter Book found warnings or errors; they are listed above")
    write_cards(output / "_build" / "html")
    write_texts(output / "_build" / "html")
    write_downloads(build / "src" / "notebooks", output / "_build" / "html" / "_sources" / "notebooks")
    shutil.rmtree(build / "html", ignore_errors=True)
    (output / "_build" / "html").rename(build / "html")


def write_downloads(chapters: Path, target: Path) -> None:
    """Put notebooks that any viewer shows well behind the download buttons."""
    from tttnn.report.pages import for_download

    for path in chapters.glob("*.ipynb"):
        nbformat.write(for_download(nbformat.read(path, as_version=4), path.stem), target / path.name)


def write_cards(pages: Path) -> None:
    """Collect what a card shows that pops up beside a link: terms, publications and captions of figures.

    In a script and not in a data file, because a browser that reads the book from a disk may load only the former.
    """
    cards = {}
    for path in sorted(pages.rglob("*.html")):
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for term in soup.select("dl.glossary dt[id]"):
            cards[term["id"]] = term.find_next("dd").get_text(" ", strip=True)
        for entry in soup.select("div.citation[id]"):
            cards[entry["id"]] = entry.get_text(" ", strip=True)
        for figure in soup.select("figure[id]:has(figcaption)"):
            cards[figure["id"]] = figure.figcaption.get_text(" ", strip=True).rstrip("#")
    text = f"window.tttnnCards = {json.dumps(cards, ensure_ascii=False, indent=0)};\n"
    (pages / "_static" / "cards-data.js").write_text(text, encoding="utf-8")


def write_texts(pages: Path) -> None:
    """Collect the prose of every page by section, for what the search shows below a hit if the book is on a disk."""
    texts = {}
    for path in sorted(pages.rglob("*.html")):
        article = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").find("article")
        sections = article.find_all("section", id=True) if article else []
        found = {section["id"]: [] for section in sections}
        for part in article.find_all(["h1", "h2", "h3", "p", "li", "dd"]) if sections else []:
            if (home := part.find_parent("section", id=True)) and not part.find_parent(["p", "li", "dd"]):
                found[home["id"]].append(part.get_text(" ", strip=True).rstrip("#"))
        if sections:
            name = path.relative_to(pages).with_suffix("").as_posix()
            texts[name] = [[section, " ".join(" ".join(lines).split())] for section, lines in found.items() if lines]
    text = f"window.tttnnTexts = {json.dumps(texts, ensure_ascii=False, indent=0)};\n"
    (pages / "_static" / "search-data.js").write_text(text, encoding="utf-8")


def shown(path: Path) -> str:
    """Return a path as seen from here."""
    return os.path.relpath(path)


def fresh_folder(folder: Path) -> None:
    """Make `folder` exist and be empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    sys.exit(main())
