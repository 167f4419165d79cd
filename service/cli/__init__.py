"""The command line: one module for each family of commands, imported only when called."""
