"""The configuration: the layers merged, every section checked against the model of its job.

An unknown key names the nearest known one, a wrong type or range names the key, the value and the rule. Interpolations are
OmegaConf's; nothing in a YAML file is ever executed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from jobs.shell.layers import layers_of, merge, nearest
from jobs.shell.redaction import redact, remember

_Section = TypeVar("_Section", bound="Section")


class Tracking(BaseModel):
    """Where runs and models are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    uri: str
    artifacts: str | None
    experiment: str


class Section(BaseModel):
    """What every job's Config has beside its own keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    spark: dict[str, str]
    tracking: Tracking
    effective: str = ""
    """The whole configuration as YAML, secrets redacted: what a run keeps."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The merged configuration, before its sections are checked."""

    tree: dict[str, Any]
    printed: str
    """The effective configuration as YAML, secrets redacted."""
    own: frozenset[str]
    """Top-level keys that the user's file or key=value set."""

    def section(self, name: str, model: type[_Section]) -> _Section:
        """The checked section `name`. Raises ValueError naming key, value and rule of every fault at once."""
        return self.sections({name: model})[name]

    def sections(self, models: Mapping[str, type[_Section]]) -> dict[str, _Section]:
        """The checked sections, by name. Raises ValueError with every fault of all of them at once."""
        checked: dict[str, _Section] = {}
        faults: list[str] = []
        for name, model in models.items():
            values = {
                **self.tree[name],
                "spark": self.tree["spark"],
                "tracking": self.tree["tracking"],
                "effective": self.printed,
            }
            try:
                # JSON mode: strict types, and a list may still be a tuple.
                checked[name] = TypeAdapter(model).validate_json(json.dumps(values), strict=True)
            except ValidationError as error:
                faults += [_explain(name, model, fault) for fault in error.errors()]
        if faults:
            # Each section sees the faults of spark and tracking.
            raise ValueError("configuration: " + "; ".join(dict.fromkeys(faults)))
        return checked


def load(
    *,
    recipe: str | None = None,
    env: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> Settings:
    """Merge the layers; the sections are not checked yet, but secrets are known to `redact` from here on."""
    try:
        layers = layers_of(recipe, env, file, overrides)
        merged = merge(layers)
        unresolved = OmegaConf.to_container(merged, resolve=False)
        remember(unresolved)
        tree = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"configuration: {error.full_key}: {reason}; set the variable, or mend or override the key"
        ) from None
    remember(tree)
    for key in ("recipe", "root"):
        if not isinstance(tree[key], str) or not tree[key]:
            raise ValueError(
                f"configuration: {key} must be text and not empty, got {tree[key]!r}; set {key}=TEXT"
            )
    tree["spark"] = {name: _spark_text(name, value) for name, value in tree["spark"].items()}
    printed = OmegaConf.to_yaml(OmegaConf.create(redact(tree, unresolved)))
    return Settings(
        tree=tree,
        printed=printed,
        own=frozenset(str(key) for layer in layers if layer.own for key in layer.keys),
    )


def _spark_text(name: str, value: Any) -> Any:
    """Spark's settings are text; true and 200 may stand without quotes."""
    if not re.match(r"spark\.\w", name) or isinstance(value, (dict, list)):
        raise ValueError(
            "configuration: spark holds whole names, each with one value, such as spark.driver.memory: 4g; "
            f"got {name}: {redact(value, key=name)!r}"
        )
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


def _explain(section: str, model: type[Section], fault: ErrorDetails) -> str:
    place = [str(part) for part in fault["loc"]]
    shared = {"spark": place[1:], "tracking": place}
    key = ".".join(shared.get(place[0] if place else "", [section, *place]))
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key}{nearest(place[-1], _siblings(model, place[:-1]))}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    rule = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
    rule = rule.replace("a valid array", "a list").replace("an object", "a mapping of keys")
    shown = redact(fault["input"], key=".".join(place))
    return f"{key} {rule}" + ("" if fault["type"] == "value_error" else f", got {shown!r}")


def _siblings(model: type[Section], parents: Sequence[str]) -> list[str]:
    """Names that the model has beside an unknown one at `parents`."""
    kind: Any = model
    for part in parents:
        kind = _fields(kind).get(part, kind)  # a number in a list changes nothing
    return [name for name in _fields(kind) if kind is not model or name not in Section.model_fields]


def _fields(kind: Any) -> dict[str, Any]:
    """Name and type of each field of a model or dataclass, or of those inside list[...] or X | None."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if is_dataclass(kind):
        return get_type_hints(kind)
    return {name: inner for part in get_args(kind) for name, inner in _fields(part).items()}
