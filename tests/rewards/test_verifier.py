"""Three outcomes as rewards and as feedback."""

from __future__ import annotations

import pytest

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context, Output, parse_feedback_json
from plaudit.feedback.store import FeedbackStore
from plaudit.rewards import Finding, FunctionVerifier, VerifierReward, verdicts

CONTEXTS = [Context(content="What is 2 + 2?")] * 4
OUTPUTS = [Output(content=text) for text in ("4", "5", "?", "crash")]


def exact(context: Context, output: Output) -> bool | None:
    if output.text == "crash":
        raise OSError("no engine")
    return None if output.text == "?" else output.text == "4"


def test_a_pass_and_a_fail_are_paid_and_the_third_outcome_is_not_a_reward():
    source = VerifierReward(FunctionVerifier(exact), reward_fail=-1.0)
    reward = source.reward(CONTEXTS, OUTPUTS)
    assert reward.judged.tolist() == [True, True, False, False]
    assert reward.value[:2].tolist() == [1, -1]
    assert reward.value[2:].isnan().all()
    assert reward.errors == (
        "exact could not judge (could not judge): '?'",
        "exact could not judge (raised OSError (no engine)): 'crash'",
    )
    assert source.outcomes == {"pass": 1, "fail": 1, "could_not_judge": 2}


def test_what_a_verifier_said_can_be_stored(tmp_path):
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        VerifierReward(FunctionVerifier(exact), keep=store.add).reward(CONTEXTS, OUTPUTS)
        kept = list(store.records())
    assert [record.outcome for record in kept] == ["pass", "fail", "could_not_judge", "could_not_judge"]
    assert [record.outputs[0] for record in kept] == OUTPUTS
    assert kept[3].details == {"reason": "raised OSError (no engine)"}
    assert {(record.source.name, record.source.kind) for record in kept} == {("exact", "program")}


def test_stage_and_details_go_into_the_record():
    finding = Finding("fail", stage="compile", reason="line 3", details={"seconds": 0.5})
    (record,) = verdicts(CONTEXTS[:1], OUTPUTS[:1], [finding], source="iverilog")
    assert (record.outcome, record.stage) == ("fail", "compile")
    assert record.details == {"seconds": 0.5, "reason": "line 3"}
    assert parse_feedback_json(record.model_dump_json()) == record


def test_rewards_that_cannot_be_paid():
    with pytest.raises(ConfigError, match=r"reward_pass: expected more than reward_fail = 1\.0, got 1\.0"):
        VerifierReward(FunctionVerifier(exact), reward_fail=1.0)

    class Short:
        name = "short"

        def verify(self, contexts, outputs):
            return []

    with pytest.raises(RewardError, match="short: expected 4 findings, got 0"):
        VerifierReward(Short()).reward(CONTEXTS, OUTPUTS)
