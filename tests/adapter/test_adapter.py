"""The adapter: it starts as the identity, attends over the tokens of one prompt, and is saved and loaded."""

import copy
import json
import pickle
from hashlib import sha256
from zlib import crc32

import pytest
import torch
from torch import nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import VARIANTS, AdapterConfig
from sur_adapter.training import losses as loss

KINDS = {variant: {"variant": variant} for variant in VARIANTS} | {"published": {"variant": "official", "published_attention": True}}
every_kind = pytest.mark.parametrize("kind", KINDS)


def adapter(trained: bool = True, **config) -> SURAdapter:
    torch.manual_seed(0)
    made = SURAdapter(AdapterConfig(**{"width": 32, "teacher_width": 24, "heads": 4, "pooled_width": 20} | config)).eval()
    if trained:  # stands for a training: parameters that start at zero become random
        for parameter in made.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return made


X = torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(1))
P = torch.randn(3, 20, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("variant", ["sur", "paper"])
def test_an_untrained_adapter_is_the_identity_bit_for_bit(variant):
    made = adapter(trained=False, variant=variant)
    assert torch.equal(made(X), X) and torch.equal(made.pool(P), P)


@every_kind
def test_at_scale_0_an_adapter_is_the_identity_bit_for_bit(kind):
    made = adapter(**KINDS[kind])
    assert torch.equal(made(X, 0.0), X) and torch.equal(made.pool(P, 0.0), P)


@every_kind
def test_the_scale_blends_its_output_with_the_text_features(kind):
    made = adapter(**KINDS[kind])
    for change, x in ((made, X), (made.pool, P)):
        half, full = change(x, 0.5), change(x, 1.0)
        assert torch.allclose(half, 0.5 * full + 0.5 * x, atol=1e-6) and not torch.allclose(full, x, atol=1e-3)
        assert torch.equal(change(x), change(x, made.config.strength))


def test_the_default_strength_is_1_and_0_1_for_the_published_network():
    assert [AdapterConfig(32, variant=v).strength for v in VARIANTS] == [1.0, 1.0, 0.1]
    assert AdapterConfig(32, variant="official", strength=0.5).strength == 0.5
    with pytest.raises(ValueError, match="adapter.strength is nan: give a number"):
        AdapterConfig(32, strength=float("nan"))


@every_kind
def test_a_prompt_is_adapted_the_same_whatever_else_is_in_the_batch(kind):
    made = adapter(**KINDS[kind])
    others = torch.cat([3 * X[:1], X[1:2], -X])
    for batch in (X, others):
        assert torch.allclose(made(X[1:2]), made(batch)[1:2], atol=1e-6)
    assert torch.allclose(made.pool(P[1:2]), made.pool(P)[1:2], atol=1e-6)


@every_kind
def test_attention_runs_over_the_tokens_of_a_prompt(kind):
    made, changed = adapter(**KINDS[kind]), X.clone()
    changed[1, 4] += torch.linspace(-1, 1, 32)
    moved = (made(changed) - made(X)).abs().amax(-1)
    assert (moved[1] > 1e-6).all() and (moved[[0, 2]] == 0).all()


@every_kind
def test_the_query_of_a_token_depends_on_the_other_tokens_except_in_a_published_checkpoint(kind):
    made, changed = adapter(**KINDS[kind]), X.clone()
    changed[1, 4] += torch.linspace(-1, 1, 32)
    moved = (made.query(changed) - made.query(X)).abs().amax(-1)[1] > 1e-6
    assert moved[4] and moved.all() == (kind != "published") and moved.sum() in (1, 11)


@every_kind
def test_an_adapter_in_evaluation_mode_is_deterministic(kind):
    made = adapter(**KINDS[kind])
    assert torch.equal(made(X), made(X))


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_output_depends_on_the_query(variant):
    made = adapter(variant=variant)
    assert torch.equal(made.adapt(X, made.query(X)), made(X))
    assert not torch.allclose(made.adapt(X, made.query(X) + torch.randn(32)), made(X), atol=1e-4)


def test_in_paper_the_query_changes_only_attention_weights_and_in_sur_it_is_also_added_to_the_output():
    one_token = torch.ones(1, 1, 32)  # attention over one token returns it for any query
    for variant, same in (("paper", True), ("sur", False)):
        made = adapter(variant=variant)
        outputs = [made.adapt(one_token, q) for q in torch.randn(2, 1, 1, 32, generator=torch.Generator().manual_seed(5))]
        assert torch.equal(*outputs) == same


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="adapter.variant is 'papre': choose sur, paper or official"):
        adapter(variant="papre")
    with pytest.raises(ValueError, match="published_attention belongs to the variant official only: leave it out with sur"):
        adapter(published_attention=True)


@every_kind
def test_every_saved_parameter_gets_a_gradient_from_the_loss_terms(kind):
    made = adapter(**KINDS[kind])
    query, target = made.query(X), X.flip(0)
    total = loss.kl(target, made.adapt(X, query)) + loss.llm(made.projection(torch.randn(3, 24)), query)
    (total + (made.pool(P) - P.flip(0)).square().mean()).backward()
    without_gradient = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert without_gradient == [] and made.state_dict().keys() == dict(made.named_parameters()).keys()


@pytest.mark.parametrize("variant", ["sur", "paper"])
def test_our_variants_have_no_dropout_in_training_mode(variant):
    made = adapter(variant=variant).train()
    assert torch.equal(made(X), made(X))


def test_a_pooled_vector_is_unchanged_without_a_pooled_width():
    made = adapter(pooled_width=0)
    assert made.pool(P) is P and not any(name.startswith("pooled") for name in made.state_dict())


@every_kind
@pytest.mark.parametrize("width", [768, 1024, 2048])
def test_any_width_of_text_features_works(kind, width):
    with torch.device("meta"):
        made = SURAdapter(AdapterConfig(width, teacher_width=5120, **KINDS[kind]))
        assert made(torch.empty(2, 77, width)).shape == (2, 77, width)
        assert made.projection(torch.empty(2, 5120)).shape == (2, width)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["copy", "pickle"])
@every_kind
def test_a_copy_has_the_same_class_and_outputs(kind, copied):
    made = adapter(**KINDS[kind])
    again = copied(made)
    assert type(again) is type(made) and torch.equal(again(X), made(X))


@every_kind
def test_saved_files_restore_the_adapter_with_its_projection_and_origin(kind, tmp_path):
    made = adapter(about={"base_model": "some/model", "layers": [3]}, **KINDS[kind])
    made.save_pretrained(tmp_path)
    again = SURAdapter.from_pretrained(tmp_path)
    assert again.config == made.config and type(again) is type(made) and not again.training
    assert torch.equal(again(X), made.requires_grad_(False)(X)) and torch.equal(again.projection.weight, made.projection.weight)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_without_an_adapter_is_refused_and_the_error_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no config.json: train an adapter"):
        SURAdapter.from_pretrained(tmp_path)


def test_a_checkpoint_given_as_a_folder_is_refused_with_the_command_that_converts_it(tmp_path):
    (tmp_path / "adapter.pt").touch()
    with pytest.raises(
        FileNotFoundError, match="adapter.pt is not a folder: convert .* with `python -m sur_adapter convert .*adapter.pt F"
    ):
        SURAdapter.from_pretrained(tmp_path / "adapter.pt")


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="adapter.heads is 5, but must divide the text encoder's width 32"):
        adapter(heads=5)


def test_the_same_seed_gives_the_same_projection_and_another_seed_another_one():
    def projection(seed):
        torch.manual_seed(seed)
        return SURAdapter(AdapterConfig(32, 24)).projection.weight

    assert torch.equal(projection(3), projection(3)) and not torch.equal(projection(3), projection(4))


@pytest.mark.parametrize(
    ("kind", "weights_digest", "config_digest", "output", "pooled", "query"),
    [
        ("sur", "b1ef60e9c0ebc603", "0c619aad4c9fa4fd", 1286.24560546875, 15.359886169433594, 35.30934143066406),
        ("paper", "b1ef60e9c0ebc603", "ba28ebce14e18bab", 1081.34814453125, 15.359886169433594, 35.30934143066406),
        ("official", "47ee88b610480147", "b2395f24a76fbb5e", 142.7527313232422, 7.444008827209473, 30.940170288085938),
        ("published", "47ee88b610480147", "1466e170b467ea97", 142.7527313232422, 7.444008827209473, 30.940168380737305),
    ],
)
def test_files_and_outputs_are_those_of_the_first_release(kind, weights_digest, config_digest, output, pooled, query, tmp_path):
    """The digests and sums were computed with the code of commit 8e82869: adapters that it saved load, and give the same tensors."""
    made = SURAdapter(AdapterConfig(16, 6, heads=8, pooled_width=10, **KINDS[kind]))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            offset = 0.1 * crc32(name.removeprefix("block.").encode()) / 2**32
            parameter.copy_(0.2 * torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + offset)
    made.save_pretrained(tmp_path)
    config = {key: value for key, value in json.loads((tmp_path / "config.json").read_text()).items() if key != "whiten"}  # a later key
    files = (tmp_path / "model.safetensors").read_bytes(), (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    digests = [sha256(file).hexdigest()[:16] for file in files]
    assert digests == [weights_digest, config_digest]
    loaded = SURAdapter.from_pretrained(tmp_path)
    x, p = torch.linspace(-1, 1, 2 * 5 * 16).view(2, 5, 16).sin(), torch.linspace(0, 1, 20).view(2, 10)
    sums = [loaded(x).square().sum().item(), loaded.pool(p).square().sum().item(), loaded.query(x).abs().sum().item()]
    assert sums == pytest.approx([output, pooled, query], rel=1e-5)


def corrupt(folder, case: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    values = json.loads(config.read_text())
    if case == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    config.write_text(
        {
            "words": "no config",
            "list": "[1]",
            "key": json.dumps(values | {"dept": 3}),
            "no width": json.dumps({"depth": 2}),
            "type": json.dumps(values | {"heads": "four"}),
            "variant": json.dumps(values | {"variant": "sure"}),
            "other": json.dumps(values | {"width": 64}),
            "deeper": json.dumps(values | {"depth": 3}),
            "cut": config.read_text(),
        }[case]
    )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("words", "config.json is not the config of an adapter .* again"),
        ("list", "config.json is not the config of an adapter .* again"),
        ("key", r"the unknown key 'dept' \(did you mean 'depth'\?\): use the version"),
        ("no width", "config.json is not the config of an adapter .*'width'.* again"),
        ("type", "config.json is not the config of an adapter .* again"),
        ("variant", "config.json is not the config of an adapter .*choose sur, paper or official.* again"),
        ("other", "does not hold the weights that its config.json describes .*: download or train it again"),
        ("deeper", "does not hold the weights that its config.json describes .*: download or train it again"),
        ("cut", "does not hold the weights that its config.json describes .*: download or train it again"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_sentence(tmp_path, case, message):
    adapter().save_pretrained(tmp_path)
    corrupt(tmp_path, case)
    with pytest.raises(ValueError, match=message) as error:
        SURAdapter.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
