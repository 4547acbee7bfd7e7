"""The command line: one module a command group; prints, prompts, progress; no logic."""
