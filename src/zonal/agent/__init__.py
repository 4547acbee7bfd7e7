"""The program that is PID 1 in every zone; standard library only."""
