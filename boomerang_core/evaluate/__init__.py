"""Measures how far sizes are from their teacher.

`quality`     KL, top-1 agreement and perplexity of any routes on rows of text
`ladder`      every size of a family, beside naive pruning; `parts` keeps what is finished
`planned`     ladders that are no family's too: their routes, and the students that these need
`record`      what was measured, put into a family folder
`similarity`  cosines of hidden states at the end of each block
`tasks`       every size on lm-eval's tasks; only `harness` imports it, `served` asks a server
`items`       what was measured on each item of a task, with errors (`pairs`), kept by `answers`
"""
