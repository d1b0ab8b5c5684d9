"""Runs under the Python of its own environment: `serve.py FILE.gguf PORT CONTEXT_TOKENS` serves on loopback."""

from __future__ import annotations

import sys
import threading

import xllamacpp

CHOICES = 2  # So many answers at once, each with a context of its own.

params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
params.n_parallel, params.n_ctx = CHOICES, CHOICES * int(sys.argv[3])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
threading.Event().wait()
