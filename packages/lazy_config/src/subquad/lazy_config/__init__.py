"""Typed, deferred constructor calls: trees of configs that are checked as a whole before anything is built.

Example:
  >>> from datetime import timedelta
  >>> config = LazyConfig(timedelta)(hours=2, minutes=expr("hours * 15"))
  >>> config.hours = 4
  >>> str(instantiate(apply_overrides(config, ["minutes=5"])))
  '4:05:00'
"""

from subquad.lazy_config.config_file import load_config_file as load_config_file
from subquad.lazy_config.difference import FieldDifference as FieldDifference
from subquad.lazy_config.difference import TreeDifference as TreeDifference
from subquad.lazy_config.difference import diff as diff
from subquad.lazy_config.errors import ConfigFileError as ConfigFileError
from subquad.lazy_config.errors import ConstructionError as ConstructionError
from subquad.lazy_config.errors import ExpressionError as ExpressionError
from subquad.lazy_config.errors import FieldNotSetError as FieldNotSetError
from subquad.lazy_config.errors import LazyConfigError as LazyConfigError
from subquad.lazy_config.errors import MissingFieldError as MissingFieldError
from subquad.lazy_config.errors import OverrideError as OverrideError
from subquad.lazy_config.errors import PathError as PathError
from subquad.lazy_config.errors import ReferenceCycleError as ReferenceCycleError
from subquad.lazy_config.errors import RenderError as RenderError
from subquad.lazy_config.errors import TargetError as TargetError
from subquad.lazy_config.errors import TargetRefusedError as TargetRefusedError
from subquad.lazy_config.errors import UnknownFieldError as UnknownFieldError
from subquad.lazy_config.expression import Expression as Expression
from subquad.lazy_config.expression import Reference as Reference
from subquad.lazy_config.expression import expr as expr
from subquad.lazy_config.history import Change as Change
from subquad.lazy_config.instantiate import instantiate as instantiate
from subquad.lazy_config.lazy import PLACEHOLDER as PLACEHOLDER
from subquad.lazy_config.lazy import Config as Config
from subquad.lazy_config.lazy import LazyConfig as LazyConfig
from subquad.lazy_config.lazy import fields_of as fields_of
from subquad.lazy_config.lazy import target_of as target_of
from subquad.lazy_config.override import apply_overrides as apply_overrides
from subquad.lazy_config.override import derive as derive
from subquad.lazy_config.render import history_of as history_of
from subquad.lazy_config.render import to_python as to_python
from subquad.lazy_config.render import to_text as to_text
from subquad.lazy_config.yaml_form import from_yaml as from_yaml
from subquad.lazy_config.yaml_form import load_yaml as load_yaml
from subquad.lazy_config.yaml_form import save_yaml as save_yaml
from subquad.lazy_config.yaml_form import to_yaml as to_yaml
