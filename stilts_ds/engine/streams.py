"""What keeps the host from waiting for the device inside a step: order among streams, and constants filled in there.

DeepSpeed reduces gradients and gathers weights on streams of their own. Where work on one needs work on another, it
has the host wait for the device, and then the device has nothing to do until the host has submitted more. An order
among the streams does the same for whatever runs on the device. (DeepSpeed 0.19.8.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import stilts_ds.engine.world  # noqa: F401 - first: it tells DeepSpeed the accelerator

# isort: split
import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)


class Streams:
    """The streams of a DeepSpeed engine besides the one that computes. None where the device has none (CPUs, MPS)."""

    def __init__(self, engine: Any) -> None:
        self.accelerator = get_accelerator()
        self.others: list[Any] = []
        if not self.accelerator.is_synchronized_device():
            holders = (engine.optimizer, getattr(engine.optimizer, "parameter_offload", None))
            values = [value for holder in holders if holder is not None for value in vars(holder).values()]
            self.others = list({id(v): v for v in values if isinstance(v, self.accelerator.Stream)}.values())
        zero = engine.config.get("zero_optimization", {})
        if zero.get("stage") and not self.others and not self.accelerator.is_synchronized_device():
            log.warning(
                "DeepSpeed %s keeps its streams elsewhere: the host may wait for the device in each step",
                deepspeed.__version__,
            )
        # With offload the host itself reads what the device has sent: there it has to wait.
        self.host_may_run_ahead = bool(self.others) and not (zero.get("offload_optimizer") or zero.get("offload_param"))

    @contextmanager
    def step(self) -> Iterator[None]:
        """A training step. Inside, where DeepSpeed has the host wait for the device or for a stream, the streams wait
        for each other instead. What follows the step comes after it on every stream: at stage 3 nothing in DeepSpeed
        has the stream that gathers weights wait for their update.

        The host still waits for events: at stage 3 it may be two gathers ahead of the device, or memory would hold
        more weights than `stage3_max_live_parameters`.
        """
        with self._host_runs_ahead():
            yield
        self.order()

    def order(self, *_: Any) -> None:
        """Have all that is submitted from now on, on any stream, come after all that was submitted before.

        It also orders memory: what is let go of from now on has its next use on a stream that comes after its last.
        """
        if self.others:
            current, *others = self.accelerator.current_stream(), self.accelerator.default_stream(), *self.others
            # Through the current stream: 2 n waits order n streams, where each pair by itself would take n^2.
            for stream in others:
                current.wait_stream(stream)
            for stream in others:
                stream.wait_stream(current)

    @contextmanager
    def _host_runs_ahead(self) -> Iterator[None]:
        if not self.host_may_run_ahead:
            yield
            return
        accelerator, current_stream = self.accelerator, self.accelerator.current_stream

        def current(device_index: int | None = None) -> Any:
            stream = current_stream(device_index)
            stream.synchronize = self.order
            return stream

        for waiter in (accelerator, *self.others):  # attributes of an object come before its class's methods
            waiter.synchronize = self.order
        accelerator.current_stream = current
        try:
            yield
        finally:
            del accelerator.current_stream
            for waiter in (accelerator, current_stream(), *self.others):
                vars(waiter).pop("synchronize", None)


class FilledConstants(TorchFunctionMode):
    """`torch.tensor(number, device=...)` copies the number from the host and waits until the device has come to that
    copy; filling a new tensor waits for nothing. DeepSpeed makes such constants when it clips gradients."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.tensor and args and isinstance(args[0], float):
            return torch.full((), args[0], **kwargs)
        return function(*args, **kwargs)
