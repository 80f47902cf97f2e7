"""The configuration: conf/base.yaml, then the environment's overlay, the recipe's, a file's, then key=value.

Every section is checked against the model of its job: an unknown key names the nearest known one, a wrong type or range names the
key, the value and the rule. Interpolations are OmegaConf's; nothing in a YAML file is ever executed.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

CONF = Path(__file__).resolve().parent.parent / "conf"
SECRET_KEY = re.compile(r"(password|passwd|secret|credential|(access|account|api|private)[._]key|(^|[_.])token([_.]|$))",
                        re.IGNORECASE)
SECRET_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^},]*(PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL)", re.IGNORECASE)
URI_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=[?&]password=)[^&\s]+|(?<=[?&]token=)[^&\s]+|(?<=[?&]sig=)[^&\s]+",
                          re.IGNORECASE)
HIDDEN = "[redacted]"
_Section = TypeVar("_Section", bound="Section")


class Tracking(BaseModel):
    """Where runs and models are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    uri: str
    artifacts: str | None
    experiment: str


class Section(BaseModel):
    """What every job's Config has beside its own keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
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

    def section(self, name: str, model: type[_Section]) -> _Section:
        """The checked section `name`. Raises ValueError naming key, value and rule of every fault at once."""
        values = {**self.tree[name], "spark": self.tree["spark"], "tracking": self.tree["tracking"],
                  "effective": self.printed}
        try:
            # JSON mode: strict types, and a list may still be a tuple.
            return TypeAdapter(model).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            faults = [_explain(name, fault, values) for fault in error.errors()]
            raise ValueError("configuration: " + "; ".join(faults)) from None


def load(*, recipe: str | None = None, env: str | None = None, file: Path | None = None,
         overrides: Sequence[str] = ()) -> Settings:
    """Merge the layers; nothing is checked yet but the names of top-level sections and the form of `overrides`."""
    base = OmegaConf.load(CONF / "base.yaml")
    layers: list[DictConfig | ListConfig] = []
    for kind, name in (("env", env), ("recipe", recipe)):
        layers.extend(_overlay(kind, name) if name else [])
    if recipe:
        layers.append(OmegaConf.create({"recipe": recipe}))
    if file is not None:
        own = OmegaConf.load(file)
        if not isinstance(own, DictConfig):
            raise ValueError(f"configuration: {file} must hold sections and keys as conf/base.yaml does")
        layers.append(own)
    layers.append(_parse(overrides))
    for layer in layers:
        for key in map(str, layer):
            if key not in base:
                raise ValueError(f"configuration: unknown key {key}{_nearest(key, list(base))}")
    merged = OmegaConf.merge(base, *layers)
    try:
        tree = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"configuration: {error.full_key}: {reason}; set the variable or override the key") from None
    unresolved = OmegaConf.to_container(merged, resolve=False)
    return Settings(tree=tree, printed=OmegaConf.to_yaml(OmegaConf.create(redact(tree, unresolved))))


def names(kind: str) -> list[str]:
    """Overlays shipped: kind is env or recipe."""
    return sorted(path.stem for path in (CONF / kind).glob("*.yaml"))


def redact(value: Any, source: Any = None, key: str = "") -> Any:
    """`value` without secrets: by the key's name, by the environment variable it came from, and user:password in URIs."""
    if isinstance(value, Mapping):
        sources = source if isinstance(source, Mapping) else {}
        return {name: redact(inner, sources.get(name), str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        origins = source if isinstance(source, list) and len(source) == len(value) else [None] * len(value)
        return [redact(inner, origin, key) for inner, origin in zip(value, origins, strict=True)]
    if value is not None and (SECRET_KEY.search(key) or (isinstance(source, str) and SECRET_ENVIRONMENT.search(source))):
        return HIDDEN
    return URI_PASSWORD.sub(HIDDEN, value) if isinstance(value, str) else value


def _overlay(kind: str, name: str) -> list[DictConfig]:
    """The overlay, after the one it `extends`."""
    if name not in names(kind):
        raise ValueError(f"no {kind} named {name}{_nearest(name, names(kind))}; there are: {', '.join(names(kind))}")
    layer = OmegaConf.load(CONF / kind / f"{name}.yaml")
    assert isinstance(layer, DictConfig), f"{kind} {name} is not a mapping"
    parent = layer.pop("extends", None)
    return [*(_overlay(kind, parent) if parent else []), layer]


def _parse(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        if not re.fullmatch(r"[A-Za-z_][^=\s]*=.*", override, re.DOTALL):
            raise ValueError(f"an override is key=value, such as finetune.num_epochs=3; got {override!r}")
    return OmegaConf.from_dotlist(list(overrides))


def _explain(section: str, fault: ErrorDetails, values: Mapping[str, Any]) -> str:
    place = [str(part) for part in fault["loc"]]
    key = ".".join([*([] if place and place[0] in ("spark", "tracking") else [section]), *place])
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key}{_nearest(place[-1], _siblings(section, place[:-1]))}"
    rule = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
    shown = redact(fault["input"], key=place[-1] if place else "")
    return f"{key} {rule}" + ("" if fault["type"] in ("missing", "value_error") else f", got {shown!r}")


def _siblings(section: str, parents: Sequence[str]) -> list[str]:
    """Keys that conf/base.yaml has beside the unknown one."""
    base = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(CONF / "base.yaml")))
    node: Any = base if parents and parents[0] in ("spark", "tracking") else base[section]
    for part in parents:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return list(node) if isinstance(node, dict) else []


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
