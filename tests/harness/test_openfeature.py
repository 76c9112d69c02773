"""The provider under the SDK itself: values, reasons, error codes, and what it says of its own state."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, ParseError
from openfeature.flag_evaluation import Reason
from openfeature.provider import ProviderStatus

from harness.control import Slot, kill
from harness.control.flags import FLAGS, set_flag
from harness.control.openfeature import PilotProvider
from harness.control.permission import bucket
from harness.control.remote import Remote, write_remote

TABLE = """
[flags.short_letter]
description = "Whether the letter is the short one"

[flags.tone]
description = "How it speaks"
on = "warm"
off = "plain"

[flags.lines]
description = "How many"
on = 3
off = 9

[flags.ratio]
description = "How much; one of the two is written as a whole number"
on = 1
off = 0.5

[flags.layout]
description = "Where things stand"
on = { columns = 2 }
off = { columns = 1 }
"""
PLOT = EvaluationContext(targeting_key="plot 1")


@pytest.fixture
def client(tiny: Any) -> Iterator[OpenFeatureClient]:
    tiny.toml.write_text(tiny.toml.read_text() + TABLE)
    tiny.control.mkdir(parents=True)
    api.set_provider_and_wait(PilotProvider(tiny.settings()))
    yield api.get_client()
    api.shutdown()
    api.clear_providers()


def put(tiny: Any, name: str, percent: int) -> None:
    set_flag(tiny.control, name=name, percent=percent, known=tiny.settings().flags, reason="a test")


def test_a_flag_that_was_never_set_is_off_by_default(client: OpenFeatureClient) -> None:
    found = client.get_boolean_details("short_letter", True, PLOT)
    assert (found.value, found.reason, found.variant, found.error_code) == (
        False,
        Reason.DEFAULT,
        "off",
        None,
    )
    assert found.flag_metadata["revision"] == 0


def test_each_type_has_its_values(tiny: Any, client: OpenFeatureClient) -> None:
    def values() -> list[Any]:
        return [
            client.get_boolean_value("short_letter", True),
            client.get_string_value("tone", "x"),
            client.get_integer_value("lines", 1),
            client.get_float_value("ratio", 7.5),
            client.get_object_value("layout", {}),
        ]

    assert values() == [False, "plain", 9, 0.5, {"columns": 1}]
    for name in ("short_letter", "tone", "lines", "ratio", "layout"):
        put(tiny, name, 100)
    assert values() == [True, "warm", 3, 1.0, {"columns": 2}]
    assert type(client.get_float_value("ratio", 7.5)) is float
    assert asyncio.run(client.get_string_value_async("tone", "x")) == "warm"


def test_none_and_all_need_no_entity_and_say_why(tiny: Any, client: OpenFeatureClient) -> None:
    put(tiny, "tone", 0)
    found = client.get_string_details("tone", "x")
    assert (found.value, found.reason, found.variant) == ("plain", Reason.DISABLED, "off")
    put(tiny, "tone", 100)
    found = client.get_string_details("tone", "x")
    assert (found.value, found.reason, found.variant) == ("warm", Reason.STATIC, "on")
    assert found.flag_metadata == {"revision": 2, "pct": 100}


def test_a_share_is_split_by_the_flags_own_buckets_and_a_larger_one_keeps_everybody(
    tiny: Any, client: OpenFeatureClient
) -> None:
    entities = [f"plot {number}" for number in range(3_000)]

    def on(percent: int) -> set[str]:
        put(tiny, "tone", percent)
        found = set()
        for entity in entities:
            details = client.get_string_details("tone", "x", EvaluationContext(targeting_key=entity))
            assert details.reason is Reason.SPLIT
            assert (details.value == "warm") is (details.variant == "on")
            assert details.flag_metadata["bucket"] == bucket("tone", entity)
            if details.variant == "on":
                found.add(entity)
        return found

    ten, half = on(10), on(50)
    assert ten < half
    assert 200 < len(ten) < 400
    assert ten == {each for each in entities if bucket("tone", each) <= 10}
    assert ten != {each for each in entities if bucket("lines", each) <= 10}


def test_errors_have_their_codes_and_give_the_callers_default(tiny: Any, client: OpenFeatureClient) -> None:
    put(tiny, "tone", 50)
    cases = [
        (client.get_boolean_details("tona", True, PLOT), True, ErrorCode.FLAG_NOT_FOUND),
        (client.get_boolean_details("tone", True, PLOT), True, ErrorCode.TYPE_MISMATCH),
        (client.get_integer_details("short_letter", 4, PLOT), 4, ErrorCode.TYPE_MISMATCH),
        (client.get_float_details("short_letter", 4.5, PLOT), 4.5, ErrorCode.TYPE_MISMATCH),
        (client.get_integer_details("ratio", 4, PLOT), 4, ErrorCode.TYPE_MISMATCH),
        (client.get_string_details("layout", "x", PLOT), "x", ErrorCode.TYPE_MISMATCH),
        (client.get_string_details("model_enabled", "x", PLOT), "x", ErrorCode.TYPE_MISMATCH),
        (client.get_string_details("tone", "x"), "x", ErrorCode.TARGETING_KEY_MISSING),
        (client.get_string_details("tone", "x", EvaluationContext("")), "x", ErrorCode.TARGETING_KEY_MISSING),
    ]
    for found, default, code in cases:
        assert (found.value, found.reason, found.error_code) == (default, Reason.ERROR, code)
        assert found.error_message
    (tiny.control / FLAGS).write_text("{")
    found = client.get_string_details("tone", "x", PLOT)
    assert (found.value, found.reason, found.error_code) == ("x", Reason.ERROR, ErrorCode.PARSE_ERROR)


def test_before_it_is_set_and_after_it_is_shut_down_it_is_not_ready(tiny: Any) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + TABLE)
    tiny.champion("a" * 64)
    provider = PilotProvider(tiny.settings())
    assert provider.resolve_string_details("tone", "x", PLOT).error_code is ErrorCode.PROVIDER_NOT_READY
    assert provider.resolve_boolean_details("model_enabled", True, PLOT).value is False
    provider.initialize(PLOT)
    assert provider.resolve_string_details("tone", "x", PLOT).error_code is None
    provider.shutdown()
    assert provider.resolve_string_details("tone", "x", PLOT).error_code is ErrorCode.PROVIDER_NOT_READY


def test_model_enabled_is_what_the_rollout_says_and_never_the_callers_default(
    tiny: Any, client: OpenFeatureClient
) -> None:
    def enabled(context: EvaluationContext | None = PLOT) -> tuple[bool, Any, Any, Any]:
        found = client.get_boolean_details("model_enabled", True, context)
        arm = client.get_string_details("model_arm", "x", context)
        assert (arm.value == "fallback") is not found.value
        assert arm.variant == arm.value
        assert (found.error_code, arm.error_code) == (None, None)
        assert found.flag_metadata["revision"] == arm.flag_metadata["revision"]
        return found.value, found.reason, found.flag_metadata["why"], arm.value

    assert enabled() == (False, Reason.DEFAULT, "no_state", "fallback")
    tiny.champion("a" * 64)
    assert enabled() == (True, Reason.SPLIT, "assigned", "champion")
    assert enabled(None) == (False, Reason.DEFAULT, "no_entity", "fallback")
    tiny.put(rev=2, challenger=Slot(digest="b" * 64, pct=0))
    assert enabled() == (False, Reason.SPLIT, "outside_rollout", "fallback")
    tiny.put(rev=3, challenger=Slot(digest="b" * 64, pct=100))
    assert enabled() == (True, Reason.SPLIT, "assigned", "challenger")
    said(tiny, killed=True)
    assert enabled() == (False, Reason.DISABLED, "remote_killed", "fallback")
    said(tiny, ago_s=1000)
    assert enabled() == (False, Reason.STALE, "remote_stale", "fallback")
    (tiny.control / "remote.json").write_text("{")
    assert enabled() == (False, Reason.ERROR, "remote_unreadable", "fallback")
    (tiny.control / "remote.json").unlink()
    kill(tiny.control, reason="a test")
    assert enabled() == (False, Reason.DISABLED, "killed", "fallback")
    (tiny.control / "state.json").write_text("{")
    (tiny.control / "KILL").unlink()
    assert enabled() == (False, Reason.ERROR, "state_unreadable", "fallback")


def said(tiny: Any, *, ago_s: float = 0.0, killed: bool = False) -> None:
    remote = Remote(
        source="a test",
        flag="dryfield",
        group="dryfield",
        fetched_at=datetime.now(UTC) - timedelta(seconds=ago_s),
        pct=100,
        killed=killed,
        proof="version 1",
    )
    write_remote(tiny.control, remote)


def test_its_status_and_events_tell_what_changed(
    tiny: Any, client: OpenFeatureClient, wait: Callable[..., Any]
) -> None:
    heard: list[tuple[ProviderEvent, EventDetails]] = []
    for event in ProviderEvent:
        client.add_handler(event, lambda details, event=event: heard.append((event, details)))
    wait(lambda: heard)  # READY, at once
    assert client.get_provider_status() is ProviderStatus.READY

    def asked_and_heard(event: ProviderEvent) -> EventDetails:
        heard.clear()
        client.get_string_value("tone", "x", PLOT)
        wait(lambda: event in [each for each, _ in heard])
        return next(details for each, details in heard if each is event)

    put(tiny, "tone", 40)
    changed = asked_and_heard(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED)
    assert changed.flags_changed == ["tone"]
    assert changed.provider_name == "pilot"
    kept = (tiny.control / FLAGS).read_bytes()
    (tiny.control / FLAGS).write_text("{")
    broken = asked_and_heard(ProviderEvent.PROVIDER_ERROR)
    assert broken.error_code is ErrorCode.PARSE_ERROR
    assert client.get_provider_status() is ProviderStatus.ERROR
    (tiny.control / FLAGS).write_bytes(kept)
    asked_and_heard(ProviderEvent.PROVIDER_READY)
    assert client.get_provider_status() is ProviderStatus.READY
    tiny.champion("a" * 64)
    said(tiny, ago_s=1000)
    asked_and_heard(ProviderEvent.PROVIDER_STALE)
    assert client.get_provider_status() is ProviderStatus.STALE
    assert client.get_string_details("tone", "x", PLOT).error_code is None  # the team's flags are none of its
    said(tiny)
    asked_and_heard(ProviderEvent.PROVIDER_READY)


def test_flags_that_cannot_be_read_at_the_start_are_an_error_that_ends_by_itself(tiny: Any) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + TABLE)
    tiny.control.mkdir(parents=True)
    (tiny.control / FLAGS).write_text("{")
    try:
        with pytest.raises(ParseError):
            api.set_provider_and_wait(PilotProvider(tiny.settings()))
        client = api.get_client()
        assert client.get_provider_status() is ProviderStatus.ERROR
        assert client.get_boolean_value("short_letter", True, PLOT) is True
        (tiny.control / FLAGS).unlink()
        assert client.get_boolean_value("short_letter", True, PLOT) is False
        assert client.get_provider_status() is ProviderStatus.READY
    finally:
        api.shutdown()
        api.clear_providers()


def test_nothing_that_decides_imports_the_sdk(environment: dict[str, str]) -> None:
    code = (
        "import sys, harness.serving.server, harness.cli\n"
        "print([name for name in sys.modules if 'openfeature' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
