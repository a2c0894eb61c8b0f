"""Every picture kept has a plain sentence, the same one each time."""

import json

import numpy as np
import pytest
from helpers.small_models import digest
from helpers.stages import caption
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipImageProcessor,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from miniature.scenes import make
from stages.crawl import crawl
from sur_adapter.io.shards import read_table
from sur_adapter.models.captioner import CaptionConfig, Captioner
from sur_adapter.models.clip import Clip, score


def test_every_kept_picture_has_a_caption_in_the_order_of_raw_and_the_same_one_each_time(raw, models, tmp_path):
    for name, batch in (("a", 50), ("b", 50), ("c", 7)):
        caption(raw / "miniature", tmp_path / name, caption={"model": str(models / "blip"), "top_p": 0.9, "seed": 1, "batch_size": batch})
    table = read_table(raw / "miniature")
    assert list(read_table(tmp_path / "a").id) == list(table.id[table.dropped.isna()])
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    same = read_table(tmp_path / "a").simple_prompt == read_table(tmp_path / "c").simple_prompt
    assert same.mean() > 0.95, "the noise is the picture's own, not the batch's"


def test_a_sentence_that_the_source_has_is_taken_as_it_is_unless_the_captioner_is_wanted_for_all(models, tmp_path):
    (tmp_path / "surd").mkdir()
    told = [" three white kittens ", None, "a red circle", " "]
    for k in range(4):
        make(k).draw().save(tmp_path / "surd" / f"{k}.png")
    rows = [json.dumps({"file_name": f"{k}.png", "text": said, "prompt": "kittens, 8k"}) for k, said in enumerate(told)]
    (tmp_path / "surd" / "metadata.jsonl").write_text("\n".join(rows))
    crawl(raw := tmp_path / "raw" / "surd", sources={"surd": {"path": str(tmp_path / "surd")}})
    said = {}
    for own in (True, False):
        caption(raw, tmp_path / str(own), caption={"model": str(models / "blip"), "use_source_captions": own, "batch_size": 1})
        said[own] = list(read_table(tmp_path / str(own)).simple_prompt)
    assert said[True] == ["three white kittens", said[False][1], "a red circle", said[False][3]]
    assert said[False][0] != said[True][0] and said[False][2] != said[True][2]
    (tmp_path / "surd" / "metadata.jsonl").write_text("\n".join(rows[::2]))
    for k in (1, 3):
        (tmp_path / "surd" / f"{k}.png").unlink()
    crawl(raw, sources={"surd": {"path": str(tmp_path / "surd")}})
    caption(raw, tmp_path / "all", caption={"model": "nowhere"})
    assert list(read_table(tmp_path / "all").simple_prompt) == said[True][::2], "no model is loaded that nobody asks"


def test_a_caption_is_sampled_by_the_seed_or_the_likeliest(models):
    image, ids = [make(5).draw()] * 20, [str(i) for i in range(20)]
    sampled = [Captioner(CaptionConfig(str(models / "blip"), 0.95, seed), "cpu").caption(image, ids) for seed in (0, 1)]
    assert len(set(sampled[0])) > 5 and sampled[0] != sampled[1]
    assert len(set(Captioner(CaptionConfig(str(models / "blip")), "cpu").caption(image, ids))) == 1


def test_any_image_to_text_model_of_transformers_captions(models, tmp_path):
    words = AutoTokenizer.from_pretrained(models / "blip")
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    eye = {"image_size": 64, "patch_size": 16} | tiny
    opt = {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    opt |= {"model_type": "opt", "vocab_size": len(words), "max_position_embeddings": 64, "pad_token_id": 0}
    query = {"vocab_size": len(words), "encoder_hidden_size": 16, "cross_attention_frequency": 1} | tiny
    both = {"vision_config": eye, "qformer_config": query, "text_config": opt, "num_query_tokens": 4, "image_token_index": len(words) - 1}
    gpt = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(words), n_positions=24, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**eye), gpt)
    pair.decoder_start_token_id, pair.pad_token_id = 2, 0
    for model in (Blip2ForConditionalGeneration(Blip2Config(**both)), VisionEncoderDecoderModel(pair)):
        folder = tmp_path / type(model).__name__
        for part in (model, words, BlipImageProcessor(size={"height": 64, "width": 64})):
            part.save_pretrained(folder)
        said = Captioner(CaptionConfig(str(folder), 0.9), "cpu").caption([make(1).draw(), make(2).draw()], ["a", "b"])
        assert len(said) == 2 and said[0] != said[1] and all(said)


def test_of_several_candidates_the_one_is_taken_that_clip_finds_to_agree_best(models):
    images, ids = [make(i).draw() for i in range(12)], [str(i) for i in range(12)]
    blip, clip = str(models / "blip"), Clip(str(models / "clip"))
    seen = clip.images(images)
    one = Captioner(CaptionConfig(blip, 0.95), "cpu").caption(images, ids)
    best = {
        n: Captioner(CaptionConfig(blip, 0.95, candidates=n, judge=str(models / "clip")), "cpu").caption(images, ids) for n in (2, 4, 16)
    }
    agree = np.stack([score(seen, clip.texts(said)) for said in (one, *best.values())])  # (4, 12)
    assert (np.diff(agree, axis=0) > -1e-6).all(), "the first candidates are those that fewer would have been"
    assert (agree[-1] - agree[0] > 0.001).sum() > 4
    drawn = Captioner(CaptionConfig(blip, 0.95, candidates=4, judge=str(models / "clip")), "cpu")
    several = [drawn._draw(drawn._pixels(images), [f"0 {i} {k}" if k else f"0 {i}" for i in ids]) for k in range(4)]
    most = np.max([score(seen, clip.texts(said)) for said in several], axis=0)
    assert score(seen, clip.texts(best[4])) == pytest.approx(most, abs=1e-6)


def test_candidates_without_a_judge_are_refused_in_a_sentence(models):
    for wrong in ({"candidates": 3, "top_p": 0.9}, {"candidates": 3, "judge": "x"}, {"candidates": 1, "top_p": 0.9, "judge": "x"}):
        with pytest.raises(ValueError, match="several candidates need a top_p to draw them with and a CLIP as judge; a single one needs"):
            CaptionConfig(str(models / "blip"), **wrong)
