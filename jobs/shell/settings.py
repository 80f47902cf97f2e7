"""The configuration: the layers merged, and each section checked against the model of its job.

Keys are checked for all sections at once against conf/base.yaml. Types and ranges are checked by the model
of the section when its stage runs. Interpolations are OmegaConf's; nothing in a YAML file is ever executed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from jobs.shell.cross_checks import find_cross_faults
from jobs.shell.layers import merge_layers, read_layers, suggest_name
from jobs.shell.redaction import redact, remember
from pipelines.catalog import provide_session
from pipelines.dataset.artefacts import provide_artefacts
from pipelines.paths import absolute, is_table_name, split_options, without_credentials
from pipelines.stores import Stores

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipelines.dataset.artefacts import Artefacts

_Section = TypeVar("_Section", bound="Section")


def _absolute_path(path: str) -> str:
    if split_options(path)[1]:
        raise ValueError(
            f"must not have options ({without_credentials(path)}): table names are appended to it; set "
            "storage.s3.endpoint and storage.s3.region"
        )
    return absolute(path)


AbsolutePath = Annotated[str, AfterValidator(_absolute_path)]
"""Path or URI of a folder. A local path becomes absolute here and nowhere else."""


def _table_place(place: str) -> str:
    return place if is_table_name(place) else _absolute_path(place)


TablePlace = Annotated[str, AfterValidator(_table_place)]
"""Path or URI of a table, or its name in a Spark catalog: schema.table or catalog.schema.table."""


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]

Split = Literal["train", "validation", "test"]


def _without_password(uri: str) -> str:
    if re.match(r"https?://[^/@]*:[^/@]*@", uri):
        raise ValueError(
            f"must not hold a password ({without_credentials(uri)}), because MLflow repeats the address in "
            "its errors; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return uri


class Tracking(BaseModel):
    """Where MLflow keeps runs and models."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    uri: Annotated[str, AfterValidator(_without_password)]
    artifacts: str | None
    experiment: str


class Section(BaseModel):
    """What the Config of every job has beside its own keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    spark: dict[str, str]
    tracking: Tracking
    storage: Stores
    effective: str = ""
    """The whole configuration as YAML without secrets, as a run keeps it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The merged configuration; `section` and `sections` check it."""

    tree: dict[str, Any]
    printed: str
    """The effective configuration as YAML, without secrets."""
    unknown: dict[str, str]
    """Unknown key -> message, over all sections."""

    @property
    def root(self) -> str:
        """Folder or URI of the tables and of the files of the runs, absolute."""
        return absolute(self.tree["root"])

    @property
    def stores(self) -> Stores:
        """The section `storage`, checked. Raises ValueError with its faults."""
        try:
            return TypeAdapter(Stores).validate_json(json.dumps(self.tree["storage"]), strict=True)
        except ValidationError as error:
            faults = "; ".join(_explain("storage", Section, fault) for fault in error.errors())
            raise ValueError(f"configuration: {faults}") from None

    def section(self, name: str, model: type[_Section]) -> _Section:
        """The checked section `name`. Raises ValueError with its faults and unknown keys of all sections."""
        return self.sections({name: model})[name]

    def sections(self, models: Mapping[str, type[_Section]]) -> dict[str, _Section]:
        """The checked sections by name. Raises ValueError with key, value and rule of every fault at once."""
        checked: dict[str, _Section] = {}
        faults = list(self.unknown.values())
        shared = {name: self.tree[name] for name in ("spark", "tracking", "storage")}
        shared["effective"] = self.printed
        for name, model in models.items():
            try:
                # JSON mode: types are strict, but a list may become a tuple.
                values = json.dumps({**self.tree[name], **shared})
                checked[name] = TypeAdapter(model).validate_json(values, strict=True)
            except ValidationError as error:
                faults += [
                    _explain(name, model, fault)
                    for fault in error.errors()
                    if _dotted_key(name, fault) not in self.unknown
                ]
        if not faults:
            faults = find_cross_faults(checked)
        if faults:
            # Every section reports the faults of spark, tracking and storage.
            raise ValueError("configuration: " + "; ".join(dict.fromkeys(faults)))
        return checked


def load(
    *,
    recipe: str | None = None,
    env: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> Settings:
    """Merge the layers. The sections are not checked yet, but from here on `redact` knows the secrets."""
    try:
        merged, unknown = merge_layers(read_layers(recipe, env, file, overrides))
        unresolved = OmegaConf.to_container(merged, resolve=False)
        remember(unresolved)
        tree = cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"configuration: {error.full_key}: {reason}; set the variable, or correct or override the key"
        ) from None
    remember(tree)
    for key in ("recipe", "root"):
        if not isinstance(tree[key], str) or not tree[key]:
            raise ValueError(
                f"configuration: {key} must be text and not empty, got {tree[key]!r}; set {key}=TEXT"
            )
    tree["spark"] = {name: _spark_text(name, value) for name, value in tree["spark"].items()}
    provide_session(partial(_start_session, tree["spark"]))
    provide_artefacts(partial(_open_artefacts, tree["tracking"]))
    printed = OmegaConf.to_yaml(OmegaConf.create(redact(tree, unresolved)))
    return Settings(tree=tree, printed=printed, unknown=unknown)


def _start_session(conf: Mapping[str, str]) -> "SparkSession":
    """For plans that look up names of tables, before a stage starts Spark."""
    from pipelines.spark import session

    return session("distributary", conf)


def _open_artefacts(tracking: Mapping[str, Any]) -> "Artefacts":
    """For bases that MLflow keeps; most configurations have none."""
    from pipelines.registry.bases import Bases

    return Bases(str(tracking["uri"]), tracking["artifacts"])


def _spark_text(name: str, value: Any) -> Any:
    """The value as text, as Spark takes it; in YAML, true and 200 need no quotes."""
    if not re.match(r"spark\.\w", name) or isinstance(value, (dict, list, type(None))):
        raise ValueError(
            "configuration: spark holds whole names, each with one value, such as spark.driver.memory: 4g; "
            f"got {name}: {redact(value, key=name)!r}"
        )
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


def _dotted_key(section: str, fault: ErrorDetails) -> str:
    """The key of a fault as the user writes it."""
    place = [str(part) for part in fault["loc"]]
    shared = {"spark": place[1:], "tracking": place, "storage": place}
    return ".".join(shared.get(place[0] if place else "", [section, *place]))


def _explain(section: str, model: type[Section], fault: ErrorDetails) -> str:
    """Key, rule and value of a fault in one sentence."""
    place, key = [str(part) for part in fault["loc"]], _dotted_key(section, fault)
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key}{suggest_name(place[-1], _find_siblings(model, place[:-1]))}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    rule = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
    rule = rule.replace("a valid array", "a list").replace("an object", "a mapping of keys")
    value = redact(fault["input"], key=".".join(place))
    return f"{key} {rule}" + ("" if fault["type"] == "value_error" else f", got {value!r}")


def _find_siblings(model: type[Section], parents: Sequence[str]) -> list[str]:
    """Names that the model has at `parents`, beside an unknown one."""
    kind: Any = model
    for part in parents:
        kind = _fields_of(kind).get(part, kind)  # the index of a list changes nothing
    return [name for name in _fields_of(kind) if kind is not model or name not in Section.model_fields]


def _fields_of(kind: Any) -> dict[str, Any]:
    """Name and type of each field of a model or dataclass, or of those inside list[...] or X | None."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if is_dataclass(kind):
        return get_type_hints(kind)
    return {name: inner for part in get_args(kind) for name, inner in _fields_of(part).items()}
