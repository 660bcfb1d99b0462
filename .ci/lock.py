"""Write requirements.lock and requirements-cuda.lock from pyproject.toml: `make lock`.

uv resolves, keeps every version that is locked unless told otherwise, and lists the hashes of all files of each
release, for any platform. That is the lock for CUDA: the torch of the public index is built for it. The lock for CPUs
has the same versions, without what only CUDA needs, and the hashes of torch's builds for CPUs. Those are on an index of
their own, which pip must be set up for when the version of torch changes; hashes that are locked for a version stay.

Arguments are handed to ``uv pip compile``: ``--upgrade``, ``--upgrade-package torch``, ``--resolution lowest-direct``.
uv asks its own index (``UV_DEFAULT_INDEX``), whatever pip is set up for.
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
    """Resolve for CUDA, take the lock for CPUs from that, and write both."""
    locked_cpu, locked_cuda = read(LOCK), read(CUDA)
    cuda = resolved(locked_cuda, arguments)
    cpu = {package: hashes for package, hashes in cuda.items() if not ONLY_CUDA.match(package[0])}
    torch = next(package for package in cuda if package[0] == "torch")
    cuda[torch] = cuda[torch] | locked_cuda.get(torch, set())
    cpu[torch] = locked_cpu.get(torch, set()) | hashes_for_cpus(torch[1])
    write(LOCK, cpu)
    write(CUDA, cuda)
    if not cpu[torch]:
        sys.stderr.write(f"requirements.lock has no hash of torch {torch[1]}: pip knows no index of CPU builds\n")


def resolved(locked: Pins, arguments: list[str]) -> Pins:
    """What uv makes of pyproject.toml, of all its extras and of what builds the package."""
    builds = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    known = ROOT / ".venv" / "locked.txt"  # uv keeps the versions of the file that it is to write
    known.write_text(text(locked), encoding="utf-8")
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--generate-hashes", "--all-extras"]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--no-strip-extras", "--no-header", "--no-annotate"]
    command += [*arguments, "--output-file", known, "pyproject.toml", "-"]
    subprocess.run(command, cwd=ROOT, input="\n".join(builds), text=True, check=True, stdout=subprocess.DEVNULL)
    pins = read(known)
    # Where one package asks for name[extra] and another for name, pip's resolver wants a line for either.
    return pins | {(name.split("[")[0], version): hashes for (name, version), hashes in pins.items()}


def hashes_for_cpus(version: str) -> set[str]:
    """Those of the file that pip takes for this platform, if an index that it is set up for has one."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    run = subprocess.run([*command, "--report", "-", f"torch=={version}+cpu"], capture_output=True, text=True)
    taken = json.loads(run.stdout)["install"] if run.returncode == 0 else []
    return {f"sha256:{one['download_info']['archive_info']['hashes']['sha256']}" for one in taken}


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
