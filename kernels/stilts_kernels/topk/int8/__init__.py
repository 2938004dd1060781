"""The int8 screen of a CPU: `screen.cpp` with `library` that loads it, `sides` that prepares rows, and `search`."""
