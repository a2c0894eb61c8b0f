"""Cached features on disk: one row is read without the others, and stale, truncated or changed files are refused."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sur_adapter.features.columns import RepeatedColumn
from sur_adapter.features.store import FeatureSplit, FeatureStore, write_features

RNG = np.random.default_rng(0)
ABOUT = {"base_model": "a", "layers": [1, 2]}


def fixed(count: int, *shape: int) -> np.ndarray:
    return RNG.normal(size=(count, *shape)).astype(np.float16)


@pytest.fixture
def folder(tmp_path):
    """A store with two shards of train and one of validation, and its rows by id."""
    held, shapes = {}, [(2, 4, 3, 5), (2, 4, 5, 3), (2, 4, 4, 4)]
    for number, (name, count) in enumerate([("train-000000", 4), ("train-000001", 3), ("validation-000000", 2)]):
        ids = [f"{number}-{i}" for i in range(count)]
        vectors = {
            "simple": fixed(count, 3, 8),
            "complex": RepeatedColumn(fixed(3, 3, 8), np.array([2, 0, 2, 0])[:count]),
            "length": np.arange(count, dtype=np.int32),
            "frame": np.arange(count * 6, dtype=np.int32).reshape(count, 6) + 70_000,
            "layer_1": [fixed(1 + (i + number) % 3, 4) for i in range(count)],
            "latents": [fixed(*shapes[i % 3]) for i in range(count)],
        }
        held |= {key: {name: values[i] for name, values in vectors.items()} for i, key in enumerate(ids)}
        write_features(tmp_path / "clip" / f"{name}.parquet", ids, vectors, ABOUT, 3)
    return tmp_path / "clip", held


def test_pyarrow_reads_the_ids_and_the_numbers(folder):
    table = pq.read_table(folder[0] / "train-000001.parquet")
    for row in table.to_pylist():
        for name in ("simple", "frame", "layer_1", "latents"):
            assert row[name] == folder[1][row["id"]][name].reshape(-1).tolist()
    complex, row = (table[name].to_pylist() for name in ("complex", "complex.row"))
    assert row == [0, 1, 0] and [len(values) for values in complex] == [24, 24, 0], "equal rows are stored once"
    assert [complex[row.index(k)] for k in row] == [folder[1][key]["complex"].reshape(-1).tolist() for key in table["id"].to_pylist()]
    assert table["latents.shape"].to_pylist() == [list(folder[1][key]["latents"].shape) for key in table["id"].to_pylist()]


def test_rows_in_any_order_are_what_was_written(folder):
    store, held = FeatureStore(folder[0]), folder[1]
    assert len(store) == 9 and store.ids == list(held) and store.about == ABOUT
    index = [8, 0, 5, 5, 3]
    rows = store.rows(index, ["simple", "complex", "frame", "layer_1"])
    for b, i in enumerate(index):
        expected = held[store.ids[i]]
        assert all(np.array_equal(rows[name][b], expected[name]) for name in ("simple", "complex", "frame"))
        n = rows["layer_1.length"][b]
        assert n == len(expected["layer_1"]) and np.array_equal(rows["layer_1"][b, :n], expected["layer_1"])
        assert not rows["layer_1"][b, n:].any()
    assert store.rows([6, 2, 8], ["length"])["length"].tolist() == [2, 2, 1]
    assert rows["simple"].dtype == torch.float16 and rows["frame"].dtype == torch.int32


def test_rows_are_read_together_only_if_they_have_one_shape(folder):
    store = FeatureStore(folder[0])
    shapes = store.shapes("latents")
    same_shape = np.flatnonzero((shapes == shapes[0]).all(1))
    assert len(same_shape) > 2 and store.rows(same_shape, ["latents"])["latents"].shape == (len(same_shape), 2, 4, 3, 5)
    with pytest.raises(ValueError, match="read rows of one shape at a time"):
        store.rows([0, 1], ["latents"])
    assert store.shapes("simple").tolist() == store.shapes("complex").tolist() == [[3, 8]] * 9


def test_a_split_reads_its_own_rows_of_several_stores(folder, tmp_path):
    ids = FeatureStore(folder[0]).ids
    for name, a, b in (("train-000000", 0, 4), ("train-000001", 4, 7), ("validation-000000", 7, 9)):
        write_features(tmp_path / "llm" / f"{name}.parquet", ids[a:b], {"other": np.arange(a, b, dtype=np.int32)[:, None]})
    stores = [FeatureStore(folder[0]), FeatureStore(tmp_path / "llm")]
    split = FeatureSplit(stores, "validation")
    train = FeatureSplit(stores, "train")
    rows = train.rows([6, 1], ["simple", "other"])
    assert list(rows) == ["simple", "other"] and train.names == [*stores[0].names, "other"]
    assert np.array_equal(split.shapes("latents"), stores[0].shapes("latents")[7:])
    assert len(split) == 2 and split.rows([1])["other"].tolist() == [[8]] and rows["other"].tolist() == [[6], [1]]
    assert np.array_equal(rows["simple"][0], folder[1][ids[6]]["simple"])
    assert len(FeatureSplit(stores, "test")) == 0 and FeatureSplit(stores, "test").rows([])["simple"].shape == (0, 3, 8)


def test_rows_are_read_without_the_rest_of_the_file_in_memory(tmp_path):
    for number in range(2):
        ids = [f"{number}-{i}" for i in range(50)]
        write_features(tmp_path / f"train-{number:06d}.parquet", ids, {"simple": np.full((50, 100, 1000), number, np.float16)})
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    store = FeatureStore(tmp_path)
    rows = store.rows([70, 3])["simple"]
    most = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert rows[:, 0, 0].tolist() == [1, 0] and rows.nbytes == 400_000 < most < 1_000_000  # of 20 MB


LAYOUTS = {
    "compressed": {"compression": "zstd"},
    "several row groups": {"row_group_size": 2},
    "dictionaries": {"use_dictionary": True},
    "small pages": {"data_page_size": 8, "write_batch_size": 1},
    "pages of version 2, compressed": {"data_page_version": "2.0", "compression": "snappy"},
    "another encoding": {"column_encoding": {"frame.list.element": "DELTA_BINARY_PACKED"}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_was_rewritten_with_another_layout_gives_the_same_rows(folder, caplog, layout):
    mapped, index = FeatureStore(folder[0]), [3, 0, 6, 8, 6]
    names = ["simple", "complex", "length", "frame", "layer_1"]
    expected, latents, shapes = mapped.rows(index, names), mapped.rows([0, 4], ["latents"])["latents"], mapped.shapes("latents")
    for file in folder[0].iterdir():
        table, changed = pq.read_table(file), {"compression": "none", "use_dictionary": False} | LAYOUTS[layout]
        pq.write_table(table, file, **changed)
    assert not caplog.messages
    store = FeatureStore(folder[0])
    assert any("is read into memory" in message for message in caplog.messages)
    rows = store.rows(index, names)
    assert rows.keys() == expected.keys() and all(torch.equal(rows[name], expected[name]) for name in expected)
    assert {name: values.dtype for name, values in rows.items()} == {name: values.dtype for name, values in expected.items()}
    assert np.array_equal(store.shapes("latents"), shapes)
    assert torch.equal(store.rows([0, 4], ["latents"])["latents"], latents)
    store.verify()


def test_a_file_as_this_project_writes_it_is_mapped_and_not_read(folder, caplog):
    for shard in FeatureStore(folder[0]).shards:
        for column in shard.columns.values():
            assert isinstance(getattr(column, "values", column), np.memmap)
    assert not caplog.messages


def test_a_constant_in_several_pages_is_not_mapped_across_their_headers(tmp_path):
    file = tmp_path / "train-000000.parquet"
    write_features(file, list("abcd"), {"x": np.zeros((4, 4000), np.float32)})
    pq.write_table(pq.read_table(file), file, compression="none", use_dictionary=False, data_page_size=20_000, write_batch_size=100)
    assert pq.read_metadata(file).row_group(0).column(1).total_compressed_size > 4 * 4 * 4000 + 60, "more than one page"
    assert FeatureStore(tmp_path).rows(range(4))["x"].eq(0).all()


def test_equal_content_gives_equal_bytes_and_other_content_does_not(tmp_path):
    values = fixed(3, 4)
    for name, content in (("one", values), ("two", values.copy()), ("three", -values)):
        write_features(tmp_path / name, ["a", "b", "c"], {"x": content, "y": list(content)}, ABOUT)
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_stores_of_other_pairs_or_of_another_model_are_not_combined(folder, tmp_path):
    first = FeatureStore(folder[0])
    values = {"x": fixed(9, 2)}
    write_features(tmp_path / "llm/train-000000.parquet", [*first.ids[:8], "x"], values)
    with pytest.raises(ValueError, match="hold different pairs: one of them is stale; remove both and run `dvc repro`"):
        FeatureSplit([first, FeatureStore(tmp_path / "llm")], "train")
    write_features(tmp_path / "vae/train-000000.parquet", first.ids, values, {"base_model": "b"})
    with pytest.raises(ValueError, match="was made with base_model 'b', but this run needs 'a': it is stale"):
        FeatureSplit([first, FeatureStore(tmp_path / "vae")], "train")


def test_features_of_another_model_are_stale(folder):
    FeatureStore(folder[0]).check_about(base_model="a", llm="any: not recorded here")
    with pytest.raises(ValueError, match="made with layers \\[1, 2\\], but this run needs \\[3\\]: it is stale; run `dvc repro`"):
        FeatureStore(folder[0]).check_about(layers=[3])


def test_a_missing_shard_and_one_of_another_model_are_refused(folder, tmp_path):
    file = folder[0] / "train-000001.parquet"
    file.rename(tmp_path / "aside")
    with pytest.raises(ValueError, match="holds 2 of 3 feature shards: remove the folder and run `dvc repro` again"):
        FeatureStore(folder[0])
    write_features(file, ["x"], {"simple": fixed(1, 3, 8)}, {"base_model": "another"}, 3)
    with pytest.raises(ValueError, match="shards that different models or settings made"):
        FeatureStore(folder[0])
    with pytest.raises(FileNotFoundError, match="holds no feature shard: run `dvc repro`"):
        FeatureStore(tmp_path / "nowhere")


def test_a_changed_id_is_noticed_on_open_and_a_changed_number_by_verify(folder):
    file = folder[0] / "train-000001.parquet"
    data = file.read_bytes()
    FeatureStore(folder[0]).verify()
    file.write_bytes(data.replace(b"\x03\0\0\x001-1", b"\x03\0\0\x001-9"))
    with pytest.raises(ValueError, match="train-000001.parquet holds 3 rows, and not the 3 that were written"):
        FeatureStore(folder[0])
    number = folder[1]["1-1"]["simple"].tobytes()
    assert data.count(number) == 1
    file.write_bytes(data.replace(number, number[::-1]))
    with pytest.raises(ValueError, match="train-000001.parquet differs from what was written"):
        FeatureStore(folder[0]).verify()


def test_numbers_that_parquet_stores_wider_are_read_back(tmp_path):
    rows = [np.array(text, np.uint8) for text in ([], [7, 255], [], [0, 1, 2])]
    write_features(tmp_path / "train-000000.parquet", ["a", "b", "c", "d"], {"small": rows}, ABOUT, 1)
    store = FeatureStore(tmp_path)
    assert [store.rows([k])["small"][0].tolist() for k in range(4)] == [row.tolist() for row in rows]
    store.verify()


def test_a_table_of_answers_beside_the_shards_is_not_one_of_them(folder):
    pq.write_table(pa.table({"id": ["a"]}), folder[0] / "answers.parquet")
    assert len(FeatureStore(folder[0])) == 9


def test_rows_that_are_selected_keep_their_values_and_no_others_are_written(tmp_path):
    values, index = fixed(5, 2, 3), np.array([4, 1, 4, 0, 1])
    selected = RepeatedColumn(values, index).select(np.array([4, 0, 2, 1]))
    write_features(tmp_path / "train-000000.parquet", list("abcd"), {"complex": selected})
    store = FeatureStore(tmp_path)
    assert np.array_equal(store.rows(range(4))["complex"], values[[1, 4, 4, 1]])
    assert store.shards[0].columns["complex"].values.shape == (2, 2, 3) and store.shards[0].is_intact()


def test_a_column_without_numbers_is_read(tmp_path):
    write_features(tmp_path / "train-000000.parquet", list("ab"), {"layer_1": [np.zeros((0, 4), np.float16)] * 2})
    store = FeatureStore(tmp_path)
    assert store.rows([1, 0])["layer_1"].shape == (2, 0, 4)
    store.verify()


def test_changed_references_of_equal_rows_are_found(tmp_path):
    file = tmp_path / "train-000000.parquet"
    write_features(file, list("abcd"), {"complex": RepeatedColumn(fixed(2, 2, 3), np.array([0, 1, 0, 1]))})
    table = pq.read_table(file)
    number = table.schema.get_field_index("complex.row")
    pq.write_table(table.set_column(number, table.schema.field(number), pa.array([0, 1, 1, 1], pa.int32())), file)
    with pytest.raises(ValueError, match="train-000000.parquet differs from what was written"):
        FeatureStore(tmp_path).verify()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not say how much memory of a process is mapped files")
def test_rows_that_were_read_are_not_memory_of_the_process(tmp_path):
    values, states = fixed(2000, 40, 64), [fixed(20 + i % 2, 128) for i in range(2000)]  # 10 MB each
    write_features(tmp_path / "train-000000.parquet", [str(i) for i in range(2000)], {"simple": values, "layer_1": states})
    store = FeatureStore(tmp_path)
    before = mapped_megabytes()
    for part in np.arange(2000).reshape(20, 100):
        rows = store.rows(part)
        assert np.array_equal(rows["simple"], values[part]) and np.array_equal(rows["layer_1"][0, :20], states[part[0]])
    store.verify()
    assert mapped_megabytes() - before < 3
    assert store.shards[0].columns["simple"].sum(dtype=float) and mapped_megabytes() - before > 8, "what reads past `rows` counts"


def mapped_megabytes() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssFile"].split()[0]) / 1024
