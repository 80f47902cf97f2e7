"""The layers of a configuration, merged: conf/base.yaml, then the environment's overlay, the recipe's, a file's, then key=value.

A layer may only have sections that conf/base.yaml has, and keys where that has keys, a list where that has a list.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"


class Layer(NamedTuple):
    """Keys laid over those of the layers before."""

    keys: DictConfig
    file: str = ""
    """For messages; empty for a key=value."""
    own: bool = False
    """The user's, not shipped in conf/."""


def names(kind: str) -> list[str]:
    """Overlays shipped: kind is env or recipe."""
    return sorted(path.stem for path in (CONF / kind).glob("*.yaml"))


def layers_of(
    recipe: str | None, env: str | None, file: Path | None, overrides: Sequence[str]
) -> list[Layer]:
    """What is laid over conf/base.yaml, the later winning."""
    layers: list[Layer] = []
    for kind, name in (("env", env), ("recipe", recipe)):
        layers += _overlay(kind, name) if name else []
    if recipe:
        layers.append(Layer(OmegaConf.create({"recipe": recipe})))
    if file is not None:
        layers.append(Layer(_read(file), str(file), own=True))
    return layers + [Layer(_parse(override), own=True) for override in overrides]


def merge(layers: Iterable[Layer]) -> DictConfig:
    """conf/base.yaml under `layers`, interpolations still open."""
    merged = _read(CONF / "base.yaml")
    known = [str(key) for key in merged]
    for layer in layers:
        for key in map(str, layer.keys):
            if key not in known:
                raise ValueError(f"configuration: unknown key {key}{nearest(key, known)}")
        _check_shape(_plain(layer.keys), _plain(merged), [], layer.file)
        merged = cast(DictConfig, OmegaConf.merge(merged, layer.keys))
    return merged


def nearest(name: str, known: list[str]) -> str:
    """A hint at the known name that was meant, or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _overlay(kind: str, name: str) -> list[Layer]:
    """The overlay, after the one it `extends`."""
    if name not in names(kind):
        raise ValueError(
            f"no {kind} named {name}{nearest(name, names(kind))}; there are: {', '.join(names(kind))}"
        )
    path = CONF / kind / f"{name}.yaml"
    keys = _read(path)
    parent = keys.pop("extends", None)
    return [*(_overlay(kind, parent) if parent else []), Layer(keys, str(path))]


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
        raise ValueError(
            f"configuration: {file} is not YAML in UTF-8: {' '.join(str(error).split())}; {wanted}"
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"configuration: {file} holds a single value; {wanted}") from None
    if not isinstance(keys, DictConfig):
        raise ValueError(f"configuration: {file} holds a list; {wanted}")
    return keys


def _parse(override: str) -> DictConfig:
    if not re.fullmatch(r"[A-Za-z_][^=\s]*=.*", override, re.DOTALL):
        raise ValueError(f"an override is key=value, such as finetune.num_epochs=3; got {override!r}")
    key, _, text = override.partition("=")
    if key.startswith("spark."):
        # Spark's names have dots and its values are text: neither is split or parsed.
        whole = re.fullmatch(r"""(["'])(.*)\1""", text, re.DOTALL)
        name = key.removeprefix("spark.") if key.startswith("spark.spark.") else key
        return OmegaConf.create({"spark": {name: whole[2] if whole else text}})
    try:
        return OmegaConf.from_dotlist([override])
    except yaml.MarkedYAMLError as error:
        raise ValueError(
            f"configuration: {key} is no YAML value: {error.problem}; quote it or mend its brackets, "
            f"got {text!r}"
        ) from None


def _plain(keys: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(keys, resolve=False))


def _check_shape(given: Any, below: Any, place: list[str], file: str) -> None:
    """Raise ValueError where `given` has no keys but what it is laid over does, or keys instead of a list."""
    key, at = ".".join(place), f"configuration: {file}: " if file else "configuration: "
    if isinstance(below, dict) and isinstance(given, dict):
        for name, inner in given.items():
            _check_shape(inner, below.get(name), [*place, str(name)], file)
    elif isinstance(below, dict) and not (isinstance(given, str) and "${" in given):
        example = next(iter(below), "KEY")
        raise ValueError(
            f"{at}{key} must hold keys, such as {key}.{example}, got {given!r}; give it keys or leave it out"
        )
    elif isinstance(below, list) and isinstance(given, dict):
        raise ValueError(
            f"{at}{key} is a list, not keys ({', '.join(map(str, given))}); give the whole list: {key}=[...]"
        )
