"""Methods from the command line, from end to end on a tiny model: their settings, what they learn, and going on."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from plaudit.cli import main
from plaudit.evaluation.report import RunReport
from plaudit.methods import OFFLINE, ONLINE
from plaudit.methods.commands import METHODS, command_of
from plaudit.methods.registry import ENTRIES
from plaudit.rewards import RewardModel, ValueNetwork
from plaudit.training import RunFolder

SETTINGS = """
held_out = 0.3
dtype = "float32"
judge = "none"
lora = {{ rank = 4 }}
model = "{model}"
[training]
batch_size = 8
learning_rate = 0.02
schedule = "constant"
warmup_ratio = 0.0
max_steps = 8
checkpoint_every = 3
keep_checkpoints = 9
[judge_training]
batch_size = 8
learning_rate = 5e-3
epochs = 2
[evaluation]
contexts = 6
max_new_tokens = 6
outputs_per_context = 4
"""
SMALL = "contexts_per_rollout = 4\noutputs_per_context = 6\nmax_new_tokens = 6\n"
REWARDS = '''
def low(context, output):
    """The share of characters before the letter p."""
    return sum(character < "p" for character in output) / max(1, len(output))
'''


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model) -> Path:
    """The current folder with prompts, feedback of two kinds, a function of rewards, and settings for every method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("method_rewards.py").write_text(REWARDS)
    Path("prompts.txt").write_text("".join(f"Question {index}?\n" for index in range(40)))
    thumbs = [
        {"prompt": f"Question {index // 2}?", "completion": "aaaa" if index % 2 else "zzz", "label": bool(index % 2)}
        for index in range(80)
    ]
    votes = [{"prompt": f"Question {index}?", "chosen": "aaaa", "rejected": "zzz"} for index in range(40)]
    for name, rows in (("thumbs", thumbs), ("votes", votes)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sections = "".join(f"[{name}]\n{SMALL}" for name in ("ppo", "rloo", "online_dpo"))
    Path("settings.toml").write_text(SETTINGS.format(model=tiny_model) + sections)
    yield tmp_path
    sys.modules.pop("method_rewards", None)


def run(*arguments: str, folder: str = "run") -> dict:
    """`plaudit align` with the settings; the report's headline by name."""
    assert main(["align", "--config", "settings.toml", "--run", folder, *arguments]) == 0
    report = RunReport.from_json(Path(folder, "report.json").read_bytes())
    return {row.name: row for row in report.headline}


def train_rows(folder: str = "run") -> list[dict]:
    return [row for row in RunFolder.open(Path(folder)).metrics() if row["split"] == "train"]


LOW = ("--contexts", "prompts.txt", "--reward", "python:method_rewards:low")


def test_ppo_trains_its_value_network_and_goes_on_after_an_end(here):
    """More than five seconds: two runs and a resumption."""
    gained = run("--method", "ppo", *LOW, "--ppo.kl-coefficient", "0.01")["Reward that was optimised, gain"]
    rows = train_rows()
    assert len(rows) == 8
    assert gained.estimate.value > 0
    assert rows[-1]["value_loss"] < rows[0]["value_loss"]
    assert {"kl", "clipped", "sampled_reward", "not_judged"} <= rows[0].keys()
    assert rows[0]["kl_coefficient"] == pytest.approx(0.01)
    for step in (6, 8):  # back to step 3, in the middle of the four passes over one asking
        shutil.rmtree(Path("run", "checkpoints", f"step-{step:08d}"))
    kept = Path("run", "model", "adapter_model.safetensors").read_bytes()
    assert main(["resume", "run"]) == 0
    assert Path("run", "model", "adapter_model.safetensors").read_bytes() == kept
    again = train_rows()
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]


def test_ppo_starts_its_value_network_as_the_reward_model_of_the_feedback(here, monkeypatch):
    """More than five seconds: a reward model is trained first."""
    sources = []
    original = ValueNetwork.of
    monkeypatch.setattr(ValueNetwork, "of", lambda source: sources.append(source) or original(source))
    run("--method", "ppo", "--reward", "train", "--feedback", "votes.jsonl", "--training.max-steps", "4")
    assert [type(source) for source in sources] == [RewardModel]
    assert Path("run", "reward", "model", "reward.json").is_file()
    rows = train_rows()
    assert len(rows) == 4
    kept = Path("run", "model", "adapter_model.safetensors").read_bytes()
    shutil.rmtree(Path("run", "checkpoints", "step-00000004"))
    assert main(["resume", "run"]) == 0
    assert Path("run", "model", "adapter_model.safetensors").read_bytes() == kept
    assert [row["loss"] for row in train_rows()] == [row["loss"] for row in rows]


@pytest.mark.parametrize("method", ["rloo", "online_dpo"])
def test_methods_without_a_value_network_raise_the_reward(here, method):
    """More than five seconds: a whole run."""
    gained = run("--method", method, *LOW, "--training.max-steps", "14")["Reward that was optimised, gain"]
    assert gained.reading == "better"
    assert train_rows()[-1]["sampled_reward"] > train_rows()[0]["sampled_reward"]


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_kto_learns_from_thumbs(here, full):
    """Without adapters every sequence that the reference is asked about is prepared, the mismatched ones as well."""
    arguments = ["--full", "--training.learning-rate", "2e-3"] if full else []
    run("--method", "kto", "--feedback", "thumbs.jsonl", "--kto.beta", "0.3", *arguments)
    rows = train_rows()
    assert rows[-1]["reward_desirable"] > rows[-1]["reward_undesirable"]
    assert "beta = 0.3" in Path("run", "config.toml").read_text()


@pytest.mark.parametrize("method", ["orpo", "simpo", "feedme", "conditioning"])
def test_the_other_methods_on_feedback_make_the_preferred_answers_likelier(here, method):
    accuracy = run("--method", method, "--feedback", "votes.jsonl")["Policy's implicit reward: held-out accuracy"]
    assert accuracy.estimate.value > 0.8


def test_a_model_that_was_conditioned_is_asked_with_its_word(here):
    run("--method", "conditioning", "--feedback", "votes.jsonl", "--conditioning.desirable", "Nicely: ")
    for when, begins in (("before", "Question"), ("after", "Nicely: Question")):
        lines = Path("run", f"answers_{when}.jsonl").read_text().splitlines()
        assert all(json.loads(line)["context"].startswith(begins) for line in lines)


# --- what a user sees -----------------------------------------------------------------------------------------------


def said(capsys) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_resolves_every_method(here, capsys, method):
    feedback = {"kto": "thumbs.jsonl", "sft": "shown.jsonl"}.get(method, "votes.jsonl")
    Path("shown.jsonl").write_text('{"prompt": "q", "completion": "a"}\n{"prompt": "p", "completion": "b"}\n')
    source = LOW if method in ONLINE else ("--feedback", feedback)
    assert main(["align", "--config", "settings.toml", "--method", method, *source, "--dry-run"]) == 0
    text = said(capsys)
    assert f'method = "{method}"' in text
    assert "Nothing was trained (--dry-run)." in text
    assert not Path("runs").exists()


def test_a_dry_run_counts_every_pass_over_an_asking(here, capsys):
    """PPO makes four passes over the 28 contexts' answers: 7 askings of 4."""
    arguments = ["--method", "ppo", *LOW, "--training.max-steps", "99", "--held-out", "0.0", "--dry-run"]
    assert main(["align", "--config", "settings.toml", *arguments]) == 0
    assert "40 steps, 4 for each asking of 4 contexts with 6 outputs each" in said(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "ppo", *LOW, "--ppo.trace", "2"], r"trace: expected a number in \[0, 1\], got 2.0"),
        (["--method", "remax", *LOW, "--remax.updates-per-rollout", "2"], "ReMax learns from fresh samples, got 2"),
        (["--method", "rloo", *LOW, "--rloo.outputs-per-context", "1"], "rloo.outputs_per_context: rloo compares"),
        (["--method", "superhf", *LOW, "--full"], "full: expected adapters: superhf reads the frozen weights below"),
        (["--method", "kto", "--feedback", "votes.jsonl"], r"nothing to learn from in this way: kind: comparison \(40\)"),
        (["--method", "simpo", "--feedback", "votes.jsonl", *LOW], "contexts: expected nothing, since simpo samples no"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_one_clear_sentence(here, capsys, arguments, message):
    assert main(["align", "--config", "settings.toml", *arguments, "--dry-run"]) in (1, 2)
    assert re.search(message, said(capsys))


def test_an_unknown_setting_of_a_method_is_named_with_its_neighbour(here, capsys):
    with Path("settings.toml").open("a") as file:
        file.write("[superhf]\nbetta = 1.0\n")
    assert main(["align", "--config", "settings.toml", "--method", "superhf", *LOW, "--dry-run"]) == 2
    assert "--superhf.beta" in said(capsys)


def test_help_explains_the_settings_of_every_method(capsys):
    assert main(["align", "--help"]) == 0
    text = said(capsys)
    for setting in ("--ppo.value-clip", "--kto.undesirable-weight", "--rloo.clip-low", "--conditioning.desirable"):
        assert setting in text
    assert "how far a value may go from its old one" in text


def test_methods_says_how_each_is_run(capsys):
    assert main(["methods"]) == 0
    text = said(capsys)
    assert "align --method" in text
    run_by = {command_of(row.name).removeprefix("align --method ") for row in ENTRIES} - {""}
    assert run_by == {*OFFLINE, *ONLINE, "train reward"}
