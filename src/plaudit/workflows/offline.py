"""Learning from stored feedback in a run: the examples, the reference's log-probabilities, and the policy's own accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plaudit.evaluation import preference_accuracy
from plaudit.evaluation.report import Row
from plaudit.feedback.examples import Pair
from plaudit.feedback.records import Context
from plaudit.methods import OFFLINE, encode_pairs
from plaudit.policies import CausalLM, Reference, ReferenceCache
from plaudit.policies import Sequence as TokenSequence
from plaudit.progress import track
from plaudit.sharing import is_main
from plaudit.training import RunFolder, train
from plaudit.training.randomness import batch_indices, numpy_generator
from plaudit.workflows.comparing import log_ratios_to_start
from plaudit.workflows.config import AlignConfig
from plaudit.workflows.feedback_data import FeedbackData
from plaudit.workflows.measure import Answers


class OfflineLearner:
    """A method that learns from feedback as it is, on the policy, with its reference.

    Attributes:
        policy: what learns.
        quality: what a reward's word is worth; there is no reward.
    """

    quality = None

    def __init__(
        self,
        policy: CausalLM,
        config: AlignConfig,
        data: FeedbackData[Any],
        pairs: FeedbackData[Pair],
        run: RunFolder,
    ) -> None:
        self.policy = policy
        self._config, self._run, self._method = config, run, OFFLINE[config.method]
        self._pairs, _ = encode_pairs([pair for pair in pairs.held_out if not pair.tie], policy.encoder)
        self._examples, self._held_out = (
            self._method.encode(rows, policy.encoder, config.settings)[0] for rows in (data.train, data.held_out)
        )
        batch_size = 2 * config.training.micro_batch_size
        self._reference = Reference(policy, batch_size=batch_size, shared=ReferenceCache())

    def asked(self, context: Context) -> Context:
        """What the trained model is asked for a context; the words that its method has taught it included."""
        return self._method.asked(self._config.settings, context)

    def learn(self, *, resuming: bool) -> None:
        """Prepare the reference, then train."""
        training = self._config.training
        method = self._method.make(self.policy, self._reference, self._examples, self._config.settings)
        self._prepare_reference([sequence for example in self._held_out for sequence in method.sequences(example)])
        steps = training.steps(len(self._examples))
        train(method, self._run, training, steps=steps, held_out=self._held_out, resume=resuming)

    def implicit_accuracy(self) -> Row | None:
        """How often the policy's own implicit reward, the log-ratio, agrees with held-out comparisons."""
        pairs = self._pairs
        if not pairs:
            return None
        sequences = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        ratio = np.array(self.log_ratios(sequences))
        estimate = preference_accuracy(
            ratio[: len(pairs)] - ratio[len(pairs) :],
            generator=numpy_generator(self._config.training.seed, "implicit"),
            clusters=[pair.chosen.context for pair in pairs],
        )
        return Row(
            "Policy's implicit reward: held-out accuracy",
            estimate,
            "up",
            0.5,
            f"Share of {len(pairs)} held-out comparisons whose winner the training made likelier; chance is 50 %.",
        )

    def log_ratios(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """log π - log π_ref of each output, summed over its tokens."""
        return log_ratios_to_start(self.policy, self._reference, self._config, sequences)

    def rewards(self, answers: Answers) -> None:
        """No reward is optimised."""

    def gold_rewards(self, answers: Answers) -> None:
        """There is no second reward either."""

    def _prepare_reference(self, held_out: list[TokenSequence]) -> None:
        """What training and the implicit accuracy will read; without adapters it cannot be computed later."""
        file = self._run.path / "reference.safetensors"
        if file.is_file():
            self._reference.load(file)
        compared = [side for pair in self._pairs for side in (pair.chosen, pair.rejected)]
        reads = self._method.reads
        sequences = compared if reads is None else [*compared, *held_out, *self._visited()]
        with track("Reference log-probabilities", len(sequences)) as bar:
            self._reference.prepare_together(sequences, progress=bar.advance)
        if sequences and is_main() and not file.is_file():
            self._reference.save(file)

    def _visited(self) -> list[TokenSequence]:
        """What the steps read; a run of few steps does not come to all examples."""
        training, count = self._config.training, len(self._examples)
        assert self._method.reads is not None
        return [
            sequence
            for step in range(training.steps(count))
            for sequence in self._method.reads(
                [self._examples[i] for i in batch_indices(count, training.batch_size, step, seed=training.seed)]
            )
        ]
