"""Settings of a run that were changed by hand are refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopdsim.base.errors import UsageError
from trainer.files.settings import Settings, settings_of


def test_settings_changed_by_hand_are_refused_with_the_file_and_the_remedy() -> None:
    assert settings_of({"settings": {"seed": 3}}, Path("run")) == Settings(seed=3)
    with pytest.raises(UsageError, match=r"resolved.json: settings: .*threads = 'many'.*: put the file back"):
        settings_of({"settings": {"threads": "many"}}, Path("run"))
