"""What the tests of judges share: a tiny model that knows the form, made once."""

from pathlib import Path

import pytest
import torch

from tests.rewards.generative.tiny import form_model


@pytest.fixture(scope="session")
def form_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.py's form model, saved as a base model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = form_model(tmp_path_factory.mktemp("form") / "model")
    torch.set_num_threads(threads)
    return folder
