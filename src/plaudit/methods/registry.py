"""The table of methods: what each learns from and what it costs, for `plaudit methods` and docs/methods.md."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import astuple, dataclass, fields
from typing import Literal

_ANSWERS = "none of its own; a reward judges samples"
_SAMPLES = "samples; no second model"
_PAIRS = "comparisons, rankings, ratings, edits"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table.

    Attributes:
        name: the method's name.
        feedback: the feedback that it starts from.
        signal: what the feedback is turned into.
        reference: whether it needs the frozen policy that it started as: no, optional (kl_coefficient), yes.
        data: whether outputs must come from the policy as it is.
        memory: what it holds or computes beside the policy.
        when: when to use it.
        paper: authors and arXiv id.
    """

    name: str
    feedback: str
    signal: str
    reference: Literal["no", "optional", "yes"]
    data: Literal["on-policy", "off-policy"]
    memory: str
    when: str
    paper: str


def _sampled(name: str, signal: str, when: str, paper: str, *, memory: str = _SAMPLES) -> Entry:
    return Entry(name, _ANSWERS, signal, "optional", "on-policy", memory, when, paper)


ENTRIES: tuple[Entry, ...] = (
    Entry("sft", "demonstrations, edits", "none: imitation", "no", "off-policy", "the policy alone",
          "there are outputs worth imitating; the usual first step", "maximum likelihood"),
    Entry("feedme", _PAIRS, "the preferred outputs", "no", "off-policy", "the policy alone",
          "a baseline for every pairwise method", "Dubois et al., arXiv 2305.14387"),
    Entry("conditioning", f"{_PAIRS}; reactions, verdicts", "words in the context: good or bad", "no", "off-policy",
          "the policy alone", "bad outputs shall teach, too, by fine-tuning alone", "Dubois et al., arXiv 2305.14387"),
    Entry("dpo", _PAIRS, "preference", "yes", "off-policy", "log-probabilities of the reference, computed once",
          "there are pairs; the default", "Rafailov et al., arXiv 2305.18290"),
    Entry("orpo", _PAIRS, "preference", "no", "off-policy", "the policy alone",
          "from a base model in one stage, without fine-tuning first", "Hong et al., arXiv 2403.07691"),
    Entry("simpo", _PAIRS, "preference", "no", "off-policy", "the policy alone",
          "pairs whose outputs differ in length; no reference at hand", "Meng et al., arXiv 2405.14734"),
    Entry("kto", "reactions, verdicts", "label: good or bad", "yes", "off-policy",
          "log-probabilities of the reference; one more pass a step, for the baseline",
          "thumbs up and down without pairs, in unequal numbers", "Ethayarajh et al., arXiv 2402.01306"),
    Entry("reward", f"{_PAIRS}, ties, margins", "preference", "no", "off-policy", "a reward model",
          "a judge of new outputs is needed, for the methods below", "Stiennon et al., arXiv 2009.01325"),
    _sampled("reinforce", "reward minus the running mean", "one output a context; the plainest",
             "Williams 1992; Ahmadian et al., arXiv 2402.14740"),
    Entry("ppo", _ANSWERS, "advantage of each token over a value network", "yes", "on-policy",
          "a value network (a trunk of its own, or adapters); log-probabilities of the reference",
          "rewards of a learned model; long outputs, of which only parts are good",
          "Schulman et al., arXiv 1707.06347; Stiennon et al., arXiv 2009.01325"),
    _sampled("rloo", "reward minus the mean of the others", "an unbiased gradient from few outputs a context",
             "Ahmadian et al., arXiv 2402.14740"),
    _sampled("remax", "reward minus the greedy output's", "one output a context, contexts of very unequal difficulty",
             "Li et al., arXiv 2310.10505", memory="samples and one greedy output a context; no second model"),
    _sampled("reinforce++", "reward, whitened over the batch", "one output a context, several updates an asking",
             "Hu et al., arXiv 2501.03262"),
    _sampled("reinforce++-baseline", "reward minus the group's mean, whitened over the batch",
             "as grpo, where easy and hard contexts shall not be scaled alike", "Hu et al., arXiv 2501.03262"),
    _sampled("grpo", "reward standardised in its group", "verifiable rewards; the usual one", "Shao et al., arXiv 2402.03300"),
    _sampled("dr_grpo", "reward minus the group's mean", "as grpo, without its pull to long wrong answers",
             "Liu et al., arXiv 2503.20783"),
    _sampled("dapo", "reward standardised in its group", "long answers; with retries, where many groups are all right or wrong",
             "Yu et al., arXiv 2503.14476"),
    _sampled("gspo", "reward standardised in its group", "several updates an asking, mixtures of experts",
             "Zheng et al., arXiv 2507.18071"),
    _sampled("cispo", "reward standardised in its group", "several updates an asking; no token's gradient is cut off",
             "MiniMax, arXiv 2506.13585"),
    _sampled("nft", "right or wrong", "verifiable rewards, by likelihood; learns from wrong answers, too",
             "Chen et al., arXiv 2505.18116"),
    _sampled("rft", "right or wrong", "a baseline: imitation of right answers", "Yuan et al., arXiv 2308.01825"),
    _sampled("best-of-n", "the best of the group", "stable, slow; RAFT, expert iteration", "Dong et al., arXiv 2304.06767",
             memory="samples; gradients of the kept ones only"),
    Entry("superhf", _ANSWERS, "the best of the group", "yes", "on-policy",
          "samples; gradients of the kept ones only; the reference's distribution, a chunk at a time",
          "as best-of-n, where a learned reward is easily gamed", "Mukobi et al., arXiv 2310.16763"),
    Entry("quark", _ANSWERS, "the best quantile of all samples", "yes", "on-policy",
          "samples; gradients of the kept ones only; the reference's distribution, a chunk at a time",
          "one output a context, and rewards that compare contexts", "Lu et al., arXiv 2205.13636"),
    Entry("online-dpo", f"{_ANSWERS}, or a judge compares two", "preference", "yes", "on-policy",
          "samples; log-probabilities of the reference", "a judge that compares, or pairs that would be stale",
          "Guo et al., arXiv 2402.04792"),
)  # fmt: skip


def as_markdown(rows: Rows[Entry] = ENTRIES) -> str:
    """The table in Markdown, as docs/methods.md holds it."""
    names = ["method", *[field.name for field in fields(Entry)][1:]]
    cells = [names, ["---"] * len(names), *([f"`{row.name}`", *astuple(row)[1:]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
