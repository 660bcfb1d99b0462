"""Write requirements.lock and requirements-cuda.lock from pyproject.toml: `make lock`.

uv resolves, keeps every version that is locked unless told otherwise, and lists the hashes of all files of each release,
for any platform. Two things are not on one index: torch is another file on an index of CPU builds, so its hashes are
those of both; and what its CUDA build alone needs goes to a lock of its own. Arguments are handed to ``uv pip compile``:
``--upgrade``, ``--upgrade-package torch``, ``--resolution lowest-direct``. uv asks its own index (``UV_DEFAULT_INDEX``),
whatever pip is set up for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, CUDA = ROOT / "requirements.lock", ROOT / "requirements-cuda.lock"
ONLY_CUDA = re.compile(r"cuda-|nvidia-|triton$")
PACKAGE = re.compile(r"^([\w.-]+(?:\[[^]]+\])?)==(\S+)((?: \\\n    --hash=\S+)*)$", re.MULTILINE)
HASH = re.compile(r"sha256:[0-9a-f]{64}")

Pins = dict[tuple[str, str], set[str]]  # hashes of (name, version)


def main(arguments: list[str]) -> None:
    """Resolve, add torch's other builds, and write both files."""
    locked = read(LOCK) | read(CUDA)
    pins = resolved(locked, arguments)
    torch = next(package for package in pins if package[0] == "torch")
    pins[torch] |= locked.get(torch, set()) | {hash_for_pip(f"torch=={torch[1]}")}
    cuda = {package for package in pins if ONLY_CUDA.match(package[0])}
    write(LOCK, {package: pins[package] for package in pins if package not in cuda})
    write(CUDA, {package: pins[package] for package in cuda})


def resolved(locked: Pins, arguments: list[str]) -> Pins:
    """What uv makes of pyproject.toml, of all its extras and of what builds the package."""
    builds = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    known = ROOT / ".venv" / "locked.txt"  # uv keeps the versions of the file that it is to write
    known.write_text(text(locked), encoding="utf-8")
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--generate-hashes", "--all-extras"]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--no-strip-extras", "--no-header", "--no-annotate"]  # pip's resolver asks for hashes of name[extra]
    command += [*arguments, "--output-file", known, "pyproject.toml", "-"]
    subprocess.run(command, cwd=ROOT, input="\n".join(builds), text=True, check=True, stdout=subprocess.DEVNULL)
    return read(known)


def hash_for_pip(requirement: str) -> str:
    """The hash of the file that pip takes on the index it is set up for."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    run = subprocess.run([*command, "--report", "-", requirement], capture_output=True, text=True, check=True)
    (taken,) = json.loads(run.stdout)["install"]
    return f"sha256:{taken['download_info']['archive_info']['hashes']['sha256']}"


def read(path: Path) -> Pins:
    found = PACKAGE.finditer(path.read_text(encoding="utf-8"))
    return {(name, version): set(HASH.findall(hashes)) for name, version, hashes in (match.groups() for match in found)}


def text(pins: Pins) -> str:
    return "".join(
        f"{name}=={version}" + "".join(f" \\\n    --hash={one}" for one in sorted(pins[name, version])) + "\n"
        for name, version in sorted(pins)
    )


def write(path: Path, pins: Pins) -> None:
    """The comment at the file's top stays."""
    comment = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8")).group()
    new = path.with_name(f"{path.name}.new")
    new.write_text(comment + text(pins), encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
