"""One PDF of the whole book: what is missing is said, and a failing browser leaves nothing behind."""

import runpy
from pathlib import Path

import pytest

pdf = runpy.run_path(str(Path(__file__).resolve().parents[1] / "book" / "pdf.py"))


def browser(folder, script):
    """Put a browser of that name on a path of its own."""
    path = folder / "chromium"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_browser_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pdf["main"](["--build", str(tmp_path)]) == 1
    assert "install Chromium" in capsys.readouterr().err


def test_without_a_build_it_says_what_to_call(tmp_path, monkeypatch, capsys):
    browser(tmp_path, "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pdf["main"](["--build", str(tmp_path / "none")]) == 1
    assert "`make book` first" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["echo no display; exit 3", "exit 0"])
def test_a_browser_that_fails_leaves_nothing(tmp_path, script):
    target = tmp_path / "book.pdf"
    with pytest.raises(pdf["subprocess"].CalledProcessError):
        pdf["print_page"](browser(tmp_path, script), tmp_path / "page.html", target)
    assert not list(tmp_path.glob("*.pdf"))


def test_what_the_browser_printed_becomes_the_book(tmp_path):
    script = 'for word in "$@"; do case $word in --print-to-pdf=*) echo done > "${word#*=}";; esac; done'
    pdf["print_page"](browser(tmp_path, script), tmp_path / "page.html", tmp_path / "book.pdf")
    assert (tmp_path / "book.pdf").read_text() == "done\n" and len(list(tmp_path.glob("*.pdf"))) == 1
