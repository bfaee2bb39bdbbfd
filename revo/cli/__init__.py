"""The command `revo`. Each command is a module, imported when it is used."""
