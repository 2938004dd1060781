"""The int8 screen of a CPU: `screen.cpp` with `library` to load it, `sides` that prepare rows, `search`, `reference`."""
