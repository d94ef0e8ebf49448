"""The command line as a user meets it: what it prints, what it exits with, and one clear sentence for each mistake."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plaudit.cli import main

ROWS = [
    {"prompt": f"Question {index}?", "chosen": "aaa" + "a" * (index % 5), "rejected": "zz" + "z" * (index % 4)}
    for index in range(40)
]
ANY = ["--model", "x", "--feedback", "votes.jsonl"]
TINY = """
held_out = 0.3
dtype = "float32"
[lora]
rank = 4
[training]
batch_size = 8
learning_rate = 5e-3
[judge_training]
batch_size = 8
learning_rate = 5e-3
[evaluation]
contexts = 4
max_new_tokens = 4
"""


@pytest.fixture
def votes(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def said(capsys) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_import_look_export_and_forget(votes, capsys):
    with votes.open("a") as file:
        file.write('{"prompt": "q", "chosen": 3, "rejected": "b"}\nno json\n')
    assert main(["import", "votes.jsonl", "--source", "ann", "--source-kind", "person"]) == 0
    text = said(capsys)
    assert "40 records added" in text
    assert "2 rejected" in text
    rejects = [json.loads(line) for line in Path("votes.jsonl.rejects.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rejects] == [41, 42]
    assert main(["import", "votes.jsonl", "--source", "ann", "--source-kind", "person"]) == 0
    assert "0 records added to feedback.db, 40 were there already" in said(capsys)
    assert main(["feedback", "stats"]) == 0
    assert "40 records" in said(capsys)
    assert main(["feedback", "list", "--json", "--limit", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "comparison"
    assert main(["feedback", "show", record["id"]]) == 0
    assert json.loads(capsys.readouterr().out) == record
    assert main(["export", "back.jsonl", "--format", "trl-preference"]) == 0
    assert [json.loads(line)["chosen"] for line in Path("back.jsonl").read_text().splitlines()] == [
        row["chosen"] for row in ROWS
    ]
    capsys.readouterr()
    assert main(["feedback", "forget", "ann", "--yes"]) == 0
    assert "40 records of 'ann' are forgotten" in said(capsys)
    assert main(["feedback", "stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 0


def test_align_from_settings_then_report_then_forget_names_the_run(votes, tiny_model, capsys):
    Path("tiny.toml").write_text(f'model = "{tiny_model}"\nfeedback = "feedback.db"\n{TINY}')
    arguments = ["align", "--config", "tiny.toml"]
    assert main(["import", "votes.jsonl", "--source", "ann"]) == 0
    assert main([*arguments, "--dry-run"]) == 0
    text = said(capsys)
    assert "Nothing was trained" in text
    assert "learning_rate = 0.005" in text
    assert not Path("runs").exists()
    assert main([*arguments, "--run", "runs/one", "--training.max-steps", "2"]) == 0
    assert "Report: runs/one/report.html" in said(capsys)
    Path("runs/one/report.html").unlink()
    assert main(["report", "runs/one", "--no-open"]) == 0
    assert Path("runs/one/report.html").is_file()
    assert main(["resume", "runs/one"]) == 0
    assert main(["align", "--config", "runs/one/config.toml", "--run", "runs/two"]) == 0
    one, two = (Path("runs", name, "metrics.jsonl").read_text().splitlines() for name in ("one", "two"))
    assert [json.loads(line)["loss"] for line in one] == [json.loads(line)["loss"] for line in two]
    assert main(["feedback", "forget", "ann", "--yes"]) == 0
    assert "These runs learned from them; train anew without them: runs/one" in said(capsys)


def test_align_learns_from_own_samples_with_a_function_of_ones_own(votes, tiny_model, capsys):
    """More than five seconds: the matrix products that are timed first, and two runs."""
    Path("cli_rewards.py").write_text("def brief(context, output):\n    return -len(output)\n")
    Path("prompts.txt").write_text("".join(f"Question {index}?\n" for index in range(20)))
    small = "[grpo]\ncontexts_per_rollout = 2\noutputs_per_context = 4\nmax_new_tokens = 4\n"
    Path("online.toml").write_text(f'model = "{tiny_model}"\nmethod = "dapo"\ncontexts = "prompts.txt"\n{TINY}{small}')
    arguments = [
        "align",
        "--config",
        "online.toml",
        "--reward",
        "python:cli_rewards:brief",
        "--training.max-steps",
        "2",
    ]
    assert main([*arguments, "--dry-run"]) == 0
    assert "2 steps, 1 for each asking of 2 contexts with 4 outputs each" in said(capsys)
    assert main([*arguments, "--run", "runs/one", "--profile", "--training.micro-batch-tokens", "60"]) == 0
    printed = capsys.readouterr().err
    assert re.search(r"^ *sampling .* [0-9.]+ s +[0-9.]+ %", printed, re.MULTILINE), printed
    assert re.search(r"^ *reward ", printed, re.MULTILINE)
    assert main(["align", "--config", "runs/one/config.toml", "--run", "runs/two", "--grpo.kl-coefficient", "0.1"]) == 0
    one, two = (json.loads(Path("runs", name, "metrics.jsonl").read_text().splitlines()[0]) for name in ("one", "two"))
    assert one["sampled_reward"] == two["sampled_reward"]
    assert "kl" in two
    assert "kl" not in one


@pytest.mark.parametrize("command", ["align", "train reward"])
def test_profile_prints_where_the_time_went_and_keeps_it(votes, tiny_model, capsys, command):
    """The matrix products that are timed first take a second and more."""
    sections = "[training]\nbatch_size = 8\nlearning_rate = 5e-3\n"
    text = TINY if command == "align" else f'held_out = 0.3\ndtype = "float32"\n{sections}'
    Path("settings.toml").write_text(text)
    arguments = ["--config", "settings.toml", "--model", str(tiny_model), "--feedback", "votes.jsonl"]
    assert main([*command.split(), *arguments, "--run", "runs/one", "--profile"]) == 0
    printed = capsys.readouterr().err
    assert "Where the time went" in printed
    assert re.search(r"tokens/s, [0-9.]+ % of the [0-9,]+ GFLOP/s .* float32; peak memory [0-9.]+ GiB", printed)
    phases = ["reward", "forward", "backward", "optimiser", "idle"]
    if command == "align":
        phases += ["sampling", "reference"]
    for name in phases:
        assert re.search(rf"^ *{name} .* [0-9.]+ s +[0-9.]+ %", printed, re.MULTILINE), printed
    rows = [json.loads(line) for line in Path("runs/one/metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["split"] == "profile"]
    shares = {name: value for name, value in row.items() if name.endswith("_share")}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[f"{name}_share"] > 0 for name in phases)
    assert row["backward_flop"] > 0 < row["forward_flop"]
    assert row["ceiling_flop_per_s"] > row["flop_per_s"] > 0
    assert "Where the time went" in Path("runs/one/report.html").read_text()
    assert main(["resume", "runs/one"]) == 0
    assert "Where the time went" in capsys.readouterr().err


def test_the_profile_of_the_demo_is_one_from_its_first_sample_to_its_report(votes, tiny_model, capsys):
    """Eight seconds: twelve steps of the judge, sixteen of the policy."""
    small = ["--contexts", "10", "--outputs-per-context", "2", "--held-out-contexts", "4", "--model", str(tiny_model)]
    assert main(["demo", *small, "--run", "runs/demo", "--no-open", "--profile"]) == 0
    assert capsys.readouterr().err.count("Where the time went") == 1
    rows = [json.loads(line) for line in Path("runs/demo/dpo/metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["split"] == "profile"]
    answers = [
        [sample for line in file.read_text().splitlines() for sample in json.loads(line)["answers"]]
        for file in Path("runs/demo").rglob("answers_*.jsonl")
    ]
    assert len(answers) == 3  # to judge, before, after
    assert row["sampling_positions"] >= sum(len(sample["token_ids"]) for part in answers for sample in part)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["algin"], 2, 'Did you mean "align"?'),
        (["align", "--feedback", "votes.jsonl"], 2, "--model"),
        (["align", *ANY, "--method", "grpo"], 2, "reward: expected the folder of a reward model, train, or python:"),
        (["align", "--model", "x"], 2, "feedback: expected a store or file of feedback for dpo, got None"),
        (["align", "--modle", "x", "--feedback", "votes.jsonl"], 2, "--modle"),
        (["align", *ANY, "--training.learning-rate", "-1"], 2, "learning_rate: expected a number > 0, got -1"),
        (["align", *ANY, "--held-out", "2"], 2, "held_out: expected a share in [0, 1), got 2"),
        (["align", "--model", "x", "--feedback", "missing.jsonl"], 2, "missing.jsonl"),
        (["align", "--model", "./nowhere", "--feedback", "votes.jsonl"], 2, "There is no folder or file './nowhere'"),
        (["align", "--config", "none.toml"], 2, "there is no file 'none.toml'"),
        (["align", "--config", "votes.jsonl"], 2, "--config: 'votes.jsonl' is no TOML file"),
        (["import", "missing.jsonl"], 2, "missing.jsonl"),
        (["import", "votes.jsonl", "--format", "trl-preferences"], 2, "trl-preference"),
        (["feedback", "stats", "--store", "none.db"], 1, "none.db"),
        (["feedback", "stats", "--store", "votes.jsonl"], 1, "votes.jsonl"),
        (["resume", "nowhere"], 1, "nowhere is no run: it holds no config.toml"),
        (["report", "nowhere"], 1, "nowhere holds no report.json"),
        (["evaluate", *ANY, "--baseline", "b", "--judge", "c"], 2, "judge: expected the folder"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_clear_sentence(votes, capsys, arguments, code, message):
    assert main(arguments) == code
    text = said(capsys).replace("│ ", "")
    assert message in text
    assert "Traceback" not in text
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_a_full_disk_is_one_sentence(votes, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "feedback.db")

    monkeypatch.setattr("plaudit.cli.feedback_commands.FeedbackStore.open", full)
    assert main(["import", "votes.jsonl"]) == 1
    assert "No space left on device (feedback.db). Free some" in said(capsys)


def test_several_processes_are_refused_where_they_would_all_do_the_same(votes, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["demo", "--run", "new"]) == 2
    assert "The demo is the work of one process." in said(capsys)
    assert not Path("new").exists()


def test_an_unknown_setting_in_a_file_is_named_with_its_neighbour(votes, capsys):
    Path("wrong.toml").write_text("[training]\nlearning_rat = 1.0\n")
    assert main(["align", "--config", "wrong.toml", "--model", "x", "--feedback", "votes.jsonl"]) == 2
    assert "--training.learning-rate" in said(capsys)


@pytest.mark.parametrize("command", ["", "align", "import", "feedback forget", "train reward", "demo"])
def test_help_teaches(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    text = said(capsys)
    assert "plaudit" in text
    assert not command or "Examples" in text
    if command == "align":
        assert "plaudit align --model ./my-model --method grpo --reward python:my_rewards:score" in text


def test_methods_and_formats_are_listed(capsys):
    assert main(["methods"]) == 0
    text = said(capsys)
    assert "2305.18290" in text
    assert main(["methods", "--form", "markdown"]) == 0
    assert "Liu et al., arXiv 2503.20783" in said(capsys)
    assert main(["formats"]) == 0
    assert "ultrafeedback" in said(capsys)


def test_importing_plaudit_loads_no_torch():
    # the limit of 0.3 s is measured in benchmarks/; a test only sees that nothing heavy is loaded
    code = "import plaudit, plaudit.cli, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_objectives_lists_filters_and_explains(capsys):
    assert main(["objectives"]) == 0
    text = said(capsys)
    assert "dpo" in text
    assert "2305.18290" in text
    assert main(["objectives", "--feedback", "demonstration", "--form", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["feedback"] for row in rows} == {"demonstration"}
    assert main(["objectives", "dpo"]) == 0
    assert "strength of the pull to the reference" in said(capsys)
    assert main(["objectives", "dpoo"]) == 2
    assert "Did you mean dpo?" in said(capsys)
    assert main(["objectives", "--role", "lose"]) == 2
    assert "--role: expected one of" in said(capsys)
