"""A folder says what its rows depend on and which calls added them, and takes none that do not belong there."""

import json
from dataclasses import replace

import pytest
from test_experiment import DOCUMENTS, SWITCHES, FixedRetriever, ttt  # noqa: F401
from tiny import tiny_llama
from torch import OutOfMemoryError

from tttnn.errors import DocumentError, ParameterError
from tttnn.experiment import DrawnDocument, RowsError, read_rows, run
from tttnn.experiment.record import identity, tokenizer_hash
from tttnn.experiment.runner import _SideBySide, side_by_side
from tttnn.files import read_json
from tttnn.models import load_model
from tttnn.rows import JOURNAL, TABLE, RowJournal, read_journal
from tttnn.ttt import TTT, Switches

DRAWN = {"per_domain": 2, "split": "test", "max_bytes": 100, "seed": 1}


def drawn(**other):
    return {"corpus": {"fingerprint": "a"}, "drawn": DRAWN | other}


def test_rows_of_a_package_that_no_longer_brings_the_method_get_no_others(ttt, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(
        "tttnn.experiment.record.package_of", lambda group, name: "other 1.2" if name == "ttt" else None
    )
    run(ttt, DOCUMENTS[:1], [0, 1], tmp_path, drawn())
    monkeypatch.undo()
    with pytest.raises(RowsError, match=r"other package \(other 1\.2, now none\)"):
        run(ttt, DOCUMENTS, [0, 1], tmp_path, drawn())


def test_each_call_that_adds_rows_is_listed(ttt, tmp_path):  # noqa: F811
    run(ttt, DOCUMENTS[:2], [0, 1], tmp_path, drawn())
    first = (tmp_path / "run.json").read_bytes()
    run(ttt, DOCUMENTS[:2], [0, 1], tmp_path, drawn())
    assert (tmp_path / "run.json").read_bytes() == first, "nothing was added"
    run(ttt, DOCUMENTS, [0, 1], tmp_path, drawn(per_domain=4))
    record = read_json(tmp_path / "run.json")
    assert [(call["documents"], call["drawn"]["per_domain"]) for call in record["calls"]] == [(2, 2), (2, 4)]
    assert all(call["commit"] and call["device"] and call["versions"] and call["end"] for call in record["calls"])
    assert record["about"]["drawn"]["per_domain"] == 4 and record["start"] <= record["end"]


class OnAnotherCard(_SideBySide):
    how = property(lambda self: {"model_device": "cuda:1"})


def test_each_call_says_where_the_model_was_and_what_changes_digits(ttt, tmp_path, monkeypatch, caplog):  # noqa: F811
    monkeypatch.delenv("TTTNN_FAST_LAYERS", raising=False)
    run(ttt, DOCUMENTS[:1], [0], tmp_path)
    run(ttt, DOCUMENTS[:2], [0], tmp_path, evaluate=side_by_side(2))
    assert not caplog.records
    monkeypatch.setenv("TTTNN_FAST_LAYERS", "0")
    monkeypatch.setattr("tttnn.provenance.versions", lambda: {"torch": "1.0"})
    run(ttt, DOCUMENTS[:3], [0], tmp_path, evaluate=OnAnotherCard(1))
    [warning] = caplog.messages
    assert all(
        each in warning for each in ("other device (cpu, now cuda)", "environment ({}, now {", "torch (", "1.0)")
    )
    calls = read_json(tmp_path / "run.json")["calls"]
    assert [call["model_device"] for call in calls] == ["cpu", "cpu", "cuda:1"] and "thread" in calls[0]["device"]
    assert [call["environment"] for call in calls] == [{}, {}, {"TTTNN_FAST_LAYERS": "0"}]
    assert [call.get("documents_at_once") for call in calls] == [None, 2, None]


def test_documents_of_a_killed_call_are_counted(ttt, tmp_path):  # noqa: F811
    run(ttt, DOCUMENTS[:1], [0], tmp_path, drawn())
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) == 3, "a call, a document, an end"
    run(ttt, DOCUMENTS[:3], [0], tmp_path, drawn())
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join(lines[:5]) + lines[5][:20])  # killed in the second call's second document
    run(ttt, DOCUMENTS, [0], tmp_path, drawn())
    calls = read_json(tmp_path / "run.json")["calls"]
    assert [(call["documents"], bool(call["end"])) for call in calls] == [(1, True), (1, False), (2, True)]


def test_documents_of_a_call_killed_after_its_last_one_are_counted(ttt, tmp_path, monkeypatch):  # noqa: F811
    def killed(self, when):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RowJournal, "end", killed)
        run(ttt, DOCUMENTS[:2], [0], tmp_path, drawn())
    assert [call["documents"] for call in read_json(tmp_path / "run.json")["calls"]] == [0]
    run(ttt, DOCUMENTS[:2], [0], tmp_path, drawn())
    assert [call["documents"] for call in read_json(tmp_path / "run.json")["calls"]] == [2]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (drawn(max_bytes=400), r"drawn.max_bytes \(100, now 400\)"),
        (drawn(seed=2), "drawn.seed"),
        (drawn(split="val"), "split"),
        (drawn() | {"corpus": {"fingerprint": "b"}}, r"corpus \(a, now b\)"),
    ],
)
def test_another_population_does_not_go_into_a_folder(ttt, tmp_path, other, named):  # noqa: F811
    run(ttt, DOCUMENTS[:1], [0], tmp_path, drawn())
    with pytest.raises(RowsError, match=f"other {named}"):
        run(ttt, DOCUMENTS, [0], tmp_path, other)
    assert len(read_rows(tmp_path)) == 1


def test_tokenizer_prefix_and_retriever_are_part_of_what_rows_depend_on(ttt, tmp_path):  # noqa: F811
    run(ttt, DOCUMENTS[:1], [0, 1], tmp_path)
    with pytest.raises(RowsError, match="other prefix_id"):
        run(TTT(replace(ttt.lm, prefix_id=5), FixedRetriever(), SWITCHES), DOCUMENTS, [0, 1], tmp_path)
    with pytest.raises(RowsError, match="other model"):
        run(TTT(replace(ttt.lm, name="other"), FixedRetriever(), SWITCHES), DOCUMENTS, [0, 1], tmp_path)
    known = identity(ttt.lm, ttt.retriever, ttt.switches)
    assert known["retriever"] == "fixed" and known["settings"]["max_length"] and known["switches"]["lora"] is None
    before = tokenizer_hash(ttt.lm.tokenizer)
    ttt.lm.tokenizer(["a", "bc"], padding=False, truncation=True, max_length=1)
    assert tokenizer_hash(ttt.lm.tokenizer) == before == known["tokenizer"], "calls leave no trace"


def configured(folder, **changes):
    """The same weights under a changed config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return load_model(folder)


def test_what_a_model_computes_with_its_weights_is_part_of_what_rows_depend_on(tmp_path):
    folder = tiny_llama(tmp_path / "model")
    plain = load_model(folder)
    run(TTT(plain, FixedRetriever(), SWITCHES), DOCUMENTS[:1], [0], tmp_path / "rows")
    assert configured(folder, use_cache=False, transformers_version="4.0.0").config_hash() == plain.config_hash()
    for changes in ({"rms_norm_eps": 0.1}, {"rope_parameters": {"rope_theta": 10.0, "rope_type": "default"}}):
        other = TTT(configured(folder, **changes), FixedRetriever(), SWITCHES)
        assert other.lm.weight_hash() == plain.weight_hash()
        with pytest.raises(RowsError, match=r"a run with other config \([0-9a-f]{12}\.\.\., now [0-9a-f]{12}\.\.\.\)"):
            run(other, DOCUMENTS, [0], tmp_path / "rows")


def test_rows_from_before_something_was_recorded_get_no_others_and_stay_readable(ttt, tmp_path):  # noqa: F811
    run(ttt, DOCUMENTS[:1], [0], tmp_path)
    lines = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    del lines[0]["call"]["settings"]["config"]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RowsError, match=r"rows of an earlier version .* did not record their config, so none can be"):
        run(ttt, DOCUMENTS, [0], tmp_path)
    with pytest.raises(RowsError, match=r"a run with other config .*, model"):
        run(TTT(replace(ttt.lm, name="other"), FixedRetriever(), SWITCHES), DOCUMENTS, [0], tmp_path)
    assert len(read_rows(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", None])
def test_a_lost_or_damaged_record_is_put_back(ttt, tmp_path, damage):  # noqa: F811
    run(ttt, DOCUMENTS[:2], [0], tmp_path, drawn())
    whole = (tmp_path / "run.json").read_bytes()
    if damage is None:
        (tmp_path / "run.json").unlink()
    else:
        (tmp_path / "run.json").write_text(damage)
    other = TTT(ttt.lm, FixedRetriever(), Switches(learning_rate=0.1, max_length=16))
    with pytest.raises(RowsError, match=r"other switches\.learning_rate"):
        run(other, DOCUMENTS, [0], tmp_path, drawn())
    assert (tmp_path / "run.json").read_bytes() == whole


def test_rows_that_do_not_say_what_they_depend_on_get_no_others(ttt, tmp_path):  # noqa: F811
    with RowJournal(tmp_path) as journal:
        journal.append(("m", "d", 0), [{"k": 0, "document": 0}])
        journal.table()
    with pytest.raises(RowsError, match="earlier version"):
        run(ttt, DOCUMENTS, [0], tmp_path)
    (tmp_path / JOURNAL).unlink()
    with pytest.raises(RowsError, match=rf"{TABLE} holds rows, but {JOURNAL}"):
        run(ttt, DOCUMENTS, [0], tmp_path)
    assert len(read_rows(tmp_path)) == 1, "not overwritten"


@pytest.mark.parametrize(
    "line",
    [
        "{}", "[]", "null", "7", '{"key": 1, "rows": []}', '{"key": ["m", "d", "0"], "rows": []}', "[" * 9999,
        '{"key": ["m", "d", 1], "rows": [1]}', '{"key": ["m", "d", 1], "rows": [{"nots": 1}]}', '{"call": {}}',
        '{"key": ["m", "d", 0], "rows": []}', '{"key": ["m", "d", 1]}', "\x00\x00",
        '{"key": ["m", "d", 1], "rows": [{"k": "one"}]}', '{"key": ["m", "d", 1], "rows": [{"failure": 7}]}',
        '{"key": ["m", "d", 1], "rows": [{"document": 9999999999999999999}]}', '{"call": {"settings": {}}}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    with RowJournal(tmp_path) as journal:
        journal.append(("m", "d", 0), [{"k": 0}])
    with open(tmp_path / JOURNAL, "a") as file:
        file.write(line + "\n")
    with pytest.raises(RowsError, match=rf"{JOURNAL}, line 2: not a result line: "):
        RowJournal(tmp_path)


def test_damaged_parquet_is_named(tmp_path):
    (tmp_path / TABLE).write_bytes(b"PAR1 and no more")
    with pytest.raises(RowsError, match=f"{TABLE} is damaged"):
        read_rows(tmp_path)


def test_half_a_character_in_a_name_ends_no_run(ttt, tmp_path):  # noqa: F811
    odd = DrawnDocument("a\ud800", 0, DOCUMENTS[0].text)
    for _ in range(2):
        rows = run(ttt, [odd], [0], tmp_path, {"drawn": {"split": "b\udcff"}})
    assert rows["domain"].tolist() == ["a?"] and len(read_rows(tmp_path)) == 1


@pytest.mark.parametrize("ks", ["0,x", "", [], [0, -1], [0.5], None])
def test_bad_places_of_scores_are_refused_before_anything(ttt, tmp_path, ks):  # noqa: F811
    with pytest.raises(ParameterError, match=r"^ks="):
        run(ttt, DOCUMENTS, ks, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_what_a_run_needs_is_looked_at_before_its_folder(ttt, tmp_path):  # noqa: F811
    for other, ks, message in (
        (TTT(ttt.lm, None, SWITCHES), [0, 1], "need a retriever"),
        (TTT(ttt.lm, FixedRetriever(), replace(SWITCHES, vocabulary=3)), [0], "vocabulary=3: must be from"),
        (TTT(ttt.lm, FixedRetriever(), replace(SWITCHES, vocabulary=10**6)), [0], "vocabulary=1000000: must be from"),
    ):
        with pytest.raises(ParameterError, match=message):
            run(other, DOCUMENTS, ks, tmp_path / "rows")
    with pytest.raises(ParameterError, match="documents: there is none"):
        run(ttt, [], [0], tmp_path / "rows")
    with pytest.raises(ParameterError, match="method='unigram:2'"):
        run(ttt, DOCUMENTS, [0], tmp_path / "rows", method="unigram:2")
    assert not (tmp_path / "rows").exists()


def test_a_document_given_twice_is_evaluated_once(ttt, tmp_path):  # noqa: F811
    assert run(ttt, DOCUMENTS[:2] * 2, "0", tmp_path)["document"].tolist() == [0, 1]


class Failing(FixedRetriever):
    def __init__(self, error):
        self.error = error

    def neighbours(self, text, k, meta=None):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("shapes"), KeyError("k"), RuntimeError("CUDA error: assert")])
def test_a_fault_of_the_program_is_no_failed_document(ttt, tmp_path, error):  # noqa: F811
    with pytest.raises(type(error)):
        run(TTT(ttt.lm, Failing(error), SWITCHES), DOCUMENTS[:1], [0, 1], tmp_path)
    assert len(run(ttt, DOCUMENTS[:1], [0, 1, 2], tmp_path)) == 3, "nothing was recorded, so that other ks are taken"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DocumentError("no neighbour qualifies"), "no neighbour qualifies"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "give a smaller context"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "give a smaller context"),
    ],
)
def test_what_one_document_lacks_is_its_own_failure(ttt, error, reason):  # noqa: F811
    rows = run(TTT(ttt.lm, Failing(error), SWITCHES), DOCUMENTS[:2], [0, 1])
    assert rows["failure"].str.contains(reason).tolist() == [True, True]


def test_what_had_no_memory_is_tried_again_and_its_rows_replace_the_failure(ttt, tmp_path):  # noqa: F811
    full = TTT(ttt.lm, Failing(MemoryError()), SWITCHES)
    kept = run(ttt, DOCUMENTS[:1], [0, 1], tmp_path)
    for _ in range(2):
        rows = run(full, DOCUMENTS[:2], [0, 1], tmp_path)
        assert rows["failure"].str.contains("no memory .*: the same call tries it again.* in another folder").sum() == 1
    assert [call["documents"] for call in read_json(tmp_path / "run.json")["calls"]] == [1, 1]
    rows = run(ttt, DOCUMENTS[:2], [0, 1], tmp_path)
    assert rows["document"].tolist() == [0, 0, 1, 1] and not rows["failure"].any()
    assert rows[:2].equals(kept), "what was done is not done again"
    assert read_rows(tmp_path).equals(rows) and read_journal(tmp_path).equals(rows)
    record = read_json(tmp_path / "run.json")
    assert [call["documents"] for call in record["calls"]] == [1, 1], "each document counts for the call of its rows"
    whole = (tmp_path / JOURNAL).read_bytes()
    assert run(ttt, DOCUMENTS[:2], [0, 1], tmp_path).equals(rows) and (tmp_path / JOURNAL).read_bytes() == whole
    with RowJournal(tmp_path) as journal, pytest.raises(RowsError, match="is already there"):
        journal.append(next(iter(journal._done)), [{"k": 0}])


def test_a_run_that_keeps_the_optimizer_does_not_try_again(ttt, tmp_path):  # noqa: F811
    switches = replace(SWITCHES, keep_optimizer=True)
    first = run(TTT(ttt.lm, Failing(MemoryError()), switches), DOCUMENTS[:2], [0, 1], tmp_path)
    assert run(TTT(ttt.lm, FixedRetriever(), switches), DOCUMENTS[:2], [0, 1], tmp_path).equals(first)


def test_rows_keep_their_order_of_keys_as_json(tmp_path):
    with RowJournal(tmp_path) as journal:
        journal.append(("m", "é", 1, "hash"), [{"k": 0, "failure": ""}])
    entry = json.loads((tmp_path / JOURNAL).read_text(encoding="utf-8"))
    assert entry == {"key": ["m", "é", 1, "hash"], "rows": [{"k": 0, "failure": ""}]}


def test_a_folder_of_rows_without_a_journal_is_left_as_it_is(ttt, tmp_path):  # noqa: F811
    run(ttt, DOCUMENTS, [0, 1], tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(RowsError, match="put it back"):
        run(ttt, DOCUMENTS, [0, 1], tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()
