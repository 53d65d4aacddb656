from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restore the number of torch's threads, which solvers set: results of later tests depend on it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
