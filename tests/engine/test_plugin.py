"""The plug-in that logs the steps of an engine core: nothing unless it is asked for, everything once it is."""

from pathlib import Path

import pytest

from dooly.engine import plugin
from dooly.engine.local import Engine, start_engine
from dooly.engine.settings import EngineSettings
from dooly.engine.step_log import read_step_log

SETTINGS = EngineSettings(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=128, prefix_caching=True)


def test_it_does_nothing_unless_it_is_asked_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(plugin.STEPS_FOLDER, raising=False)
    monkeypatch.setattr(plugin, "register_loader", lambda: pytest.fail("loaded unasked"))
    plugin.load()


@pytest.mark.engine
def test_the_steps_of_a_core_are_logged(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Requests are numbered in the order in which they are scheduled, and what the cache holds of them is told."""
    from vllm.v1.engine import core

    class Taker:
        """Only `preprocess_add_request` of it is used: the engine here takes requests without sockets."""

        def preprocess_add_request(self, request: object) -> object:
            return request

    monkeypatch.setenv(plugin.STEPS_FOLDER, str(tmp_path))
    monkeypatch.setattr(core, "EngineCoreProc", Taker)
    plugin.load()
    with start_engine(models["llama"], SETTINGS) as engine:
        serve(engine, Taker.preprocess_add_request, "first")
        serve(engine, Taker.preprocess_add_request, "again")
    (path,) = tmp_path.glob("*.bin")
    requests, steps = read_step_log(path)
    assert [(request.name, request.prompt_tokens) for request in requests] == [("first", 40), ("again", 40)]
    assert [step.requests for step in steps] == [
        ((32, 0),),
        ((8, 32),),
        ((1, 40),),
        ((1, 41),),
        ((8, 32),),
        ((1, 40),),
        ((1, 41),),
    ]
    assert [(step.numbers, step.admitted) for step in steps if step.admitted] == [((0,), (0,)), ((1,), (0,))]
    for step in steps:
        assert step.start_s < step.scheduled_s < step.called_s < step.issued_s < step.ready_s < step.end_s
        assert 0.0 < step.device_us < 1e6 * (step.end_s - step.start_s)
    for request, step in zip(requests, (steps[0], steps[4]), strict=True):
        assert request.arrived_s < step.start_s


def serve(engine: Engine, take_in: object, name: str) -> None:
    from vllm.v1.engine import EngineCoreRequest

    from dooly.engine.settings import greedy

    prompt = list(range(40))
    asked = EngineCoreRequest(
        request_id=name,
        prompt_token_ids=prompt,
        mm_features=None,
        sampling_params=greedy(3),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    take_in(engine.core, asked)  # type: ignore[operator]
    engine.add(name, prompt, 3)
    while engine.busy():
        engine.step()
