"""The demo backend: a separate process on loopback that speaks the wire format of an inference server.

It stands where a real inference backend stands, so that a laptop can try the whole product and tests can break
the backend in every way a real one breaks. It shares no code with the product; the two meet only on the wire.

    python -m flint.sandbox.demo_backend --port 9100 --journal demo-backend.jsonl

    GET  /health                 200 while it serves
    GET  /v1/models              two models; calls may name any model
    POST /v1/chat/completions    JSON and SSE
    POST /v1/completions         JSON and SSE, for base models
    POST /v1/embeddings          vectors that follow from their text
    GET  PUT DELETE /control     switches in force for every call (see switches.py)
    GET  /journal?call_id=       what it accepted and served, one object per call; without call_id the last 1000
    GET  /stats                  counters since the start

Its nouns, a module each:

    token     a piece of text of at least one byte, the unit of prompts and answers (tokens.py)
    prompt    a chat request, its tokens, and how many of them an earlier prompt shares (prompts.py)
    answer    the sentences it replies with, decided by the request alone (answers.py)
    structure the tools that an answer calls, or a JSON document that fits a schema (structures.py)
    switch    a way to make one call, or every call, slow, odd or broken (switches.py)
    journal   an append-only file: one line when a call is accepted, one when it ends (journal.py)
    frame     the bytes of one event of a stream, or of a JSON answer (frames.py)
    pace      when a token may go out (pace.py)
    serving   one accepted call, from its first byte to its end: faults, hang-ups (serving.py)
"""
