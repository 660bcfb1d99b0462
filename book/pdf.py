"""Print the whole book, without the API, into one PDF: the chapters as the last build has them.

python book/pdf.py                   _build/src to _build/book.pdf

It needs a browser of the Chromium family on the path, because the charts are drawn by their own scripts.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
LEFT_OUT = {"book/api"}  # hundreds of pages, which are better searched than read
DRAWING = 120_000  # milliseconds of the page's clock that all charts may take; it stands still while nothing is drawn


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "_build", help="build folder, with its src")
    build = parser.parse_args(arguments).build.resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.stderr.write(
            f"No browser to print with: install Chromium, or put one of {', '.join(BROWSERS)} on the path\n"
        )
        return 1
    if not (build / "src" / "_toc.yml").is_file():
        sys.stderr.write(f"{build / 'src'} is not there: call `make book` first\n")
        return 1
    target = build / "book.pdf"
    try:
        print_page(browser, one_page(build), target)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{error.stdout}\n{Path(error.cmd[0]).name} failed; its words are above\n")
        return 1
    sys.stderr.write(f"The book is at {target}\n")
    return 0


def one_page(build: Path) -> Path:
    """Render all chapters into one HTML page; return its path."""
    source, output = build / "pdf-src", build / "pdf"
    for folder in (source, output):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(build / "src", source)
    contents = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
    for part in contents["parts"]:
        part["chapters"] = [entry for entry in part["chapters"] if entry["file"] not in LEFT_OUT]
    (source / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source), "--path-output", str(output)]
    run([*command, "--builder", "custom", "--custom-builder", "singlehtml", "--quiet"])
    pages = output / "_build" / "singlehtml"
    # Sphinx writes the page into the folder of the first file, and its links as if it stood above.
    return (pages / "book" / "index.html").rename(pages / "book.html")


def print_page(browser: str, page: Path, target: Path) -> None:
    """Let a browser draw a page and print it; what is not finished has another name."""
    waiting = target.with_suffix(".unfinished.pdf")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    run([browser, *options, f"--virtual-time-budget={DRAWING}", f"--print-to-pdf={waiting}", page.as_uri()])
    if not waiting.is_file():
        raise subprocess.CalledProcessError(1, [browser], "it wrote no file")
    waiting.replace(target)


def run(command: list[str]) -> None:
    """Run a command, its words kept for the case that it fails."""
    subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main())
