"""The `xopd` command: one small file a command, one for how things are shown."""
