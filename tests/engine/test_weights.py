import json
from pathlib import Path

import pytest
import torch

from dooly.engine.local import start_engine
from tests.amx import latent_settings
from tests.tiny_models import tiny_models

PROMPT = list(range(0, 200, 2))


@pytest.mark.engine
def test_tokens_go_to_all_experts_even_where_scores_are_16_bits(tmp_path: Path) -> None:
    config = tiny_models()["DeepseekV2ForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    logits: list[torch.Tensor] = []
    with start_engine(tmp_path, latent_settings(8, 256)) as engine:
        for module in engine.runner.model.modules():
            if hasattr(module, "experts") and hasattr(module, "gate"):
                module.gate.register_forward_hook(lambda _, __, made: logits.append(made[0].detach().clone()))
        engine.add("one", PROMPT, 1)
        while engine.busy():
            engine.step()
    assert logits
    for each in logits:
        scores = torch.softmax(each.to(torch.bfloat16), dim=-1)
        chosen = scores.topk(config["num_experts_per_tok"], dim=-1).indices
        assert chosen.unique().numel() == config["n_routed_experts"]
        assert chosen.unique(dim=0).shape[0] > len(PROMPT) / 10
