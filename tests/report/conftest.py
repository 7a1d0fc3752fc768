"""One headless Chromium for all page tests."""

from collections.abc import Iterator

import pytest
from chromium import BINARY, Chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    if BINARY is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    chromium = Chromium()
    yield chromium
    chromium.close()
