from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """Files in old formats and what Caffe's upgrade tools made of them."""
    return Path(__file__).parents[1] / "golden" / "upgrade"
