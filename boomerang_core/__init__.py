"""Boomerang's offline lane: checkpoint → blocks → student → ladder → family folder.

sizes      `blocks`, `ladder`, `route`, `footprint`, `sizes`; what a server holds: `memory_plan`,
           `kv_groups`, `precision`; blocks and ladders as text: `choices`
folders    `family`, its files (`contents`, `saving`) and its teacher (`teacher_ref`,
           `own_teacher`); what is written whole or not at all: `folders`, `files`, `finished`
models     `architectures`, `checkpoint`, `checkpoint_files`, `headers`; `student`, `lowrank`;
           whole models: `assemble`; layer by layer: `layer_runner`, `route_runner`
commands   that train nothing: `importing` (`matching`), `merging`, `packing`
the rest   `errors` and what may pass (`causes`), `provenance`, `versions`, `devices`

Modules that the HTTP process needs are pure: they import no torch, transformers or vllm.  The
modules of this folder import none of the folders in it, and each of those only the ones before it
in this list: `text`, `evaluate`, `distill`, `baselines`, `compare`, `report`, `search`, `cli`.
`tests/unit/test_arrows.py` checks both.
"""

__version__ = "0.1.0"
