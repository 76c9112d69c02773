"""The pilot's flags by the standard API: an OpenFeature provider over the control folder.

Each question reads the files as they are at that moment, so there is no connection to lose, no thread, and
nothing that goes on with an old value. Beside the team's flags it has two that are read only:
``model_enabled`` (boolean) and ``model_arm`` (text) say what the rollout does with the entity in the
targeting key.

Needs the extra ``flags``: ``openfeature-sdk``. Use::

    from openfeature import api
    from harness.control.openfeature import PilotProvider

    api.set_provider_and_wait(PilotProvider(settings))
    client = api.get_client()
    client.get_boolean_value("short_letter", False, EvaluationContext(targeting_key="customer 7"))
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import (
    ErrorCode,
    FlagNotFoundError,
    OpenFeatureError,
    ParseError,
    ProviderNotReadyError,
    TargetingKeyMissingError,
    TypeMismatchError,
)
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from harness.control.configured import settings_control
from harness.control.flags import Flags, FlagSettings, FlagsUnreadable
from harness.control.permission import Arm, Permission, Why, bucket
from harness.settings import RESERVED_FLAGS, Flag, Settings

MODEL_ENABLED, MODEL_ARM = RESERVED_FLAGS
ON, OFF = "on", "off"

# Why no model decides, in the words of OpenFeature; the rest is by the entity's bucket.
_REASONS = {
    Why.KILLED: Reason.DISABLED,
    Why.LATCHED: Reason.DISABLED,
    Why.REMOTE_KILLED: Reason.DISABLED,
    Why.SHADOW_STAGE: Reason.DISABLED,
    Why.REMOTE_STALE: Reason.STALE,
    Why.NO_STATE: Reason.DEFAULT,
    Why.NO_MODEL: Reason.DEFAULT,
    Why.NO_ENTITY: Reason.DEFAULT,
    Why.NO_REMOTE: Reason.DEFAULT,
    Why.STATE_UNREADABLE: Reason.ERROR,
    Why.REMOTE_UNREADABLE: Reason.ERROR,
}


class PilotProvider(AbstractProvider):
    """Resolves the flags that pilot.toml declares, and the two that tell of the model.

    Args:
        settings: The pilot's settings.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._declared: Mapping[str, Flag] = settings.flags
        self._group = settings.pilot.package
        self._flags = Flags(settings.path(settings.control.folder))
        self._control = settings_control(settings)
        self._ready = False
        self._noticing = threading.Lock()
        self._noticed: tuple[ProviderEvent, int] | None = None

    def get_metadata(self) -> Metadata:
        """The provider's name."""
        return Metadata(name="pilot")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Look whether the flags can be read.

        Raises:
            ParseError: They cannot. Once they can, the next question says so by the event PROVIDER_READY.
        """
        found = self._flags.read()
        self._ready = True
        with self._noticing:
            self._noticed = self._now(found)
        if isinstance(found, FlagsUnreadable):
            raise ParseError(found.why)

    def shutdown(self) -> None:
        """Answer no more."""
        self._ready = False

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """A flag whose values are true and false."""
        if flag_key == MODEL_ENABLED:
            return self._model_enabled(evaluation_context)
        return self._resolve(flag_key, default_value, evaluation_context, "boolean", _is_boolean)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """A flag whose values are texts."""
        if flag_key == MODEL_ARM:
            return self._model_arm(evaluation_context)
        return self._resolve(
            flag_key, default_value, evaluation_context, "text", lambda value: isinstance(value, str)
        )

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """A flag whose values are whole numbers."""
        return self._resolve(flag_key, default_value, evaluation_context, "whole number", _is_integer)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """A flag whose values are numbers."""
        found = self._resolve(flag_key, default_value, evaluation_context, "number", _is_number)
        if found.error_code is None:
            found.value = float(found.value)  # 1 in pilot.toml is 1.0 here
        return found

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """A flag whose values are lists or tables."""
        return self._resolve(
            flag_key,
            default_value,
            evaluation_context,
            "list or table",
            lambda value: isinstance(value, list | dict),
        )

    def _resolve(
        self,
        key: str,
        default: Any,
        context: EvaluationContext | None,
        kind: str,
        fits: Callable[[Any], bool],
    ) -> FlagResolutionDetails[Any]:
        found = self._flags.read()
        self._notice(found)
        try:
            return self._drawn(key, found, _entity(context), kind, fits)
        except OpenFeatureError as error:
            # Not raised: the caller's default comes back with the reason why, and nothing in its log.
            return FlagResolutionDetails(
                default, error_code=error.error_code, error_message=error.error_message, reason=Reason.ERROR
            )

    def _drawn(
        self,
        key: str,
        found: FlagSettings | FlagsUnreadable,
        entity: str,
        kind: str,
        fits: Callable[[Any], bool],
    ) -> FlagResolutionDetails[Any]:
        if not self._ready:
            raise ProviderNotReadyError("the provider was not set, or was shut down")
        if key in (MODEL_ENABLED, MODEL_ARM):
            raise TypeMismatchError(f"'{key}' is no {kind}")
        flag = self._declared.get(key)
        if flag is None:
            raise FlagNotFoundError(f"pilot.toml [flags] declares no '{key}'")
        if not (fits(flag.on) and fits(flag.off)):
            raise TypeMismatchError(f"pilot.toml [flags.{key}]: its values are no {kind}")
        if isinstance(found, FlagsUnreadable):
            raise ParseError(found.why)
        setting = found.flags.get(key)
        metadata: dict[str, bool | int | float | str] = {
            "revision": found.rev,
            "pct": setting.pct if setting else 0,
        }
        if setting is None:
            return FlagResolutionDetails(flag.off, None, None, Reason.DEFAULT, OFF, metadata)
        if setting.pct == 0:
            return FlagResolutionDetails(flag.off, None, None, Reason.DISABLED, OFF, metadata)
        if setting.pct == 100:
            return FlagResolutionDetails(flag.on, None, None, Reason.STATIC, ON, metadata)
        if not entity:
            raise TargetingKeyMissingError(f"'{key}' is on for {setting.pct}%: whom is it asked for?")
        number = bucket(key, entity)
        on = number <= setting.pct
        metadata["bucket"] = number
        return FlagResolutionDetails(
            flag.on if on else flag.off, None, None, Reason.SPLIT, ON if on else OFF, metadata
        )

    def _model_enabled(self, context: EvaluationContext | None) -> FlagResolutionDetails[bool]:
        permission, reason, metadata = self._model(context)
        enabled = permission.arm is not Arm.FALLBACK
        return FlagResolutionDetails(enabled, None, None, reason, ON if enabled else OFF, metadata)

    def _model_arm(self, context: EvaluationContext | None) -> FlagResolutionDetails[str]:
        permission, reason, metadata = self._model(context)
        return FlagResolutionDetails(permission.arm.value, None, None, reason, permission.arm.value, metadata)

    def _model(
        self, context: EvaluationContext | None
    ) -> tuple[Permission, Reason, dict[str, bool | int | float | str]]:
        """What the rollout does with an entity.

        There is no error code: it would put the caller's default, which may be true, in the place of a no.
        """
        self._notice(self._flags.read())
        permission = self._control.permission(_entity(context))
        if not self._ready:
            permission = Permission(Arm.FALLBACK, Why.NO_STATE)
        metadata: dict[str, bool | int | float | str] = {
            "revision": permission.revision,
            "stage": permission.stage,
            "why": permission.why.value,
        }
        if permission.bucket is not None:
            metadata["bucket"] = permission.bucket
        if permission.digest is not None:
            metadata["digest"] = permission.digest
        reason = _REASONS.get(permission.why, Reason.SPLIT)
        return permission, reason, metadata

    def _now(self, found: FlagSettings | FlagsUnreadable) -> tuple[ProviderEvent, int]:
        if isinstance(found, FlagsUnreadable):
            return ProviderEvent.PROVIDER_ERROR, -1
        # Not the team's flags are old then, but the two that tell of the model.
        stale = self._control.permission("any").why is Why.REMOTE_STALE
        return ProviderEvent.PROVIDER_STALE if stale else ProviderEvent.PROVIDER_READY, found.rev

    def _notice(self, found: FlagSettings | FlagsUnreadable) -> None:
        """Tell by events what changed since the last question: there is no thread that could tell sooner."""
        if not self._ready:
            return
        now = self._now(found)
        with self._noticing:
            before, self._noticed = self._noticed, now
        if before is None or before == now:
            return
        if before[0] is not now[0]:
            broken = isinstance(found, FlagsUnreadable)
            self.emit(
                now[0],
                ProviderEventDetails(
                    message=found.why if isinstance(found, FlagsUnreadable) else None,
                    error_code=ErrorCode.PARSE_ERROR if broken else None,
                ),
            )
        if isinstance(found, FlagSettings) and before[1] != now[1]:
            self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=sorted(found.flags)))


def _entity(context: EvaluationContext | None) -> str:
    return "" if context is None or context.targeting_key is None else context.targeting_key


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
