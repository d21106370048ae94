"""The training loop: batches to steps, with validation, saving, resuming and stopping."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import mlx.core as mx

from ...errors import TrainingError
from ...model.transformer import LlamaForCausalLM
from ...trees import Tree, flatten, scalar
from .. import distributed
from ..layers.dropout import Noise
from ..objectives.objective import Objective
from ..settings import RunSettings
from .callbacks import Callback, StepReport, ValidationReport
from .gradients import LossFunctions, StepSums
from .length import total_steps
from .optimizer import clipped, global_norm, learning_rate, make_optimizer, warmup_steps
from .state import TrainingState

# A loss this many times above its running mean, and worse than guessing, has exploded.
_EXPLODED = 3.0
_MEMORY = 0.95


@dataclass
class Hooks:
    """What the loop needs and tells: when to stop, where to save."""

    callbacks: Sequence[Callback] = ()
    cancelled: Callable[[], bool] = lambda: False
    save: Callable[["Trainer"], None] = lambda _: None
    save_best: Callable[["Trainer"], None] = lambda _: None


class SpoiltError(TrainingError):
    """A loss or gradient makes no sense: the parameters before it may be spoilt already."""


class Trainer:
    """One run over a model whose trainable parameters are marked.

    `params` are the truth; the model holds them again when `run` returns.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        objective: Objective,
        settings: RunSettings,
        noise: Noise,
        hooks: Hooks | None = None,
    ) -> None:
        self.model, self.objective, self.settings = model, objective, settings
        self.hooks = hooks or Hooks()
        objective.bind(model)
        self.params = model.trainable_parameters()
        self.optimizer = make_optimizer(settings)
        self.optimizer.init(self.params)
        self.state = TrainingState()
        self.total_steps = total_steps(settings, objective.per_epoch)
        self.losses = LossFunctions(model, objective, noise)
        self._validation = list(objective.validation())
        self._save_is_due, self._saved_step = False, 0

    def restore(self, params: Tree, optimizer: Tree, state: TrainingState) -> None:
        """Take over a saved state."""
        self.params, self.state = params, state
        self.optimizer.state = optimizer
        self._saved_step = state.step

    def run(self) -> str:
        """Train to the end and return how it ended: done, cancelled or early.

        Raises TrainingError where the loss stops making sense; what was saved before stays. What else fails on the way,
        such as a reward function or a callback, leaves the steps before it saved.
        """
        self.model.train()
        try:
            ended = self._loop()
        except SpoiltError:
            raise
        except Exception:
            self._save_what_is_good()
            raise
        self.model.update(self.params)
        self.model.eval()
        self.save()
        return ended

    def _loop(self) -> str:
        while self.state.step < self.total_steps:
            if distributed.any_true(self.hooks.cancelled()):
                return "cancelled"
            self._step()
            if self._validation_is_due() and self._validate():
                return "early"
            if self.state.step % self.settings.save_every == 0:
                self._save_is_due = True
        return "done"

    def save(self) -> None:
        """Have the state saved and tell so."""
        self.hooks.save(self)
        self._save_is_due, self._saved_step = False, self.state.step
        for callback in self.hooks.callbacks:
            callback.on_save(self.state.step)

    @property
    def saved_step(self) -> int:
        """The step whose state is on the disk, 0 before the first save."""
        return self._saved_step

    def _save_what_is_good(self) -> None:
        """Save the steps since the last save, unless a step has spoilt the parameters."""
        if self.state.step <= self._saved_step:
            return
        finite = [mx.isfinite(array).all() for _, array in flatten(self.params)]
        if mx.stack(finite).all().item():
            # The error that led here is the one to tell.
            with suppress(TrainingError):
                self.hooks.save(self)
                self._saved_step = self.state.step

    def _step(self) -> None:
        began = time.perf_counter()
        mx.reset_peak_memory()
        step, settings = self.state.step, self.settings
        # A policy draws its batch from the model.
        self.model.update(self.params)
        batches = [self.objective.batch(step * settings.accumulate + n) for n in range(settings.accumulate)]
        key = mx.random.key(settings.seed * 1_000_003 + step)
        sums, grads = self.losses.accumulated(self.params, key, batches)
        norm_array = global_norm(grads)
        mx.eval(norm_array)
        norm = scalar(norm_array)
        self._check(step, sums, norm)
        if self._save_is_due:
            # Only now is it known that the state is good: the next batch's loss makes sense with it.
            paused = time.perf_counter()
            self.save()
            began += time.perf_counter() - paused
        average = self.state.average_loss
        kept = sums.loss if average is None else average
        self.state.average_loss = _MEMORY * kept + (1 - _MEMORY) * sums.loss
        warm = warmup_steps(settings.warmup, self.total_steps)
        rate = learning_rate(step, self.total_steps, settings.learning_rate, settings.schedule, warm)
        self.optimizer.learning_rate = rate
        self.params = self.optimizer.apply_gradients(clipped(grads, norm_array, settings.clip), self.params)
        mx.eval(self.params, self.optimizer.state)
        self._report(sums, norm, rate, time.perf_counter() - began)

    def _check(self, step: int, sums: StepSums, norm: float) -> None:
        """Raise SpoiltError, before the parameters change, if the loss or its gradient makes no sense."""
        loss = sums.loss
        guessing = 1.5 * math.log(self.model.config.vocab_size)
        average = self.state.average_loss
        exploded = average is not None and loss > max(guessing, _EXPLODED * average)
        if math.isfinite(loss) and math.isfinite(norm) and not exploded:
            return
        where = list(dict.fromkeys(text for batch in sums.batches for text in batch.where))
        shown = ", ".join(where[:5]) + (f" and {len(where) - 5} more" if len(where) > 5 else "")
        saved = (
            f"The state of step {self._saved_step} is saved and good" if self._saved_step else "Nothing was saved yet"
        )
        what = f"the loss exploded from {average:.3g} to {loss:.3g}" if exploded else f"the loss is {loss:g}"
        raise SpoiltError(
            f"step {step + 1}: {what}, its gradient's norm {norm:g}; the batch was {shown or 'empty'}. {saved}: "
            "look at these examples, lower the learning rate, or compute in float32"
        )

    def _report(self, sums: StepSums, norm: float, rate: float, seconds: float) -> None:
        state = self.state
        state.step += 1
        state.last_loss = sums.loss
        state.tokens += sums.n_tokens
        state.target_tokens += sums.n_targets
        state.seconds += seconds
        report = StepReport(
            step=state.step,
            total_steps=self.total_steps,
            epoch=state.step * self.settings.accumulate / self.objective.per_epoch,
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

    def _validation_is_due(self) -> bool:
        if not self.objective.validates:
            return False
        every = self.settings.valid_every or max(1, self.total_steps // 10)
        return self.state.step % every == 0 or self.state.step == self.total_steps

    def _validate(self) -> bool:
        """Validate, keep the best, and return whether to stop early."""
        self.model.update(self.params)
        reward = self.objective.validation_reward()
        if reward is None:
            loss, more = self.losses.evaluate(self.params, self._validation)
        else:
            # As a loss, the lower, the better.
            loss, more = -reward, {"reward": reward}
        state = self.state
        best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
        state.validations_without_gain = 0 if best else state.validations_without_gain + 1
        if best:
            state.best_loss, state.best_step = loss, state.step
            self.hooks.save_best(self)
        report = ValidationReport(state.step, loss, best, more)
        for callback in self.hooks.callbacks:
            callback.on_validation(report)
        return 0 < self.settings.patience <= state.validations_without_gain
