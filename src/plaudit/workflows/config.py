"""The workflows' configurations: the same field names on the command line, in a TOML file and in a run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from plaudit.errors import ConfigError
from plaudit.feedback import views
from plaudit.feedback.examples import Pair, View
from plaudit.feedback.records import FeedbackBase
from plaudit.methods import (
    OFFLINE,
    ONLINE,
    BestOfNConfig,
    BRAInConfig,
    ConditioningConfig,
    DPOConfig,
    GPGConfig,
    GRPOConfig,
    KTOConfig,
    LiPOConfig,
    NFTConfig,
    OnlineDPOConfig,
    OnlineMethod,
    OnPolicyConfig,
    ORPOConfig,
    PPOConfig,
    QuarkConfig,
    REINFORCEConfig,
    REINFORCEPlusPlusConfig,
    ReMaxConfig,
    RewardConfig,
    RLOOConfig,
    SFTConfig,
    SimPOConfig,
    SuperHFConfig,
)
from plaudit.methods.commands import METHODS
from plaudit.policies import LoRA, Sampling
from plaudit.policies.loading import DType
from plaudit.training import TrainingConfig
from plaudit.training.config import check, from_mapping
from plaudit.workflows.alarms import AlarmsConfig
from plaudit.workflows.judging import judge_endpoint

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the model is compared with where it started.

    Attributes:
        contexts: held-out contexts to sample answers to; 0 skips sampling and everything that needs it.
        contexts_at_looks: held-out contexts that a method which learns from its own samples is asked at every look, see
            training.evaluate_every; as far as there are enough, others than those asked before and after.
        outputs_per_context: answers to each, before and after, and at a look.
        max_new_tokens: length limit of an answer, in tokens.
        temperature: of sampling; 1 samples from the model itself.
        top_p: smallest set of tokens with this probability is sampled from.
        top_k: so many of the likeliest tokens are sampled from; by default all.
        min_p: tokens with at least this share of the likeliest one's probability are sampled from.
        repetition_penalty: above 1, tokens that were there before get less likely.
        stop: strings that end an answer, besides the model's own end of a turn.
        batch_size: answers sampled side by side.
    """

    contexts: int = 64
    contexts_at_looks: int = 16
    outputs_per_context: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    batch_size: int = 64

    def __post_init__(self) -> None:
        check(self, "contexts", self.contexts >= 0, "a whole number >= 0")
        for name in ("contexts_at_looks", "outputs_per_context", "batch_size"):
            check(self, name, getattr(self, name) >= 1, "a whole number >= 1")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """The sampler's settings."""
        return Sampling(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, and how it is held in memory.

    Attributes:
        model: a folder in the transformers format, a .gguf file, a name on the Hugging Face hub, or
            smollm2-135m-instruct, the quickstart's model.
        run: folder of the run; by default a new one in runs/.
        format: the feedback file's format, where it cannot be told from its columns.
        aspect: learn from what was said about this aspect only.
        pairs_per_ranking: at most so many pairs of one ranking, from the best and the worst output on; by default all.
        held_out: share of the contexts kept aside to measure with.
        dtype: type of matrix products; auto is bfloat16 where the hardware multiplies it natively.
        device: cpu, cuda, cuda:1, ...; by default the GPU where there is one.
        max_context_tokens: longer contexts lose their beginning.
        max_output_tokens: longer outputs lose their end.
        gradient_checkpointing: less memory for a third more time.
        lora: adapters' settings.
        full: train all weights instead of adapters.
        profile: measure where the time goes, print it at the end, and write it into the metrics and the report.
    """

    model: str
    run: Path | None = None
    format: str | None = None
    aspect: str | None = None
    pairs_per_ranking: int | None = None
    held_out: float = 0.1
    dtype: DType = "auto"
    device: str | None = None
    max_context_tokens: int = 1024
    max_output_tokens: int = 512
    gradient_checkpointing: bool = False
    lora: Annotated[LoRA, Parameter(group="Adapters")] = LoRA()
    full: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        check(self, "held_out", 0 <= self.held_out < 1, "a share in [0, 1)")
        for name in ("max_context_tokens", "max_output_tokens"):
            check(self, name, getattr(self, name) >= 1, "a whole number >= 1")
        per_ranking = self.pairs_per_ranking
        check(self, "pairs_per_ranking", per_ranking is None or per_ranking >= 1, "a whole number >= 1, or nothing")

    def pairs(self, records: Iterable[FeedbackBase], *, ties: Literal["drop", "keep"]) -> View[Pair]:
        """The view of the records that pairwise methods learn from."""
        return views.pairs(records, ties=ties, aspect=self.aspect, max_pairs_per_ranking=self.pairs_per_ranking)

    @property
    def adapters(self) -> LoRA | None:
        """The adapters to train, or None for all weights."""
        return None if self.full else self.lora

    @property
    def loading(self) -> dict[str, Any]:
        """What `CausalLM.load` and `RewardModel.load` are told."""
        return {
            "lora": self.adapters,
            "dtype": self.dtype,
            "device": self.device,
            "max_context_tokens": self.max_context_tokens,
            "max_output_tokens": self.max_output_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class TrainRewardConfig(ModelConfig):
    """Settings of training a reward model.

    Attributes:
        feedback: a feedback store (a path or a postgresql:// URL), or a file of feedback in any format that
            `plaudit import` reads.
        ties: what to do with comparisons that ended in a tie: leave them out, or learn that the rewards are alike.
        training: the training loop.
        reward: the objective.
    """

    feedback: str
    ties: Literal["drop", "keep"] = "keep"
    training: Annotated[TrainingConfig, Parameter(group="Training")] = TrainingConfig()
    reward: Annotated[RewardConfig, Parameter(group="Objective")] = RewardConfig()


@dataclass(frozen=True, kw_only=True)
class AlignConfig(ModelConfig):
    """Settings of aligning a model with feedback or with a reward.

    Attributes:
        feedback: a feedback store (a path or a postgresql:// URL), or a file of feedback in any format that
            `plaudit import` reads. A method that learns from its own samples can do without where it has contexts.
        method: how the model learns; see `plaudit methods`.
        contexts: what a method that learns from its own samples asks: a file with a prompt a line (.txt), or with a prompt or
            chat a row (.jsonl); by default the feedback's contexts.
        reward: what such a method is rewarded by: the folder of a reward model, train (a reward model, on the feedback's
            comparisons), or python:MODULE:FUNCTION, a trusted function of (context, output), two texts, to a number or None.
        gold: a second reward, that is meant and not optimised: the folder of a reward model, or python:MODULE:FUNCTION. It
            judges the answers at looks and at the end, and an alarm says where it falls while the reward rises.
        judge: who compares the answers before and after: train (a reward model, on the feedback's comparisons), none, the
            folder of a reward model, or openai:MODEL@URL, a model behind an OpenAI-compatible address.
        judge_key_env: name of the environment variable with the API key of a judge behind an address.
        training: the training loop.
        judge_training: the training loop of a judge or reward that is trained.
        dpo: settings of the method dpo.
        sft: settings of sft and feedme.
        kto: settings of the method kto.
        lipo: settings of the method lipo.
        orpo: settings of the method orpo.
        simpo: settings of the method simpo.
        conditioning: settings of the method conditioning.
        grpo: settings of grpo and its variants.
        nft: settings of nft and rft.
        ppo: settings of the method ppo.
        reinforce: settings of the method reinforce.
        rloo: settings of the method rloo.
        remax: settings of the method remax.
        reinforce_plus_plus: settings of reinforce_plus_plus and its variant with the group's mean as a baseline.
        best_of_n: settings of the method best_of_n, which is RAFT or, with many updates_per_rollout, expert iteration.
        gpg: settings of the method gpg.
        superhf: settings of the method superhf.
        quark: settings of the method quark.
        brain: settings of the method brain.
        online_dpo: settings of the method online_dpo.
        alarms: of a method that learns from its own samples: which metrics should stay in a band.
        evaluation: how the model is compared with where it started.
    """

    feedback: str | None = None
    method: str = "dpo"
    contexts: Path | None = None
    reward: str | None = None
    gold: str | None = None
    judge: str = "train"
    judge_key_env: str | None = None
    training: Annotated[TrainingConfig, Parameter(group="Training")] = TrainingConfig()
    judge_training: Annotated[TrainingConfig, Parameter(group="Training of the judge")] = TrainingConfig()
    dpo: Annotated[DPOConfig, Parameter(group="Method: dpo")] = DPOConfig()
    sft: Annotated[SFTConfig, Parameter(group="Methods: sft, feedme")] = SFTConfig()
    kto: Annotated[KTOConfig, Parameter(group="Method: kto")] = KTOConfig()
    lipo: Annotated[LiPOConfig, Parameter(group="Method: lipo")] = LiPOConfig()
    orpo: Annotated[ORPOConfig, Parameter(group="Method: orpo")] = ORPOConfig()
    simpo: Annotated[SimPOConfig, Parameter(group="Method: simpo")] = SimPOConfig()
    conditioning: Annotated[ConditioningConfig, Parameter(group="Method: conditioning")] = ConditioningConfig()
    grpo: Annotated[GRPOConfig, Parameter(group="Methods: grpo, dr_grpo, dapo, gspo, cispo")] = GRPOConfig()
    nft: Annotated[NFTConfig, Parameter(group="Methods: nft, rft")] = NFTConfig()
    ppo: Annotated[PPOConfig, Parameter(group="Method: ppo")] = PPOConfig()
    reinforce: Annotated[REINFORCEConfig, Parameter(group="Method: reinforce")] = REINFORCEConfig()
    rloo: Annotated[RLOOConfig, Parameter(group="Method: rloo")] = RLOOConfig()
    remax: Annotated[ReMaxConfig, Parameter(group="Method: remax")] = ReMaxConfig()
    reinforce_plus_plus: Annotated[
        REINFORCEPlusPlusConfig, Parameter(group="Methods: reinforce_plus_plus, reinforce_plus_plus_baseline")
    ] = REINFORCEPlusPlusConfig()
    best_of_n: Annotated[BestOfNConfig, Parameter(group="Method: best_of_n")] = BestOfNConfig()
    gpg: Annotated[GPGConfig, Parameter(group="Method: gpg")] = GPGConfig()
    superhf: Annotated[SuperHFConfig, Parameter(group="Method: superhf")] = SuperHFConfig()
    quark: Annotated[QuarkConfig, Parameter(group="Method: quark")] = QuarkConfig()
    brain: Annotated[BRAInConfig, Parameter(group="Method: brain")] = BRAInConfig()
    online_dpo: Annotated[OnlineDPOConfig, Parameter(group="Method: online_dpo")] = OnlineDPOConfig()
    alarms: Annotated[AlarmsConfig, Parameter(group="Alarms")] = AlarmsConfig()
    evaluation: Annotated[EvaluationConfig, Parameter(group="Evaluation")] = EvaluationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        judge_endpoint(self.judge, self.judge_key_env)
        check(self, "method", self.method in METHODS, f"one of {', '.join(METHODS)}")
        if self.method in OFFLINE:
            check(self, "feedback", self.feedback is not None, f"a store or file of feedback for {self.method}")
            for name in ("contexts", "reward", "gold"):
                check(self, name, getattr(self, name) is None, f"nothing, since {self.method} samples no outputs")
            return
        check(self, "reward", self.reward is not None, "the folder of a reward model, train, or python:MODULE:FUNCTION")
        if self.feedback is None:
            check(self, "contexts", self.contexts is not None, "a file of what to ask, or feedback that has contexts")
            check(self, "reward", self.reward != "train", "one that needs no feedback, or feedback to train it on")
        if self.training.patience and not self.training.evaluate_every:
            raise ConfigError(
                "training.evaluate_every: expected a whole number >= 1, since training.patience counts looks, got 0"
            )
        other = self.gold is None or self.gold not in ("train", self.reward)
        check(self, "gold", other, "another reward than the one that is optimised: a folder or python:MODULE:FUNCTION")
        self._check_online(ONLINE[self.method])

    def _check_online(self, method: OnlineMethod) -> None:
        """Raise what the method would raise once the model is loaded."""
        settings: OnPolicyConfig = self.settings
        wanted = method.fewest(settings)
        if settings.outputs_per_context < wanted:
            raise ConfigError(
                f"{self.section}.outputs_per_context: {self.method} compares the outputs of a context and needs at least "
                f"{wanted}, got {settings.outputs_per_context}"
            )
        check(
            self, "full", not (method.adapters and self.full), f"adapters: {self.method} reads the frozen weights below"
        )

    @property
    def section(self) -> str:
        """The name of the section with the method's settings."""
        kind = METHODS[self.method].config
        return next(item.name for item in dataclasses.fields(self) if type(getattr(self, item.name)) is kind)

    @property
    def settings(self) -> Any:
        """The method's settings, with what its name decides.

        Raises:
            ConfigError: they contradict the method's name.
        """
        method, section = METHODS[self.method], self.section
        settings = getattr(self, section)
        given = method.given if isinstance(method, OnlineMethod) else {}
        for name, wanted in given.items():
            value = getattr(settings, name)
            if value not in (wanted, getattr(method.config(), name)):
                raise ConfigError(f"{section}.{name}: the method {self.method} has {wanted!r}, got {value!r}")
        return dataclasses.replace(settings, **given)

    @property
    def online(self) -> OnPolicyConfig | None:
        """The settings of a method that learns from its own samples; None of another."""
        settings: OnPolicyConfig | None = self.settings if self.method in ONLINE else None
        return settings

    @property
    def about(self) -> str:
        """A short name of what is learned from, for titles."""
        return Path(str(self.contexts or self.feedback)).name


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of comparing two models on the contexts of a feedback store.

    Attributes:
        model: the model to look at; the model/ folder of a run, or anything `plaudit align` takes as a model.
        baseline: the model to compare it with.
        feedback: a feedback store or file; its contexts are asked, its comparisons test the judge.
        judge: who compares the answers: the folder of a reward model, such as RUN/judge/model, or openai:MODEL@URL, a
            model behind an OpenAI-compatible address.
        judge_key_env: name of the environment variable with the API key of a judge behind an address.
        run: where the report goes; by default a new folder in runs/.
        format: the feedback file's format, where it cannot be told from its columns.
        held_out: share of the contexts to use; the same share and seed as in training picks the ones not trained on.
        dtype: type of matrix products.
        device: cpu, cuda, ...
        seed: of the choice of contexts, of sampling and of the intervals.
        evaluation: how the models are compared.
    """

    model: str
    baseline: str
    feedback: str
    judge: str
    judge_key_env: str | None = None
    run: Path | None = None
    format: str | None = None
    held_out: float = 0.1
    dtype: DType = "auto"
    device: str | None = None
    seed: int = 0
    evaluation: Annotated[EvaluationConfig, Parameter(group="Evaluation")] = EvaluationConfig()

    def __post_init__(self) -> None:
        check(self, "held_out", 0 < self.held_out <= 1, "a share in (0, 1]")
        judge_endpoint(self.judge, self.judge_key_env)


def to_mapping(config: Any) -> dict[str, Any]:
    """A configuration as plain values, as a run's config.toml holds it."""
    values = dataclasses.asdict(config)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def read_config(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The configuration that `to_mapping` gave; sections become their own dataclasses."""
    plain = dict(values)
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(item.default) and isinstance(plain.get(item.name), Mapping):
            plain[item.name] = from_mapping(type(item.default), plain[item.name])
    plain.update({name: Path(plain[name]) for name in ("run", "contexts") if plain.get(name) is not None})
    return from_mapping(kind, plain)
