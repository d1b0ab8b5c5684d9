"""The project: wiring only, no business. Imports nothing, so that the sandbox starts on a bare Python."""
