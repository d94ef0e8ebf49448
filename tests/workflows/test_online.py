"""Learning from own samples as a run: what is asked, what rewards, what the report says, and going on after an end."""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from plaudit.errors import CheckpointError, ConfigError, InvalidFeedback, RewardError, TrainingError
from plaudit.evaluation.report import RunReport
from plaudit.feedback.records import Context, Item, Output, Reaction, Source
from plaudit.feedback.store import FeedbackStore
from plaudit.methods import ONLINE, GRPOConfig, NFTConfig, RLOOConfig
from plaudit.policies import CausalLM, LoRA
from plaudit.rewards import RewardModel
from plaudit.training import RunFolder, TrainingConfig
from plaudit.training.run_folder import without_none
from plaudit.workflows import (
    AlignConfig,
    AlignResult,
    EvaluationConfig,
    TrainRewardConfig,
    align,
    resume,
    train_reward,
)
from plaudit.workflows.config import read_config, to_mapping
from plaudit.workflows.contexts import read_contexts
from plaudit.workflows.plan import plan

TRAINING = TrainingConfig(
    learning_rate=0.02, schedule="constant", warmup_ratio=0, checkpoint_every=2, keep_checkpoints=9, max_steps=6
)
REWARD_TRAINING = TrainingConfig(batch_size=8, learning_rate=5e-3, epochs=2)
ROLLOUTS = {"contexts_per_rollout": 4, "outputs_per_context": 6, "max_new_tokens": 6}
REWARDS = '''
def low(context, output):
    """The share of characters before the letter p."""
    assert context.startswith("Question"), context
    return sum(character < "p" for character in output) / max(1, len(output))

def right(context, output):
    return low(context, output) > 0.5

def sometimes(context, output):
    return None if len(output.encode()) % 2 else low(context, output)

def never(context, output):
    raise ValueError("the engine crashed")

def words(context, output):
    return "good"

def one(output):
    return 1.0

value = 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with a module of rewards of an own name and 40 prompts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "online_rewards.py").write_text(REWARDS)
    (tmp_path / "prompts.txt").write_text("".join(f"Question {index}?\n\n" for index in range(40)))
    yield tmp_path
    sys.modules.pop("online_rewards", None)


def settings(model: Path, run: str, **changes) -> AlignConfig:
    given = {
        "model": str(model),
        "run": Path(run),
        "method": "grpo",
        "reward": "python:online_rewards:low",
        "dtype": "float32",
        "held_out": 0.3,
        "lora": LoRA(rank=4),
        "training": TRAINING,
        "judge_training": REWARD_TRAINING,
        "grpo": GRPOConfig(**ROLLOUTS),
        "nft": NFTConfig(**ROLLOUTS),
        "evaluation": EvaluationConfig(contexts=6, max_new_tokens=6, outputs_per_context=4),
        **changes,
    }
    if "feedback" not in given:
        given.setdefault("contexts", Path("prompts.txt"))
    return AlignConfig(**given)


def rows_of(result: AlignResult) -> dict:
    return {row.name: row for row in result.report.headline}


def rules_of(result: AlignResult) -> set[str]:
    return {warning.rule for warning in result.report.warnings}


def weights_of(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(next(run.model.glob("*.safetensors")))


# --- from end to end ------------------------------------------------------------------------------------------------


def test_a_function_of_ones_own_is_optimised_and_the_report_says_by_what_it_was_judged(tiny_model, here):
    """More than five seconds: a whole pass over the prompts."""
    training = replace(TRAINING, max_steps=20, micro_batch_tokens=200)
    result = align(settings(tiny_model, "run", training=training, grpo=GRPOConfig(**ROLLOUTS, kl_coefficient=0.01)))
    rows = rows_of(result)
    assert rows["Reward that was optimised, gain"].reading == "better"
    assert "on 6 held-out contexts" in rows["Reward that was optimised, gain"].explanation
    assert "the reward that was optimised gives" in rows["Win rate against the model before"].explanation
    assert rows["Distance from the reference"].estimate.value > 0
    assert "Policy's implicit reward: held-out accuracy" not in rows
    assert "judged by the reward that was optimised" in rules_of(result)
    assert result.report.verdict.endswith("That is by the reward that was optimised; no other judge was asked.")
    curves = result.report.curves
    assert curves["Reward of the sampled outputs"].values[-1] > curves["Reward of the sampled outputs"].values[0] + 0.1
    assert set(curves["Sampled outputs that could not be judged"].values) == {0.0}
    assert curves["Length of the sampled outputs"].unit == "tokens"
    pulled = curves["KL to the model before, per output"].values
    assert pulled[0] == pytest.approx(0, abs=1e-9)
    assert pulled[-1] > 0.01
    assert "Sampled outputs that ended by themselves" in curves
    assert result.report.title == "GRPO on prompts.txt"
    assert RunReport.from_json((result.run.path / "report.json").read_bytes()) == result.report
    assert CausalLM.load(result.run.model, dtype="float32").encoder.tokenizer.chat_template
    asked = {json.loads(line)["context"] for line in Path("run/answers_before.jsonl").read_text().splitlines()}
    learned = {json.loads(line)["prompt"] for line in Path("run/contexts.jsonl").read_text().splitlines()}
    assert asked < learned


SECTIONS = (
    "grpo",
    "nft",
    "ppo",
    "reinforce",
    "rloo",
    "remax",
    "reinforce_plus_plus",
    "best_of_n",
    "gpg",
    "superhf",
    "quark",
    "online_dpo",
    "brain",
)


@pytest.mark.parametrize("name", ONLINE)
def test_every_method_runs_under_its_name_with_its_own_settings(tiny_model, here, name):
    small = {"contexts_per_rollout": 2, "outputs_per_context": 3, "max_new_tokens": 4}
    defaults = {item.name: item.default for item in dataclasses.fields(AlignConfig)}
    sections = {section: replace(defaults[section], **small) for section in SECTIONS}
    training = replace(TRAINING, max_steps=1)
    evaluation = EvaluationConfig(contexts=2, max_new_tokens=2)
    result = align(
        settings(
            tiny_model, "run", method=name, reward="python:online_rewards:right", training=training,
            evaluation=evaluation, **sections,
        )
    )  # fmt: skip
    assert result.report.method == name
    config = read_config(AlignConfig, {key: value for key, value in result.run.config.items() if key != "workflow"})
    assert config.settings.outputs_per_context == 3
    assert all(getattr(config.settings, setting) == value for setting, value in ONLINE[name].given.items())
    (row,) = [row for row in result.run.metrics() if row["split"] == "train"]
    assert row["not_judged"] == 0
    assert 0 <= row["sampled_reward"] <= 1


def test_all_weights_can_be_trained_and_pulled_to_the_model_before(tiny_model, here):
    """Without adapters the weights move away from the reference, which is held beside them."""
    config = settings(
        tiny_model, "run", full=True, training=replace(TRAINING, max_steps=3, learning_rate=1e-3),
        grpo=GRPOConfig(**ROLLOUTS, kl_coefficient=0.1), evaluation=EvaluationConfig(contexts=4, max_new_tokens=4),
    )  # fmt: skip
    result = align(config)
    pulled = [row["kl"] for row in result.run.metrics()]
    assert pulled[0] == pytest.approx(0, abs=1e-6)
    assert pulled[-1] > 1e-4
    assert rows_of(result)["Distance from the reference"].estimate.value != 0


@pytest.fixture(scope="module")
def reward_folder(tiny_model, tmp_path_factory) -> Path:
    """A reward model that has learned to like the letter a."""
    folder = tmp_path_factory.mktemp("reward")
    file = folder / "preferences.jsonl"
    rows = [{"prompt": f"Question {index}?", "chosen": "aaaa", "rejected": "zzz"} for index in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainRewardConfig(
        model=str(tiny_model), feedback=str(file), run=folder / "run", dtype="float32", held_out=0.2,
        lora=LoRA(rank=4), training=REWARD_TRAINING,
    )  # fmt: skip
    return train_reward(config).model


def test_a_reward_model_is_optimised_on_the_contexts_of_the_feedback_and_another_one_judges(
    tiny_model, here, preferences, reward_folder
):
    """The feedback's comparisons train the judge. The trained reward and judge take more than five seconds."""
    training = replace(TRAINING, max_steps=12)
    result = align(settings(tiny_model, "run", feedback=str(preferences), reward=str(reward_folder), training=training))
    rows = rows_of(result)
    assert rows["Reward that was optimised, gain"].estimate.value > 0
    assert "the judge gives" in rows["Win rate against the model before"].explanation
    assert rows["Reward model: held-out accuracy"].estimate.value == 1.0
    assert (result.run.path / "judge" / "model" / "reward.json").is_file()
    assert "judged by the reward that was optimised" not in rules_of(result)
    with FeedbackStore.open(result.run.path / "feedback.db", create=False) as store:
        assert result.run.feedback_ids == {record.id for record in store.records()}
    assert result.report.feedback.examples_used + result.report.feedback.held_out == 60


def test_a_judge_that_is_the_reward_itself_is_said_to_be_it(tiny_model, here, reward_folder):
    evaluation = EvaluationConfig(contexts=4, max_new_tokens=4)
    training = replace(TRAINING, max_steps=1)
    result = align(
        settings(
            tiny_model, "run", reward=str(reward_folder), judge=f"{reward_folder}/", training=training,
            evaluation=evaluation,
        )
    )  # fmt: skip
    assert "judged by the reward that was optimised" in rules_of(result)
    assert not (result.run.path / "judge").exists()


def test_a_reward_model_with_another_tokenizer_reads_text(tiny_plain_model, here, reward_folder):
    """The policy has no chat template and the reward model has one; the tokens of one are refused by the other.

    More than five seconds: a whole run.
    """
    result = align(settings(tiny_plain_model, "run", reward=str(reward_folder), judge="none"))
    model = RewardModel.load(reward_folder, dtype="float32")
    assert result.comparison is not None
    answers = [json.loads(line) for line in Path("run/answers_after.jsonl").read_text().splitlines()]
    texts = [(row["context"], sample["text"]) for row in answers for sample in row["answers"]]
    scored = model.reward([Context(content=asked) for asked, _ in texts], [Output(content=text) for _, text in texts])
    torch.testing.assert_close(torch.tensor(result.comparison.after_scores), scored.value, rtol=0, atol=1e-5)


def test_a_reward_that_cannot_always_judge_is_counted_and_warned_of(tiny_model, here):
    """More than five seconds: a whole run, so that there is enough to count."""
    result = align(settings(tiny_model, "run", reward="python:online_rewards:sometimes", judge="none"))
    shares = result.report.curves["Sampled outputs that could not be judged"].values
    assert max(shares) > 0
    (warning,) = [found for found in result.report.warnings if found.rule == "outputs without a reward"]
    assert f"{100 * sum(shares) / len(shares):.0f} % of the outputs" in warning.sentence
    assert "Could not be judged, and left out: " in rows_of(result)["Reward that was optimised, gain"].explanation


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["python:online_rewards:low", "train"])
def test_a_run_that_ended_in_the_middle_of_an_asking_goes_on_as_if_it_had_not(
    tiny_model, here, preferences, monkeypatch, reward
):
    """More than five seconds: three alignments, with a reward model each where it is trained."""
    changes = {
        "reward": reward, "feedback": str(preferences), "judge": "none" if reward != "train" else "train",
        "grpo": GRPOConfig(**ROLLOUTS, updates_per_rollout=2, kl_coefficient=0.05),
    }  # fmt: skip
    whole = align(settings(tiny_model, "whole", **changes))
    module = sys.modules["plaudit.workflows.online"]
    original = module.train

    def interrupted(*args, **options):
        original(*args, **{**options, "stop_after": 3})
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(settings(tiny_model, "broken", **changes))
    monkeypatch.setattr(module, "train", original)
    run = resume(Path("broken"))
    expected, found = weights_of(whole.run), weights_of(run)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (run.path / "answers_after.jsonl").read_text() == (whole.run.path / "answers_after.jsonl").read_text()

    def lines(folder: RunFolder) -> list:
        return [{name: row[name] for name in row if name != "tokens_per_s"} for row in folder.metrics()]

    assert lines(run) == lines(whole.run)
    assert len(lines(run)) == 6


def test_a_run_goes_on_with_the_contexts_that_it_began_with(tiny_model, here):
    training = replace(TRAINING, max_steps=1)
    result = align(settings(tiny_model, "run", training=training, evaluation=EvaluationConfig(contexts=0)))
    kept = (result.run.path / "contexts.jsonl").read_text()
    Path("prompts.txt").unlink()
    resume(Path("run"))
    assert (result.run.path / "contexts.jsonl").read_text() == kept


def test_a_run_whose_contexts_were_forgotten_cannot_go_on(tiny_model, here, preferences):
    training = replace(TRAINING, max_steps=1)
    config = settings(
        tiny_model, "run", feedback=str(preferences), judge="none", training=training,
        evaluation=EvaluationConfig(contexts=0),
    )  # fmt: skip
    align(config)
    with FeedbackStore.open(Path("run/feedback.db")) as store:
        (source,) = store.sources()
        store.forget(source.name)
    values = {**RunFolder.open(Path("run")).config, "feedback": "run/feedback.db"}
    RunFolder(Path("run")).write("config.toml", tomli_w.dumps(values))
    with pytest.raises(CheckpointError, match="were forgotten since it began"):
        resume(Path("run"))


# --- what is asked --------------------------------------------------------------------------------------------------


def test_contexts_are_read_from_lines_and_from_rows(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffWhy?\r\n\r\n  Wie groß?  \n".encode())
    assert [context.text for context in read_contexts(tmp_path / "a.txt")] == ["Why?", "Wie groß?"]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rows = [{"prompt": "Why?", "answer": 3}, {"prompt": chat}, {"messages": chat}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text, first, second = read_contexts(tmp_path / "a.jsonl")
    assert text.text == "Why?"
    assert first == second
    assert [message.role for message in first.content.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"}\nnonsense\n', "a.jsonl, line 2: "),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"question": "b"}\n', "line 3: expected a prompt or messages, got question"),
        ("a.jsonl", b'{"prompt": 3}\n', "line 1: prompt: expected a text or a list of messages, got '3'"),
        ("a.jsonl", b'{"prompt": ""}\n', "line 1: prompt: expected a text or a list of messages, got ''"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}\n', "line 1: messages: .*content: Field required"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
            "line 1: messages: expected a last turn that asks, got one of the assistant's",
        ),
        ("a.txt", b"good\n\xff\xfe\n", "a.txt, line 2: expected UTF-8"),
        ("a.txt", b"\n \n", "a.txt holds none"),
        ("a.csv", b"a", "expected a file that ends in .txt or .jsonl"),
    ],
)
def test_a_line_that_is_no_context_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidFeedback, match=message):
        read_contexts(tmp_path / name)


def test_a_file_of_contexts_that_is_not_there_leaves_no_run(tiny_model, here):
    with pytest.raises(InvalidFeedback, match=r"cannot read missing\.txt: No such file"):
        align(settings(tiny_model, "run", contexts=Path("missing.txt")))
    assert not Path("run").exists()


# --- settings that cannot be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("python:online_rewards:hgih", "online_rewards has no function 'hgih'; it has low, never, one, right"),
        ("python:online_rewards:value", "online_rewards has no function 'value'"),
        ("python:online_rewards:one", r"expected a function of two texts, .*, got one\(output\)"),
        ("python:no_such_rewards:low", "there is no module 'no_such_rewards' in "),
        ("python:online_rewards", "expected python:MODULE:FUNCTION, such as python:my_rewards:brevity"),
        ("nowhere", "reward: expected the folder of a reward model"),
    ],
)
def test_a_reward_that_is_not_there_is_found_before_the_model_is_loaded(here, reward, message):
    config = settings(Path("no-model"), "run", reward=reward)
    with pytest.raises(ConfigError, match=message):
        align(config)
    assert not Path("run").exists()
    with pytest.raises(ConfigError, match=message):
        plan(config)


def test_a_module_of_rewards_that_cannot_be_imported_says_why(here):
    Path("online_rewards.py").write_text("import not_installed_at_all\n")
    with pytest.raises(ConfigError, match="online_rewards needs the module not_installed_at_all"):
        plan(settings(Path("m"), "run"))
    Path("online_rewards.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="importing online_rewards raised ZeroDivisionError: division by zero"):
        plan(settings(Path("m"), "run"))


@pytest.mark.parametrize("name", ["never", "words"])
def test_a_reward_that_never_judges_stops_the_run_with_its_first_error(tiny_model, here, name):
    reason = "ValueError .the engine crashed" if name == "never" else "ValueError .could not convert string to float"
    with pytest.raises(RewardError, match=f"None of 24 outputs could be judged. The first: {name} raised {reason}"):
        align(settings(tiny_model, "run", reward=f"python:online_rewards:{name}"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "grop"}, "method: expected one of dpo, sft, kto, .*, grpo, dr_grpo, .*, got 'grop'"),
        ({"method": "rloo", "rloo": RLOOConfig(outputs_per_context=1)}, "rloo.outputs_per_context: .* at least 2, got 1"),
        ({"method": "online_dpo", "full": True}, "full: expected adapters: online_dpo reads the frozen weights"),
        ({"method": "kto", "feedback": "f"}, "contexts: expected nothing, since kto samples no outputs"),
        ({"reward": None}, "reward: expected the folder of a reward model, train, or python:MODULE:FUNCTION, got None"),
        ({"contexts": None}, "contexts: expected a file of what to ask, or feedback that has contexts, got None"),
        ({"reward": "train"}, "reward: expected one that needs no feedback, or feedback to train it on, got 'train'"),
        ({"method": "dpo"}, "feedback: expected a store or file of feedback for dpo, got None"),
        ({"method": "dpo", "feedback": "f"}, "contexts: expected nothing, since dpo samples no outputs"),
        ({"training": TrainingConfig(patience=2)}, "training.evaluate_every: expected .*patience counts looks"),
        ({"gold": "python:online_rewards:low"}, "gold: expected another reward than the one that is optimised"),
        ({"method": "dpo", "feedback": "f", "contexts": None, "reward": None, "gold": "g"}, "gold: expected nothing"),
        ({"grpo": GRPOConfig(variant="cispo")}, "grpo.variant: the method grpo has 'grpo', got 'cispo'"),
        ({"method": "rft", "nft": NFTConfig(negative_weight=0.5)}, "nft.negative_weight: the method rft has 0.0, got 0.5"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_settings_that_contradict_each_other(here, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(Path("m"), "run", **{"contexts": Path("prompts.txt"), **changes})


def test_feedback_without_a_context_that_can_be_asked_says_so(tiny_model, here, preferences):
    item = Context(content=Item(id="shoe"))
    record = Reaction(source=Source(name="ann"), context=item, outputs=(Output(content="a"),), symbol="👍")
    with FeedbackStore.open("items.db") as store:
        store.add([record])
    with pytest.raises(TrainingError, match=r"content: item \(1\)"):
        align(settings(tiny_model, "run", feedback="items.db"))
    assert not Path("run").exists()


def test_feedback_without_comparisons_trains_no_reward(tiny_model, here):
    Path("thumbs.jsonl").write_text('{"prompt": "q", "completion": "a", "label": true}\n' * 3)
    with pytest.raises(TrainingError, match="kind: reaction"):
        align(settings(tiny_model, "run", feedback="thumbs.jsonl", reward="train", held_out=0.0))


def test_a_dry_run_says_what_would_be_asked(here, preferences):
    text = plan(settings(Path("m"), "run", training=replace(TRAINING, max_steps=None, epochs=2)))
    held_out = 40 - (count := int(text.split("prompts.txt gives ")[1].split()[0]))
    assert f"{count} contexts to learn on and {held_out} held-out ones" in text
    assert f"{2 * -(-count // 4)} steps, 1 for each asking of 4 contexts with 6 outputs each" in text
    assert not Path("run").exists()
    assert "60 records give" in plan(settings(Path("m"), "run", feedback=str(preferences)))


def test_settings_of_online_learning_survive_their_file(here):
    config = settings(Path("m"), "run", method="dapo", grpo=GRPOConfig(**ROLLOUTS, retries=2))
    assert read_config(AlignConfig, tomllib.loads(tomli_w.dumps(without_none(to_mapping(config))))) == config
