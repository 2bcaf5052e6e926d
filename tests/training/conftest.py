"""What the tests of phases share."""

from collections.abc import Iterator

import pytest

from tests.models.tiny import single_thread


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    with single_thread():
        yield
