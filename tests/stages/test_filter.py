"""The filter gives each row that leaves one reason, and no group to two splits."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.repository import ROOT

from miniature.gallery import FIRST_SEED, Gallery
from stages.crawl import crawl
from stages.filter import decide, filter
from stages.score import score
from sur_adapter.data.filtering.hamming import close, groups, unpacked
from sur_adapter.io.schema import CAPTIONS, RAW
from sur_adapter.io.shards import read_table, write_table

SCORES = {"clip": {"measures": ["simple", "complex"]}, "phash": {}}
TABLES = {"clip_simple": "clip/simple", "clip_complex": "clip/complex", "phash": "phash"}
RULES = {"min_side": 32, "nsfw": ["None"], "clip_simple": 0.5, "clip_complex": 0.5, "duplicate_bits": 2, "validation": 0.2, "test": 0.2}


def looks(i: int) -> str:
    return sha256(str(i).encode()).hexdigest()[:48]


def row(i: int, **more) -> dict:
    """A sound row, like no other; what a test is about stands in `more`."""
    own = {"id": f"{i:016x}", "source": "s", "url": f"u{i}", "complex_prompt": f"prompt {i}", "width": 64, "height": 64, "nsfw": "None"}
    measured = {"simple_prompt": f"sentence {i}", "clip_simple": 0.9, "clip_complex": 0.9, "phash": looks(i)}
    return own | {"dropped": None} | measured | more


def write(folder: Path, rows: list[dict]) -> list[Path]:
    """The files of the stages before, and the paths of filter's arguments."""
    for source in {r["source"] for r in rows}:
        mine = [r for r in rows if r["source"] == source]
        kept = [r for r in mine if r["dropped"] is None]
        write_table(folder / "raw" / source / "prompts-000000.parquet", mine, RAW)
        write_table(folder / "captions" / source / "captions-000000.parquet", kept, CAPTIONS)
        for name, table in TABLES.items():
            write_table(folder / "scores" / table / f"{source}.parquet", [{"id": r["id"], "value": r[name]} for r in kept])
    return [folder / name for name in ("raw", "captions", "scores", "pairs.parquet", "funnel.json")]


def run(
    folder: Path, rows: list[dict], sources=("s",), scores=SCORES, splits: Path = ROOT / "data" / "splits.csv", **rules
) -> tuple[pd.DataFrame, dict]:
    paths = write(folder, rows)
    filter(*paths, splits, filter=RULES | rules, sources=dict.fromkeys(sources), scores=scores)
    return read_table(paths[3]), json.loads(paths[4].read_text())


FAULTS = [
    ({"dropped": "http 404", "complex_prompt": None}, "http 404"),
    ({"complex_prompt": None, "nsfw": "X"}, "no_prompt"),
    ({"nsfw": "Soft", "width": 16}, "nsfw"),
    ({"nsfw": "Unknown"}, "nsfw"),
    ({"height": 31, "simple_prompt": ""}, "too_small"),
    ({"simple_prompt": " ", "clip_simple": 0.1}, "no_caption"),
    ({"phash": looks(0), "clip_simple": 0.1}, "near_duplicate"),
    ({"clip_simple": 0.49, "clip_complex": 0.1}, "clip_simple"),
    ({"clip_complex": None}, "clip_complex"),
    ({"nsfw": None}, None),
    ({"height": 32, "clip_simple": 0.5, "clip_complex": 0.5}, None),
]


def test_each_row_that_leaves_has_the_first_reason_that_holds_and_rows_in_are_kept_and_dropped(tmp_path):
    rows = [row(0)] + [row(i, **fault) for i, (fault, _) in enumerate(FAULTS, 1)]
    pairs, funnel = run(tmp_path, rows)
    assert pairs.dropped.astype(object).where(pairs.dropped.notna(), None).tolist() == [None] + [reason for _, reason in FAULTS]
    assert list(pairs) == ["id", "source", "simple_prompt", "complex_prompt", "clean_prompt", *TABLES, "dropped", "group", "split"]
    assert funnel["in"] == 12 and funnel["kept"] == 3 == sum(funnel["by_split"].values())
    assert funnel["dropped"]["nsfw"] == 2 and sum(funnel["dropped"].values()) == 9
    assert pairs.group.isna().tolist() == pairs.split.isna().tolist() == [i == 1 for i in range(12)], "what the crawl dropped has no split"
    lines = (tmp_path / "funnel.csv").read_text().splitlines()
    assert lines[:3] == ["step,rows", "in,12", "nsfw,2"] and lines[-1] == "kept,3", "the plot's table: most first"
    assert {line.split(",")[0]: int(line.split(",")[1]) for line in lines[2:-1]} == funnel["dropped"]


def test_of_pictures_that_look_alike_the_first_that_is_otherwise_sound_is_kept(tmp_path):
    like = {"phash": f"{3 << 80:048x}"}
    pairs, _ = run(tmp_path, [row(9, nsfw="X", **like), row(5, **like), row(1, **like), row(3)])
    assert dict(zip(pairs.id.str[-1], pairs.dropped.fillna("kept"), strict=True)) == {
        "9": "nsfw",
        "5": "kept",
        "1": "near_duplicate",
        "3": "kept",
    }


def test_a_picture_is_a_repeat_of_one_that_stays_not_of_one_that_left(tmp_path):
    """1 and 2 are close, 2 and 3 are close, 1 and 3 are not."""
    chain = [row(i, phash=f"{bits << 90:048x}") for i, bits in ((1, 0b0000), (2, 0b0011), (3, 0b1111))]
    pairs, _ = run(tmp_path, chain)
    assert pairs.dropped.fillna("kept").tolist() == ["kept", "near_duplicate", "kept"] and pairs.group.nunique() == 1


def test_no_like_picture_and_no_equal_prompt_is_in_two_splits_and_thresholds_move_no_row():
    rng = np.random.default_rng(0)
    rows = [
        row(i, complex_prompt=f"Prompt, {rng.integers(150)}", phash=f"{int(rng.integers(400)):x}".rjust(48, "f") + "00ff")
        for i in range(300)
    ]
    table = decide(pd.DataFrame(rows), {}, duplicate_bits=0, validation=0.2, test=0.2)
    for key in ("complex_prompt", "phash", "group"):
        assert (table.groupby(key).split.nunique() == 1).all() and (table.groupby(key).group.nunique() == 1).all()
    assert (table.group == table.groupby("group").id.transform("min")).all()
    assert set(table.split) == {"train", "validation", "test"}
    strict = decide(pd.DataFrame(rows).assign(clip_simple=rng.random(300)), {"clip_simple": 0.8}, min_side=65, validation=0.2, test=0.2)
    assert decide(pd.DataFrame([row(1), row(2, nsfw="X")]), {}).dropped.fillna("kept").tolist() == ["kept", "nsfw"], "of itself"
    assert strict.split.equals(table.split) and strict.dropped.notna().all()


def test_prompts_are_equal_whatever_their_case_and_commas(tmp_path):
    pairs, _ = run(tmp_path, [row(1, complex_prompt="A  cat, 8K"), row(2, complex_prompt="a cat 8k,"), row(3, complex_prompt="...")])
    assert pairs.group.tolist() == [row(1)["id"], row(1)["id"], row(3)["id"]]


def test_prompts_that_share_most_of_their_words_are_of_one_group_where_that_is_asked_for(tmp_path):
    rows = [row(i, complex_prompt=f"a cat on a red sofa, studio light, 8k, sharp, by painter number {i}") for i in (4, 2, 3)]
    rows += [row(1, complex_prompt="a dog in the snow, studio light, 8k"), row(5, complex_prompt=None)]
    assert run(tmp_path, rows)[0].group.nunique() == 5
    pairs, funnel = run(tmp_path, rows, prompt_overlap=0.8)
    assert pairs.group.tolist() == [row(i)["id"] for i in (1, 2, 2, 2, 5)] and funnel["kept"] == 4, "none leaves for it"


def test_sentence_and_scores_are_found_by_id_in_whatever_order_they_lie_and_crawls_of_old_are_read(tmp_path):
    paths = write(tmp_path, [row(i, clip_simple=0.5 + i / 100) for i in range(9)] + [row(9, dropped="truncated")])
    for file in [*(tmp_path / "captions").rglob("*.parquet"), *(tmp_path / "scores").rglob("*.parquet")]:
        table = read_table(file).sample(frac=1, random_state=len(file.name))
        write_table(file, pd.concat([table, table.assign(**{table.columns[1]: None})]))  # a row that comes twice counts once
    raw = next((tmp_path / "raw").rglob("*.parquet"))
    write_table(raw, read_table(raw).drop(columns="prompt_by"))
    filter(*paths, filter=RULES, sources={"s": {}}, scores=SCORES)
    pairs = read_table(paths[3])
    assert pairs.simple_prompt[:9].tolist() == [f"sentence {i}" for i in range(9)] and pairs.simple_prompt[9:].isna().all()
    assert np.allclose(pairs.clip_simple[:9], 0.5 + np.arange(9) / 100) and pairs.phash[:9].tolist() == list(map(looks, range(9)))


def test_a_picture_that_two_sources_hold_counts_once(tmp_path):
    pairs, funnel = run(tmp_path, [row(1), row(2), row(1, source="t", url="other"), row(3, source="t")], sources=("s", "t"))
    assert funnel["by_source"]["t"] == {"in": 2, "kept": 1, "dropped": {"duplicate": 1}}
    assert len(pairs) == 4 and pairs[pairs.dropped.isna()].id.is_unique
    assert pairs[pairs.dropped == "duplicate"][["simple_prompt", *TABLES, "group"]].isna().all(axis=None), "measured is the original alone"


def test_only_the_sources_and_scores_that_params_name_are_read(tmp_path):
    paths = write(tmp_path, [row(1), row(2, source="gone")])
    filter(*paths, filter={"clip_simple": 0.5, "nsfw": ["None"]}, sources={"s": {}}, scores={"clip": {"measures": ["simple"]}})
    pairs = read_table(paths[3])
    assert set(pairs.source) == {"s"} and not {"phash", "clip_complex"} & set(pairs)


def test_the_same_input_makes_the_same_bytes(tmp_path):
    rows = [row(0)] + [row(i, **fault) for i, (fault, _) in enumerate(FAULTS, 1)]
    for name in "ab":
        run(tmp_path / name, rows)
    for file in ("pairs.parquet", "funnel.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_filter_that_keeps_nothing_and_a_misspelt_rule_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"none of 3 rows is kept, clip_complex took most \(2\): loosen it in params.yaml"):
        run(tmp_path, [row(1), row(2), row(3, nsfw="X")], clip_complex=0.95)
    assert json.loads((tmp_path / "funnel.json").read_text())["in"] == 3, "the funnel is there to look at"
    with pytest.raises(
        ValueError, match=r"filter.clip_simpel is neither a rule nor a score \(did you mean 'clip_simple'\?\); known are min_side"
    ):
        run(tmp_path, [row(1)], clip_simpel=1)
    with pytest.raises(FileNotFoundError, match="holds no Parquet file: run the stage that writes it"):
        run(tmp_path, [row(1)], sources=("s", "missing"))


def compared_with_all(hashes: np.ndarray, bits: int) -> list[list[int]]:
    far = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1)
    return [[i, j] for j in range(len(hashes)) for i in range(j) if far[i, j] <= bits]


@pytest.mark.parametrize("bits", [0, 1, 3, 8])
@pytest.mark.parametrize("kind", ["any bits", "mostly empty", "variants of few", "short"])
def test_close_hashes_are_those_that_comparing_all_with_all_finds(bits, kind):
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 256, (700, 1 if kind == "short" else 26), np.uint8)
    if kind == "mostly empty":  # pictures on a flat ground: nearly all share nearly all of their parts
        hashes &= rng.integers(0, 40, hashes.shape, np.uint8) // 39 * 255
    if kind == "variants of few":
        hashes = hashes[rng.integers(0, 40, 700)]
        for _ in range(4):
            hashes[np.arange(700), rng.integers(0, 26, 700)] ^= (1 << rng.integers(0, 12, 700)).astype(np.uint8)  # or none
    hashes = np.unique(hashes, axis=0)
    found, wanted = close(hashes, bits).tolist(), compared_with_all(hashes, bits)
    assert found == wanted and (bits == 0 or kind == "any bits" or len(wanted) > 20)


def test_many_like_hashes_are_parted_again_and_few_pairs_are_compared(monkeypatch):
    """10,000 on a flat ground have 50 million pairs; parted once, 18 million would be compared."""
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 256, (10_000, 216), np.uint8) & (rng.random((10_000, 216)) < 0.03) * np.uint8(255), axis=0)
    module, compared = sys.modules["sur_adapter.data.filtering.hamming"], []
    pairs = module._each_with_each
    monkeypatch.setattr(module, "_each_with_each", lambda runs: (compared.append(len(p[0])) or p for p in pairs(runs)))
    assert len(close(hashes, 4)) > 100 and sum(compared) < 12_000_000


def test_hashes_of_two_lengths_are_refused_and_links_tie_groups():
    assert unpacked(["00ff", "0a0b"]).tolist() == [[0, 255], [10, 11]]
    with pytest.raises(ValueError, match="hashes of 2 and of 4 digits cannot be compared: run the score that makes them again"):
        unpacked(["00ff", "0a"])
    assert close(unpacked([]), 3).shape == (0, 2) and close(unpacked(["00"]), 3).shape == (0, 2)
    assert groups(5, np.array([(0, 3), (3, 4)])).tolist() == [0, 1, 2, 0, 0] and len(groups(3, np.empty((0, 2)))) == 3


def test_faults_planted_in_the_gallery_end_in_the_right_reasons(tmp_path):
    """Scores are those of an oracle here, so that what is tested is the filter and not a model."""
    crawl(tmp_path / "raw" / "miniature", sources={"miniature": {"count": 300, "seed": 1}})
    table, gallery = read_table(tmp_path / "raw" / "miniature"), Gallery(300, 1)
    table["fault"] = [gallery.faults.get(gallery.id(i), "sound") for i in range(300)]
    scene = [str(gallery.scene(i).seed - FIRST_SEED) for i in range(300)]
    table = table.assign(
        simple_prompt="words",
        clip_simple=1.0,
        clip_complex=(table.fault != "wrong_prompt") * 1.0,
        phash=[f"{1 << int(s) % 4096:01024x}" for s in scene],
    )
    wanted = {
        "duplicate": {"duplicate"},
        "html": {"not an image"},
        "truncated": {"truncated"},
        "no_prompt": {"no_prompt"},
        "nsfw": {"nsfw"},
        "tiny": {"too_small"},
        "wrong_prompt": {"clip_complex"},
        "reencoded": {"near_duplicate", "kept", "duplicate"},
        "busy_503": {"kept"},
        "busy_429": {"kept"},
    }
    done = decide(table, {"clip_complex": 0.5}, min_side=32, duplicate_bits=0)
    for fault, reasons in wanted.items():
        assert set(done.dropped[done.fault == fault].fillna("kept")) <= reasons, fault
    assert (done.dropped[done.fault == "sound"].fillna("kept") == "kept").mean() > 0.98


def test_no_test_split_holds_a_prompt_that_was_made_up_and_its_rows_say_why_they_left(tmp_path):
    pairs, funnel = run(tmp_path, [row(i, prompt_by="interrogator" if i % 2 else None) for i in range(60)], validation=0.2, test=0.5)
    made_up = pairs.id.isin([f"{i:016x}" for i in range(1, 60, 2)])
    gone = made_up & (pairs.split == "test")
    assert set(pairs.dropped[gone]) == {"made_up_prompt"} and pairs.dropped[~gone].isna().all()
    assert 0 < gone.sum() < made_up.sum() and funnel["dropped"] == {"made_up_prompt": int(gone.sum())}


def test_wrong_prompts_and_copies_in_the_gallery_are_found_by_the_scores_of_the_miniature(tmp_path):
    """As measured, not by an oracle. A copy is a picture that shows what an earlier one shows; which are planted, the gallery knows."""
    count, seed = 2000, 2
    crawl(tmp_path / "raw" / "miniature", sources={"miniature": {"count": count, "seed": seed}})
    table, gallery = read_table(tmp_path / "raw" / "miniature"), Gallery(count, seed)
    table = table.assign(
        fault=[gallery.faults.get(gallery.id(i), "sound") for i in range(count)],
        shows=[json.dumps(gallery.scene(i).include) for i in range(count)],
        simple_prompt="words",
    )
    captions = table[["id", "simple_prompt"]][table.dropped.isna()]
    write_table(tmp_path / "captions" / "miniature" / "captions-000000.parquet", captions, CAPTIONS)
    scores = {"clip": {"model": str(ROOT / "models/miniature/clip"), "measures": ["complex"]}, "phash": {}}
    for name in scores:
        score(tmp_path / "raw", tmp_path / "captions", tmp_path / "scores" / name, scores=scores, sources={"miniature": {}})
    for column, path in (("clip_complex", "clip/complex"), ("phash", "phash")):
        found = read_table(tmp_path / "scores" / path).set_index("id").value
        table[column] = table.id.map(found).where(table.dropped.isna())
    done = decide(table, {"clip_complex": 0.5}, min_side=32, duplicate_bits=6)
    judged = done[done.dropped.isna() | (done.dropped == "clip_complex")]
    wrong, found = judged.fault == "wrong_prompt", judged.dropped == "clip_complex"
    assert wrong.sum() > 20 and (wrong & found).sum() >= 0.9 * max(wrong.sum(), found.sum()), "precision and recall"
    compared = done[done.dropped.isna() | done.dropped.isin(["clip_complex", "near_duplicate"])]
    found, copies = compared.dropped == "near_duplicate", compared.fault == "reencoded"
    assert copies.sum() > 10 and (found & copies).sum() >= 0.95 * copies.sum(), "recall"
    assert compared.duplicated("shows")[found].mean() >= 0.95, "precision"


def test_a_frozen_split_is_kept_by_its_group_and_an_id_frozen_elsewhere_leaves(tmp_path):
    like = {"complex_prompt": "one and the same"}
    rows = [row(1, **like), row(2, **like), row(3, **like), row(4), row(5)]
    loose, _ = run(tmp_path, rows)
    other = {"train": "validation", "validation": "test", "test": "train"}[loose.split[3]]
    table = pd.DataFrame({"id": loose.id[[0, 1, 3]], "split": ["train", "test", other]})
    table.to_csv(tmp_path / "frozen.csv", index=False)
    pairs, funnel = run(tmp_path, rows, splits=tmp_path / "frozen.csv")
    assert pairs.split.tolist() == ["test", "test", "test", other, loose.split[4]] and funnel["dropped"] == {"other_split": 1}
    assert pairs.dropped.notna().tolist() == [True, False, False, False, False]
    table.assign(split="dev").to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(ValueError, match="must hold each id once, with one of test, validation, train as its split"):
        run(tmp_path, rows, splits=tmp_path / "odd.csv")
    with pytest.raises(FileNotFoundError, match="nowhere.csv is missing: write a table of id and split there"):
        run(tmp_path, rows, splits=Path("nowhere.csv"))
