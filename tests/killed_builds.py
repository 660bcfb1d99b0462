"""Builds and additions killed with SIGKILL at random moments: the work of a test in test_index_faults.

In a process of its own, so that the libraries are loaded once and every build is a fork of it. Arguments: an
empty folder, and how many kills there must be. Writes the number of kills; fails if any build that was taken up
again differs by a byte from one that was left alone.
"""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from test_index import Named, source
from tqdm import tqdm

import tttnn.index.vectors
from tttnn.files import read_json
from tttnn.index import BuildOptions, add_shard, build_index, verify
from tttnn.index.faiss_runtime import load_faiss

RANDOM = np.random.default_rng(1216)
VECTORS = RANDOM.normal(size=(1500, 8)).astype(np.float32)
MORE = RANDOM.normal(size=(700, 8)).astype(np.float32)
KINDS = ("flat-mapped", "sq8", "hnsw", "rabitq", "ivfrabitq")


def build(folder, kind):
    """An index and an addition to it: whatever of that is still to be done."""
    options = {"embedder": Named(8), "kind": kind, "options": BuildOptions(1100)}
    manifest, plan = folder / "manifest.json", folder / "build.json"
    if not manifest.exists() or (plan.exists() and read_json(plan)["first"] == 0):
        build_index(folder, source(VECTORS, 100), corpus_fingerprint="c" * 64, count=len(VECTORS), **options)
    if plan.exists() or read_json(manifest)["count"] == len(VECTORS):
        add_shard(folder, source(MORE, 100), corpus_fingerprint="f" * 64, count=len(MORE), **options)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def forked(action, *arguments):
    child = os.fork()
    if not child:
        try:
            action(*arguments)
            os._exit(0)
        except Exception:  # noqa: BLE001 (all of them: the parent must not go on in the child)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    return child


def killed(folder, kind, after):
    """Start a build, kill it; whether it was still running then."""
    child = forked(build, folder, kind)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{folder}: the build failed by itself")
    return os.WIFSIGNALED(status)


def finished(folder, kind):
    _, status = os.waitpid(forked(build, folder, kind), 0)
    if status:
        raise SystemExit(f"{folder}: the build that was taken up failed")
    verify(folder)
    return files(folder)


def main(place, wanted):
    tqdm.set_lock(threading.RLock())  # its own is shared with the children, and one may be killed holding it
    tttnn.index.vectors.CHECKPOINT_BYTES = 2 * 100 * 8 * 4  # after every second batch
    load_faiss(1)
    kills, trials, whole, seconds = 0, 0, {}, {}
    for kind in KINDS:
        start = time.perf_counter()
        whole[kind] = finished(place / kind, kind)
        seconds[kind] = time.perf_counter() - start
    while kills < wanted:
        kind, folder = KINDS[trials % len(KINDS)], place / "killed"
        trials += 1
        if trials > 10 * wanted:
            raise SystemExit(f"only {kills} of {trials} builds were still running when they were to be killed")
        for _ in range(1 + trials % 2):
            kills += killed(folder, kind, RANDOM.uniform(0, seconds[kind]))
        if finished(folder, kind) != whole[kind]:
            raise SystemExit(f"trial {trials}, kind {kind}: other bytes than an uninterrupted build")
        shutil.rmtree(folder)
    sys.stdout.write(f"{kills} kills in {trials} builds\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
