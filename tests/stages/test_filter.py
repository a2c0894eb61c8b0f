"""The filter gives each dropped row one reason, and each near-duplicate group one split."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.repository import ROOT
from helpers.stages import crawl, filter_pairs, score

from miniature.gallery import FIRST_SEED, Gallery
from sur_adapter.config import Params
from sur_adapter.data.filtering.filtering import FilterConfig, nest_min_scores, select_pairs
from sur_adapter.data.filtering.hamming import close_pairs, connected_groups, unpack_hashes
from sur_adapter.io.schema import CAPTIONS_SCHEMA, RAW_SCHEMA
from sur_adapter.io.shards import read_table, write_table

SCORES = {"clip": {"measures": ["simple", "complex"]}, "phash": {}}
TABLES = {"clip_simple": "clip/simple", "clip_complex": "clip/complex", "phash": "phash"}
CLIP_SCORES = {"clip_simple": 0.5, "clip_complex": 0.5}
RULES = {"min_side": 32, "allowed_nsfw_levels": ["None"], "duplicate_bits": 2, "validation": 0.2, "test": 0.2} | CLIP_SCORES


def phash(i: int) -> str:
    return sha256(str(i).encode()).hexdigest()[:48]


def row(i: int, **more) -> dict:
    """A row that is kept and has no near duplicate, changed by `more`."""
    own = {"id": f"{i:016x}", "source": "s", "url": f"u{i}", "complex_prompt": f"prompt {i}", "width": 64, "height": 64, "nsfw": "None"}
    measured = {"simple_prompt": f"sentence {i}", "clip_simple": 0.9, "clip_complex": 0.9, "phash": phash(i)}
    return own | {"dropped": None} | measured | more


def write(folder: Path, rows: list[dict]) -> list[Path]:
    """Writes the files of the earlier stages; returns the paths that filter takes."""
    for source in {r["source"] for r in rows}:
        mine = [r for r in rows if r["source"] == source]
        kept = [r for r in mine if r["dropped"] is None]
        write_table(folder / "raw" / source / "prompts-000000.parquet", mine, RAW_SCHEMA)
        write_table(folder / "captions" / source / "captions-000000.parquet", kept, CAPTIONS_SCHEMA)
        for name, table in TABLES.items():
            write_table(folder / "scores" / table / f"{source}.parquet", [{"id": r["id"], "value": r[name]} for r in kept])
    return [folder / name for name in ("raw", "captions", "scores", "pairs.parquet", "funnel.json")]


def run(
    folder: Path, rows: list[dict], sources=("s",), scores=SCORES, splits: Path = ROOT / "data" / "splits.csv", **rules
) -> tuple[pd.DataFrame, dict]:
    paths = write(folder, rows)
    filter_pairs(*paths, splits, filter=RULES | rules, sources=dict.fromkeys(sources), scores=scores)
    return read_table(paths[3]), json.loads(paths[4].read_text())


def select(table: pd.DataFrame, **config) -> pd.DataFrame:
    return select_pairs(table.rename(columns={"nsfw": "nsfw_level"}), FilterConfig(**config))


FAULTS = [
    ({"dropped": "http 404", "complex_prompt": None}, "http 404"),
    ({"complex_prompt": None, "nsfw": "X"}, "no_prompt"),
    ({"nsfw": "Soft", "width": 16}, "nsfw"),
    ({"nsfw": "Unknown"}, "nsfw"),
    ({"height": 31, "simple_prompt": ""}, "too_small"),
    ({"simple_prompt": " ", "clip_simple": 0.1}, "no_caption"),
    ({"phash": phash(0), "clip_simple": 0.1}, "near_duplicate"),
    ({"clip_simple": 0.49, "clip_complex": 0.1}, "clip_simple"),
    ({"clip_complex": None}, "clip_complex"),
    ({"nsfw": None}, None),
    ({"height": 32, "clip_simple": 0.5, "clip_complex": 0.5}, None),
]


def test_a_dropped_row_has_the_first_reason_that_applies_and_the_funnel_counts_every_row(tmp_path):
    rows = [row(0)] + [row(i, **fault) for i, (fault, _) in enumerate(FAULTS, 1)]
    pairs, funnel = run(tmp_path, rows)
    assert pairs.dropped.astype(object).where(pairs.dropped.notna(), None).tolist() == [None] + [reason for _, reason in FAULTS]
    assert list(pairs) == ["id", "source", "simple_prompt", "complex_prompt", "clean_prompt", *TABLES, "dropped", "group", "split"]
    assert funnel["in"] == 12 and funnel["kept"] == 3 == sum(funnel["by_split"].values())
    assert funnel["dropped"]["nsfw"] == 2 and sum(funnel["dropped"].values()) == 9
    assert pairs.group.isna().tolist() == pairs.split.isna().tolist() == [i == 1 for i in range(12)], "dropped by the crawl: no split"
    lines = (tmp_path / "funnel.csv").read_text().splitlines()
    assert lines[:3] == ["step,rows", "in,12", "nsfw,2"] and lines[-1] == "kept,3", "the table to plot: most rows first"
    assert {line.split(",")[0]: int(line.split(",")[1]) for line in lines[2:-1]} == funnel["dropped"]


def test_of_near_duplicates_the_first_that_passes_the_other_rules_is_kept(tmp_path):
    same = {"phash": f"{3 << 80:048x}"}
    pairs, _ = run(tmp_path, [row(9, nsfw="X", **same), row(5, **same), row(1, **same), row(3)])
    assert dict(zip(pairs.id.str[-1], pairs.dropped.fillna("kept"), strict=True)) == {
        "9": "nsfw",
        "5": "kept",
        "1": "near_duplicate",
        "3": "kept",
    }


def test_an_image_is_a_near_duplicate_of_a_kept_image_only(tmp_path):
    """1 and 2 are close, 2 and 3 are close, 1 and 3 are not."""
    chain = [row(i, phash=f"{bits << 90:048x}") for i, bits in ((1, 0b0000), (2, 0b0011), (3, 0b1111))]
    pairs, _ = run(tmp_path, chain)
    assert pairs.dropped.fillna("kept").tolist() == ["kept", "near_duplicate", "kept"] and pairs.group.nunique() == 1


def test_similar_images_and_equal_prompts_share_a_split_and_thresholds_move_no_row():
    rng = np.random.default_rng(0)
    rows = [
        row(i, complex_prompt=f"Prompt, {rng.integers(150)}", phash=f"{int(rng.integers(400)):x}".rjust(48, "f") + "00ff")
        for i in range(300)
    ]
    table = select(pd.DataFrame(rows), duplicate_bits=0, validation=0.2, test=0.2)
    for key in ("complex_prompt", "phash", "group"):
        assert (table.groupby(key).split.nunique() == 1).all() and (table.groupby(key).group.nunique() == 1).all()
    assert (table.group == table.groupby("group").id.transform("min")).all()
    assert set(table.split) == {"train", "validation", "test"}
    scored = pd.DataFrame(rows).assign(clip_simple=rng.random(300))
    strict = select(scored, min_scores={"clip_simple": 0.8}, min_side=65, validation=0.2, test=0.2)
    assert select(pd.DataFrame([row(1), row(2, nsfw="X")])).dropped.fillna("kept").tolist() == ["kept", "nsfw"], "by default"
    assert strict.split.equals(table.split) and strict.dropped.notna().all()


def test_prompts_are_equal_regardless_of_case_and_punctuation(tmp_path):
    pairs, _ = run(tmp_path, [row(1, complex_prompt="A  cat, 8K"), row(2, complex_prompt="a cat 8k,"), row(3, complex_prompt="...")])
    assert pairs.group.tolist() == [row(1)["id"], row(1)["id"], row(3)["id"]]


def test_prompts_that_share_most_words_are_one_group_if_prompt_overlap_is_set(tmp_path):
    rows = [row(i, complex_prompt=f"a cat on a red sofa, studio light, 8k, sharp, by painter number {i}") for i in (4, 2, 3)]
    rows += [row(1, complex_prompt="a dog in the snow, studio light, 8k"), row(5, complex_prompt=None)]
    assert run(tmp_path, rows)[0].group.nunique() == 5
    pairs, funnel = run(tmp_path, rows, prompt_overlap=0.8)
    assert pairs.group.tolist() == [row(i)["id"] for i in (1, 2, 2, 2, 5)] and funnel["kept"] == 4, "no row is dropped by it"


def test_captions_and_scores_are_joined_by_id_in_any_order_and_old_crawls_are_read(tmp_path):
    paths = write(tmp_path, [row(i, clip_simple=0.5 + i / 100) for i in range(9)] + [row(9, dropped="truncated")])
    for file in [*(tmp_path / "captions").rglob("*.parquet"), *(tmp_path / "scores").rglob("*.parquet")]:
        table = read_table(file).sample(frac=1, random_state=len(file.name))
        write_table(file, pd.concat([table, table.assign(**{table.columns[1]: None})]))  # of two rows with one id the first counts
    raw = next((tmp_path / "raw").rglob("*.parquet"))
    write_table(raw, read_table(raw).drop(columns="prompt_by"))
    filter_pairs(*paths, filter=RULES, sources={"s": {}}, scores=SCORES)
    pairs = read_table(paths[3])
    assert pairs.simple_prompt[:9].tolist() == [f"sentence {i}" for i in range(9)] and pairs.simple_prompt[9:].isna().all()
    assert np.allclose(pairs.clip_simple[:9], 0.5 + np.arange(9) / 100) and pairs.phash[:9].tolist() == list(map(phash, range(9)))


def test_an_image_that_two_sources_hold_counts_once(tmp_path):
    pairs, funnel = run(tmp_path, [row(1), row(2), row(1, source="t", url="other"), row(3, source="t")], sources=("s", "t"))
    assert funnel["by_source"]["t"] == {"in": 2, "kept": 1, "dropped": {"duplicate": 1}}
    assert len(pairs) == 4 and pairs[pairs.dropped.isna()].id.is_unique
    assert pairs[pairs.dropped == "duplicate"][["simple_prompt", *TABLES, "group"]].isna().all(axis=None), "only the original has values"


def test_only_the_sources_and_scores_that_params_name_are_read(tmp_path):
    paths = write(tmp_path, [row(1), row(2, source="other")])
    filter_pairs(*paths, filter={"clip_simple": 0.5}, sources={"s": {}}, scores={"clip": {"measures": ["simple"]}})
    pairs = read_table(paths[3])
    assert set(pairs.source) == {"s"} and not {"phash", "clip_complex"} & set(pairs)


def test_the_same_input_makes_the_same_bytes(tmp_path):
    rows = [row(0)] + [row(i, **fault) for i, (fault, _) in enumerate(FAULTS, 1)]
    for name in "ab":
        run(tmp_path / name, rows)
    for file in ("pairs.parquet", "funnel.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_filter_that_keeps_nothing_and_an_unknown_key_are_clear_errors(tmp_path):
    with pytest.raises(ValueError, match=r"none of 3 rows is kept, clip_complex dropped most \(2\): loosen it in params.yaml"):
        run(tmp_path, [row(1), row(2), row(3, nsfw="X")], clip_complex=0.95)
    assert json.loads((tmp_path / "funnel.json").read_text())["in"] == 3, "the funnel is written"
    with pytest.raises(
        ValueError, match=r"filter.clip_simpel is neither a rule nor a score \(did you mean 'clip_simple'\?\): known keys are min_side"
    ):
        run(tmp_path, [row(1)], clip_simpel=1)
    with pytest.raises(FileNotFoundError, match="holds no Parquet file: run the stage that writes it"):
        run(tmp_path, [row(1)], sources=("s", "missing"))


def test_a_score_named_nsfw_does_not_replace_the_level_of_the_source(tmp_path):
    paths = write(tmp_path, [row(1), row(2, nsfw="X"), row(3, nsfw=None)])
    write_table(tmp_path / "scores" / "nsfw" / "s.parquet", [{"id": row(i)["id"], "value": i / 4} for i in (1, 2, 3)])
    filter_pairs(*paths, filter=RULES, sources={"s": {}}, scores=SCORES | {"nsfw": {}})
    pairs = read_table(paths[3])
    assert pairs.nsfw.tolist() == [0.25, 0.5, 0.75] and pairs.dropped.fillna("kept").tolist() == ["kept", "nsfw", "kept"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip_simple": "much"}, "filter.clip_simple is 'much': give a number, the lowest score that is kept"),
        ({"min_sides": 3}, r"filter.min_sides is neither a rule nor a score \(did you mean 'min_side'\?\)"),
        ({"min_side": -1}, "filter.min_side is -1: give a whole number, 0 or more"),
        ({"allowed_nsfw_levels": "None"}, "filter.allowed_nsfw_levels is 'None': give a list, each item a text"),
        ({"test": 0.6, "validation": 0.5}, "filter.validation is 0.5 and test 0.6: together they may be at most 1"),
        ({"min_scores": {}}, "filter.min_scores is neither a rule nor a score"),
    ],
)
def test_a_wrong_value_in_the_section_filter_is_one_clear_sentence(values, message):
    with pytest.raises(ValueError, match=f"^params.yaml: {message}"):
        Params({"filter": values}).section("filter", FilterConfig, prepare=lambda values: nest_min_scores(values, ["clip_simple"]))


def brute_force_pairs(hashes: np.ndarray, bits: int) -> list[list[int]]:
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1)
    return [[i, j] for j in range(len(hashes)) for i in range(j) if distances[i, j] <= bits]


@pytest.mark.parametrize("bits", [0, 1, 3, 8])
@pytest.mark.parametrize("kind", ["any bits", "mostly empty", "variants of few", "short"])
def test_close_pairs_are_those_that_brute_force_finds(bits, kind):
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 256, (700, 1 if kind == "short" else 26), np.uint8)
    if kind == "mostly empty":  # images on a plain background: nearly all hashes share nearly all parts
        hashes &= rng.integers(0, 40, hashes.shape, np.uint8) // 39 * 255
    if kind == "variants of few":
        hashes = hashes[rng.integers(0, 40, 700)]
        for _ in range(4):
            hashes[np.arange(700), rng.integers(0, 26, 700)] ^= (1 << rng.integers(0, 12, 700)).astype(np.uint8)  # or no bit
    hashes = np.unique(hashes, axis=0)
    expected = brute_force_pairs(hashes, bits)
    assert close_pairs(hashes, bits).tolist() == expected and (bits == 0 or kind == "any bits" or len(expected) > 20)


def test_many_similar_hashes_are_partitioned_again_and_few_pairs_are_compared(monkeypatch):
    """10,000 images on a plain background have 50 million pairs; one partition would leave 18 million to compare."""
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 256, (10_000, 216), np.uint8) & (rng.random((10_000, 216)) < 0.03) * np.uint8(255), axis=0)
    module, compared = sys.modules["sur_adapter.data.filtering.hamming"], []
    all_pairs = module._all_pairs
    monkeypatch.setattr(module, "_all_pairs", lambda runs: (compared.append(len(pair[0])) or pair for pair in all_pairs(runs)))
    assert len(close_pairs(hashes, 4)) > 100 and sum(compared) < 12_000_000


def test_hashes_of_different_lengths_are_an_error_and_links_connect_groups():
    assert unpack_hashes(["00ff", "0a0b"]).tolist() == [[0, 255], [10, 11]]
    with pytest.raises(ValueError, match="hashes of 2 and of 4 digits cannot be compared: run the score that makes them again"):
        unpack_hashes(["00ff", "0a"])
    assert close_pairs(unpack_hashes([]), 3).shape == (0, 2) and close_pairs(unpack_hashes(["00"]), 3).shape == (0, 2)
    assert connected_groups(5, np.array([(0, 3), (3, 4)])).tolist() == [0, 1, 2, 0, 0] and len(connected_groups(3, np.empty((0, 2)))) == 3


def test_planted_faults_are_dropped_for_the_right_reasons(tmp_path):
    """Scores are computed from the planted faults, so that this tests the filter and no model."""
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
    expected = {
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
    done = select(table, min_scores={"clip_complex": 0.5}, min_side=32, duplicate_bits=0)
    for fault, reasons in expected.items():
        assert set(done.dropped[done.fault == fault].fillna("kept")) <= reasons, fault
    assert (done.dropped[done.fault == "sound"].fillna("kept") == "kept").mean() > 0.98


def test_the_test_split_holds_no_generated_prompt(tmp_path):
    pairs, funnel = run(tmp_path, [row(i, prompt_by="interrogator" if i % 2 else None) for i in range(60)], validation=0.2, test=0.5)
    interrogated = pairs.id.isin([f"{i:016x}" for i in range(1, 60, 2)])
    dropped = interrogated & (pairs.split == "test")
    assert set(pairs.dropped[dropped]) == {"made_up_prompt"} and pairs.dropped[~dropped].isna().all()
    assert 0 < dropped.sum() < interrogated.sum() and funnel["dropped"] == {"made_up_prompt": int(dropped.sum())}


def test_the_scores_of_the_miniature_detect_wrong_prompts_and_copies(tmp_path):
    """Scores are measured by models. A copy is an image of the same scene as an earlier one, planted by the gallery."""
    count, seed = 2000, 2
    crawl(tmp_path / "raw" / "miniature", sources={"miniature": {"count": count, "seed": seed}})
    table, gallery = read_table(tmp_path / "raw" / "miniature"), Gallery(count, seed)
    table = table.assign(
        fault=[gallery.faults.get(gallery.id(i), "sound") for i in range(count)],
        shows=[json.dumps(gallery.scene(i).include) for i in range(count)],
        simple_prompt="words",
    )
    captions = table[["id", "simple_prompt"]][table.dropped.isna()]
    write_table(tmp_path / "captions" / "miniature" / "captions-000000.parquet", captions, CAPTIONS_SCHEMA)
    scores = {"clip": {"model": str(ROOT / "models/miniature/clip"), "measures": ["complex"]}, "phash": {}}
    score(tmp_path / "raw", tmp_path / "captions", tmp_path / "scores", scores=scores, sources={"miniature": {}})
    for column, path in (("clip_complex", "clip/complex"), ("phash", "phash")):
        values = read_table(tmp_path / "scores" / path).set_index("id").value
        table[column] = table.id.map(values).where(table.dropped.isna())
    done = select(table, min_scores={"clip_complex": 0.5}, min_side=32, duplicate_bits=6)
    judged = done[done.dropped.isna() | (done.dropped == "clip_complex")]
    wrong, detected = judged.fault == "wrong_prompt", judged.dropped == "clip_complex"
    assert wrong.sum() > 20 and (wrong & detected).sum() >= 0.9 * max(wrong.sum(), detected.sum()), "precision and recall"
    compared = done[done.dropped.isna() | done.dropped.isin(["clip_complex", "near_duplicate"])]
    detected, copies = compared.dropped == "near_duplicate", compared.fault == "reencoded"
    assert copies.sum() > 10 and (detected & copies).sum() >= 0.95 * copies.sum(), "recall"
    assert compared.duplicated("shows")[detected].mean() >= 0.95, "precision"


def test_a_group_takes_its_frozen_split_and_an_id_frozen_to_another_is_dropped(tmp_path):
    same = {"complex_prompt": "an equal prompt"}
    rows = [row(1, **same), row(2, **same), row(3, **same), row(4), row(5)]
    unfrozen, _ = run(tmp_path, rows)
    other = {"train": "validation", "validation": "test", "test": "train"}[unfrozen.split[3]]
    table = pd.DataFrame({"id": unfrozen.id[[0, 1, 3]], "split": ["train", "test", other]})
    table.to_csv(tmp_path / "frozen.csv", index=False)
    pairs, funnel = run(tmp_path, rows, splits=tmp_path / "frozen.csv")
    assert pairs.split.tolist() == ["test", "test", "test", other, unfrozen.split[4]] and funnel["dropped"] == {"other_split": 1}
    assert pairs.dropped.notna().tolist() == [True, False, False, False, False]
    table.assign(split="dev").to_csv(tmp_path / "invalid.csv", index=False)
    with pytest.raises(
        ValueError, match="is not a table of id and split: give each id once, with one of test, validation, train as its split"
    ):
        run(tmp_path, rows, splits=tmp_path / "invalid.csv")
    with pytest.raises(FileNotFoundError, match="nowhere.csv is missing: write a table of id and split there"):
        run(tmp_path, rows, splits=Path("nowhere.csv"))
