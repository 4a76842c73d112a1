"""The copy on which batching is measured is small, whatever the size of the model."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from distsent.model import batching_check


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5", "modernvbert", "t5gemma2", "deepseek_v2"])
def test_configurations_in_others_and_experts_are_made_small(name: str) -> None:
    config = AutoConfig.for_model(name)  # of published size: 0.25 to 38 billion parameters
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(batching_check._shrunk(config))
    assert model.num_parameters() < 200_000_000


def test_what_cannot_be_made_small_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching_check, "LARGEST", 1_000)
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("bert", hidden_size=16, num_attention_heads=2, vocab_size=64)
    )
    with pytest.raises(ValueError, match="a copy of BertForSequenceClassification has"):
        batching_check.small_copy(model)
