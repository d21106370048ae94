"""The training loop: batches to steps, with validation, saving, resuming and stopping."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_map

from ...device import on_gpu
from ...errors import TrainingError
from ...model.transformer import LlamaForCausalLM
from ...trees import scalar
from .. import distributed
from ..layers.dropout import Noise
from ..objectives.objective import Objective, TrainBatch
from ..settings import TrainSettings
from .callbacks import Callback, StepReport, ValidationReport
from .optimizer import clipped, global_norm, learning_rate, make_optimizer, warmup_steps
from .state import TrainingState

# A loss this many times above its running mean, and worse than guessing, has exploded.
_EXPLODED = 3.0
_MEMORY = 0.95


@dataclass
class Hooks:
    """What the loop asks for and tells: when to stop, where to save."""

    callbacks: Sequence[Callback] = ()
    cancelled: Callable[[], bool] = lambda: False
    save: Callable[["Trainer"], None] = lambda _: None
    save_best: Callable[["Trainer"], None] = lambda _: None


@dataclass(frozen=True)
class StepSums:
    """What the batches of a step came to: means and numbers over all processes; `batches` are this one's."""

    batches: Sequence[TrainBatch]
    loss: float
    more: Mapping[str, float]
    n_tokens: int
    n_targets: int


class Trainer:
    """One run over a model whose trainable parameters are marked.

    `params` are the truth; the model holds them again when `run` returns.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        objective: Objective,
        settings: TrainSettings,
        noise: Noise,
        hooks: Hooks | None = None,
    ) -> None:
        self.model, self.objective, self.settings, self.noise = model, objective, settings, noise
        self.hooks = hooks or Hooks()
        self.params = model.trainable_parameters()
        self.optimizer = make_optimizer(settings)
        self.optimizer.init(self.params)
        self.progress = TrainingState()
        self.total_steps = total_steps(settings, objective.per_epoch)
        self._validation = list(objective.validation())
        # A policy has nothing to validate on but what it draws.
        self._reward: Callable[[], float] | None = getattr(objective, "validation_reward", None)
        self._save_is_due, self._saved_step = False, 0
        self._gradients = self._make_gradients()
        self._losses = self._make_losses()

    def restore(self, params: Any, optimizer: Any, progress: TrainingState) -> None:
        """Take over a saved state."""
        self.params, self.progress = params, progress
        self.optimizer.state = optimizer
        self._saved_step = progress.step

    def run(self) -> str:
        """Train to the end and return how it ended: done, cancelled or early.

        Raises TrainingError where the loss stops making sense; what was saved before stays.
        """
        ended = "done"
        self.model.train()
        while self.progress.step < self.total_steps:
            if distributed.any_true(self.hooks.cancelled()):
                ended = "cancelled"
                break
            self._step()
            if self._validation_is_due() and self._validate():
                ended = "early"
                break
            if self.progress.step % self.settings.save_every == 0:
                self._save_is_due = True
        self.model.update(self.params)
        self.model.eval()
        self.save()
        return ended

    def save(self) -> None:
        """Have the state saved and tell so."""
        self.hooks.save(self)
        self._save_is_due, self._saved_step = False, self.progress.step
        for callback in self.hooks.callbacks:
            callback.on_save(self.progress.step)

    def _step(self) -> None:
        began = time.perf_counter()
        mx.reset_peak_memory()
        step, settings = self.progress.step, self.settings
        self.noise.key = mx.random.key(settings.seed * 1_000_003 + step)
        sums, grads = self._accumulated(step)
        norm_array = global_norm(grads)
        mx.eval(norm_array)
        norm = scalar(norm_array)
        self._check(step, sums, norm)
        if self._save_is_due:
            # Only now is it known that the state is good: the next batch's loss makes sense with it.
            paused = time.perf_counter()
            self.save()
            began += time.perf_counter() - paused
        average = self.progress.average_loss
        kept = sums.loss if average is None else average
        self.progress.average_loss = _MEMORY * kept + (1 - _MEMORY) * sums.loss
        warm = warmup_steps(settings.warmup, self.total_steps)
        rate = learning_rate(step, self.total_steps, settings.learning_rate, settings.schedule, warm)
        self.optimizer.learning_rate = rate
        self.params = self.optimizer.apply_gradients(clipped(grads, norm_array, settings.clip), self.params)
        mx.eval(self.params, self.optimizer.state)
        self._report(sums, norm, rate, time.perf_counter() - began)

    def _accumulated(self, step: int) -> tuple[StepSums, Any]:
        """Return what the step's batches came to, over all processes, and the mean gradient."""
        settings = self.settings
        # A policy draws its batch from the model.
        self.model.update(self.params)
        batches = [self.objective.batch(step * settings.accumulate + n) for n in range(settings.accumulate)]
        total, grads = mx.array(0.0), None
        sums: dict[str, Any] = {}
        for number, batch in enumerate(batches):
            key = self.noise.key + mx.array([number << 16, 0], mx.uint32)
            arrays = {name: mx.array(array) for name, array in batch.arrays.items()}
            (loss, more), new = _counted(batch, self._gradients(self.params, key, arrays))
            grads = new if grads is None else tree_map(mx.add, grads, new)
            total = total + loss
            sums = {name: sums.get(name, 0.0) + value for name, value in more.items()}
            mx.eval(total, sums, grads)
        count = mx.array(sum(batch.count for batch in batches), mx.float32)
        tokens = [
            mx.array(float(sum(numbers))) for numbers in ([b.n_tokens for b in batches], [b.n_targets for b in batches])
        ]
        total, count, tokens, sums, grads = distributed.all_sum((total, count, tokens, sums, grads))
        divisor = mx.maximum(count, 1.0)
        grads = tree_map(lambda grad: grad / divisor, grads)
        means = {name: scalar(s / divisor) for name, s in sums.items()}
        n_tokens, n_targets = (round(scalar(number)) for number in tokens)
        return StepSums(batches, scalar(total / divisor), means, n_tokens, n_targets), grads

    def _check(self, step: int, sums: StepSums, norm: float) -> None:
        """Raise TrainingError, before the parameters change, if the loss or its gradient makes no sense."""
        loss = sums.loss
        guessing = 1.5 * math.log(self.model.config.vocab_size)
        average = self.progress.average_loss
        exploded = average is not None and loss > max(guessing, _EXPLODED * average)
        if math.isfinite(loss) and math.isfinite(norm) and not exploded:
            return
        where = list(dict.fromkeys(text for batch in sums.batches for text in batch.where))
        shown = ", ".join(where[:5]) + (f" and {len(where) - 5} more" if len(where) > 5 else "")
        saved = (
            f"The state of step {self._saved_step} is saved and good" if self._saved_step else "Nothing was saved yet"
        )
        what = f"the loss exploded from {average:.3g} to {loss:.3g}" if exploded else f"the loss is {loss:g}"
        raise TrainingError(
            f"step {step + 1}: {what}, its gradient's norm {norm:g}; the batch was {shown or 'empty'}. {saved}: "
            "look at these examples, lower the learning rate, or compute in float32"
        )

    def _report(self, sums: StepSums, norm: float, rate: float, seconds: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.last_loss = sums.loss
        progress.tokens += sums.n_tokens
        progress.target_tokens += sums.n_targets
        progress.seconds += seconds
        report = StepReport(
            step=progress.step,
            total_steps=self.total_steps,
            epoch=progress.step * self.settings.accumulate / self.objective.per_epoch,
            loss=sums.loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sums.n_tokens,
            target_tokens=sums.n_targets,
            seconds=seconds,
            tokens_per_second=sums.n_tokens / seconds,
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
            more=sums.more,
        )
        for callback in self.hooks.callbacks:
            callback.on_step(report)

    @property
    def validates(self) -> bool:
        """Whether there is something to validate on."""
        return bool(self._validation) or self._reward is not None

    def _validation_is_due(self) -> bool:
        if not self.validates:
            return False
        every = self.settings.valid_every or max(1, self.total_steps // 10)
        return self.progress.step % every == 0 or self.progress.step == self.total_steps

    def _validate(self) -> bool:
        """Validate, keep the best, and return whether to stop early."""
        loss, more = self._drawn_validation(self._reward) if self._reward else self.evaluate(self._validation)
        progress = self.progress
        best = math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss)
        progress.validations_without_gain = 0 if best else progress.validations_without_gain + 1
        if best:
            progress.best_loss, progress.best_step = loss, progress.step
            self.hooks.save_best(self)
        report = ValidationReport(progress.step, loss, best, more)
        for callback in self.hooks.callbacks:
            callback.on_validation(report)
        return 0 < self.settings.patience <= progress.validations_without_gain

    def evaluate(self, batches: Sequence[TrainBatch]) -> tuple[float, dict[str, float]]:
        """Return the mean loss and further means over batches, without dropout."""
        self.model.eval()
        total, count = mx.array(0.0), mx.array(0.0)
        sums: dict[str, Any] = {}
        for batch in batches:
            arrays = {name: mx.array(array) for name, array in batch.arrays.items()}
            loss, more = _counted(batch, self._losses(self.params, arrays))
            total, count = total + loss, count + batch.count
            sums = {name: sums.get(name, 0.0) + value for name, value in more.items()}
            mx.eval(total, sums)
        self.model.train()
        total, count, sums = distributed.all_sum((total, count, sums))
        return scalar(total / count), {name: scalar(value / count) for name, value in sums.items()}

    def _drawn_validation(self, reward: Callable[[], float]) -> tuple[float, dict[str, float]]:
        """Return the reward of answers drawn now; as a loss, the lower, the better."""
        self.model.update(self.params)
        value = reward()
        return -value, {"reward": value}

    def _make_gradients(self) -> Callable[..., Any]:
        def loss(params: Any, key: mx.array, arrays: Mapping[str, mx.array]) -> tuple[mx.array, dict[str, mx.array]]:
            self.model.update(params)
            self.noise.key = key
            return self.objective.loss(self.model, arrays)

        graded = mx.value_and_grad(loss)
        return cast(Callable[..., Any], mx.compile(graded) if on_gpu() else graded)

    def _make_losses(self) -> Callable[..., Any]:
        def loss(params: Any, arrays: Mapping[str, mx.array]) -> tuple[mx.array, dict[str, mx.array]]:
            self.model.update(params)
            return self.objective.loss(self.model, arrays)

        return loss


def total_steps(settings: TrainSettings, per_epoch: int) -> int:
    """Return the steps of a run: as requested, or enough for the epochs, the last one filled up."""
    if settings.steps is not None:
        return settings.steps
    return max(1, math.ceil(settings.epochs * per_epoch / settings.accumulate - 1e-9))


def _counted(batch: TrainBatch, results: Any) -> Any:
    """Return the results of a batch; zeros for a stand-in, where a process has no share of the batch."""
    return results if batch.count else tree_map(mx.zeros_like, results)
