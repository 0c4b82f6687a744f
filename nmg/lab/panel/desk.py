"""A request whose controls are turned one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nmg.guidance import Guidance, NoiseMap
from nmg.lab.controls import CONTROLS, METHODS, SUITING, Control, name_of, parts, turned, values_of
from nmg.request import Request

ROLES = ("guidance", "editor")
"""The methods of a request that have controls."""
ASKED = {row.name: row.field for row in CONTROLS if row.of == (Request,)}
"""The fields of a request by the name of their control."""
STRENGTH = ("noise_map_scale", "guard")
"""Controls of how strongly the source is kept, and where."""
TURNED = {row.name: row for row in CONTROLS if row.of != (Request,)}
"""The controls of methods by name."""


@dataclass(frozen=True)
class Desk:
    """A request, and what its controls were turned to while it had other methods.

    Attributes:
        request: what is asked for; its guidance and editor are given.
        values: the newest value of every control, by name, so that it is there again with the next method.
        methods: by name, those that were given: what no control turns stays theirs.
    """

    request: Request
    values: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request) -> Desk:
        """The desk of a request with both methods."""
        return cls(request).turned(guidance=request.guidance, editor=request.editor)

    def value(self, row: Control) -> Any:
        """The value of a control of the request or its methods; the newest of one that is not in use."""
        if row.name in ROLES:
            return name_of(getattr(self.request, row.name), METHODS[row.name])
        if row.of == (Request,):
            return getattr(self.request, row.field)
        return self._held().get(row.name, self.values.get(row.name))

    def _held(self) -> dict[str, Any]:
        return {**values_of(self.request.guidance), **values_of(self.request.editor)}

    def in_use(self) -> tuple[Control, ...]:
        """The controls that turn something about the request."""
        held = self._held()
        return tuple(row for row in CONTROLS if row.of == (Request,) or row.name in held)

    def turned(self, **changes: Any) -> Desk:
        """The desk with some controls turned; `guidance` and `editor` may be names or methods.

        An editor that is published with another guidance than the last one brings it along.

        Raises:
            TypeError: for a control that does not exist.
            ValueError: for a method's name that does not exist, or a value that the method refuses.
        """
        for name in changes:
            if name not in ASKED and name not in TURNED:
                raise TypeError(f"there is no setting {name!r}; the settings are {', '.join((*ASKED, *TURNED))}")
        if isinstance(target := changes.get("target"), str):
            changes["target"] = (target,) if target.strip() else ()
        turns_strength = _any(changes, STRENGTH)
        values = {name: value for name, value in self.values.items() if name != "bound" or not turns_strength}
        methods = {**self.methods}
        for role in ROLES:
            given = changes.get(role)
            if given is not None and not isinstance(given, str):
                methods[name_of(given, METHODS[role])] = given
                own = values_of(given)
                values = {name: value for name, value in values.items() if name not in own}
                values |= {name: value for name, value in own.items() if TURNED[name].label}
        values |= {name: value for name, value in changes.items() if name in TURNED}
        asked = {ASKED[name]: value for name, value in changes.items() if name in ASKED}
        suits = _named("editor", asked.get("editor", self.request.editor), methods).suits
        if "guidance" not in asked and suits != self.request.editor.suits:
            asked["guidance"] = SUITING[suits]
        for role in ROLES:
            method = _named(role, asked.get(role, getattr(self.request, role)), methods)
            if role == "guidance" and not isinstance(changes.get(role), Guidance) and _any(values, STRENGTH):
                method = _let_go(method)
            asked[role] = turned(method, values)
        return Desk(dataclasses.replace(self.request, **asked), values, methods)


def _named(role: str, given: Any, methods: Mapping[str, Any]) -> Any:
    """The method of a name: the one that was given, or the default one."""
    if not isinstance(given, str):
        return given
    if given in methods:
        return methods[given]
    if given not in METHODS[role]:
        raise ValueError(f"{role}={given!r} is unknown; {', '.join(METHODS[role])} work")
    return METHODS[role][given]


def _any(values: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether one of some settings has a value."""
    return any(values.get(name) is not None for name in names)


def _let_go(guidance: Any) -> Any:
    """A guidance whose strength can be turned: a row that is put on its map has none."""
    lands = any(isinstance(part, NoiseMap) and part.lands for part in parts(guidance))
    return turned(guidance, {"bound": "element"}) if lands else guidance


def differing(request: Request, other: Request) -> dict[Control, Any]:
    """The controls of a request whose values differ from another's, with its values."""
    desk, before = Desk.of(request), Desk.of(other)
    return {row: value for row in desk.in_use() if (value := desk.value(row)) != before.value(row)}
