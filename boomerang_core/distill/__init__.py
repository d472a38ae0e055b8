"""From a teacher and a block map to a distilled student, block after block, then end to end.

``recipe``       what a run is: every choice, typed, hashed, written beside the family
``sources``      text by name: files, JSONL, parquet, hub datasets (``records``, ``hub``)
``data``         documents drawn from them in balance, split and packed into rows
``sampling``     text that the teacher writes
``stream``       runs single layers of a teacher over many rows of hidden states
``kept``         which layer of a block its student starts from
``closed_form``  ridge least squares on a block's down map (no gradient)
``lowrank``      reduced-rank regression, and low-rank weights as dense weights
``blockwise``    a few gradient steps on one block, every map and norm
``start``        what the end-to-end stage begins with
``endtoend``     the steps; ``distiller``, ``objective``, ``schedule``, ``sharding``, ``state`` and
                 ``metrics`` are what they are made of
``pipeline``     the whole run; ``result`` is the folder that it leaves
"""
