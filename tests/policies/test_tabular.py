"""The tabular policy: what it says is exact, its samples follow it, and bad tables are named."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plaudit.errors import PolicyError
from plaudit.objectives.preferences import dpo
from plaudit.policies import Sequence, Tabular
from plaudit.training import ExampleLoss, RunFolder, Stateless, TrainingConfig, train

ROW = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


def policy(*rows):
    return Tabular.of(torch.tensor(rows, dtype=torch.float64))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_log_probabilities_are_those_of_the_table():
    table = policy([0.5, 0.25, 0.25], [0.1, 0.2, 0.7])
    found = table.log_prob(torch.tensor([1, 0, 1]), torch.tensor([2, 0, 1]))
    assert found.per_step.shape == (3, 1)
    assert found.lengths.tolist() == [1, 1, 1]
    assert found.sum().exp().tolist() == pytest.approx([0.7, 0.5, 0.2])
    assert table.entropy()[0].item() == pytest.approx(1.5 * math.log(2))


def test_a_row_learns_from_its_own_context_alone():
    table = policy([0.5, 0.25, 0.25], [0.1, 0.2, 0.7])
    table.log_prob(torch.tensor([1]), torch.tensor([2])).sum().backward()
    assert table.logits.grad.tolist() == [[0, 0, 0], pytest.approx([-0.1, -0.2, 0.3])]  # one-hot minus π


@given(ROW, ROW, st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_divergence_and_mixtures(one, other, share):
    a, b = (Tabular(torch.tensor([row], dtype=torch.float64)) for row in (one, other))
    p, q = a.probabilities(), b.probabilities()
    assert a.kl(b).item() == pytest.approx(stats.entropy(p[0].detach(), q[0].detach()), rel=1e-6, abs=1e-9)
    assert a.kl(a).item() == 0
    torch.testing.assert_close(a.mixture(b, share).probabilities(), (1 - share) * p + share * q)
    mixed = (1 - share) * a.log_policy() + share * b.log_policy()
    torch.testing.assert_close(a.geometric_mixture(b, share).log_policy(), mixed.log_softmax(-1))
    slow = Tabular(a.logits)
    slow.average_in(b, decay=1 - share)
    torch.testing.assert_close(slow.log_policy(), mixed.log_softmax(-1))


def test_samples_follow_the_policy_and_the_generator():
    table = policy([0.5, 0.25, 0.25], [0.1, 0.2, 0.7])
    contexts = torch.tensor([1, 0])
    drawn = table.sample(contexts, 20_000, generator=generator())
    for row, context in zip(drawn, contexts, strict=True):
        expected = 20_000 * table.probabilities()[context].detach().numpy()
        assert stats.chisquare(row.bincount(minlength=3).numpy(), expected).pvalue > 1e-3
    assert torch.equal(drawn, table.sample(contexts, 20_000, generator=generator()))
    assert not torch.equal(drawn, table.sample(contexts, 20_000, generator=generator(1)))


def test_the_reference_stays_where_the_policy_was():
    table = policy([0.5, 0.5])
    frozen = table.reference()
    with torch.no_grad():
        table.logits[0, 0] += 1
    assert frozen.probabilities().tolist() == [[0.5, 0.5]]
    assert not frozen.logits.requires_grad
    assert table.logits.requires_grad


@dataclass
class PairsOfActions(Stateless):
    """DPO on every labelled pair of actions, in the proportion of a Bradley-Terry preference."""

    trainable: Tabular
    rewards: torch.Tensor
    name: str = "pairs-of-actions"

    def collect(self, step):
        size = len(self.rewards)
        return [(winner, loser) for winner in range(size) for loser in range(size) if winner != loser]

    def sequences(self, example):
        return (Sequence((0,), (1,), (True,)),) * 2

    def loss(self, examples):
        sides = torch.tensor(examples).T
        contexts = torch.zeros(len(examples), dtype=torch.long)
        won, lost = (self.trainable.log_prob(contexts, side).sum() for side in sides)  # the reference is uniform
        weight = torch.sigmoid(self.rewards[sides[0]] - self.rewards[sides[1]])
        return ExampleLoss(dpo(won, lost, beta=0.5), weight)


def test_the_training_loop_trains_it_as_any_policy(tmp_path):
    """To DPO's optimum, ``π ∝ exp(r/β)``, through plaudit's own loop, checkpoints included."""
    rewards = torch.tensor([0.3, -0.5, 1.0, 0.0], dtype=torch.float64)
    table = Tabular(torch.zeros(1, 4, dtype=torch.float64))
    settings = TrainingConfig(batch_size=12, micro_batch_size=12, learning_rate=0.05, checkpoint_every=1000, epochs=1)
    train(PairsOfActions(table, rewards), RunFolder(tmp_path), settings, steps=300)
    torch.testing.assert_close(table.probabilities()[0].detach(), (rewards / 0.5).softmax(-1), atol=1e-3, rtol=0)
    assert (tmp_path / "checkpoints" / "step-00000300").is_dir()


def test_bad_tables_are_named():
    with pytest.raises(PolicyError, match=r"logits\[0, 1\]: expected a finite number, got nan"):
        Tabular(torch.tensor([[0.0, math.nan]]))
    with pytest.raises(PolicyError, match=r"logits: expected a table \[contexts, actions\], got shape \[3\]"):
        Tabular(torch.zeros(3))
    with pytest.raises(PolicyError, match=r"logits: expected floating point numbers, got torch.int64"):
        Tabular(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(PolicyError, match=r"probabilities\[1, 0\]: expected a number > 0: .* got 0"):
        policy([0.5, 0.5], [0.0, 1.0])
    with pytest.raises(PolicyError, match=r"probabilities\[1\]: expected a sum of 1, got 1.2"):
        policy([0.5, 0.5], [0.7, 0.5])
    with pytest.raises(ValueError, match=r"share: expected a share in \[0, 1\], got 1.5"):
        policy([0.5, 0.5]).mixture(policy([0.5, 0.5]), 1.5)
    with pytest.raises(ValueError, match=r"n: expected a whole number >= 1, got 0"):
        policy([0.5, 0.5]).sample(torch.tensor([0]), 0, generator=generator())
