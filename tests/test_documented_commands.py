"""Every command that a page shows exists, with all of its options: each is parsed, and the cheap ones are run."""

import ast
import re
import runpy
import shlex
from contextlib import suppress
from itertools import chain
from pathlib import Path

import jupytext
import pytest
import typer
import typer.main
from typer.testing import CliRunner

from tttnn.__main__ import app

# typer has its own copies of click's errors, or click's, by its version.
UsageError = typer.BadParameter.__base__
MissingParameter = next(each for each in typer.BadParameter.__subclasses__() if each.__name__ == "MissingParameter")
ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [path for place in ("", "book/", "notebooks/", "tttnn/**/", ".github/**/") for path in ROOT.glob(f"{place}*.md")]
    + [path for folder in ("tttnn", "book", "bench") for path in (ROOT / folder).rglob("*.py")]
)
FENCED = re.compile(r"^```(?:bash|sh|console)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`{1,2}([^`\n]+)`{1,2}")
PLACEHOLDER = re.compile(r"<[\w -]+>|\b[A-Z]{4,}\b")


def commands(page):
    """Give the words of each command that a page shows, and whether in a block, to be typed, or within its text."""
    text = page.read_text(encoding="utf-8")
    typed = r"^ *(python .+?)(?: {2,}.*)?$"
    blocks = FENCED.findall(text) if page.suffix == ".md" else re.findall(typed, text, re.MULTILINE)
    named = INLINE.findall(FENCED.sub("", text))
    for whole, parts in ((True, blocks), (False, named)):
        for line in "\n".join(parts).replace("\\\n", " ").splitlines():
            yield from ((whole, words) for words in split(PLACEHOLDER.sub("1", line)))


def split(line):
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command = []
    try:
        for word in words:
            if set(word) <= set("();<>|&"):
                yield command
                command = []
            else:
                command.append(word)
    except ValueError:  # an apostrophe: this is no command
        return
    yield command


def shown(page):
    """Give the kind of each command that a page shows, and its arguments."""
    for whole, words in commands(page):
        while words and (words[0] in {"do", "then", "time", "nice"} or re.fullmatch(r"[A-Z_]+=\S*", words[0])):
            words = words[1:]
        program = words[0].rpartition("/")[2] if words else ""
        if program == "python" and words[1:3] == ["-m", "tttnn"]:
            yield "tttnn" if whole else "tttnn in text", words[3:]
        elif program == "python" and len(words) > 1:
            yield "script", words[1:]
        elif program in {"make", "papermill"}:
            yield program, words[1:]


CHEAP = (["models"], ["fetch"], ["index", "plan"])  # how commands begin that read and download nothing large
ALL = sorted({(kind, tuple(arguments)) for page in PAGES for kind, arguments in shown(page)})


def of(kind):
    found = [arguments for each, arguments in ALL if each == kind]
    return pytest.mark.parametrize("arguments", found, ids=" ".join)


def parse(arguments):
    """Parse a command line and run nothing."""
    command, words = typer.main.get_command(app), list(arguments)
    while hasattr(command, "commands"):
        assert words, "an incomplete command"
        assert words[0] in command.commands, f"no command {words[0]}: there is {', '.join(command.commands)}"
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


@of("tttnn")
def test_the_command_line_takes_it(arguments):
    parse(arguments)


def cheap(arguments):
    words = [word for word in arguments if not word.startswith("-")]
    return any(words[: len(start)] == start for start in CHEAP) and (words[0] != "fetch" or len(words) == 1)


@pytest.mark.parametrize("arguments", [each for kind, each in ALL if kind == "tttnn" and cheap(each)], ids=" ".join)
def test_a_cheap_command_runs(arguments):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0 and done.output.strip(), done.output


@of("tttnn in text")
def test_the_command_line_takes_what_a_text_names(arguments):
    """In running text a command may lack what it requires, or be the word COMMAND."""
    if set(arguments) - {"1"}:
        with suppress(MissingParameter):
            parse(arguments)


@pytest.mark.parametrize(
    "command", ["cost --documents 3", "plan 3", "index", "index plan many", "run --model m", "run", "fetch a --all"]
)
def test_what_it_does_not_take_is_seen(command):
    with pytest.raises((AssertionError, UsageError)):
        parse(command.split())


def test_options_in_running_text_exist():
    parsers, options = [typer.main.get_command(app)], set()
    for parser in parsers:
        parsers += getattr(parser, "commands", {}).values()
        options |= {option for parameter in parser.params for option in parameter.opts}
    pages = [page for page in PAGES if page.suffix == ".md"]
    shown = {
        (page.name, option) for page in pages for option in re.findall(r"`(--[a-z][a-z-]*)", page.read_text("utf-8"))
    }
    assert {(page, option) for page, option in shown if option not in options} == set()


@of("make")
def test_the_makefile_has_the_target(arguments):
    targets = [word for word in arguments if "=" not in word and not word.startswith("-")]
    for profile in (word.removeprefix("PROFILE=") for word in arguments if word.startswith("PROFILE=")):
        assert (ROOT / "notebooks" / "profiles" / f"{profile}.yaml").is_file()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^(?:([a-z-]+):|READY := (\S+))", makefile, re.MULTILINE))
    assert set(targets) <= set(chain.from_iterable(known))


@of("papermill")
def test_the_chapter_has_the_parameters(arguments):
    chapters = [
        word for word in arguments if word.startswith("notebooks/") and word.endswith(".ipynb") and "$" not in word
    ]
    for chapter in chapters:
        assert (ROOT / chapter).is_file()
        cells = jupytext.read((ROOT / chapter).with_suffix(".md")).cells
        code = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
        names = {statement.target.id for statement in ast.parse(code).body}
        assert {arguments[i + 1] for i, word in enumerate(arguments) if word == "-p"} <= names


@of("papermill")
def test_the_profile_is_there(arguments):
    files = [arguments[i + 1] for i, word in enumerate(arguments) if word == "-f"]
    assert all((ROOT / file).is_file() for file in files if "$" not in file and Path(file).stem != "1")


def test_chapters_that_a_loop_names_are_there():
    """As in: for name in 01_ttt_nn_loop 02_retrieval; do papermill ... notebooks/$name.ipynb."""
    loops = re.compile(r"^for name in ((?:[^;$]|\\\n)+); do\n((?:  .*\n)+)done", re.MULTILINE)
    named = [
        name
        for page in PAGES
        for names, body in loops.findall(page.read_text(encoding="utf-8"))
        if "notebooks/$name.ipynb" in body
        for name in names.replace("\\\n", " ").split()
    ]
    assert len(named) > 5 and all((ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in named)


@of("script")
def test_the_script_has_the_options(arguments):
    script, *rest = arguments
    if not script.endswith(".py"):
        return
    # From its source and that of the modules beside it: asking each with --help would load torch as many times.
    path = ROOT / script
    if script == "book/build.py":
        runpy.run_path(str(path))["parse"](rest)
        return
    source = path.read_text(encoding="utf-8")
    beside = [path.with_name(f"{name}.py") for name in re.findall(r"^from (\w+) import", source, re.MULTILINE)]
    texts = [source, *(each.read_text(encoding="utf-8") for each in beside if each.exists())]
    known = set(re.findall(r"""["'](--?[a-z][a-z-]*)["']""", "\n".join(texts)))
    assert {word for word in rest if word.startswith("-")} <= known


def test_the_pages_show_commands_of_each_kind():
    assert {kind for kind, _ in ALL} == {"tttnn", "tttnn in text", "make", "papermill", "script"}
    assert len(ALL) > 40


def test_the_table_of_variables_has_those_that_the_package_reads():
    page = (ROOT / "book" / "rerun.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(TTTNN_\w+)` \|", page, re.MULTILINE)
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tttnn").rglob("*.py")]
    assert sorted(listed) == sorted(set(re.findall(r"TTTNN_\w+", "\n".join(sources))))
