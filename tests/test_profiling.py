"""The profile: time by a clock set by hand, products against torch's own counter, and what a run prints and keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plaudit import profiling
from plaudit.feedback.records import Context, Tokens
from plaudit.policies import CausalLM, LoRA, Sampling, Sequence
from plaudit.policies.loading import recompute_layers
from plaudit.profile_figures import PHASES, Figures, PhaseCounts
from plaudit.profiling import Profile, active, count, matrix_rate, phase, profiled
from plaudit.rewards import RewardModel

CPU = torch.device("cpu")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def begin(clock: Clock | None = None) -> Profile:
    options = {} if clock is None else {"clock": clock}
    return Profile(ceiling_flop_per_s=1e9, device=CPU, dtype=torch.float32, **options)


def sequences() -> list[Sequence]:
    """A context with two outputs and another one; 12 + 5 + 3 + 4 + 6 distinct tokens, 14 of them predicted."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())

    context, other = ids(12), ids(4)
    return [Sequence(asked, ids(n), (True,) * n) for asked, n in ((context, 5), (context, 3), (other, 6))]


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_phase_inside_another_is_not_part_of_it_and_the_rest_is_idle():
    clock = Clock()
    with profiled(begin(clock)) as profile:
        clock.now += 1  # idle
        with phase("forward"):
            clock.now += 2
            with phase("reference"):
                clock.now += 4
            clock.now += 8
        clock.now += 16  # idle
        with phase("backward"):
            clock.now += 32
        with phase("forward"):
            clock.now += 64
        figures = profile.figures()
    seconds = {name: counts.seconds for name, counts in figures.phases.items()}
    assert seconds == {
        "idle": 17, "forward": 74, "reference": 4, "backward": 32, "sampling": 0, "reward": 0, "optimiser": 0,
    }  # fmt: skip
    assert figures.total.seconds == 127
    assert sum(figures.share(name) for name in PHASES) == pytest.approx(1, abs=1e-12)
    assert figures.share("reference") == 4 / 127


def test_a_phase_ends_where_an_error_leaves_it():
    clock = Clock()

    def fail() -> None:
        with phase("sampling"):
            clock.now += 1
            raise KeyError

    with profiled(begin(clock)) as profile:
        with pytest.raises(KeyError):
            fail()
        clock.now += 2
        figures = profile.figures()
    assert (figures.phases["sampling"].seconds, figures.phases["idle"].seconds) == (1, 2)


def test_figures_asked_for_twice_leave_the_first_answer_alone():
    clock = Clock()
    profile = begin(clock)
    clock.now += 1
    first = profile.figures()
    clock.now += 1
    assert (first.total.seconds, profile.figures().total.seconds) == (1, 2)


def test_without_a_profile_nothing_is_counted_and_no_layer_is_watched():
    hooks = torch.nn.modules.module._global_forward_hooks
    before = len(hooks)
    with profiled(begin()) as profile:
        assert len(hooks) == before + 1
        with pytest.raises(RuntimeError, match="going on already"), profiled(begin()):
            pass
    assert active() is None
    assert len(hooks) == before
    with phase("forward"):
        count(tokens=5, positions=5)
        torch.nn.Linear(3, 3)(torch.ones(2, 3))
    total = profile.figures().total
    assert (total.tokens, total.positions, total.flop) == (0, 0, 0)


# --- products -------------------------------------------------------------------------------------------------------


def test_products_by_formula_and_a_gradient_only_where_one_is_needed():
    """Rows 7, inputs 3, outputs 5: 210 a product. The first layer's input needs no gradient, frozen weights need none."""
    torch.manual_seed(0)
    first, second, head = torch.nn.Linear(3, 5), torch.nn.Linear(5, 5).requires_grad_(False), torch.nn.Linear(5, 2)
    with profiled(begin()) as profile:
        with phase("forward"):
            value = head(second(first(torch.ones(7, 3)))).sum()
        with phase("backward"):
            value.backward()
        with phase("reward"), torch.no_grad():
            first(torch.ones(2, 7, 3))
        flop = {name: counts.flop for name, counts in profile.figures().phases.items()}
    assert flop["forward"] == 2 * 7 * (15 + 25 + 10)
    assert flop["backward"] == 2 * 7 * (15 + 25 + 2 * 10)
    assert flop["reward"] == 2 * 14 * 15


def test_the_linear_layers_of_gpt_2_are_counted_as_well():
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(5, 3)
    with profiled(begin()) as profile, phase("forward"):
        layer(torch.ones(7, 3)).sum().backward()
    flop = {name: counts.flop for name, counts in profile.figures().phases.items()}
    assert (flop["forward"], flop["backward"]) == (2 * 7 * 15, 2 * 7 * 15)


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["full", "lora"])
def test_products_of_a_language_model_are_those_that_torch_counts(tiny_model, lora, recomputed):
    """Padded; attention scores are products of two activations, bmm and the like, and are left out on both sides."""
    policy = CausalLM.load(tiny_model, lora=lora, dtype="float32")
    if recomputed:
        recompute_layers(policy.model)
    policy.packer.packs = False
    added = {
        torch.ops.aten.addmm_: lambda into, left, right, **_: 2 * left[0] * left[1] * right[1]
    }  # torch counts all products but those that add in place
    counter = FlopCounterMode(display=False, custom_mapping=added)
    with profiled(begin()) as profile, counter:
        with phase("forward"):
            loss = policy.log_prob_of(sequences()).sum().sum()
        forward = matrix_products(counter)
        with phase("backward"):
            loss.backward()
    figures = profile.figures()
    assert figures.phases["forward"].flop == pytest.approx(forward, rel=0.02)
    assert figures.phases["backward"].flop == pytest.approx(matrix_products(counter) - forward, rel=0.02)
    assert figures.phases["forward"].tokens == 3 * 17  # padding went through the trunk
    assert figures.phases["forward"].positions == 14
    assert figures.phases["idle"].flop == 0


def matrix_products(counter: FlopCounterMode) -> int:
    counts = counter.get_flop_counts()["Global"]
    return sum(flop for operator, flop in counts.items() if str(operator) in ("aten.mm", "aten.addmm", "aten.addmm_"))


def test_packed_tokens_are_distinct_and_adapters_that_are_off_cost_nothing(tiny_model):
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    assert policy.packer.packs
    with profiled(begin()) as profile, torch.no_grad():
        with phase("forward"):
            policy.log_prob_of(sequences())
        with phase("reference"), policy.without_adapters():
            policy.log_prob_of(sequences())
        figures = profile.figures()
    with_adapters, without = figures.phases["forward"], figures.phases["reference"]
    # the last token of an output predicts nothing
    assert (with_adapters.tokens, with_adapters.positions) == (12 + 4 + 2 + 4 + 5, 14) == (without.tokens, 14)
    linear = [module for module in policy.model.modules() if isinstance(module, torch.nn.Linear)]
    head = policy.model.get_base_model().get_output_embeddings()
    trunk = [module for module in linear if module is not head]
    base = sum(layer.weight.numel() for layer in trunk if not layer.weight.requires_grad)
    adapters = sum(layer.weight.numel() for layer in trunk if layer.weight.requires_grad)
    assert without.flop == 2 * (without.tokens * base + 14 * head.weight.numel())
    assert with_adapters.flop - without.flop == 2 * without.tokens * adapters


def test_sampling_and_rewards_count_what_they_compute(tiny_model):
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    model = RewardModel.on(policy, LoRA(rank=2))
    ids = (5, 6, 7, 8, 9, 10)
    with profiled(begin()) as profile:
        with phase("sampling"):
            context = Context(content=Tokens(ids=ids, tokenizer=policy.encoder.fingerprint, text=""))
            sampling = Sampling(max_new_tokens=3, temperature=0)
            ((sample,),) = policy.sample([context], 1, generator=torch.Generator(), sampling=sampling)
        model.reward_of(sequences())
        figures = profile.figures()
    drawn = len(sample.token_ids)
    sampled, rewarded = figures.phases["sampling"], figures.phases["reward"]
    assert (sampled.tokens, sampled.positions) == (6 + drawn - 1, drawn)
    assert (rewarded.tokens, rewarded.positions) == (12 + 5 + 3 + 4 + 6, 3)
    assert sampled.seconds > 0 < rewarded.seconds
    assert sampled.flop > 0 < rewarded.flop


# --- figures --------------------------------------------------------------------------------------------------------


def example() -> Figures:
    phases = {name: PhaseCounts() for name in PHASES}
    phases["forward"] = PhaseCounts(2.0, 3000, 100, 4 * 10**12)
    phases["backward"] = PhaseCounts(5.0, 0, 0, 8 * 10**12)
    phases["idle"] = PhaseCounts(1.0)
    return Figures(phases, 3e12, "bfloat16", 3 * 2**30)


def test_rates_are_amounts_over_the_time_of_their_phase_and_of_the_whole():
    figures = example()
    assert figures.of_ceiling(figures.phases["forward"]) == pytest.approx(4e12 / 2 / 3e12)
    metrics = figures.metrics()
    assert metrics["tokens_per_s"] == 3000 / 8
    assert metrics["flop_per_s"] == 12e12 / 8
    assert metrics["of_ceiling"] == pytest.approx(0.5)
    assert sum(metrics[f"{name}_share"] for name in PHASES) == pytest.approx(1)
    assert (metrics["backward_seconds"], metrics["backward_share"]) == (5.0, 5 / 8)


def test_the_table_shows_the_phases_that_took_time_and_their_sum():
    rows = example().rows()
    assert [row[0] for row in rows] == ["forward", "backward", "idle", "all"]
    assert rows[0] == ("forward", "2.0 s", "25.0 %", "3,000", "100", "4", "2e+03", "66.7 %")
    assert rows[-1][1:3] == ("8.0 s", "100.0 %")
    assert example().sentence() == (
        "375 tokens/s, 50.0 % of the 3,000 GFLOP/s that one matrix product reaches in bfloat16; peak memory 3.00 GiB."
    )


def test_no_time_is_no_rate_and_no_error():
    figures = replace(example(), phases={name: PhaseCounts() for name in PHASES})
    assert figures.metrics()["tokens_per_s"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ceiling_is_a_plausible_rate_and_draws_no_number_of_the_run(dtype):
    """Ten seconds and more on a slow machine: a matrix product of width 2,048 is 17 GFLOP."""
    state = torch.get_rng_state()
    assert 1e8 < matrix_rate(CPU, dtype, seconds=0) < 1e16
    assert torch.equal(torch.get_rng_state(), state)


def test_peak_memory_is_in_bytes():
    assert 50 * 2**20 < profiling.peak_memory_bytes(CPU) < 2**50
