"""Tests of subquad.quickstart.serving."""

from pathlib import Path

import pytest

from subquad.quickstart import ServerDidNotStart
from subquad.quickstart.serving import server_process


def test_a_server_that_cannot_start_is_reported_with_what_it_said(tmp_path: Path):
    with pytest.raises(ServerDidNotStart, match="no-such-checkpoint"), server_process(tmp_path / "no-such-checkpoint"):
        pytest.fail("there is nothing to serve")
