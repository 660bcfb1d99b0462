"""The planner predicts sizes it was not fitted on, adds up shards and machines, and says what it has no rows of."""

import pytest
from typer.testing import CliRunner

from tttnn.__main__ import app
from tttnn.index import KINDS, planner
from tttnn.index.kinds import lists
from tttnn.index.planner import fit, held_out, machines_needed, measured_kinds, measured_rows, plan

# How far a prediction may be off for the largest measured size, held out: bytes are arithmetic, times are not.
FACTORS = {"resident_bytes": 2, "disk_bytes": 1.1, "build_cpu_seconds": 6, "cpu_p50_ms": 3}


def law(kind, count, dimension):
    """A row as the model takes it to be."""
    return {
        "kind": kind, "vectors": count, "dimension": dimension, "resident_bytes": 2 * count * dimension + 1000,
        "disk_bytes": 6 * count * dimension, "build_cpu_seconds": 1e-8 * count * dimension,
        "cpu_p50_ms": 0.5 + 1e-7 * count * dimension,
    }  # fmt: skip


LAW = [law("fp16", count, d) for count, d in ((1000, 64), (50_000, 64), (2000, 1024), (300_000, 256))]


def test_a_law_of_the_model_is_found():
    found = plan(1_000_000, 512, "fp16", rows=LAW)
    true = law("fp16", 1_000_000, 512)
    assert found.ram == pytest.approx(true["resident_bytes"], rel=1e-3)
    assert found.disk == pytest.approx(true["disk_bytes"], rel=1e-3)
    assert 3600 * found.build_hours == pytest.approx(true["build_cpu_seconds"], rel=1e-2)
    assert found.p50_ms == pytest.approx(true["cpu_p50_ms"], rel=1e-2)


@pytest.mark.parametrize("kind", measured_kinds())
def test_a_measured_size_that_was_held_out_is_predicted(kind):
    row, found = held_out(kind)
    predicted = dict(zip(FACTORS, (found.ram, found.disk, 3600 * found.build_hours, found.p50_ms), strict=True))
    assert found.documents == row["vectors"] and found.dimension == row["dimension"]
    for measure, factor in FACTORS.items():
        assert 1 / factor < predicted[measure] / row[measure] < factor, (measure, predicted, row)


def test_the_size_held_out_is_not_fitted_on():
    row, found = held_out("fp16", [*LAW, law("fp16", 10**6, 512) | {"cpu_p50_ms": 1.0}])
    assert row["cpu_p50_ms"] == 1 and found.p50_ms == pytest.approx(law("fp16", 10**6, 512)["cpu_p50_ms"], rel=1e-2)
    with pytest.raises(ValueError, match="kind='fp16' was not measured"):
        held_out("fp16", LAW[:1])


def test_rows_of_the_package_say_where_they_are_from():
    rows = measured_rows()
    assert len({(row["kind"], row["vectors"], row["dimension"]) for row in rows}) == len(rows)
    assert all(row["device"] and row["date"] and row["load"] >= 0 and row["kind"] in KINDS for row in rows)


def test_the_default_kinds_rest_on_the_rows():
    """What `tttnn.index.default_kind` says of them."""
    rows = {(row["kind"], row["vectors"]): row for row in measured_rows() if row["dimension"] == 256}
    assert rows["flat-mapped", 100_000]["cpu_p50_ms"] < 5
    scan, parts = (rows[kind, 250_000] for kind in ("rabitq", "ivfrabitq"))
    assert min(scan["recall"], parts["recall"]) > 0.95 and max(scan["cpu_p50_ms"], parts["cpu_p50_ms"]) < 2.5
    assert scan["build_cpu_seconds"] < parts["build_cpu_seconds"] / 3.5
    scan, parts = (rows[kind, 1_000_000] for kind in ("rabitq", "ivfrabitq"))
    assert parts["cpu_p50_ms"] < scan["cpu_p50_ms"] and parts["recall"] > scan["recall"]
    # The targets of a compressed kind against the flat one.
    assert parts["resident_bytes"] <= rows["flat", 1_000_000]["resident_bytes"] / 16
    assert parts["recall"] >= 0.95 and parts["speedup"] >= 10 and parts["open_seconds"] < 1


def test_shards_add_up_and_machines_share():
    whole = plan(1_000_000, 64, "fp16", rows=LAW)
    parts = plan(1_000_000, 64, "fp16", shard_rows=250_000, rows=LAW)
    assert (whole.shards, parts.shards) == (1, 4)
    assert parts.ram == pytest.approx(whole.ram, rel=1e-2)
    assert parts.p50_ms - whole.p50_ms == pytest.approx(1.5, rel=1e-2)  # three more constants of 0.5 ms
    assert parts.reads == 4 * whole.reads > 0
    shared = plan(4_000_000, 64, "fp16", machines=4, rows=LAW)
    assert (shared.ram, shared.p50_ms, shared.build_hours) == (whole.ram, whole.p50_ms, whole.build_hours)
    uneven = plan(1_000_001, 64, "fp16", shard_rows=1_000_000, rows=LAW)
    assert uneven.shards == 2 and uneven.ram > whole.ram


def test_reads_from_disk_take_time():
    cached, cold = (plan(100_000, 64, "fp16", read_us=each, rows=LAW) for each in (0, 100))
    assert cold.p50_ms - cached.p50_ms == pytest.approx(cached.reads * 0.1)


@pytest.mark.parametrize("documents, ram", [(100_000_000, 16e9), (1_000_000, 1e12), (12_345_678, 5e9)])
def test_just_enough_machines(documents, ram):
    kind = measured_kinds()[0]
    machines = machines_needed(documents, 1024, kind, ram)
    assert plan(documents, 1024, kind, machines).ram <= ram
    assert machines == 1 or plan(documents, 1024, kind, machines - 1).ram > ram


def test_a_kind_for_the_size():
    assert plan(1000, 64, "auto").kind == "flat-mapped"
    assert plan(1000, 64, "rabitq").kind == "flat-mapped"  # too few to train on
    assert plan(10_000_000, 64, "auto").kind == planner.resolve("auto", 10_000_000).name


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"documents": 0}, "documents=0: must be from 1 to"),
        ({"documents": 10**30}, "documents=1.*: must be from 1 to"),
        ({"dimension": 10**30}, "dimension=1.*: must be from 1 to"),
        ({"machines": 0}, "machines=0: must be from 1 to"),
        ({"kind": "pq"}, "kind='pq': must be auto, flat"),
        ({"kind": "sq8", "rows": LAW}, "kind='sq8' was not measured: run bench/index_kinds.py"),
    ],
)
def test_bad_plans(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(**({"documents": 10**6, "dimension": 64} | arguments))


def test_shards_without_number_take_no_time_to_plan():
    whole, half = (plan(documents, 64, "flat", shard_rows=100) for documents in (10**12, 5 * 10**11))
    assert whole.shards == 10**10 and whole.disk == pytest.approx(2 * half.disk)


def test_a_build_that_was_given_up_is_no_row():
    given_up = {"kind": "hnsw", "vectors": 10, "dimension": 4, "outcome": "build given up after 360 s"}
    with pytest.raises(ValueError, match="kind='hnsw' was not measured"):
        fit("hnsw", [*LAW, given_up])


def test_no_machine_is_small_enough():
    with pytest.raises(ValueError, match="ram=1 bytes: too little for any part"):
        machines_needed(1000, 1024, "flat", 1)


def test_more_lists_for_more_vectors():
    work = [planner._work("ivfrabitq", count, 64)["build_cpu_seconds"][1] for count in (10_000, 100_000)]
    assert work[1] / work[0] > 10 * lists(100_000) / lists(10_000) / 2


def test_the_command_line_plans():
    done = CliRunner().invoke(app, ["index", "plan", "210000000", "--machines", "4", "--kind", "rabitq"])
    assert done.exit_code == 0, done.output
    kind, ram, *_ = done.stdout.splitlines()[1].split()
    assert kind == "rabitq"
    assert float(ram.replace(",", "")) == pytest.approx(plan(210_000_000, 1024, "rabitq", 4).ram / 1e9, abs=0.01)
    every = CliRunner().invoke(app, ["index", "plan", "1000000", "--dimension", "256"])
    assert [line.split()[0] for line in every.stdout.splitlines()[1:]] == measured_kinds()
