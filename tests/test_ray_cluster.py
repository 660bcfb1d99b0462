"""Work on a Ray cluster gives what one machine gives, also when workers are killed in the middle of it."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from command_line import called, started
from conftest import exhaustive
from test_experiment import DOCUMENTS, SWITCHES, FixedRetriever, timeless
from test_index import Named, brute_force, build, source
from tiny import LINES, tiny_gpt2

import tttnn.ray_cluster
from tttnn.corpus import Document, write_jsonl
from tttnn.experiment import RowsError, read_rows, run
from tttnn.experiment.ray_runner import run_on_cluster
from tttnn.files import read_json
from tttnn.index import BuildOptions, DamagedIndex, Index, build_index
from tttnn.index.ray_index import ClusterIndex, write_on_cluster
from tttnn.models import load_model
from tttnn.ray_cluster import ClusterError, cluster, results
from tttnn.retrieval import open_retriever
from tttnn.rows import RowJournal
from tttnn.ttt import TTT, Switches

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray, the extra 'cluster', is missing")

VECTORS = np.random.default_rng(1216).integers(0, 3, (900, 4)).astype(np.float32)  # ties everywhere
QUERIES = VECTORS[:5] + np.float32(0.25)
KS = [0, 1, 3]


@pytest.fixture(autouse=True)
def no_test_hangs():
    """Interrupt a wait for a cluster that does not answer; Ray lets signals through."""

    def fail(*_):
        raise TimeoutError("the cluster did not answer within 300 s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def address():
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]  # workers import this module, too
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        with cluster("local", workers=2):
            import ray

            yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_gpt2(tmp_path_factory.mktemp("model") / "gpt2")


def die(graves, times=1):
    """Kill this process with SIGKILL, unless so many have died here before."""
    graves.mkdir(parents=True, exist_ok=True)
    if len(list(graves.iterdir())) < times:
        (graves / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def buried(graves):
    """Processes that died there; they are gone."""
    pids = [int(grave.name) for grave in graves.iterdir()]
    assert not any(map(psutil.pid_exists, pids))
    return pids


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Experiments


class MortalRetriever(FixedRetriever):
    """Kills its process while it looks for the neighbours of one document."""

    def __init__(self, graves, times):
        self.graves, self.times = graves, times

    def neighbours(self, text, k, meta=None):
        if text == DOCUMENTS[2].text:
            die(self.graves, self.times)
        return super().neighbours(text, k)


def make(model, graves, times=1, switches=SWITCHES):
    return TTT(load_model(model, threads=1), MortalRetriever(graves, times), switches)


@pytest.fixture(scope="module")
def here(model):
    return TTT(load_model(model, threads=1), FixedRetriever(), SWITCHES)


def test_rows_are_the_same_although_a_worker_is_killed(address, model, here, tmp_path):
    rows = run_on_cluster(here, partial(make, model, tmp_path / "graves"), DOCUMENTS, KS, tmp_path / "rows")
    assert len(buried(tmp_path / "graves")) == 1
    pd.testing.assert_frame_equal(timeless(rows), timeless(run(here, DOCUMENTS, KS)), check_dtype=False)
    record = read_json(tmp_path / "rows" / "run.json")
    assert len(record["about"]["workers"]) == 2 and record["calls"][0]["model_device"] == "cpu"


def test_a_document_that_kills_its_workers_ends_the_run_and_costs_no_other(address, model, here, tmp_path, monkeypatch):
    monkeypatch.setattr(tttnn.ray_cluster, "RETRIES", 1)
    with pytest.raises(ClusterError, match="code document 2: its worker died 2 times"):
        run_on_cluster(here, partial(make, model, tmp_path / "graves", 9), DOCUMENTS, KS, tmp_path / "rows", workers=1)
    assert len(buried(tmp_path / "graves")) == 2
    with RowJournal(tmp_path / "rows") as journal:
        assert journal.table()["document"].unique().tolist() == [0, 1]
    rows = run(here, DOCUMENTS, KS, tmp_path / "rows")  # the same folder goes on, with or without a cluster
    pd.testing.assert_frame_equal(timeless(rows), timeless(run(here, DOCUMENTS, KS)), check_dtype=False)


def test_what_would_give_other_rows_is_refused(address, model, here, tmp_path):
    keeping = TTT(here.lm, FixedRetriever(), Switches(keep_optimizer=True))
    with pytest.raises(RowsError, match="one machine"):
        run_on_cluster(keeping, partial(make, model, tmp_path), DOCUMENTS, KS)
    other = partial(make, tiny_gpt2(tmp_path / "other" / "gpt2", seed=1), tmp_path)
    with pytest.raises(RowsError, match="another switches, weights than this process"):
        run_on_cluster(here, partial(other, switches=Switches()), DOCUMENTS, KS, workers=1)


# Index


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return build(tmp_path_factory.mktemp("index") / "i", VECTORS, batch=100, kind="sq8", shard_rows=256)


def test_a_cluster_finds_what_one_machine_finds(address, single):
    index = ClusterIndex.open(single.folder, single.fingerprint, workers=3)
    assert (len(index), index.dimension, index.fingerprint) == (900, 4, single.fingerprint)
    for k in (1, 20, 900):
        answer, expected = index.search(QUERIES, k), single.search(QUERIES, k)
        np.testing.assert_array_equal(answer, expected)
        assert answer.answered == expected.answered
    np.testing.assert_array_equal(index.search(QUERIES, 9), brute_force(VECTORS, QUERIES, 9))
    np.testing.assert_array_equal(np.concatenate(list(index.stream(250))), VECTORS[250:])
    for wrong in (0, 901):
        with pytest.raises(ValueError, match=f"k={wrong}"):
            index.search(QUERIES, wrong)


def test_shards_of_a_worker_killed_during_a_query_are_opened_again(address, single, tmp_path):
    def doom(holder, graves):
        shard = next(iter(holder._shards.values()))
        shard.search = lambda *_: die(graves, times=9)  # until the shard is opened anew

    index = ClusterIndex.open(single.folder, single.fingerprint)
    results(index._holders[1].__ray_call__.remote(doom, tmp_path / "graves"))
    np.testing.assert_array_equal(index.search(QUERIES, 20), single.search(QUERIES, 20))
    assert len(buried(tmp_path / "graves")) == 1


def test_a_damaged_shard_is_named(address, tmp_path):
    index = build(tmp_path / "i", VECTORS, shard_rows=256)
    opened = ClusterIndex.open(index.folder, index.fingerprint)
    os.truncate(tmp_path / "i" / "shard-00002" / "vectors.npy", 1000)
    for ask in (lambda: opened.search(QUERIES, 3), lambda: ClusterIndex.open(index.folder, index.fingerprint)):
        with pytest.raises(DamagedIndex, match=r"shard-00002.*1000 bytes"):
            ask()


def mortal_source(vectors, graves, folder, start):
    """Batches, but the first process to come to row 700 dies after that, within a write."""
    for row in range(start, len(vectors), 100):
        yield vectors[row : row + 100]
        if row < 700 <= row + 100:
            (folder / "shard-00002" / ".structure.faiss.c0ffee-1-00.partial").touch()
            die(graves)


def test_a_build_with_a_worker_killed_gives_the_bytes_of_one_machine(address, single, tmp_path):
    folder = tmp_path / "i"
    options = {"embedder": Named(4), "corpus_fingerprint": "c" * 64, "kind": "sq8"}
    spread = BuildOptions(256, write=write_on_cluster)
    batches = partial(mortal_source, VECTORS, tmp_path / "graves", folder)
    with pytest.raises(ValueError, match="count=None"):
        build_index(folder, batches, **options, options=spread)
    (folder / "build.json").unlink()
    build_index(folder, batches, **options, count=len(VECTORS), options=spread)
    assert len(buried(tmp_path / "graves")) == 1
    assert files(folder) == files(single.folder)


def test_an_error_in_a_build_is_that_of_one_machine(address, tmp_path):
    vectors = VECTORS.copy()
    vectors[400] = np.nan
    options = {"embedder": Named(4), "corpus_fingerprint": "c" * 64, "count": len(vectors)}
    with pytest.raises(ValueError, match="row 400: holds NaN"):
        build_index(tmp_path / "i", source(vectors), **options, options=BuildOptions(256, write=write_on_cluster))
    with pytest.raises(FileNotFoundError):
        Index.open(tmp_path / "i", Named(4).fingerprint)


def write_corpus(folder):
    draw = random.Random(0)
    for split, size in {"train": 30, "test": 3}.items():
        texts = [" ".join(draw.choices(" ".join(LINES).split(), k=40)) for _ in range(size)]
        write_jsonl(folder / f"lines.{split}.jsonl", [Document(text, {}) for text in texts])
    return folder


def test_a_retriever_embeds_builds_and_searches_on_the_cluster(address, tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus")
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "one"))
    one = open_retriever(corpus)
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "many"))
    many = open_retriever(corpus, workers=2)
    assert len(many.index.manifest["shards"]) == 2 and many.fingerprint == one.fingerprint
    assert many.neighbours(LINES[0], 30) == one.neighbours(LINES[0], 30)
    with pytest.raises(ValueError, match="by name or folder"):
        open_retriever(corpus, one.embedder, workers=2)


# The cluster itself


def test_a_local_cluster_listens_on_this_machine_only_and_asks_for_its_token(address):
    import ray
    from ray._raylet import AuthenticationMode, get_authentication_mode

    assert get_authentication_mode() == AuthenticationMode.TOKEN
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    mine = [process for process in processes if "ray" in " ".join(process.cmdline()) or process.pid == os.getpid()]
    ports = [each for process in mine for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert len(ports) > 3 and {each.laddr.ip.removeprefix("::ffff:") for each in ports} <= {"127.0.0.1", "::1"}
    assert ray.cluster_resources()["CPU"] == 2


@pytest.mark.parametrize(
    "token",
    [
        pytest.param({}, id="no token"),
        pytest.param({"RAY_AUTH_TOKEN": "0" * 64}, id="another token", marks=exhaustive),
    ],
)
def test_without_its_token_a_cluster_is_closed(address, tmp_path, token):
    script = "import sys; from tttnn.ray_cluster import cluster\nwith cluster(sys.argv[1]): print('connected')"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled", **token}
    done = subprocess.run(
        [sys.executable, "-c", script, address], env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 1 and "connected" not in done.stdout
    assert "ClusterError" in done.stderr and "copy ~/.ray/auth_token" in done.stderr


@pytest.mark.parametrize("wrong", ["127.0.0.1:1", "nonsense", "nowhere.invalid:6379"])
def test_an_unknown_address_is_an_error_that_helps(wrong):
    expected = f"{wrong}: no Ray cluster to connect to .* `ray start --help`"
    with pytest.raises(ClusterError, match=expected), cluster(wrong):
        pass


def test_the_command_line_starts_a_cluster_and_stops_it(model, tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    line = ["run", "--corpus", corpus, "--model", model, "--ks", "0,2", "--learning-rate", "1e-3", "--threads", 1]
    for call, options in ((started, ["many", "--cluster", "local"]), (called, ["one"])):
        done = call(*line, "--out", tmp_path / options[0], *options[1:], home=tmp_path / "home")
        assert "9 rows" in done.stdout, done.stderr
    many, one = (timeless(read_rows(tmp_path / name)) for name in ("many", "one"))
    pd.testing.assert_frame_equal(many, one)


def test_a_local_cluster_is_started_again_when_the_machine_was_too_slow():
    calls = []

    def start():
        calls.append("start")
        if calls.count("start") < 3:
            raise RuntimeError("The current node timed out during startup")

    tttnn.ray_cluster._patiently(start, lambda: calls.append("stop"))
    assert calls == ["start", "stop", "start", "stop", "start"]
    calls.clear()
    with pytest.raises(RuntimeError, match="for good"):
        fail = (_ for _ in ()).throw
        tttnn.ray_cluster._patiently(lambda: fail(RuntimeError("for good")), lambda: calls.append("stop"))
    assert calls == ["stop", "stop"]
