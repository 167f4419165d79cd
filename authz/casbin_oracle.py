"""The only importer of `casbin`: parses `model.conf` with PyCasbin's own parser."""

from typing import Any

from casbin.config import Config  # type: ignore[import-untyped]
from casbin.model import Model  # type: ignore[import-untyped]

from authz.compiler import ParsedModel, RoleDefinition
from authz.errors import ModelError

MAX_MODEL_LENGTH = 64 * 1024


def parse_model(text: str) -> ParsedModel:
    """Return a `model.conf` as PyCasbin reads it.

    Raises:
        ModelError: PyCasbin cannot read it, or a section that it needs is missing.
    """
    if len(text) > MAX_MODEL_LENGTH:
        raise ModelError(f"the model is longer than {MAX_MODEL_LENGTH} characters")
    try:
        config = Config.new_config_from_text(text)
        model = Model()
        model.load_model_from_text(text)
    except (RuntimeError, IndexError) as error:
        raise ModelError(f"the model cannot be read: {error}") from error
    for section, name in (
        ("r", "[request_definition]"),
        ("p", "[policy_definition]"),
        ("e", "[policy_effect]"),
        ("m", "[matchers]"),
    ):
        if section not in model.keys():  # noqa: SIM118 - PyCasbin's Model is no mapping
            raise ModelError(f"the model has no {name} with `{section} = …`")
    return ParsedModel(
        requests={key: _names(key, ast) for key, ast in model["r"].items()},
        policies={key: _names(key, ast) for key, ast in model["p"].items()},
        roles={key: _role(key, ast) for key, ast in (model["g"] or {}).items()},
        effects={key: _raw(config, "policy_effect", key) for key in model["e"]},
        matchers={key: _raw(config, "matchers", key) for key in model["m"]},
    )


def _names(key: str, assertion: Any) -> tuple[str, ...]:
    names = tuple(token.removeprefix(f"{key}_") for token in assertion.tokens)
    for name in names:
        if not name.isidentifier():
            # A comment on such a line ends up in the last name, so that PyCasbin no longer sees the column `eft`.
            raise ModelError(f"`{name}` in the definition `{key}` is not a name; comments need a line of their own")
    return names


def _role(key: str, assertion: Any) -> RoleDefinition:
    columns = assertion.value.count("_")
    if assertion.params_tokens:
        return RoleDefinition(columns, conditional=True)
    if columns < 2:  # noqa: PLR2004 - member and role
        raise ModelError(f"the role definition `{key}` needs at least two `_`")
    return RoleDefinition(columns)


def _raw(config: Any, section: str, key: str) -> str:
    text: str = config.get(f"{section}::{key}")
    return text
