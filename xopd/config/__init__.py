"""Settings of every service: the schema, and how a configuration is read."""

from xopd.config.load import dump_config, known_fields, load_config
from xopd.config.schema import Config

__all__ = ["Config", "dump_config", "known_fields", "load_config"]
