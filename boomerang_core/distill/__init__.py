"""From a teacher and a block map to a distilled student, block after block.

``recipe``       what a run is: every choice, typed, hashed, written beside the family
``data``         text: local documents and documents sampled from the teacher
``stream``       runs single layers of a teacher over many rows of hidden states
``closed_form``  ridge least squares on a block's down map (no gradient)
``lowrank``      reduced-rank regression, and low-rank weights as dense weights
``blockwise``    a few gradient steps on one block, every map and norm
``pipeline``     the whole run: text, blocks, fits, evaluation, family folder
"""
