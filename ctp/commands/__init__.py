"""The commands: options and parsing of each. `ctp.commands.work` does what needs torch."""
