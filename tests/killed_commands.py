"""Commands killed or interrupted at random moments, then called again: the work of tests in test_killed_commands.

In a process of its own, so that the libraries are loaded once and every call is a fork of it. Arguments: an empty
folder, how many kills (SIGKILL) and how many interruptions (Ctrl-C, SIGINT) there must be. Writes both numbers. Fails
if what a command leaves in the end differs by a byte from what an undisturbed one leaves, if anything stays locked or
half-written, or if an interrupted command does not say how to go on.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pandas  # noqa: F401 (loaded once, for all forks)
import pyarrow.parquet  # noqa: F401
import torch
import transformers  # noqa: F401
from test_cli import tiny_settings
from test_fetch import CONTENT, METADATA, TAGS, WHEEL, pinned
from tiny import LINES, tiny_gpt2
from tqdm import tqdm

import tttnn.__main__
import tttnn.index.vectors
from tttnn import provenance
from tttnn.corpus import Document, write_jsonl
from tttnn.experiment import record, sweep  # noqa: F401
from tttnn.fetch import PACKAGED
from tttnn.files import write_json
from tttnn.index.faiss_runtime import load_faiss
from tttnn.pretraining import (  # noqa: F401
    card,
    repair,
    train,
)
from tttnn.pretraining.settings import settings_as_json

DRAW = random.Random(1216)
GO_ON = "the same command goes on from there"
LONGEST = 120  # seconds; whoever waits longer waits for a lock
LOOP = ["--max-chunks", "1", "--threads", "1"]


def commands(place, trial):
    """The command lines, by the name of what they do; `trial` is where they write."""
    common = ["--corpus", str(place / "corpus"), "--model", str(place / "model"), "--out", str(trial / "out"), *LOOP]
    return {
        "run": ["run", *common, "--per-domain", "4", "--ks", "0,2", "--learning-rate", "1e-3"],
        "index build": ["index", "build", "--corpus", str(place / "corpus")],
        "sweep": ["sweep", *common, "--per-domain", "2", "--ks", "0,1", "--rates", "1e-3,1e-2"],
        "fetch": ["fetch", "tiny"],
        "pretrain": ["pretrain", str(place / "recipe.json"), "--data", common[1], "--out", str(trial / "out"),
                     "--device", "cpu", "--threads", "1"],
        "repair": ["repair", *(f"{common[1]}/lines.{split}.jsonl" for split in ("train", "val")), *common[2:],
                   "--every", "4", "--most", "12", "--looked-at", "2", "--learning-rate", "1e-3"],
    }  # fmt: skip


def prepare(place):
    """A corpus, a model, a package of weights that pip finds in a folder, and clocks that stand still."""
    words = " ".join(LINES).split()
    for split, size in {"train": 40, "val": 4, "test": 8}.items():
        texts = [" ".join(DRAW.choices(words, k=30)) for _ in range(size)]
        write_jsonl(place / "corpus" / f"lines.{split}.jsonl", [Document(text, {}) for text in texts])
    tiny_gpt2(place / "model")
    recipe = replace(tiny_settings(), tokens=12 * 64, checkpoint_minutes=-1)  # a checkpoint after every step
    write_json(place / "recipe.json", settings_as_json(recipe))
    (place / "shelf").mkdir()
    with ZipFile(place / "shelf" / WHEEL, "w") as archive:
        for path, content in CONTENT.items():
            archive.writestr(f"pkg/{path}", content)
        for name, content in {"METADATA": METADATA, "WHEEL": TAGS, "RECORD": b""}.items():
            archive.writestr(f"tiny_weights-1.0.dist-info/{name}", content)
    PACKAGED["tiny"] = pinned(place / "shelf")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        del os.environ[name]
    pip = {"NO_INDEX": "1", "FIND_LINKS": str(place / "shelf"), "CONFIG_FILE": os.devnull, "NO_CACHE_DIR": "1"}
    os.environ.update({f"PIP_{name}": value for name, value in pip.items()})
    tttnn.index.vectors.CHECKPOINT_BYTES = 1  # after every batch
    provenance._git = lambda *arguments: ""
    train.time = SimpleNamespace(monotonic=lambda: 0.0)  # the log says when
    record._now = lambda: "2026-01-01T00:00:00Z"
    tqdm.set_lock(threading.RLock())  # its own is shared with the children, and one may be killed holding it
    torch.set_num_threads(1)
    load_faiss(1)


def started(place, trial, name):
    """Call a command in a process of its own; its number. Ctrl-C reaches it from the moment that its work begins."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return child
    status = 1
    try:
        status = _called(place, trial, name)
    except BaseException:  # noqa: BLE001 (all of them: the parent must not go on in the child)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _called(place, trial, name):
    """The exit status of a command, which the forked process is to end with."""
    said = os.open(trial / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ["TTTNN_HOME"] = str(trial / "home")
    time.perf_counter = lambda: 0.0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(LONGEST)
    app = tttnn.__main__.app

    def work():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        try:
            app()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

    tttnn.__main__.app = work
    sys.argv = ["tttnn", *commands(place, trial)[name]]
    try:
        tttnn.__main__.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def disturbed(place, trial, name, number, after):
    """Start a command and send it a signal; whether it was still at work then."""
    child = started(place, trial, name)
    time.sleep(after)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    if number == signal.SIGKILL and os.WIFSIGNALED(status):
        return True
    said = (trial / "said").read_text()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return False
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status) != tttnn.__main__.INTERRUPTED or GO_ON not in said:
        raise SystemExit(f"{name} after {after:.2f} s: status {status}, and it said\n{said}")
    return True


def finished(place, trial, name):
    """Call a command that nothing disturbs; all that it leaves."""
    _, status = os.waitpid(started(place, trial, name), 0)
    if status:
        raise SystemExit(f"{name}: status {status} of the call that ought to finish it\n{(trial / 'said').read_text()}")
    return contents(trial)


def contents(trial):
    """Relative name -> bytes of every file, but what says which calls there were; locks are empty files."""
    found = {}
    for path in sorted(trial.rglob("*")):
        if path.name == "said" or path.is_dir() or (path.name.endswith(".lock") and not path.stat().st_size):
            continue
        name = str(path.relative_to(trial))
        found[name] = path.read_bytes()
        if path.name == "rows.jsonl":
            found[name] = [line for line in found[name].splitlines() if b'{"key": ' in line]
        elif path.name == "run.json":
            found[name] = json.loads(found[name])
            calls = found[name].pop("calls")
            found[name].update(documents=sum(call["documents"] for call in calls), end=None)
    return found


def main(place, kills, interruptions):
    prepare(place)
    whole, seconds = {}, {}
    for name in commands(place, place):
        trial = place / "whole" / name
        trial.mkdir(parents=True)
        start = time.monotonic()
        whole[name] = finished(place, trial, name)
        seconds[name] = time.monotonic() - start
    names = list(whole)
    left, counts, trials = {signal.SIGKILL: kills, signal.SIGINT: interruptions}, dict.fromkeys(whole, 0), 0
    trial = place / "trial"
    while any(count > 0 for count in left.values()):
        name = names[trials % len(names)]
        trials += 1
        if trials > 5 * (kills + interruptions) + 20:
            raise SystemExit(f"{trials} trials, and still {left} signals came too late")
        trial.mkdir()
        for _ in range(1 + (trials // len(names)) % 2):
            number = DRAW.choices(list(left), [max(count, 0) + 0.01 for count in left.values()])[0]
            if disturbed(place, trial, name, number, DRAW.uniform(0, seconds[name])):
                left[number] -= 1
                counts[name] += 1
        found = finished(place, trial, name)
        if found != whole[name]:
            other = [each for each in found.keys() | whole[name].keys() if found.get(each) != whole[name].get(each)]
            raise SystemExit(f"trial {trials}, {name}: other bytes than an undisturbed command's in {sorted(other)}")
        shutil.rmtree(trial)
    done = f"{kills - left[signal.SIGKILL]} kills, {interruptions - left[signal.SIGINT]} interruptions"
    sys.stdout.write(f"{done} of {', '.join(f'{name} ({count})' for name, count in counts.items())}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]), int(sys.argv[3]))
