"""Tell how a job goes, from the trainer's log; end one whose loss is no number, or whose time is up; heavy."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, Progress


class Log(TrainerCallback):
    """Pass the trainer's log on as progress; stop a run whose loss is no number, or whose time is up."""

    def __init__(self, job: Job, tell: OnProgress) -> None:
        self._total = job.recipe.steps
        self._minutes = job.minutes
        self._tell = tell
        self._began = time.monotonic()
        self._first = self._began, 0, 0
        self._capped_at: int | None = None
        self._done = 0
        self.loss: float | None = None
        self.tokens = 0

    def say(self, note: str) -> None:
        """Tell something that is no step."""
        self._tell(Progress(stage="train", done=self._done, total=self._total, note=note))

    def check_the_cap(self) -> None:
        """Raise TrainingError if the time was up before the last step."""
        if self._capped_at is not None:
            raise TrainingError(
                f"The job stopped at step {self._capped_at} of {self._total}, for its {self._minutes:g} minutes are "
                "over. Run it again with more minutes, and it goes on from there."
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember where the training began or went on, to tell how fast it is."""
        self._first = (time.monotonic(), state.global_step, int(state.num_input_tokens_seen))
        for line in state.log_history:  # of a checkpoint, which may be that of the last step
            self.loss, self.tokens = line.get("loss", self.loss), self._first[2]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the training where its time is up."""
        over = self._minutes is not None and time.monotonic() - self._began > 60 * self._minutes
        if over and state.global_step < self._total:
            self._capped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Tell a line of the log; raise TrainingError where the loss is no number."""
        if not logs or "loss" not in logs:
            return
        self.loss, self.tokens = logs["loss"], int(state.num_input_tokens_seen)
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"The loss became {self.loss} at step {state.global_step} of {self._total}: "
                "lower the recipe's learning_rate, and look at the dataset for empty or broken examples."
            )
        self._done = state.global_step
        began, step, tokens = self._first
        took, steps = max(time.monotonic() - began, 1e-6), max(state.global_step - step, 1)
        self._tell(
            Progress(
                stage="train",
                done=state.global_step,
                total=self._total,
                loss=self.loss,
                tokens_per_second=(self.tokens - tokens) / took,
                seconds_left=took / steps * (self._total - state.global_step),
            )
        )
