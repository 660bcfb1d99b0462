"""Files that Faiss wrote, in the layout of the published index: one flat index for each training file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import faiss
import numpy as np
import pytest
from typer.testing import CliRunner

from tttnn.__main__ import app
from tttnn.corpus import Document, open_corpus, write_jsonl
from tttnn.embedding.random_vectors import RandomEmbedder
from tttnn.errors import ParameterError
from tttnn.files import StorageError
from tttnn.index import DamagedIndex, IndexExists, IndexMismatch, NoIndex, verify
from tttnn.retrieval import open_retriever
from tttnn.retrieval.published import import_index

COUNTS = {"00": 9, "01": 1, "02": 5}
EMBEDDER = RandomEmbedder(1024)


def texts(part: str) -> list[str]:
    return [f"document {number} of {part}" for number in range(COUNTS[part])]


def write_flat(path: Path, vectors: np.ndarray, kind=faiss.IndexFlatL2) -> None:
    index = kind(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(path))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A corpus in the Pile's layout, `pile`, and the index of each training file, `published`."""
    monkeypatch.setenv("TTTNN_HOME", str(tmp_path / "home"))
    (tmp_path / "published").mkdir()
    for part in COUNTS:
        documents = [Document(text, {"pile_set_name": "web"}) for text in texts(part)]
        write_jsonl(tmp_path / "pile" / "train" / f"{part}.jsonl{'.zst' * (part == '01')}", documents)
        write_flat(tmp_path / "published" / f"{part}.jsonl.index", EMBEDDER.embed(texts(part)))
    write_jsonl(tmp_path / "pile" / "test.jsonl", [Document("a test", {"pile_set_name": "web"})])
    return tmp_path


def imported(place: Path, **named):
    return import_index(place / "published", place / "pile", named.pop("embedder", EMBEDDER), **named)


def test_it_gives_the_neighbours_that_an_index_built_here_gives(place, monkeypatch):
    retriever = imported(place)
    monkeypatch.setenv("TTTNN_HOME", str(place / "other"))
    built = open_retriever(place / "pile", EMBEDDER)
    for query in ["a text", texts("00")[3], texts("01")[0]]:
        assert retriever.neighbours(query, 15) == built.neighbours(query, 15)
    assert [card["count"] for card in retriever.index.manifest["shards"]] == list(COUNTS.values())
    assert retriever.identity == built.identity
    np.testing.assert_array_equal(retriever.index.vectors([14, 0, 9]), built.index.vectors([14, 0, 9]))


def test_it_is_what_the_corpus_has_from_then_on(place, monkeypatch):
    imported(place)
    monkeypatch.setattr("tttnn.retrieval.retriever.build_index", None)
    retriever = open_retriever(place / "pile", EMBEDDER)
    assert retriever.neighbours(texts("02")[4], 1)[0].text == texts("02")[4]
    with pytest.raises(IndexExists, match=r"index-auto holds an index of this corpus and embedder already"):
        imported(place)


def test_files_are_linked_mapped_and_verified(place):
    index = imported(place).index
    published = place / "published" / "00.jsonl.index"
    assert (index.folder / "shard-00000" / "vectors.faiss").samefile(published)
    assert index._shards[0]._flat.base is not None  # a view of the file
    assert verify(index.folder) > 0
    with open(published, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    with pytest.raises(DamagedIndex, match=r"vectors\.faiss changed since it was written"):
        verify(index.folder)


def test_another_kind_is_made_of_its_vectors(place, monkeypatch):
    imported(place)
    monkeypatch.setattr(RandomEmbedder, "embed", lambda *given, **named: pytest.fail("embedded again"))
    assert open_retriever(place / "pile", EMBEDDER, kind="fp16").index.method["kinds"] == ["fp16"]


def test_what_does_not_belong_is_refused_and_leaves_nothing(place):
    published = place / "published"

    def refused(error, message, **named):
        with pytest.raises(error, match=message):
            imported(place, **named)
        assert not list((place / "home" / "indexes").glob("*/index-auto"))

    refused(IndexMismatch, r"00\.jsonl\.index holds vectors of dimension 1024, but .* of 64", embedder=RandomEmbedder())
    refused(
        IndexMismatch, r"00\.jsonl\.index, vector 0: embedder 'random' makes another", embedder=RandomEmbedder(1024, 7)
    )
    refused(ParameterError, "embedder='lexical'", embedder="lexical")
    vectors = EMBEDDER.embed(texts("02"))
    write_flat(published / "02.jsonl.index", vectors[[0, 1, 2, 4, 3]])
    refused(IndexMismatch, r"02\.jsonl\.index, vector 4")
    write_flat(published / "02.jsonl.index", vectors[:4])
    refused(IndexMismatch, r"02\.jsonl\.index holds 4 vectors, but its file of the corpus 5 documents")
    write_flat(published / "02.jsonl.index", vectors, faiss.IndexFlatIP)
    refused(DamagedIndex, r"02\.jsonl\.index is IndexFlatIP, not a flat index in squared L2")
    (published / "02.jsonl.index").write_bytes(b"IxF2 and nothing else")
    refused(DamagedIndex, r"02\.jsonl\.index cannot be read by Faiss")
    (published / "02.jsonl.index").unlink()
    refused(NoIndex, r"published has no 02\.jsonl\.index, the index of .*02\.jsonl: fetch it")


def test_another_file_system_is_named(place, monkeypatch):
    def link(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StorageError, match=r"00\.jsonl\.index cannot be linked .*TTTNN_HOME"):
        imported(place)


def test_the_command_imports(place, monkeypatch):
    monkeypatch.setattr("tttnn.retrieval.published.load_embedder", lambda name, device: EMBEDDER)
    called = ["index", "import", str(place / "published"), "--corpus", str(place / "pile"), "--embedder", "named"]
    found = CliRunner().invoke(app, called)
    assert found.exit_code == 0
    assert found.stdout.startswith("15 documents, 1024 dimensions: ")
    assert open_corpus(place / "pile").splits == ["train", "test"]
