"""What a visitor can break: each ends in one sentence on a page that works, and nothing that was there is lost.

Damaged links, wrong files and hostile uploads: `test_app`, `test_uploads`. A reload in a browser: `test_browser`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from mopdsim.app import background, planned, questions
from mopdsim.app.choice import MAX_DOMAINS, Choice
from mopdsim.app.state import View
from mopdsim.base.errors import UsageError

EIGHT = Choice().scenario().recipe.domains


def what_if() -> None:
    from mopdsim.app.pages import what_if

    what_if.page()


def plan() -> None:
    import streamlit as st

    from mopdsim.app.pages import plan

    if not st.session_state.get("elsewhere"):
        plan.page()


def drawn(script: Any, choice: Choice, **state: Any) -> AppTest:
    at = AppTest.from_function(script, default_timeout=900)
    for key, value in {"view": View(choice=choice), **state}.items():
        at.session_state[key] = value
    at.run()
    assert not at.exception, at.exception
    return at


def said(at: AppTest) -> str:
    return " ".join(error.value for error in at.error)


class Slow:
    """The planner at work, until it is told what it found."""

    seconds, progress = 1.0, (1, 5, "judging")

    def __init__(self) -> None:
        self.begun = 0
        self.found: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        return self.found is None

    def start(self, *_: Any) -> Slow:
        self.begun += 1
        return self

    def result(self) -> dict[str, Any]:
        assert self.found is not None
        return self.found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    found = Slow()
    monkeypatch.setattr(background, "start", found.start)
    monkeypatch.setattr(background, "_working", {})
    monkeypatch.setattr(background, "_found", OrderedDict())
    yield found


def test_no_domain_leaves_those_that_were_there() -> None:
    at = drawn(what_if, Choice(), chip_domains=True)
    at.multiselect(key="q_domains").set_value([]).run()
    assert not at.exception
    assert "domains is empty: keep at least one" in said(at)
    assert at.session_state["view"].choice.scenario().recipe.domains == EIGHT


def test_forty_domains_are_too_many() -> None:
    names = ", ".join(f'"own{number}"' for number in range(40))
    with pytest.raises(UsageError, match=f"number of domains = 40: the app takes up to {MAX_DOMAINS}"):
        Choice(own=f'recipe = "mopd"\ndomains = [{names}]').scenario()


@pytest.mark.parametrize("page", [what_if, plan])
def test_no_money_and_no_time_is_no_question(page: Any) -> None:
    at = drawn(page, Choice(budget_usd=0, deadline_days=0))
    assert "no limit: give budget_usd" in said(at)
    assert not any(table for table in at.table if "80% range" in table.value.columns)


def test_a_negative_number_is_refused_by_field_and_file() -> None:
    at = drawn(what_if, Choice(), chip_money=True)
    assert at.number_input(key="q_budget_usd").min == 0
    with pytest.raises(UsageError, match="budget_usd = -5"):
        Choice(own='recipe = "mopd"\ndomains = ["math"]\nbudget_usd = -5').scenario()
    with pytest.raises(UsageError, match="deadline_days = -1"):
        questions.to_choice('domains = ["math"]\ndeadline_days = -1')


def test_two_tabs_meet_one_answer(slow: Slow) -> None:
    choice = Choice(gpus=128)
    one, other = drawn(plan, choice), drawn(plan, choice)
    one.button(key="recommend").click().run()
    assert slow.begun == 2  # a rough and a full one
    other.run()
    assert other.button(key="recommend").disabled
    slow.found = planned.shipped()["planned"]
    for at in (one, other):
        at.run()
        assert not at.exception
        assert any("80% range" in table.value.columns for table in at.table)
    assert slow.begun == 2


def test_a_rough_answer_stands_until_the_full_one_is_there(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    rough = Slow()
    monkeypatch.setattr(background, "start", lambda words, _: (rough if "--rough" in words else slow).start())
    at = AppTest.from_function(
        what_if, default_timeout=60
    )  # a page that waits for what is there draws for ever
    at.session_state["view"] = View(choice=Choice(gpus=128))
    at.run().button(key="ask_planned").click().run()
    assert (rough.begun, slow.begun) == (1, 1)
    rough.found = planned.shipped()["planned"]
    at.run()
    assert any("From few simulated worlds" in caption.value for caption in at.caption)
    slow.found = planned.shipped()["planned"]
    at.run()
    assert not any("From few simulated worlds" in caption.value for caption in at.caption)
    assert not at.exception and not at.error


def test_leaving_while_it_plans_loses_nothing(slow: Slow) -> None:
    choice = Choice(gpus=64)
    at = drawn(plan, choice)
    at.button(key="recommend").click().run()
    at.session_state["elsewhere"] = True
    at.run()
    slow.found = planned.shipped()["planned"]
    at.session_state["elsewhere"] = False
    at.run()
    assert not at.exception
    assert any("80% range" in table.value.columns for table in at.table)


def test_a_full_machine_says_so_and_the_button_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UsageError("4 long computations are under way on this machine: wait for one to end")

    monkeypatch.setattr(background, "start", refuse)
    at = drawn(plan, Choice(gpus=32))
    at.button(key="recommend").click().run()
    assert "wait for one to end" in said(at)
    assert not at.button(key="recommend").disabled
