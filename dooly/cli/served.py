"""A model under an engine's settings, as the commands that simulate serving run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dooly.cli.serving import EngineOptions

if TYPE_CHECKING:
    from dooly.engine.settings import EngineSettings
    from dooly.predict import SavedModel
    from dooly.simulate import Run, Trace

__all__ = ["Served"]


@dataclass(frozen=True, eq=False)
class Served:
    """Step times of a model under an engine's settings.

    Attributes:
        folder: with the model's config.json.
    """

    folder: Path
    saved: "SavedModel"
    settings: "EngineSettings"

    @classmethod
    def of(cls, model: str, asked: EngineOptions, db: str, backend: str | None, tp: int, platform: str | None) -> Self:
        """The model on this machine, or on a stored GPU.

        Raises:
            DoolyError: there is no such model or GPU, or the settings contradict each other.
        """
        from dooly.engine.settings import model_folder
        from dooly.hardware.gpus import PLATFORMS
        from dooly.hardware.machine import machine
        from dooly.hardware.software import gpu_present
        from dooly.workspace.lowering import model_path
        from dooly.workspace.models import saved_model

        folder = model_folder(model_path(model))
        on_gpu, device, memory_bytes = platform is not None, "", 0
        if platform is not None and platform in PLATFORMS:
            device, memory_bytes = PLATFORMS[platform].device_name, PLATFORMS[platform].memory_bytes
        elif gpu_present():
            here = machine()
            on_gpu, device, memory_bytes = True, here.device, here.memory_bytes
        settings = asked.settings(on_gpu, device, memory_bytes, folder)
        saved = saved_model(model, db, backend, settings.block_size, tp, platform)
        settings = asked.filled(settings, saved, on_gpu)
        return cls(folder, saved.under(settings.max_num_seqs, settings.max_num_batched_tokens), settings)

    def told(self) -> list[str]:
        """The settings, one line each: what a server of this kind says when it starts."""
        own = self.settings
        caching = "prefix caching" if own.prefix_caching else "no prefix caching"
        scheduling = "asynchronous scheduling" if own.async_scheduling else "synchronous scheduling"
        return [
            f"engine: {own.max_num_seqs:,d} requests and {own.max_num_batched_tokens:,d} tokens a step, "
            f"{own.max_model_len:,d} tokens a request, {own.blocks:,d} KV cache blocks of {own.block_size}, "
            f"{caching}, {scheduling}"
        ]

    def compact(self) -> bool:
        """Whether the compact scheduler covers the model under these settings."""
        from dooly.errors import SimulationError
        from dooly.simulate import check_compact

        try:
            check_compact(self.saved.operations, self.settings)
        except SimulationError:
            return False
        return True

    def run(self, trace: "Trace", *, fast: bool, keep_steps: bool = False, concurrency: int | None = None) -> "Run":
        """Serve a trace, with a bar that shows how far it is.

        Args:
            fast: with the compact scheduler, not the engine's own.
            keep_steps: whether the run lists its steps; the engine's scheduler always does.
            concurrency: most requests under way; None for any number.

        Raises:
            SimulationError: the compact scheduler does not cover the model under these settings.
        """
        from dooly.cli.output import progress_bar
        from dooly.simulate import check_compact, simulate, simulate_fast

        if fast:
            check_compact(self.saved.operations, self.settings)
        steps = self.saved.steps
        with progress_bar("requests") as progress:
            task = progress.add_task("simulating", total=len(trace))

            def report(done: int, _: int) -> None:
                progress.update(task, completed=done)

            if fast:
                return simulate_fast(
                    self.folder.name,
                    trace,
                    steps.step_time,
                    self.settings,
                    power=steps.power,
                    concurrency=concurrency,
                    progress=report,
                    keep_steps=keep_steps,
                )
            return simulate(
                self.folder,
                trace,
                steps.step_time,
                self.settings,
                power=steps.power,
                concurrency=concurrency,
                progress=report,
            )
