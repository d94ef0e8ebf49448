"""The training loop, the only one: accumulation, processes, schedule, clipping, held-out looks, checkpoints, resume.

Gradients of ``sum(weight * loss)`` are summed over all micro-batches and processes and divided once by ``sum(weight)``. So a
step does not depend on how its examples were cut or spread, and no method has to think about it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from plaudit.errors import TrainingError, require
from plaudit.profiling import phase
from plaudit.progress import console, track
from plaudit.training.alarms import Alarm, Watch
from plaudit.training.checkpoint import (
    Progress,
    forget_checkpoints_after,
    latest_checkpoint,
    load_checkpoint,
    load_method_state,
    prune_checkpoints,
    save_checkpoint,
    trained_weights,
)
from plaudit.training.config import TrainingConfig
from plaudit.training.method import ExampleLoss, Look, Method, Step
from plaudit.training.micro_batches import by_size, by_tokens
from plaudit.training.optimizers import make_optimizer
from plaudit.training.randomness import derive
from plaudit.training.run_folder import RunFolder

ExampleT = TypeVar("ExampleT")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How training ended: the last step, whether early stopping ended it, and the last look at the held-out examples."""

    step: int
    stopped_early: bool
    held_out: dict[str, float]


def train(
    method: Method[ExampleT],
    run: RunFolder,
    config: TrainingConfig,
    *,
    steps: int,
    held_out: Sequence[ExampleT] = (),
    look: Look | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    alarms: Sequence[Alarm] = (),
) -> TrainingResult:
    """Train to the end, or from the newest whole checkpoint on; the resumed run's weights equal the uninterrupted run's.

    Args:
        method: what to collect and what it costs.
        run: where metrics and checkpoints go.
        config: the loop's settings.
        steps: optimiser steps in all, see `TrainingConfig.steps`.
        held_out: examples to look at without learning from them.
        look: what looks in place of the loss of held-out examples, such as the reward of new samples.
        resume: continue from the newest checkpoint in `run`.
        stop_after: leave after this step with a checkpoint, as an interruption would; for tests and time limits.
        alarms: metrics to watch; one that leaves its band is named once, and training goes on.

    Raises:
        TrainingError: a loss or gradient is not finite.
        CheckpointError: the checkpoint belongs to another model, or cannot be written.
    """
    return _Loop(method, run, config, steps, held_out, look, Watch(alarms)).run(resume=resume, stop_after=stop_after)


class _Loop(Generic[ExampleT]):
    def __init__(
        self,
        method: Method[ExampleT],
        run: RunFolder,
        config: TrainingConfig,
        steps: int,
        held_out: Sequence[ExampleT],
        look: Look | None,
        watch: Watch,
    ) -> None:
        accelerate = require("accelerate", extra="lm")
        self.method, self.folder, self.config, self.steps, self.held_out = method, run, config, steps, held_out
        self.look, self.watch = look, watch
        self.accelerator = accelerate.Accelerator(
            cpu=not torch.cuda.is_available(), log_with=list(config.trackers) or None, project_dir=str(run.path)
        )
        self.module: nn.Module = method.trainable.scorer
        self.weights = list(trained_weights(self.module).values())
        if not self.weights:
            raise TrainingError("There is nothing to train: no parameter of the model requires a gradient.")
        self.optimizer = make_optimizer(self.weights, config)
        self.progress = Progress()
        self.written: Progress | None = None

    @property
    def main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def run(self, *, resume: bool, stop_after: int | None) -> TrainingResult:
        if resume:
            self._resume()
        if self.config.trackers:
            self.accelerator.init_trackers("plaudit", config={"run": self.folder.path.name})
        last = self.steps if stop_after is None else min(stop_after, self.steps)
        self.method.trainable.scorer = self.accelerator.prepare_model(self.module)
        early = self._seen_enough()
        metrics: dict[str, float] = {}
        try:
            with track(f"Training ({self.method.name})", self.steps, quiet=not self.main) as bar:
                bar.advance(self.progress.step)
                while self.progress.step < last and not early:
                    row = self._step(self.progress.step)
                    self.progress = replace(self.progress, step=self.progress.step + 1)
                    self._log("train", row)
                    for sentence in self.watch.look(self.progress.step, row) if self.main else ():
                        console.print(f"[yellow]{sentence}[/yellow]")
                    if self._due(self.config.evaluate_every):
                        early, metrics = self._look()
                    if self._due(self.config.checkpoint_every) and self.progress.step < last:
                        self._checkpoint()
                    bar.advance(note=f"loss {row['loss']:.3f}  {row['tokens_per_s']:.0f} tokens/s")
            self._checkpoint()
            if self.config.patience and self.progress.best_step is not None and (early or last == self.steps):
                load_checkpoint(self.folder.checkpoints / f"step-{self.progress.best_step:08d}", self.module, None)
        finally:
            self.method.trainable.scorer = self.module
            for tracker in self.accelerator.trackers:  # not end_training, after which processes could not train again
                tracker.finish()
        return TrainingResult(self.progress.step, early, metrics)

    def _step(self, index: int) -> dict[str, float]:
        started = time.perf_counter()
        step = Step(index, self.config.seed, self.config.batch_size)
        examples = self.method.collect(step)
        rate = self.config.learning_rate_at(index, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(derive(self.config.seed, "forward", index, self.accelerator.process_index))
        totals = self._accumulate(examples)
        with phase("optimiser"):
            norm = self._scale_gradients(totals.weight)
        row = totals.row()
        if not (math.isfinite(row["loss"]) and math.isfinite(norm)):
            raise TrainingError(
                f"Step {index + 1}: the loss is {row['loss']} and the gradient's norm {norm}. "
                "Lower learning_rate, or look for damaged examples; the last checkpoint is kept."
            )
        with phase("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        elapsed = time.perf_counter() - started
        return {**row, "learning_rate": rate, "gradient_norm": norm, "tokens_per_s": totals.tokens / elapsed}

    def _accumulate(self, examples: Sequence[ExampleT]) -> _Totals:
        """Sum the gradients of a step's examples over micro-batches and processes; gradients are synchronised once."""
        totals = _Totals(self.accelerator)
        portions = list(_portions(self.method, examples, self.config, self.accelerator))
        wrapped = self.method.trainable.scorer
        for number, (portion, counts) in enumerate(portions):
            more = number + 1 < len(portions)
            with self.accelerator.no_sync(wrapped) if more else contextlib.nullcontext():
                with phase("forward"):
                    total = totals.add(self.method.loss(portion), counts)
                with phase("backward"):
                    self.accelerator.backward(total)
        totals.reduce()
        return totals

    def _scale_gradients(self, weight: float) -> float:
        """Turn the summed gradients into the mean's and clip them, in one pass; returns the mean's norm."""
        gradients = [parameter.grad for parameter in self.weights if parameter.grad is not None]
        # several processes: accelerate's wrapper averaged over them, and the mean over examples is wanted
        factor = self.accelerator.num_processes / weight if weight else 0.0
        norm = float(torch.nn.utils.get_total_norm(gradients)) * factor
        if self.config.max_grad_norm and norm > self.config.max_grad_norm:
            factor *= self.config.max_grad_norm / norm
        torch._foreach_mul_(gradients, factor)
        return norm

    def _look(self) -> tuple[bool, dict[str, float]]:
        """Metrics of a look; True when early stopping says that this was enough."""
        if self.look is not None:
            found, loss = self.look(self.progress.step)
            metrics = dict(found)
        elif self.held_out:
            metrics = evaluate(self.method, self.held_out, self.config, accelerator=self.accelerator)
            loss = metrics["loss"]
        else:
            return False, {}
        self._log("held_out", metrics)
        if self.progress.best_loss is None or loss < self.progress.best_loss:
            self.progress = replace(self.progress, best_loss=loss, best_step=self.progress.step, looks_without_gain=0)
            if self.config.patience:
                self._checkpoint()
        else:
            self.progress = replace(self.progress, looks_without_gain=self.progress.looks_without_gain + 1)
        return self._seen_enough(), metrics

    def _seen_enough(self) -> bool:
        return 0 < self.config.patience <= self.progress.looks_without_gain

    def _due(self, every: int) -> bool:
        at_end = self.progress.step == self.steps
        return at_end or (every > 0 and self.progress.step % every == 0)

    def _checkpoint(self) -> None:
        if self.main and self.progress != self.written:
            state = self.method.state()
            save_checkpoint(self.folder.checkpoints, self.module, self.optimizer, self.progress, state)
            best = self.progress.best_step if self.config.patience else None
            prune_checkpoints(self.folder.checkpoints, keep=self.config.keep_checkpoints, also=best)
            self.written = self.progress
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        path, damaged = latest_checkpoint(self.folder.checkpoints)
        for sentence in damaged if self.main else ():
            console.print(f"[yellow]{sentence} Taking {path.name if path else 'the beginning'} instead.[/yellow]")
        if path is not None:
            self.progress = self.written = load_checkpoint(path, self.module, self.optimizer)
            self.method.restore(load_method_state(path))
        self.accelerator.wait_for_everyone()
        if self.main:
            reached = self.progress.step if path is not None else -1
            self.folder.forget_metrics_after(reached)
            forget_checkpoints_after(self.folder.checkpoints, reached)
        self.accelerator.wait_for_everyone()

    def _log(self, split: str, values: dict[str, float]) -> None:
        if self.main:
            self.folder.log(self.progress.step, split, values)
        if self.config.trackers:
            self.accelerator.log({f"{split}/{name}": value for name, value in values.items()}, step=self.progress.step)


class _Totals:
    """Sums over a step's examples: weighted loss, weights, metrics, tokens."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self._sums: dict[str, Tensor] = {}

    def add(self, loss: ExampleLoss, counts: Tensor) -> Tensor:
        """Take in a micro-batch and return what to differentiate; examples that do not count leave no trace, not even NaN."""
        weight = torch.where(counts, loss.weight, 0)
        total = torch.where(counts & (loss.weight > 0), loss.value * loss.weight, 0).sum()
        self._sum("loss", total.detach())
        self._sum("weight", weight.sum())
        self._sum("tokens", torch.tensor(float(loss.tokens), device=weight.device))
        for name, values in loss.metrics.items():
            known = counts & ~values.isnan()
            self._sum(f"metric.{name}", torch.where(known, values.detach(), 0).sum())
            self._sum(f"count.{name}", known.sum())
        return total

    def reduce(self) -> None:
        """Add up over the processes."""
        names = list(self._sums)
        values = torch.stack([self._sums[name].double() for name in names])
        reduced = self._accelerator.reduce(values, "sum").tolist()
        self._values = dict(zip(names, reduced, strict=True))

    @property
    def weight(self) -> float:
        return float(self._values["weight"])

    @property
    def tokens(self) -> float:
        return float(self._values["tokens"])

    def row(self) -> dict[str, float]:
        """The step's loss and mean metrics."""
        metrics = {
            name.removeprefix("metric."): value / self._values[f"count.{name.removeprefix('metric.')}"]
            for name, value in self._values.items()
            if name.startswith("metric.") and self._values[f"count.{name.removeprefix('metric.')}"]
        }
        return {"loss": self._values["loss"] / self.weight if self.weight else math.nan, **metrics}

    def _sum(self, name: str, value: Tensor) -> None:
        value = value.double()
        self._sums[name] = self._sums[name] + value if name in self._sums else value


def _portions(
    method: Method[ExampleT], examples: Sequence[ExampleT], config: TrainingConfig, accelerator: Any
) -> Iterator[tuple[list[ExampleT], Tensor]]:
    """This process's micro-batches, each with a mask of the examples that count."""
    processes = accelerator.num_processes
    if config.micro_batch_tokens is None:
        cut = by_size(len(examples), config.micro_batch_size, processes=processes)
    else:
        sequences = [method.sequences(example) for example in examples]
        cut = by_tokens(sequences, config.micro_batch_tokens, processes=processes)
    for batch in cut[accelerator.process_index]:
        yield [examples[index] for index in batch.indices], torch.tensor(batch.counts, device=accelerator.device)


@torch.no_grad()
def evaluate(
    method: Method[ExampleT],
    examples: Sequence[ExampleT],
    config: TrainingConfig,
    *,
    accelerator: Any,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Loss and mean metrics over examples, without learning from them."""
    totals = _Totals(accelerator)
    for portion, counts in _portions(method, examples, config, accelerator):
        with phase("forward"):
            totals.add(method.loss(portion), counts)
        if progress:
            progress(len(portion))
    totals.reduce()
    return totals.row()
