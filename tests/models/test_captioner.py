"""Every kept image has one plain caption, and captions are reproducible."""

import json

import numpy as np
import pytest
from helpers.small_models import digest
from helpers.stages import caption, crawl
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipImageProcessor,
    BlipVisionModel,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from miniature.scenes import make
from sur_adapter.io.shards import read_table
from sur_adapter.models.captioner import CaptionConfig, Captioner
from sur_adapter.models.clip import CLIPEncoder, cosine_scores


def test_every_kept_image_has_a_reproducible_caption_in_the_order_of_raw(raw, models, tmp_path):
    for name, batch in (("a", 50), ("b", 50), ("c", 7)):
        caption(raw / "miniature", tmp_path / name, caption={"model": str(models / "blip"), "top_p": 0.9, "seed": 1, "batch_size": batch})
    table = read_table(raw / "miniature")
    assert list(read_table(tmp_path / "a").id) == list(table.id[table.dropped.isna()])
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    same = read_table(tmp_path / "a").simple_prompt == read_table(tmp_path / "c").simple_prompt
    assert same.mean() > 0.95, "the noise depends on the image, not on the batch"


def test_the_captions_of_a_source_are_used_unless_use_source_captions_is_false(models, tmp_path):
    (tmp_path / "surd").mkdir()
    texts = [" three white kittens ", None, "a red circle", " "]
    for k in range(4):
        make(k).draw().save(tmp_path / "surd" / f"{k}.png")
    rows = [json.dumps({"file_name": f"{k}.png", "text": text, "prompt": "kittens, 8k"}) for k, text in enumerate(texts)]
    (tmp_path / "surd" / "metadata.jsonl").write_text("\n".join(rows))
    crawl(raw := tmp_path / "raw" / "surd", sources={"surd": {"path": str(tmp_path / "surd")}})
    captions = {}
    for own in (True, False):
        caption(raw, tmp_path / str(own), caption={"model": str(models / "blip"), "use_source_captions": own, "batch_size": 1})
        captions[own] = list(read_table(tmp_path / str(own)).simple_prompt)
    assert captions[True] == ["three white kittens", captions[False][1], "a red circle", captions[False][3]]
    assert captions[False][0] != captions[True][0] and captions[False][2] != captions[True][2]
    (tmp_path / "surd" / "metadata.jsonl").write_text("\n".join(rows[::2]))
    for k in (1, 3):
        (tmp_path / "surd" / f"{k}.png").unlink()
    crawl(raw, sources={"surd": {"path": str(tmp_path / "surd")}})
    caption(raw, tmp_path / "all", caption={"model": "nowhere"})
    assert list(read_table(tmp_path / "all").simple_prompt) == captions[True][::2], "the model is loaded only if it is needed"


def test_captions_are_sampled_by_the_seed_or_greedy(models):
    image, ids = [make(5).draw()] * 20, [str(i) for i in range(20)]

    def captions(**config) -> list[str]:
        return [text for (text,) in Captioner(CaptionConfig(str(models / "blip"), **config), "cpu").caption(image, ids)]

    sampled = [captions(top_p=0.95, seed=seed) for seed in (0, 1)]
    assert len(set(sampled[0])) > 5 and sampled[0] != sampled[1]
    assert len(set(captions())) == 1


def test_more_captions_of_an_image_leave_the_first_ones_equal(models, monkeypatch):
    images, ids = [make(i).draw() for i in range(6)], [str(i) for i in range(6)]
    encoded, forward = [], BlipVisionModel.forward
    monkeypatch.setattr(BlipVisionModel, "forward", lambda self, **options: encoded.append(options) or forward(self, **options))
    one, three = (Captioner(CaptionConfig(str(models / "blip"), n, 0.95), "cpu").caption(images, ids) for n in (1, 3))
    assert len(encoded) == 2, "the features of the images are computed once for all captions"
    assert [texts[:1] for texts in three] == one and all(len(set(texts)) == 3 for texts in three)
    blip, judge = str(models / "blip"), str(models / "clip")
    selected = Captioner(CaptionConfig(blip, 2, 0.95, candidates=3, judge=judge), "cpu").caption(images, ids)
    captioner = Captioner(CaptionConfig(blip, 6, 0.95), "cpu")
    samples = captioner.caption(images, ids)
    assert all(texts[0] in six[:3] and texts[1] in six[3:] for texts, six in zip(selected, samples, strict=True))


def test_several_captions_without_sampling_are_a_clear_error():
    for wrong in ({"sentences": 3}, {"sentences": 0, "top_p": 0.9}):
        with pytest.raises(ValueError, match="give at least 1 sentence per image, and for more a top_p to sample them with"):
            CaptionConfig("blip", **wrong)


def test_any_image_to_text_model_of_transformers_works(models, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(models / "blip")
    vocabulary = len(tokenizer)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {"image_size": 64, "patch_size": 16} | tiny
    opt = {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    opt |= {"model_type": "opt", "vocab_size": vocabulary, "max_position_embeddings": 64, "pad_token_id": 0}
    qformer = {"vocab_size": vocabulary, "encoder_hidden_size": 16, "cross_attention_frequency": 1} | tiny
    blip2 = {"vision_config": vision, "qformer_config": qformer, "text_config": opt}
    blip2 |= {"num_query_tokens": 4, "image_token_index": vocabulary - 1}
    gpt = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=vocabulary, n_positions=24, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**vision), gpt)
    pair.decoder_start_token_id, pair.pad_token_id = 2, 0
    for model in (Blip2ForConditionalGeneration(Blip2Config(**blip2)), VisionEncoderDecoderModel(pair)):
        folder = tmp_path / type(model).__name__
        for part in (model, tokenizer, BlipImageProcessor(size={"height": 64, "width": 64})):
            part.save_pretrained(folder)
        captions = Captioner(CaptionConfig(str(folder), top_p=0.9), "cpu").caption([make(1).draw(), make(2).draw()], ["a", "b"])
        captions = [text for (text,) in captions]
        two = Captioner(CaptionConfig(str(folder), 2, 0.9), "cpu").caption([make(1).draw(), make(2).draw()], ["a", "b"])
        assert [first for first, _ in two] == captions and all(first != second for first, second in two)
        assert len(captions) == 2 and captions[0] != captions[1] and all(captions)


def test_the_candidate_with_the_highest_clip_score_is_selected(models):
    images, ids = [make(i).draw() for i in range(12)], [str(i) for i in range(12)]
    blip, judge = str(models / "blip"), str(models / "clip")
    clip = CLIPEncoder(judge, "caption.judge")
    embeds = clip.encode_images(images)

    def scores(captions: list[str]) -> np.ndarray:
        return cosine_scores(embeds, clip.encode_texts(captions))

    def captions(count: int) -> list[str]:
        config = CaptionConfig(blip, top_p=0.95, candidates=count, judge=judge if count > 1 else None)
        return [text for (text,) in Captioner(config, "cpu").caption(images, ids)]

    by_count = np.stack([scores(captions(count)) for count in (1, 2, 4, 16)])  # (4, 12)
    assert (np.diff(by_count, axis=0) > -1e-6).all(), "the first candidates do not depend on how many there are"
    assert (by_count[-1] - by_count[0] > 0.001).sum() > 4
    captioner = Captioner(CaptionConfig(blip, top_p=0.95, candidates=4, judge=judge), "cpu")
    samples = [captioner._sample(captioner._pixels(images), [f"0 {i} {k}" if k else f"0 {i}" for i in ids]) for k in range(4)]
    assert by_count[2] == pytest.approx(np.max([scores(sample) for sample in samples], axis=0), abs=1e-6)


def test_candidates_without_a_judge_or_a_judge_without_candidates_are_a_clear_error():
    for wrong in ({"candidates": 3, "top_p": 0.9}, {"candidates": 3, "judge": "x"}, {"candidates": 1, "top_p": 0.9, "judge": "x"}):
        with pytest.raises(ValueError, match="several candidates need a top_p to sample them with and a CLIP as judge; a single one"):
            CaptionConfig("blip", **wrong)
