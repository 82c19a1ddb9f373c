"""Streamlit reads the metadata of all installed packages before each run of a page: a fifth of the time of a test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_search_for_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app has no component of another package."""
    monkeypatch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)
