"""The layers of a configuration and how they merge.

The order is conf/base.yaml, the overlay of the environment, the overlay of the recipe, the user's file, then
key=value; a later layer wins. conf/base.yaml has every key, so a key that it does not have is a mistake,
whichever stage runs.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
OPEN = (
    "spark",
    "finetune.model.config",
    "corpus.rules.thresholds",
    "corpus.kafka.properties",
    "dataset.tokenizer.chat.roles",
    "finetune.mixture.shares",
    "finetune.mixture.max_sequences",
    "finetune.search.space",
    "queue.resources",
)
"""Sections that take any key: Spark, transformers, the presets of rules, librdkafka, the documents and the
sources define them, those of a space are keys of finetune, and groups of resources have any name. Entries of
lists have their own models."""


class Layer(NamedTuple):
    """Keys that replace those of the layers before."""

    keys: DictConfig
    file: str = ""
    """For messages; empty for key=value."""


class Merged(NamedTuple):
    """The layers as one configuration."""

    keys: DictConfig
    """Interpolations are not resolved yet."""
    unknown: dict[str, str]
    """Dotted key that conf/base.yaml does not have -> message with file and nearest known key."""


def list_overlays(kind: str) -> list[str]:
    """Names of the overlays in conf/; kind is env or recipe."""
    return sorted(path.stem for path in (CONF / kind).glob("*.yaml"))


def read_layers(
    recipe: str | None, env: str | None, file: Path | None, overrides: Sequence[str]
) -> list[Layer]:
    """The layers over conf/base.yaml, in the order in which they apply."""
    layers: list[Layer] = []
    for kind, name in (("env", env), ("recipe", recipe)):
        layers += _read_overlay(kind, name) if name else []
    if recipe:
        layers.append(Layer(OmegaConf.create({"recipe": recipe})))
    if file is not None:
        layers.append(Layer(_read(file), str(file)))
    return layers + [Layer(_parse(override)) for override in overrides]


def merge_layers(layers: Iterable[Layer]) -> Merged:
    """conf/base.yaml under `layers`.

    Raises ValueError where a layer has a value instead of keys, or keys instead of a list.
    """
    merged = _read(CONF / "base.yaml")
    base, unknown = _to_dict(merged), {}
    for layer in layers:
        given = _to_dict(layer.keys)
        _check_shape(given, base, [], layer.file)
        for key, hint in _find_unknown(given, base, []):
            unknown[key] = (
                f"{layer.file}: unknown key {key}{hint}" if layer.file else f"unknown key {key}{hint}"
            )
        merged = cast(DictConfig, OmegaConf.merge(merged, layer.keys))
    return Merged(merged, unknown)


def suggest_name(name: str, known: Sequence[str]) -> str:
    """A hint at the known name most like `name`, or nothing if none is like it."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _read_overlay(kind: str, name: str) -> list[Layer]:
    """The overlay, after the one it `extends`."""
    shipped = list_overlays(kind)
    if name not in shipped:
        raise ValueError(
            f"no {kind} named {name}; choose from: {', '.join(shipped)}{suggest_name(name, shipped)}"
        )
    path = CONF / kind / f"{name}.yaml"
    keys = _read(path)
    parent = keys.pop("extends", None)
    return [*(_read_overlay(kind, parent) if parent else []), Layer(keys, str(path))]


def _read(file: Path) -> DictConfig:
    wanted = "a configuration has sections and keys as conf/base.yaml does"
    try:
        keys = OmegaConf.load(file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(
            f"configuration: {file}{place}: {error.problem}; {wanted}, indented by spaces"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"configuration: {file} is not YAML in UTF-8: {reason}; {wanted}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        # OmegaConf's answer to a file such as "3".
        raise ValueError(f"configuration: {file} holds a single value; {wanted}") from None
    if not isinstance(keys, DictConfig):
        raise ValueError(f"configuration: {file} holds a list; {wanted}")
    return keys


def _parse(override: str) -> DictConfig:
    if not re.fullmatch(r"[A-Za-z_][^=\s]*=.*", override, re.DOTALL):
        raise ValueError(f"an override is key=value, such as finetune.num_epochs=3; got {override!r}")
    key, _, text = override.partition("=")
    if key.startswith("spark."):
        # Spark's names have dots and its values are text, so neither is split or parsed.
        quoted = re.fullmatch(r"""(["'])(.*)\1""", text, re.DOTALL)
        name = key.removeprefix("spark.") if key.startswith("spark.spark.") else key
        return OmegaConf.create({"spark": {name: quoted[2] if quoted else text}})
    try:
        return OmegaConf.from_dotlist([override])
    except yaml.MarkedYAMLError as error:
        raise ValueError(
            f"configuration: {key} is not a YAML value: {error.problem}; quote it or correct its brackets, "
            f"got {text!r}"
        ) from None


def _to_dict(keys: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(keys, resolve=False))


def _find_unknown(given: Any, base: Any, place: list[str]) -> Iterator[tuple[str, str]]:
    """Dotted key and hint for every key of `given` that `base` does not have."""
    if not isinstance(given, dict) or not isinstance(base, dict) or ".".join(place) in OPEN:
        return
    for name, inner in given.items():
        if name in base:
            yield from _find_unknown(inner, base[name], [*place, str(name)])
        else:
            yield ".".join([*place, str(name)]), suggest_name(str(name), list(base))


def _check_shape(given: Any, base: Any, place: list[str], file: str) -> None:
    """Raise ValueError where `given` has a value and `base` has keys, or keys and `base` has a list."""
    key, at = ".".join(place), f"configuration: {file}: " if file else "configuration: "
    if isinstance(base, dict) and isinstance(given, dict):
        for name, inner in given.items():
            _check_shape(inner, base.get(name), [*place, str(name)], file)
    elif isinstance(base, dict) and not (isinstance(given, str) and "${" in given):
        example = next(iter(base), "KEY")
        raise ValueError(
            f"{at}{key} must hold keys, such as {key}.{example}, got {given!r}; give it keys or leave it out"
        )
    elif isinstance(base, list) and isinstance(given, dict):
        raise ValueError(
            f"{at}{key} is a list, not keys ({', '.join(map(str, given))}); give the whole list: {key}=[...]"
        )
