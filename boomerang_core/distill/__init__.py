"""From a teacher and a block map to a distilled student, block after block, then end to end.

`recipe`       what a run is: every choice, typed, hashed, written beside the family
`prepared`     the rows to train on: text, and what the teacher writes (`prompts`, `sampling`)
`kept`         which layer of a block its student starts from
`blockwise`    single blocks: `closed_form` (no gradient), then a few gradient steps; `sinks` says
               what each token counts
`start`        what the end-to-end stage begins with
`endtoend`     the steps; `distiller`, `objective`, `schedule`, `sharding`, `state` and `metrics`
               are what they are made of, `processes` and `stopping` who takes part and how it ends
`pipeline`     the whole run; `result` is the folder that it leaves
"""
