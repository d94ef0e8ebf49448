"""The command line.

python -m benchmarks.engine dpo [--rounds 3] [--dtypes float32 bfloat16] [--prompts 512 64]
python -m benchmarks.engine grpo | sampling | reward | sft | scaling | ceiling | precision
python -m benchmarks.engine all        every workload at its own number of rounds
python -m benchmarks.engine report     the tables of benchmarks/README.md and the plot, from the results
python -m benchmarks.engine all --model tiny    in a minute, to see that it works; results go to a temporary folder
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path

# before transformers and TRL are imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from plaudit.policies import QUICKSTART_MODEL
from plaudit.policies.loading import quiet_transformers

from . import ceiling, dpo, grpo, precision, report, reward, sampling, scaling, sft
from .cases import TINY, Case, config_of
from .measuring import Results, build, compare, memory_of_this_process, peak_memory

RESULTS = Path(__file__).parents[1] / "results"
COMPARED = {module.__name__.rpartition(".")[2]: module for module in (dpo, grpo, sampling, reward, sft, scaling)}
ALONE = {"ceiling": ceiling, "precision": precision}
"""Workloads without a peer."""
ROUNDS = {"dpo": 3, "grpo": 3, "sampling": 5, "reward": 5, "sft": 5, "scaling": 3, "ceiling": 7, "precision": 1}
"""A step of TRL's takes up to minutes on two cores."""
DTYPES = {"scaling": ["float32"]}
"""Types by workload, where not both."""


def main() -> None:
    """Run a workload, all of them, or the report."""
    options = parse()
    warnings.simplefilter("ignore")
    for name in ("trl", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if options.workload == "memory":
        with quiet_transformers():
            print(json.dumps(memory_of_this_process(Case.of(json.loads(options.case)), options.side)))
        return
    folder = options.results or (RESULTS if options.model != TINY else Path(tempfile.mkdtemp(prefix="plaudit-bench-")))
    if options.workload == "report":
        report.write(folder)
        return
    for workload in ROUNDS if options.workload == "all" else [options.workload]:
        rounds = options.rounds or ROUNDS[workload]
        for case in cases_of(workload, options.model, options):
            measure(case.shrunk() if options.model == TINY else case, rounds, Results(folder, workload))
    print(f"The results are in {folder}.")


def parse() -> argparse.Namespace:
    """The options, each field read by every workload that has it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="workload", required=True)
    for name in (*ROUNDS, "all"):
        command = commands.add_parser(name)
        command.add_argument("--rounds", type=int, help="measured rounds after a warm-up")
        command.add_argument("--model", default=QUICKSTART_MODEL, help='what to load, or "tiny"')
        command.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"))
        command.add_argument("--prompts", nargs="+", type=int, default=[512, 64], help="of dpo, grpo and sampling")
        command.add_argument("--references", nargs="+", choices=("step", "beforehand"), default=["step"], help="of dpo")
        command.add_argument("--results", type=Path, help="folder of the results")
    commands.add_parser("report").add_argument("--results", type=Path)
    memory = commands.add_parser("memory", help="one side of one case, used by the others")
    memory.add_argument("side")
    memory.add_argument("case")
    parser.set_defaults(model="")
    return parser.parse_args()


def cases_of(workload: str, model: str, options: argparse.Namespace) -> list[Case]:
    """The cases that a workload has under the options."""
    dtypes = options.dtypes or DTYPES.get(workload, ["float32", "bfloat16"])
    match workload:
        case "dpo":
            return dpo.cases(model, dtypes, options.prompts, options.references)
        case "grpo" | "sampling":
            return COMPARED[workload].cases(model, dtypes, options.prompts)
        case "ceiling" | "precision":
            return ALONE[workload].cases(model, dtypes)
        case _:
            return COMPARED[workload].cases(model, dtypes)


def measure(case: Case, rounds: int, results: Results) -> None:
    """Whether the sides agree, then their times in turn, then each side's memory."""
    if case.workload in ALONE:
        ALONE[case.workload].run(case, rounds=rounds, results=results)
        return
    module = COMPARED[case.workload]
    with quiet_transformers():
        known = {"agreement": module.check(case), "floor": module.floor(case, config_of(case.model))}
        gc.collect()
        for side, found in known["agreement"].items():
            print(
                f"{case}: {side}: relative difference of loss {found['loss_relative']:.1e}, "
                f"of gradients {found['gradient_relative']:.1e}",
                flush=True,
            )
        steps = {side: build(case, side) for side in module.SIDES}
    entry = compare(case, steps, rounds=rounds, results=results, **known)
    del steps
    gc.collect()
    if case.workload != "scaling":
        memory = {}
        for side in module.SIDES:
            memory[side] = peak_memory(case, side)
            print(
                f"{case}: memory of {side}: {memory[side]['step_bytes'] / 1e6:.0f} MB above what is loaded", flush=True
            )
            results.put(case, {**entry, "memory": memory})


if __name__ == "__main__":
    main()
