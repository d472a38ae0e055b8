"""The online lane: one engine, any size, over HTTP.

start      `cli`; `settings` and what it holds of vLLM's (`vllm_options`), as options of the
           command: `serve_options`; `startup`, then `engine_start`; `sample`, which serves nothing
requests   `app` puts them together: `web` (ids, errors, the access log), `guard` (keys and
           limits; `refusals` says why), `routes` with their bodies in `schemas`, the files of
           `page`
sizes      `sizing`, `misspelt` and `withdrawn` fields; for `auto` `load`, which knows `prompts`
           before they are run
engine     `engine`, which alone imports vLLM
the rest   `memory` and `process`: what a server may take, and how it lives and ends; what is told
           of it: `logs`, `metrics`, `tracing`
"""
